// A hash table of objects that live elsewhere, for look-ups on the way of every draw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace ppx_client::detail {

/// Mixes two numbers into a hash whose low bits depend on all of theirs (multiplier: 2^64 / golden ratio).
inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
    const std::uint64_t h = (a ^ (b << 32 | b >> 32)) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 32);
}

inline std::uint64_t hash_bytes(std::string_view text) {
    std::uint64_t hash = text.size(), word = 0;
    const char* bytes = text.data();
    std::size_t left = text.size();
    for (; left >= sizeof word; left -= sizeof word, bytes += sizeof word) {
        std::memcpy(&word, bytes, sizeof word);
        hash = mix(hash, word);
    }
    word = 0;
    for (std::size_t i = 0; i < left; ++i) word = word << 8 | static_cast<unsigned char>(bytes[i]);
    return mix(hash, word);
}

/// Open addressing with linear probing; nothing is ever removed, and the table does not own what it points to.
template <class T>
class Index {
  public:
    /// The object with this hash for which `equal` holds, or null.
    template <class Equal>
    T* find(std::uint64_t hash, const Equal& equal) const {
        for (std::size_t i = hash & mask_;; i = (i + 1) & mask_) {
            const Slot& slot = slots_[i];
            if (slot.object == nullptr) return nullptr;
            if (slot.hash == hash && equal(*slot.object)) return slot.object;
        }
    }

    /// Adds an object that `find` does not find.
    void insert(std::uint64_t hash, T& object) {
        if (2 * ++size_ > slots_.size()) grow();
        place({hash, &object});
    }

  private:
    struct Slot {
        std::uint64_t hash = 0;
        T* object = nullptr;
    };

    void place(const Slot& slot) {
        std::size_t i = slot.hash & mask_;
        while (slots_[i].object != nullptr) i = (i + 1) & mask_;
        slots_[i] = slot;
    }

    void grow() {
        std::vector<Slot> old(2 * slots_.size());
        old.swap(slots_);
        mask_ = slots_.size() - 1;
        for (const Slot& slot : old)
            if (slot.object != nullptr) place(slot);
    }

    std::vector<Slot> slots_ = std::vector<Slot>(64);
    std::size_t mask_ = 63;
    std::size_t size_ = 0;
};

}  // namespace ppx_client::detail

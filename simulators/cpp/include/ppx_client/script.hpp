// The scripts of a batch: which draws of a trace are forced, and to what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ppx_client/index.hpp"
#include "ppx_client/sites.hpp"
#include "ppx_generated.h"

namespace ppx_client::detail {

/// What a script says about one draw.
struct Choices {
    const double* value = nullptr;  // NaN where the choice is given by z
    const double* z = nullptr;
    std::size_t size = 0;  // elements that are forced, from the first one on
    bool ends = false;     // the trace is pending at the first element that is not
};

/// Reads the scripts of a RunBatch, which must live as long.
class Scripts {
  public:
    /// Takes the choices of a message; says what is wrong with them, or nothing.
    std::string read(const ppx::RunBatch& batch, const std::vector<const Entry*>& addresses) {
        addresses_ = addresses.data();
        ask_ = batch.ask();
        num_traces_ = size_of(batch.index());
        const std::size_t size = size_of(batch.address());
        if (size_of(batch.instance()) != size || size_of(batch.value()) != size || size_of(batch.z()) != size)
            return "the columns of its choices differ in length";
        if (!is_aligned(batch.index()) || !is_aligned(batch.value()) || !is_aligned(batch.z()))
            return "a column of 64-bit numbers does not begin at a multiple of 8 bytes";
        offsets_ = size_of(batch.offsets()) > 0 ? batch.offsets()->data() : nullptr;
        if (size > 0 && offsets_ == nullptr) return "it has choices, but no offsets";
        if (offsets_ != nullptr && !are_offsets(*batch.offsets(), size)) return "its offsets do not fit its choices";
        if (size == 0) return {};
        address_ = batch.address()->data();
        instance_ = batch.instance()->data();
        value_ = batch.value()->data();
        z_ = batch.z()->data();
        for (std::size_t row = 0; row < size; ++row)
            if (static_cast<std::uint32_t>(address_[row]) >= addresses.size())
                return "it forces a draw of address number " + std::to_string(address_[row]) + ", of which " +
                       std::to_string(addresses.size()) + " were defined";
        return {};
    }

    /// Turns to the script of a trace.
    void begin(std::size_t trace) {
        first_ = offsets_ == nullptr ? 0 : static_cast<std::size_t>(offsets_[trace]);
        end_ = offsets_ == nullptr ? 0 : static_cast<std::size_t>(offsets_[trace + 1]);
        cursor_ = first_;
        indexed_ = repeats_ = false;
    }

    /// The choices for a visit to a draw of n elements.
    Choices find(const Entry& entry, std::int32_t instance, std::size_t n, bool control) {
        if (ask_ ? !control : first_ == end_) return {};
        std::size_t row = cursor_;
        if (repeats_ || !matches(row, entry, instance)) {
            if (ask_) return {nullptr, nullptr, 0, true};
            row = search(entry, instance);
            if (row == end_) return {};
        }
        std::size_t size = 1;
        while (size < n && matches(row + size, entry, instance)) ++size;
        cursor_ = row + size;
        return {value_ + row, z_ + row, size, ask_ && size < n};
    }

  private:
    template <class T>
    static std::size_t size_of(const flatbuffers::Vector<T>* column) {
        return column == nullptr ? 0 : column->size();
    }

    /// Numbers are read where they lie; the verifier sees to 32 bits only.
    template <class T>
    static bool is_aligned(const flatbuffers::Vector<T>* column) {
        return column == nullptr || reinterpret_cast<std::uintptr_t>(column->Data()) % sizeof(T) == 0;
    }

    bool are_offsets(const flatbuffers::Vector<std::int32_t>& offsets, std::size_t num_choices) const {
        if (offsets.size() != num_traces_ + 1 || offsets.Get(0) != 0) return false;
        for (flatbuffers::uoffset_t k = 0; k < num_traces_; ++k)
            if (offsets.Get(k) > offsets.Get(k + 1)) return false;
        return static_cast<std::size_t>(offsets.Get(static_cast<flatbuffers::uoffset_t>(num_traces_))) == num_choices;
    }

    bool matches(std::size_t row, const Entry& entry, std::int32_t instance) const {
        return row < end_ && instance_[row] == instance && addresses_[address_[row]] == &entry;
    }

    /// The first row for a draw that does not come next in the script, or the end.
    std::size_t search(const Entry& entry, std::int32_t instance) {
        if (!indexed_) make_index();
        for (std::size_t i = hash(entry, instance) & mask_;; i = (i + 1) & mask_) {
            if (slots_[i] == 0) return end_;
            const std::size_t row = first_ + slots_[i] - 1;
            if (matches(row, entry, instance)) return row;
        }
    }

    void make_index() {
        indexed_ = true;
        std::size_t capacity = 16;
        while (capacity < 2 * (end_ - first_)) capacity *= 2;
        mask_ = capacity - 1;
        slots_.assign(capacity, 0);
        for (std::size_t row = first_; row < end_; ++row) {
            const Entry& entry = *addresses_[address_[row]];
            std::size_t i = hash(entry, instance_[row]) & mask_;
            while (slots_[i] != 0 && !matches(first_ + slots_[i] - 1, entry, instance_[row])) i = (i + 1) & mask_;
            if (slots_[i] == 0) {
                slots_[i] = static_cast<std::uint32_t>(row - first_ + 1);
            } else if (!matches(row - 1, entry, instance_[row])) {
                repeats_ = true;  // the first one holds
            }
        }
    }

    static std::uint64_t hash(const Entry& entry, std::int32_t instance) {
        return mix(reinterpret_cast<std::uintptr_t>(&entry), static_cast<std::uint32_t>(instance));
    }

    const Entry* const* addresses_ = nullptr;  // by the controller's number
    const std::int32_t* offsets_ = nullptr;
    const std::int32_t* address_ = nullptr;
    const std::int32_t* instance_ = nullptr;
    const double* value_ = nullptr;
    const double* z_ = nullptr;
    std::size_t num_traces_ = 0;
    bool ask_ = false;
    std::size_t first_ = 0, end_ = 0, cursor_ = 0;  // rows of the running trace
    bool indexed_ = false, repeats_ = false;
    std::vector<std::uint32_t> slots_;  // row - first_ + 1, or 0; open addressing
    std::size_t mask_ = 0;
};

}  // namespace ppx_client::detail

// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC11, "Parallel random
// numbers").
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ppx_client::detail {

/// What a random number is for; streams of one trace are independent.
enum class Stream : std::uint32_t { Draws, Observations };

/// The uniform numbers of one (seed, trace index, stream), by their number: the same as ppx_server.philox.uniforms.
///
/// Key: seed, low word first. Counter: index (low word first), block, stream. A block makes two numbers; those of a
/// stream run out after 2^33, when its number moves on.
class Uniforms {
  public:
    Uniforms() = default;
    Uniforms(std::uint64_t seed, std::uint64_t index, Stream stream = Stream::Draws)
        : seed_(seed), index_(index), stream_(static_cast<std::uint32_t>(stream)) {}

    /// Number n in the open interval (0, 1), a midpoint of the 2^-52 grid.
    double at(std::uint64_t n) {
        if (n - first_ >= size_) {  // also where n is below first_
            first_ = n & ~std::uint64_t{chunk - 1};
            size_ = chunk;
            make_chunk(first_, numbers_.data());
        }
        return numbers_[n - first_];
    }

    double next() { return at(next_++); }

    /// Numbers `first` to `first + count - 1`.
    void fill(std::uint64_t first, std::size_t count, double* out) {
        std::size_t i = 0;
        for (; i < count && (first + i) % chunk != 0; ++i) out[i] = at(first + i);
        for (; i + chunk <= count; i += chunk) make_chunk(first + i, out + i);
        for (; i < count; ++i) out[i] = at(first + i);
    }

  private:
    static constexpr std::size_t chunk = 4;

    struct Block {
        std::uint32_t c0, c1, c2, c3;

        // Multipliers and Weyl constants of Philox4x32: table 2 of the paper; Random123 philox.h.
        void round(std::uint32_t k0, std::uint32_t k1) {
            const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c0, p1 = std::uint64_t{0xCD9E8D57} * c2;
            c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
            c1 = static_cast<std::uint32_t>(p1);
            c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
            c3 = static_cast<std::uint32_t>(p0);
        }
    };

    Block counter(std::uint64_t block) const {
        return {static_cast<std::uint32_t>(index_), static_cast<std::uint32_t>(index_ >> 32),
                static_cast<std::uint32_t>(block), stream_ | static_cast<std::uint32_t>((block >> 32) << 8)};
    }

    static double uniform(std::uint32_t high, std::uint32_t low) {
        // Signed, because processors convert signed numbers only.
        const auto bits = static_cast<std::int64_t>(static_cast<std::uint64_t>(high >> 6) << 26 | (low >> 6));
        return (static_cast<double>(bits) + 0.5) * 0x1p-52;
    }

    /// Two blocks at a time: the processor works on one while it waits for the other's products.
    void make_chunk(std::uint64_t first, double* out) const {
        Block a = counter(first / 2), b = counter(first / 2 + 1);
        auto k0 = static_cast<std::uint32_t>(seed_), k1 = static_cast<std::uint32_t>(seed_ >> 32);
        for (int i = 0; i < 10; ++i) {
            a.round(k0, k1);
            b.round(k0, k1);
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        out[0] = uniform(a.c0, a.c1);
        out[1] = uniform(a.c2, a.c3);
        out[2] = uniform(b.c0, b.c1);
        out[3] = uniform(b.c2, b.c3);
    }

    std::uint64_t seed_ = 0, index_ = 0;
    std::uint32_t stream_ = 0;
    std::uint64_t next_ = 0, first_ = 0;
    std::size_t size_ = 0;  // 0 before the first chunk
    std::array<double, chunk> numbers_{};
};

}  // namespace ppx_client::detail

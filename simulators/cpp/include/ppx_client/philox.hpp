// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC11, "Parallel random
// numbers").
#pragma once

#include <array>
#include <cstdint>

namespace ppx_client::detail {

inline std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> c, std::uint32_t k0, std::uint32_t k1) {
    // Multipliers and Weyl constants of Philox4x32 (table 2 of the paper; Random123 philox.h).
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c[0], p1 = std::uint64_t{0xCD9E8D57} * c[2];
        c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
             static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return c;
}

/// Uniform numbers of one (seed, index): the same that ppx_server.philox.uniforms gives.
class Uniforms {
  public:
    Uniforms(std::uint64_t seed, std::uint64_t index) : seed_(seed), index_(index) {}

    /// The next number in the open interval (0, 1), a midpoint of the 2^-52 grid.
    double next() {
        if (!half_) block_ = make_block();
        const std::uint32_t high = block_[half_ ? 2 : 0], low = block_[half_ ? 3 : 1];
        half_ = !half_;
        const std::uint64_t bits = (static_cast<std::uint64_t>(high >> 6) << 26) | (low >> 6);
        return (static_cast<double>(bits) + 0.5) * 0x1p-52;
    }

  private:
    /// Key: seed, low word first. Counter: index (low word first), block, stream. A block makes two numbers;
    /// the numbers of a stream run out after 2^33, when its number moves on.
    std::array<std::uint32_t, 4> make_block() {
        const std::uint64_t block = num_blocks_++;
        return philox4x32({static_cast<std::uint32_t>(index_), static_cast<std::uint32_t>(index_ >> 32),
                           static_cast<std::uint32_t>(block), static_cast<std::uint32_t>((block >> 32) << 8)},
                          static_cast<std::uint32_t>(seed_), static_cast<std::uint32_t>(seed_ >> 32));
    }

    std::uint64_t seed_, index_;
    std::uint64_t num_blocks_ = 0;
    std::array<std::uint32_t, 4> block_{};
    bool half_ = false;
};

}  // namespace ppx_client::detail

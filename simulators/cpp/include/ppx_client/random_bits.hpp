// A generator of random bits that a controller controls, for std:: distributions and algorithms, and what <random> and
// <algorithm> have besides distributions: generate_canonical and shuffle.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>

#include "ppx_client/index.hpp"
#include "ppx_client/random_draws.hpp"
#include "ppx_client/uniform.hpp"

namespace ppx_client {

namespace detail {

template <class T>
inline constexpr bool is_name = std::is_convertible_v<const T&, std::string_view>;

/// A generator whose every number is one controlled Uniform draw.
///
/// A number of 32 bits is 2^32 u, rounded down. A number of 64 bits has the 52 of u in front, and behind them 12 that
/// follow from those as if they were random.
template <class Bits>
class BitGenerator {
    static_assert(std::is_same_v<Bits, std::uint32_t> || std::is_same_v<Bits, std::uint64_t>);

  public:
    using result_type = Bits;
    static constexpr result_type min() { return 0; }
    static constexpr result_type max() { return std::numeric_limits<Bits>::max(); }

    /// The address of its draws is where it is made.
    BitGenerator(CallSite site = CallSite::current()) : site_(site) {
        // Compilers disagree on the name of what initialises globals.
        if (site_.function.substr(0, 2) == "__") site_.function = {};
    }

    /// The address of its draws is its name, and a slash; in results, no number has this name.
    template <class Name, std::enable_if_t<is_name<Name>, int> = 0>
    explicit BitGenerator(const Name& name, CallSite site = CallSite::current()) : BitGenerator(site) {
        name_ = std::string_view(name);
    }

    /// Ignores the seed: numbers come from the controller, and without one from ppx_client::seed.
    template <class Seed, std::enable_if_t<!is_name<Seed> && !std::is_same_v<std::decay_t<Seed>, BitGenerator> &&
                                               !std::is_same_v<std::decay_t<Seed>, CallSite>, int> = 0>
    explicit BitGenerator(Seed&&, CallSite site = CallSite::current()) : BitGenerator(site) {}

    result_type operator()() {
        const double u = choose_unit({name_, site_, "uniform"});
        if constexpr (std::is_same_v<Bits, std::uint32_t>) {
            return static_cast<std::uint32_t>(u * 0x1p32);
        } else {
            const auto front = static_cast<std::uint64_t>(u * 0x1p52);
            return front << 12 | (mix(front, 0) & 0xFFF);
        }
    }

    template <class... Seed>
    void seed(Seed&&...) {}

    /// Does nothing: numbers do not follow from each other.
    void discard(unsigned long long) {}

  private:
    std::string name_;
    CallSite site_;
};

}  // namespace detail

using random_bit_generator = detail::BitGenerator<std::uint32_t>;     // for std::mt19937
using random_bit_generator_64 = detail::BitGenerator<std::uint64_t>;  // for std::mt19937_64; one draw makes a double

/// Draws a Uniform{0, 1}; the generator is ignored.
template <class R, std::size_t bits, class Generator>
R generate_canonical(Generator&, CallSite site = CallSite::current()) {
    return detail::round_below<R>(detail::choose_unit({{}, site}), R{1});
}

/// Puts elements in an order of which all are equally likely: a draw for each, from the last to the second. The
/// generator is ignored.
template <class Iterator, class Generator>
void shuffle(Iterator first, Iterator last, Generator&&, CallSite site = CallSite::current()) {
    for (auto left = last - first - 1; left > 0; --left)
        std::iter_swap(first + left, first + detail::choose_whole<std::int64_t>(0, left, {{}, site}));
}

}  // namespace ppx_client

// Uniform random numbers, for programs that make all their others of them.
//
//     #include <ppx_client/uniform.hpp>
//     const double u = ppx_client::uniform();  // instead of rand() / (RAND_MAX + 1.0)
//
// Inference sees uniform draws and what the program makes of them as one thing: it works, and works the better the more
// the program says of what it draws (see random.hpp and sample).
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>
#include <vector>

#include "ppx_client/address.hpp"
#include "ppx_client/families.hpp"
#include "ppx_client/model.hpp"
#include "ppx_client/normal.hpp"
#include "ppx_client/quantiles.hpp"
#include "ppx_client/sites.hpp"

namespace ppx_client {

namespace detail {

/// Makes a random choice that inference may control.
template <class D>
auto choose(const D& distribution, const Label& label) {
    return sample(distribution, label, true);
}

/// A number in (0, 1), of which a program may take the logarithm at either end.
inline double choose_unit(const Label& label) {
    // Rounding can reach the ends, and a controller can force them.
    return clip(choose(Uniform{0.0, 1.0}, label), tiny, below_one);
}

/// The draw of a number's part.
inline Label part_of(const Label& whole, std::string_view part) { return {whole.name, whole.call_site, part}; }

/// What a program gets that is no draw itself, but made of its parts or certain: reported, if it has a name.
template <class T>
T deliver(T value, const Label& label) {
    if (!label.name.empty()) tag(static_cast<double>(value), label.name, label.call_site);
    return value;
}

/// A whole number from `low` to `high`, all equally likely: a category if there are few, and else a Uniform draw, rounded
/// down. Where they are more than 2^52, some never come.
template <class I>
I choose_whole(I low, I high, const Label& label) {
    constexpr std::uint64_t max_categories = 64;  // as in Python
    const std::uint64_t last = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
    const auto from_low = [&](std::uint64_t distance) {
        return static_cast<I>(static_cast<std::uint64_t>(low) + distance);
    };
    if (last == 0) return deliver(low, label);
    if (last < max_categories) {
        const Categorical<double> even{std::vector<double>(last + 1, 1.0)};
        if (low == I{0}) return from_low(static_cast<std::uint64_t>(choose(even, label)));
        return deliver(from_low(static_cast<std::uint64_t>(choose(even, part_of(label, "index")))), label);
    }
    const double x = choose(Uniform{0.0, static_cast<double>(last) + 1.0}, part_of(label, "uniform"));
    return deliver(from_low(x >= static_cast<double>(last) ? last : x > 0.0 ? static_cast<std::uint64_t>(x) : 0), label);
}

}  // namespace detail

/// Draws a Uniform{0, 1}, to be found by inference under its name, or without one where it is called.
///
/// @return A number greater than 0 and less than 1.
inline double uniform(std::string_view name = {}, CallSite site = CallSite::current()) {
    return detail::choose_unit({name, site});
}

}  // namespace ppx_client

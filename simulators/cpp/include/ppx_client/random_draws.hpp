// What the distributions of <random> are in terms of the families of PPX: `draw` of each makes one number.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "ppx_client/uniform.hpp"

namespace ppx_client::detail {

/// A number as another type; rounding does not reach `high`.
template <class R>
R round_below(double x, R high) {
    const R rounded = static_cast<R>(x);
    return rounded < high ? rounded : std::nextafter(high, std::numeric_limits<R>::lowest());
}

/// A count as another type, which may be too narrow for it; a controller may force a negative one.
template <class I, class Count>
I to_count(Count count) {
    constexpr I most = std::numeric_limits<I>::max();
    if (count < Count{0}) return 0;
    return static_cast<double>(count) >= static_cast<double>(most) ? most : static_cast<I>(count);
}

/// A normal number; without a choice where there is nothing to choose.
inline double choose_normal(double mean, double stddev, const Label& at) {
    return stddev == 0.0 ? deliver(mean, at) : choose(Normal{mean, stddev}, at);
}

// P is the distribution or its param_type: both have the accessors.

template <class R, class P>
R draw(const std::normal_distribution<R>*, const P& p, const Label& at) {
    return static_cast<R>(choose_normal(p.mean(), p.stddev(), at));
}

template <class R, class P>
R draw(const std::lognormal_distribution<R>*, const P& p, const Label& at) {
    return static_cast<R>(choose(LogNormal{p.m(), p.s()}, at));
}

template <class R, class P>
R draw(const std::uniform_real_distribution<R>*, const P& p, const Label& at) {
    return p.a() == p.b() ? deliver(p.a(), at) : round_below<R>(choose(Uniform{p.a(), p.b()}, at), p.b());
}

template <class I, class P>
I draw(const std::uniform_int_distribution<I>*, const P& p, const Label& at) {
    return choose_whole<I>(p.a(), p.b(), at);
}

template <class P>
bool draw(const std::bernoulli_distribution*, const P& p, const Label& at) {
    return choose(Bernoulli{p.p()}, at) != 0;
}

template <class I, class P>
I draw(const std::binomial_distribution<I>*, const P& p, const Label& at) {
    return to_count<I>(choose(Binomial{p.t(), p.p()}, at));
}

template <class I, class P>
I draw(const std::poisson_distribution<I>*, const P& p, const Label& at) {
    return to_count<I>(choose(Poisson{p.mean()}, at));
}

/// Failures before the first success: an exponential number, rounded down, whose rate makes success p.
template <class I, class P>
I draw(const std::geometric_distribution<I>*, const P& p, const Label& at) {
    const double e = choose(Exponential{1.0}, part_of(at, "exponential"));
    return deliver(to_count<I>(std::floor(e / -std::log1p(-p.p()))), at);
}

/// Failures before the k-th success: a Poisson number whose rate is a Gamma one.
template <class I, class P>
I draw(const std::negative_binomial_distribution<I>*, const P& p, const Label& at) {
    const double rate = choose(Gamma{p.k(), p.p() / (1.0 - p.p())}, part_of(at, "gamma"));
    return deliver(to_count<I>(choose(Poisson{rate}, part_of(at, "poisson"))), at);
}

template <class I, class P>
I draw(const std::discrete_distribution<I>*, const P& p, const Label& at) {
    std::vector<double> probs = p.probabilities();
    return probs.size() < 2 ? deliver(I{0}, at) : static_cast<I>(choose(Categorical{std::move(probs)}, at));
}

template <class R, class P>
R draw(const std::exponential_distribution<R>*, const P& p, const Label& at) {
    return static_cast<R>(choose(Exponential{p.lambda()}, at));
}

template <class R, class P>
R draw(const std::gamma_distribution<R>*, const P& p, const Label& at) {
    return static_cast<R>(choose(Gamma{p.alpha(), 1.0 / p.beta()}, at));
}

template <class R, class P>
R draw(const std::weibull_distribution<R>*, const P& p, const Label& at) {
    return static_cast<R>(choose(Weibull{p.b(), p.a()}, at));
}

template <class R, class P>
R draw(const std::extreme_value_distribution<R>*, const P& p, const Label& at) {
    const double e = choose(Exponential{1.0}, part_of(at, "exponential"));
    return deliver(static_cast<R>(p.a() - p.b() * std::log(std::max(e, tiny))), at);
}

/// The tangent of an angle that is uniform.
template <class R, class P>
R draw(const std::cauchy_distribution<R>*, const P& p, const Label& at) {
    constexpr double pi = 3.14159265358979323846;
    const double u = choose_unit(part_of(at, "uniform"));
    return deliver(static_cast<R>(p.a() + p.b() * std::tan(pi * (u - 0.5))), at);
}

template <class R, class P>
R draw(const std::chi_squared_distribution<R>*, const P& p, const Label& at) {
    return static_cast<R>(choose(Gamma{0.5 * p.n(), 0.5}, at));
}

/// A normal number by the root of a mean square.
template <class R, class P>
R draw(const std::student_t_distribution<R>*, const P& p, const Label& at) {
    const double normal = choose(Normal{0.0, 1.0}, part_of(at, "normal"));
    const double mean_square = choose(Gamma{0.5 * p.n(), 0.5 * p.n()}, part_of(at, "mean_square"));
    return deliver(static_cast<R>(normal / std::sqrt(mean_square)), at);
}

/// A ratio of mean squares.
template <class R, class P>
R draw(const std::fisher_f_distribution<R>*, const P& p, const Label& at) {
    const double numerator = choose(Gamma{0.5 * p.m(), 0.5 * p.m()}, part_of(at, "numerator"));
    const double denominator = choose(Gamma{0.5 * p.n(), 0.5 * p.n()}, part_of(at, "denominator"));
    return deliver(static_cast<R>(numerator / denominator), at);
}

/// The quantile of a density that is linear between bounds, with the values `left` and `right` at those of each
/// interval.
template <class Left, class Right>
double piecewise_quantile(double u, const std::vector<double>& bounds, const Left& left, const Right& right) {
    for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
        const double width = bounds[i + 1] - bounds[i], l = left(i), r = right(i);
        const double mass = 0.5 * (l + r) * width;
        if (u < mass) {
            // The root of l x + (r - l) x^2 / 2 = (l + r) s / 2 in [0, 1), in a form that does not cancel.
            const double s = u / mass;
            return bounds[i] + width * s * (l + r) / (l + std::sqrt(l * l + s * (r * r - l * l)));
        }
        u -= mass;
    }
    return bounds.back();
}

template <class R, class P>
R draw(const std::piecewise_constant_distribution<R>*, const P& p, const Label& at) {
    const std::vector<R> ends = p.intervals();
    const std::vector<double> density = p.densities();
    const auto in = [&](std::size_t i) { return density[i]; };
    const double u = choose_unit(part_of(at, "uniform"));
    return deliver(round_below<R>(piecewise_quantile(u, {ends.begin(), ends.end()}, in, in), ends.back()), at);
}

template <class R, class P>
R draw(const std::piecewise_linear_distribution<R>*, const P& p, const Label& at) {
    const std::vector<R> ends = p.intervals();
    const std::vector<double> density = p.densities();
    const auto left = [&](std::size_t i) { return density[i]; };
    const auto right = [&](std::size_t i) { return density[i + 1]; };
    const double u = choose_unit(part_of(at, "uniform"));
    return deliver(round_below<R>(piecewise_quantile(u, {ends.begin(), ends.end()}, left, right), ends.back()), at);
}

}  // namespace ppx_client::detail

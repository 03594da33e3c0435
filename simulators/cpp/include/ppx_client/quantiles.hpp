// Quantiles of every family, through the smaller tail: how random numbers and standard coordinates become values. The
// same as `from_z` of ppx_server.distributions, with its limits.
//
// Templates on the family, so that a model compiles only the Boost functions of the families it uses.
#pragma once

#include <algorithm>
#include <boost/math/special_functions/beta.hpp>
#include <boost/math/special_functions/gamma.hpp>
#include <cmath>
#include <cstddef>

#include "ppx_client/families.hpp"
#include "ppx_client/normal.hpp"
#include "ppx_client/truncated.hpp"

namespace ppx_client::detail {

namespace policies = boost::math::policies;

/// Doubles stay doubles; what goes wrong is infinite or NaN, not an exception.
using Policy =
    policies::policy<policies::promote_double<false>, policies::domain_error<policies::ignore_error>,
                     policies::pole_error<policies::ignore_error>, policies::overflow_error<policies::ignore_error>,
                     policies::evaluation_error<policies::ignore_error>>;

constexpr double below_one = 1.0 - 0x1p-53;

/// `value` within the bounds, and NaN if it is that.
inline double clip(double value, double low, double high) { return value < low ? low : value > high ? high : value; }

inline double sum_of(const double* numbers, std::size_t size) {
    double sum = 0.0;
    for (std::size_t i = 0; i < size; ++i) sum += numbers[i];
    return sum;
}

/// Categories are in the order of their index, from whichever end is nearer. Tails are compared as quotients: the product
/// of a tiny one with the total may vanish, which the sum of impossible categories would reach.
inline double categorical_quantile(const double* probs, std::size_t size, const Tails& tails) {
    const double total = sum_of(probs, size);
    double sum = 0.0;
    if (tails.p <= tails.q) {
        for (std::size_t k = 0; k + 1 < size; ++k)
            if ((sum += probs[k]) / total >= tails.p) return static_cast<double>(k);
        return static_cast<double>(size - 1);
    }
    for (std::size_t k = size - 1; k > 0; --k)
        if ((sum += probs[k]) / total > tails.q) return static_cast<double>(k);
    return 0.0;
}

/// The smallest k from 0 to `high` for which `reached` holds, which it does from some k on and at `high`: by doubling
/// steps from a guess, then bisection. Beyond 2^53 not every integer is a double: it stops where there is none between.
template <class Reached>
double smallest_count(double guess, double high, const Reached& reached) {
    const auto enough = [&](double k) { return k >= high || reached(k); };
    double yes = clip(std::nearbyint(guess), 0.0, high), no = yes - 1.0;
    for (double step = 1.0; !enough(yes); step *= 2.0) {
        no = yes;
        yes = std::min(yes + step, high);
    }
    for (double step = 1.0; no >= 0.0 && enough(no); step *= 2.0) {
        yes = no;
        no = std::max(no - step, -1.0);
    }
    for (;;) {
        const double middle = std::floor(0.5 * (yes + no));
        if (!(middle > no && middle < yes)) return yes;
        (enough(middle) ? yes : no) = middle;
    }
}

/// Cornish-Fisher (Abramowitz and Stegun 26.2.49), right to about one count except far in the tails.
inline double guess_count(const Tails& tails, double mean, double stddev, double skewness) {
    const double z = normal_quantile(tails);
    return mean + stddev * z + skewness * (z * z - 1.0) / 6.0;
}

template <class Dummy = void>
double poisson_quantile(double rate, const Tails& tails) {
    namespace math = boost::math;
    return smallest_count(guess_count(tails, rate, std::sqrt(rate), 1.0), huge, [&](double k) {
        return tails.p <= tails.q ? math::gamma_q(k + 1.0, rate, Policy()) >= tails.p
                                  : math::gamma_p(k + 1.0, rate, Policy()) <= tails.q;
    });
}

template <class Dummy = void>
double binomial_quantile(double n, double prob, const Tails& tails) {
    namespace math = boost::math;
    const double mean = n * prob;
    const double guess = guess_count(tails, mean, std::sqrt(mean * (1.0 - prob)), 1.0 - 2.0 * prob);
    return smallest_count(guess, n, [&](double k) {
        return tails.p <= tails.q ? math::ibetac(k + 1.0, n - k, prob, Policy()) >= tails.p
                                  : math::ibeta(k + 1.0, n - k, prob, Policy()) <= tails.q;
    });
}

/// -log of the upper tail: the quantile of the standard exponential.
inline double cumulative_hazard(const Tails& tails) {
    return tails.p < tails.q ? -std::log1p(-tails.p) : -std::log(tails.q);
}

inline double weibull_quantile(double scale, double concentration, const Tails& tails) {
    const double hazard = cumulative_hazard(tails);
    const double x = scale * std::pow(hazard, 1.0 / concentration);
    if (x > tiny && x < huge) return x;
    const double log_x = std::log(scale) + std::log(hazard) / concentration;  // the power may be out of range
    return clip(std::exp(log_x), tiny, huge);
}

/// The value of a draw with these parameters and tails.
template <Family F>
double inverse(const double* p, [[maybe_unused]] std::size_t size, const Tails& tails) {
    namespace math = boost::math;
    static_assert(F != Family::Normal && F != Family::LogNormal, "their values come from coordinates");
    const bool lower = tails.p <= tails.q;
    if constexpr (F == Family::Uniform) {
        return lower ? p[0] + (p[1] - p[0]) * tails.p : p[1] - (p[1] - p[0]) * tails.q;
    } else if constexpr (F == Family::Categorical) {
        return categorical_quantile(p, size, tails);
    } else if constexpr (F == Family::Poisson) {
        return poisson_quantile(p[0], tails);
    } else if constexpr (F == Family::Bernoulli) {
        return (lower ? 1.0 - p[0] < tails.p : p[0] > tails.q) ? 1.0 : 0.0;
    } else if constexpr (F == Family::Beta) {
        const double x = lower ? math::ibeta_inv(p[0], p[1], tails.p, Policy())
                               : math::ibetac_inv(p[0], p[1], tails.q, Policy());
        // The mean, where parameters are too extreme for Boost.
        return clip(std::isnan(x) ? 1.0 / (1.0 + p[1] / p[0]) : x, tiny, below_one);
    } else if constexpr (F == Family::Exponential) {
        return std::min(cumulative_hazard(tails) / p[0], huge);
    } else if constexpr (F == Family::Gamma) {
        const double x =
            lower ? math::gamma_p_inv(p[0], tails.p, Policy()) : math::gamma_q_inv(p[0], tails.q, Policy());
        return std::isnan(x) ? tiny : clip(x / p[1], tiny, huge);  // NaN for a shape too small for Boost
    } else if constexpr (F == Family::Binomial) {
        return binomial_quantile(p[0], p[1], tails);
    } else if constexpr (F == Family::Weibull) {
        return weibull_quantile(p[0], p[1], tails);
    } else {
        static_assert(F == Family::TruncatedNormal);
        return TruncatedNormalFrame(p).inverse(tails);
    }
}

/// The value of a uniform number and its coordinate z.
template <Family F>
double value_of(const double* p, std::size_t size, const Tails& tails, double z) {
    if constexpr (F == Family::Normal) {
        return clip(p[0] + p[1] * z, -huge, huge);
    } else if constexpr (F == Family::LogNormal) {
        return clip(std::exp(p[0] + p[1] * z), tiny, huge);
    } else {
        return inverse<F>(p, size, tails);
    }
}

/// The value with a standard coordinate.
template <Family F>
double from_z(const double* p, std::size_t size, double z) {
    return value_of<F>(p, size, tails_of_z(z), z);
}

}  // namespace ppx_client::detail

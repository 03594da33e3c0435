// Quantile functions: a draw is the quantile of one uniform number.
//
// Templates on the family, so that a model compiles only the Boost functions of the families it uses.
#pragma once

#include <algorithm>
#include <boost/math/distributions/beta.hpp>
#include <boost/math/distributions/binomial.hpp>
#include <boost/math/distributions/gamma.hpp>
#include <boost/math/distributions/poisson.hpp>
#include <boost/math/special_functions/erf.hpp>
#include <cmath>
#include <cstddef>
#include <limits>

#include "ppx_client/families.hpp"

namespace ppx_client::detail {

/// Quantile of `uniform` in (0, 1), for the n parameters of one draw.
using Quantile = double (*)(const double* params, std::size_t n, double uniform);

namespace policies = boost::math::policies;

/// Doubles stay doubles; discrete quantiles are the smallest k with cdf(k) >= u; overflow is infinity, no
/// exception.
using Policy =
    policies::policy<policies::promote_double<false>, policies::discrete_quantile<policies::integer_round_up>,
                     policies::overflow_error<policies::ignore_error>>;

constexpr double sqrt_2 = 1.41421356237309504880;

template <class Dummy = void>
double normal_cdf(double x) {
    return 0.5 * std::erfc(-x / sqrt_2);
}

template <class Dummy = void>
double normal_quantile(double u) {
    return -sqrt_2 * boost::math::erfc_inv(2.0 * u, Policy());
}

/// x with sf(x) = v sf(a), for a so far out (a > 30) that sf underflows or soon will.
///
/// Newton's method on log sf(x) = -x^2/2 + log m(x) + const, with Mills' ratio m(x) = sf(x)/pdf(x) by its
/// asymptotic series (Abramowitz and Stegun 26.2.12), whose error at x > 30 is below 1e-12.
inline double far_tail_quantile(double a, double log_v) {
    const auto mills = [](double x) {
        const double r = 1.0 / (x * x);
        return (1.0 - r * (1.0 - 3.0 * r * (1.0 - 5.0 * r * (1.0 - 7.0 * r)))) / x;
    };
    const double start = std::log(mills(a));
    double x = std::sqrt(a * a - 2.0 * log_v);
    for (int i = 0; i < 4; ++i) {
        const double error = 0.5 * (a - x) * (a + x) + std::log(mills(x)) - start - log_v;
        x = std::max(a, x + error * mills(x));
    }
    return x;
}

/// Quantile of the standard normal between a and b, 0 <= a or a < 0 < b.
template <class Dummy = void>
double truncated_quantile(double a, double b, double u) {
    if (a > 30.0) {
        // sf(b)/sf(a), with b so far above a that the ratio of Mills' ratios matters little only when it is
        // tiny.
        const double log_ratio =
            std::isinf(b) ? -std::numeric_limits<double>::infinity() : 0.5 * (a - b) * (a + b) + std::log(a / b);
        const double v = 1.0 + u * std::expm1(log_ratio);
        return std::min(b, far_tail_quantile(a, std::log(v)));
    }
    if (a > 0.0) {
        const double high = normal_cdf(-a), low = normal_cdf(-b);
        return -normal_quantile(high + u * (low - high));
    }
    const double low = normal_cdf(a), high = normal_cdf(b);
    const double p = low + u * (high - low);
    // Above the median the complement keeps its digits.
    return p <= 0.5 ? normal_quantile(p) : -normal_quantile(normal_cdf(-b) + (1.0 - u) * (high - low));
}

inline double categorical_quantile(const double* probs, std::size_t n, double u) {
    double sum = 0.0;
    for (std::size_t i = 0; i < n; ++i) sum += probs[i];
    const double target = u * sum;
    double cumulative = 0.0;
    std::size_t last = 0;
    for (std::size_t i = 0; i < n; ++i) {
        if (probs[i] == 0.0) continue;
        last = i;
        cumulative += probs[i];
        if (target <= cumulative) break;
    }
    return static_cast<double>(last);
}

template <Family F>
double quantile([[maybe_unused]] const double* p, [[maybe_unused]] std::size_t n, double u) {
    using namespace boost::math;
    if constexpr (F == Family::Normal) {
        return p[0] + p[1] * normal_quantile(u);
    } else if constexpr (F == Family::Uniform) {
        // Bounds of opposite sign may be further apart than the largest double.
        const double x = (1.0 - u) * p[0] + u * p[1];
        return std::min(std::max(x, p[0]), p[1]);
    } else if constexpr (F == Family::Categorical) {
        return categorical_quantile(p, n, u);
    } else if constexpr (F == Family::Poisson) {
        return boost::math::quantile(poisson_distribution<double, Policy>(p[0]), u);
    } else if constexpr (F == Family::Bernoulli) {
        return u > 1.0 - p[0] ? 1.0 : 0.0;
    } else if constexpr (F == Family::Beta) {
        return boost::math::quantile(beta_distribution<double, Policy>(p[0], p[1]), u);
    } else if constexpr (F == Family::Exponential) {
        return -std::log1p(-u) / p[0];
    } else if constexpr (F == Family::Gamma) {
        return boost::math::quantile(gamma_distribution<double, Policy>(p[0]), u) / p[1];
    } else if constexpr (F == Family::LogNormal) {
        return std::exp(p[0] + p[1] * normal_quantile(u));
    } else if constexpr (F == Family::Binomial) {
        if (p[0] == 0.0 || p[1] == 0.0) return 0.0;
        if (p[1] == 1.0) return p[0];
        return boost::math::quantile(binomial_distribution<double, Policy>(p[0], p[1]), u);
    } else if constexpr (F == Family::Weibull) {
        return p[0] * std::pow(-std::log1p(-u), 1.0 / p[1]);
    } else {
        static_assert(F == Family::TruncatedNormal);
        const double a = (p[2] - p[0]) / p[1], b = (p[3] - p[0]) / p[1];
        const double z = b <= 0.0 ? -truncated_quantile(-b, -a, 1.0 - u) : truncated_quantile(a, b, u);
        return std::min(std::max(p[0] + p[1] * z, p[2]), p[3]);
    }
}

}  // namespace ppx_client::detail

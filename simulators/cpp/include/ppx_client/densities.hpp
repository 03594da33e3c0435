// Log densities of every family, as ppx_server.distributions has them: -inf outside the support, and at an edge where
// the density is infinite that of the nearest normal double.
#pragma once

#include <algorithm>
#include <boost/math/special_functions/gamma.hpp>
#include <cmath>
#include <cstddef>

#include "ppx_client/families.hpp"
#include "ppx_client/normal.hpp"
#include "ppx_client/quantiles.hpp"
#include "ppx_client/truncated.hpp"

namespace ppx_client::detail {

/// x log y, and 0 where x is.
inline double x_log_y(double x, double y) { return x == 0.0 ? 0.0 : x * std::log(y); }
inline double x_log_1_plus_y(double x, double y) { return x == 0.0 ? 0.0 : x * std::log1p(y); }

// Not std::lgamma, which writes to a variable that all threads share.
template <class Dummy = void>
double log_gamma(double x) {
    return boost::math::lgamma(x, Policy());
}

/// What Stirling's formula for log Gamma(x) lacks, x >= 10 (Abramowitz and Stegun 6.1.41).
inline double stirling_rest(double x) {
    const double r = 1.0 / (x * x);
    return (1.0 / 12 - r * (1.0 / 360 - r * (1.0 / 1260 - r * (1.0 / 1680 - r * (1.0 / 1188 - r * 691.0 / 360360))))) /
           x;
}

/// log of the beta function. The sums of log Gamma would cancel where an argument is large.
template <class Dummy = void>
double log_beta(double a, double b) {
    const double low = std::min(a, b), high = std::max(a, b);
    if (low < 10.0) {
        const double ratio = boost::math::tgamma_delta_ratio(high, low, Policy());
        return log_gamma(low) + (ratio > tiny && ratio < huge ? std::log(ratio) : -low * std::log(high));
    }
    return stirling_rest(a) + stirling_rest(b) - stirling_rest(a + b) + log_root_2_pi +
           (low - 0.5) * std::log(low / (low + high)) - high * std::log1p(low / high) - 0.5 * std::log(high);
}

/// The part of the log density that does not depend on the value; kept from visit to visit of a draw.
template <Family F>
double normaliser(const double* p, std::size_t size) {
    if constexpr (F == Family::Normal || F == Family::LogNormal) {
        return -std::log(p[1]) - log_root_2_pi;
    } else if constexpr (F == Family::Uniform) {
        return -std::log(p[1] - p[0]);
    } else if constexpr (F == Family::Categorical) {
        return sum_of(p, size);
    } else if constexpr (F == Family::Beta) {
        return -log_beta(p[0], p[1]);
    } else if constexpr (F == Family::Exponential) {
        return std::log(p[0]);
    } else if constexpr (F == Family::Gamma) {
        return std::log(p[1]) - log_gamma(p[0]);
    } else if constexpr (F == Family::Binomial) {
        return -std::log1p(p[0]);
    } else if constexpr (F == Family::Weibull) {
        return std::log(p[1] / p[0]);
    } else if constexpr (F == Family::TruncatedNormal) {
        return TruncatedNormalFrame(p).normaliser();
    } else {
        return 0.0;
    }
}

/// Whether a finite number is a value of the family; for discrete families of the whole numbers.
template <Family F>
bool contains(double x, const double* p, std::size_t size) {
    if constexpr (F == Family::Normal) {
        return true;
    } else if constexpr (F == Family::Uniform) {
        return x >= p[0] && x <= p[1];
    } else if constexpr (F == Family::TruncatedNormal) {
        return x >= p[2] && x <= p[3];
    } else if constexpr (F == Family::Beta) {
        return x >= 0.0 && x <= 1.0;
    } else if constexpr (F == Family::Categorical) {
        return x >= 0.0 && x < static_cast<double>(size) && x == std::floor(x);
    } else if constexpr (F == Family::Poisson) {
        return x >= 0.0 && x == std::floor(x);
    } else if constexpr (F == Family::Bernoulli) {
        return x == 0.0 || x == 1.0;
    } else if constexpr (F == Family::Binomial) {
        return x >= 0.0 && x <= p[0] && x == std::floor(x);
    } else {
        return x >= 0.0;
    }
}

/// Log density of a value inside the support, with the normaliser of the parameters; may be NaN at an edge.
template <Family F>
double log_density_inside(double x, const double* p, double normaliser) {
    if constexpr (F == Family::Normal) {
        const double residual = (x - p[0]) / p[1];
        return normaliser - 0.5 * residual * residual;
    } else if constexpr (F == Family::Uniform) {
        return normaliser;
    } else if constexpr (F == Family::Categorical) {
        return std::log(p[static_cast<std::size_t>(x)] / normaliser);
    } else if constexpr (F == Family::Poisson) {
        return x_log_y(x, p[0]) - p[0] - log_gamma(x + 1.0);
    } else if constexpr (F == Family::Bernoulli) {
        return x > 0.5 ? std::log(p[0]) : std::log1p(-p[0]);
    } else if constexpr (F == Family::Beta) {
        return normaliser + x_log_y(p[0] - 1.0, p[0] < 1.0 ? std::max(x, tiny) : x) +
               x_log_1_plus_y(p[1] - 1.0, -(p[1] < 1.0 ? std::min(x, below_one) : x));
    } else if constexpr (F == Family::Exponential) {
        return normaliser - p[0] * x;
    } else if constexpr (F == Family::Gamma) {
        const double scaled = p[1] * (p[0] < 1.0 ? std::max(x, tiny) : x);
        return normaliser + x_log_y(p[0] - 1.0, scaled) - scaled;
    } else if constexpr (F == Family::LogNormal) {
        const double log_x = std::log(x), residual = (log_x - p[0]) / p[1];
        return normaliser - 0.5 * residual * residual - log_x;
    } else if constexpr (F == Family::Binomial) {
        return normaliser - log_beta(1.0 + p[0] - x, 1.0 + x) + x_log_y(x, p[1]) + x_log_1_plus_y(p[0] - x, -p[1]);
    } else if constexpr (F == Family::Weibull) {
        const double ratio = (p[1] < 1.0 ? std::max(x, tiny) : x) / p[0];
        return normaliser + x_log_y(p[1] - 1.0, ratio) - std::pow(ratio, p[1]);
    } else {
        static_assert(F == Family::TruncatedNormal);
        return normaliser + TruncatedNormalFrame(p).log_density(x);
    }
}

/// Log density of any number, never NaN.
template <Family F>
double log_density(double x, const double* p, std::size_t size, double normaliser) {
    if (!std::isfinite(x) || !contains<F>(x, p, size)) return -infinity;
    const double log_prob = log_density_inside<F>(x, p, normaliser);
    return std::isnan(log_prob) ? -infinity : log_prob;
}

}  // namespace ppx_client::detail

// The standard normal distribution: quantiles and tails, right however small a tail is.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>

namespace ppx_client::detail {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double tiny = std::numeric_limits<double>::min();  // the smallest normal double
constexpr double huge = std::numeric_limits<double>::max();
constexpr double root_half = 0.70710678118654752440;
constexpr double log_root_2_pi = 0.91893853320467274178;

/// Lower and upper tail probability of a value: p = F(x), q = 1 - F(x), of which the smaller one is precise.
struct Tails {
    double p, q;
};

/// Of a uniform number of the 2^-52 grid, whose complement is exact.
inline Tails tails_of_uniform(double u) { return {u, 1.0 - u}; }

inline double lower_tail(double z) { return 0.5 * std::erfc(-z * root_half); }

/// Of a standard coordinate, kept within the limits of ppx_server.distributions: there probabilities are normal
/// doubles.
inline Tails tails_of_z(double z) {
    constexpr double z_max = 37.5;
    z = std::min(std::max(z, -z_max), z_max);
    return {lower_tail(z), lower_tail(-z)};
}

/// A polynomial of degree 7 by Estrin's scheme, whose steps depend on each other less than those of Horner's.
constexpr double polynomial(const std::array<double, 8>& c, double x) {
    const double x2 = x * x;
    return ((c[0] + c[1] * x) + (c[2] + c[3] * x) * x2) + ((c[4] + c[5] * x) + (c[6] + c[7] * x) * x2) * (x2 * x2);
}

/// Coefficients of algorithm AS 241, PPND16, of relative error 1e-16 (Wichura, Applied Statistics 37 (1988) 477): a
/// numerator and denominator each for the centre, tails down to e^-25, and those beyond.
struct Wichura {
    using Coefficients = std::array<double, 8>;
    static constexpr Coefficients a{3.3871328727963666080e0, 1.3314166789178437745e+2, 1.9715909503065514427e+3,
                                    1.3731693765509461125e+4, 4.5921953931549871457e+4, 6.7265770927008700853e+4,
                                    3.3430575583588128105e+4, 2.5090809287301226727e+3};
    static constexpr Coefficients b{1.0, 4.2313330701600911252e+1, 6.8718700749205790830e+2, 5.3941960214247511077e+3,
                                    2.1213794301586595867e+4, 3.9307895800092710610e+4, 2.8729085735721942674e+4,
                                    5.2264952788528545610e+3};
    static constexpr Coefficients c{1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
                                    3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
                                    2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static constexpr Coefficients d{1.0, 2.05319162663775882187e0, 1.67638483018380384940e0,
                                    6.89767334985100004550e-1, 1.48103976427480074590e-1, 1.51986665636164571966e-2,
                                    5.47593808499534494600e-4, 1.05075007164441684324e-9};
    static constexpr Coefficients e{6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
                                    2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                    2.71155556874348757815e-5, 2.01033439929228813265e-7};
    static constexpr Coefficients f{1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1,
                                    1.48753612908506148525e-2, 7.86869131145613259100e-4, 1.84631831751005468180e-5,
                                    1.42151175831644588870e-7, 2.04426310338993978564e-15};

    static constexpr double centre_width = 0.425;

    /// Quantile of 0.5 + q, |q| <= centre_width.
    static double centre(double q) {
        const double r = centre_width * centre_width - q * q;
        return q * polynomial(a, r) / polynomial(b, r);
    }

    /// Upper quantile of a tail probability e^log_p below 0.075.
    static double tail(double log_p) {
        const double r = std::sqrt(-log_p);
        if (r <= 5.0) return polynomial(c, r - 1.6) / polynomial(d, r - 1.6);
        return polynomial(e, r - 5.0) / polynomial(f, r - 5.0);
    }

    static double upper_or_lower(const Tails& tails) {
        return tails.p < tails.q ? -tail(std::log(tails.p)) : tail(std::log(tails.q));
    }
};

/// The coordinate with these tails; infinite where one is 0.
inline double normal_quantile(const Tails& tails) {
    const double q = 0.5 * (tails.p - tails.q);
    if (std::abs(q) <= Wichura::centre_width) return Wichura::centre(q);
    return std::min(tails.p, tails.q) > 0.0 ? Wichura::upper_or_lower(tails) : (q < 0.0 ? -infinity : infinity);
}

/// Replaces uniform numbers by their normal quantiles: all by the formula of the centre, which the compiler can do for
/// several at once, and then one in seven again.
inline void normal_quantiles(double* numbers, std::size_t size) {
    constexpr std::size_t width = 64;
    std::array<double, width> uniforms{};
    for (std::size_t start = 0; start < size; start += width) {
        double* const here = numbers + start;
        const std::size_t count = std::min(width, size - start);
        std::copy(here, here + count, uniforms.begin());
        std::array<double, width> z;
        for (std::size_t i = 0; i < width; ++i) z[i] = Wichura::centre(uniforms[i] - 0.5);
        for (std::size_t i = 0; i < count; ++i) {
            const double u = uniforms[i];
            here[i] = std::abs(u - 0.5) <= Wichura::centre_width ? z[i] : Wichura::upper_or_lower(tails_of_uniform(u));
        }
    }
}

/// e^(x^2) erfc(x) for x >= 0.
inline double scaled_erfc(double x) {
    if (x < 8.0) return std::exp(x * x) * std::erfc(x);
    // Asymptotic series (Abramowitz and Stegun 7.1.23), at x = 8 right to 1e-16.
    const double r = 0.5 / (x * x);
    double sum = 1.0, term = 1.0;
    for (int k = 1; k <= 16; ++k) sum += term *= -(2.0 * k - 1.0) * r;
    return sum * 0.56418958354775628695 / x;  // 1 / sqrt(pi)
}

/// log of the lower tail.
inline double log_lower_tail(double z) {
    if (z > 5.0) return std::log1p(-lower_tail(-z));
    if (z > -10.0) return std::log(lower_tail(z));
    return std::isinf(z) ? -infinity : std::log(0.5 * scaled_erfc(-z * root_half)) - 0.5 * z * z;
}

/// The coordinate whose lower tail is e^log_p.
inline double normal_quantile_of_log(double log_p) {
    if (log_p > -700.0) return normal_quantile({std::exp(log_p), -std::expm1(log_p)});
    double z = -std::sqrt(-2.0 * log_p);
    for (int i = 0; i < 4 && std::isfinite(z); ++i) {  // Newton's method
        const double log_tail = log_lower_tail(z);
        z -= (log_tail - log_p) / std::exp(-0.5 * z * z - log_root_2_pi - log_tail);
    }
    return z;
}

}  // namespace ppx_client::detail

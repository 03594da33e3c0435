// The normal distribution between two bounds, right however far the bounds are in the tails: the algorithm of
// ppx_server/distributions/truncated.py, for one draw.
//
// Standardised, the density between a and b is proportional to exp(-t^2 / 2). Reflected so that a + b >= 0, it is
// largest at the anchor e = max(a, 0), and all integrals are taken relative to the density there,
//
//     G(u, v) = integral from u to v of exp(-(t^2 - e^2) / 2) dt,
//
// so that no number under- or overflows, and every distance to a bound is formed from the values themselves rather
// than from their standardised difference.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "ppx_client/normal.hpp"

namespace ppx_client::detail {

/// One truncated normal distribution; its parameters are mean, stddev, low and high.
class TruncatedNormalFrame {
  public:
    explicit TruncatedNormalFrame(const double* params)
        : mean_(params[0]), stddev_(params[1]), low_(params[2]), high_(params[3]) {
        const double a = (low_ - mean_) / stddev_, b = (high_ - mean_) / stddev_;
        flip_ = a + b < 0.0;
        a_ = flip_ ? -b : a;
        b_ = flip_ ? -a : b;
        width_ = (high_ - low_) / stddev_;
        anchor_ = std::max(a_, 0.0);
        total_ = integral(a_, b_, a_ - anchor_, width_);
    }

    /// -log of the integral of the unnormalised density.
    double normaliser() const { return -std::log(stddev_ * total_); }

    /// log of the unnormalised density.
    double log_density(double x) const {
        const double edge = flip_ ? high_ : low_;
        const double origin = anchor_ > 0.0 ? edge : mean_;
        const double offset = (flip_ ? origin - x : x - origin) / stddev_;
        return -0.5 * offset * (offset + 2.0 * anchor_);
    }

    double inverse(Tails tails) const {
        if (in_body(tails)) return inverse_in_body(tails);
        if (flip_) std::swap(tails.p, tails.q);
        const double xi = guess(tails);
        const auto [from_a, from_b] = distances(xi, tails);
        // Of the ways to write the value, take the one that loses least to rounding: from a bound within one standard
        // deviation (the distance to it is precise, unlike xi), else the one whose terms are smallest.
        const double to_low = flip_ ? from_b : from_a, to_high = flip_ ? from_a : from_b;
        double best = mean_ + (flip_ ? -xi : xi) * stddev_;
        double smallest = std::abs(mean_) + std::abs(xi) * stddev_;
        for (const auto& [bound, distance] : {std::pair{low_, to_low}, std::pair{high_, -to_high}}) {
            const double steps = std::abs(distance);
            const double size = steps <= 1.0 ? steps - 1.0 : std::abs(bound) + steps * stddev_;
            if (!(size < smallest)) continue;
            best = bound + distance * stddev_;
            smallest = size;
        }
        return std::min(std::max(best, low_), high_);
    }

  private:
    struct Distances {
        double from_a, from_b;
    };

    /// Bounds and value so far from the tails that plain probabilities do.
    bool in_body(const Tails& tails) const {
        constexpr double limit = 3.2e-5;  // of a coordinate of 4
        return a_ < 4.0 && b_ > -4.0 && b_ - a_ > 0.5 && tails.p > limit && tails.q > limit;
    }

    double inverse_in_body(const Tails& tails) const {
        const double below = flip_ ? tails.q : tails.p, above = flip_ ? tails.p : tails.q;
        const double upper = lower_tail(-a_) * above + lower_tail(-b_) * below;
        const double xi = -normal_quantile({upper, 1.0 - upper});
        return std::min(std::max(mean_ + stddev_ * (flip_ ? -xi : xi), low_), high_);
    }

    /// G(u, v), where `offset` = u - anchor and `width` = v - u are given to full precision.
    double integral(double u, double v, double offset, double width) const {
        if (u + v < 0.0) {  // only for anchor 0, where the integrand is symmetric
            std::swap(u, v);
            u = -u;
            v = -v;
            offset = u;
        }
        const double middle = offset + 0.5 * width;
        if (!(width * std::max(1.0, std::abs(anchor_ + middle)) < 1.0))
            return upper_integral(u, offset) - upper_integral(v, offset + width);
        return std::exp(-0.5 * middle * (middle + 2.0 * anchor_)) * 0.5 * width *
               gauss_legendre(anchor_ + middle, 0.5 * width);
    }

    /// G(u, infinity).
    double upper_integral(double u, double offset) const {
        constexpr double root_half_pi = 1.25331413731550025121;
        if (u == infinity) return 0.0;
        const double decay = std::exp(-0.5 * offset * (offset + 2.0 * anchor_));
        return root_half_pi * (u > 0.0 ? decay * scaled_erfc(u * root_half) : std::erfc(u * root_half));
    }

    /// Integral of exp(-c h t - (h t)^2 / 2) for t from -1 to 1, by 20 nodes.
    static double gauss_legendre(double c, double h) {
        static constexpr std::array<std::pair<double, double>, 10> nodes{
            {{0.07652652113349734, 0.15275338713072628},
             {0.22778585114164507, 0.14917298647260424},
             {0.37370608871541955, 0.1420961093183824},
             {0.5108670019508271, 0.1316886384491769},
             {0.636053680726515, 0.1181945319615186},
             {0.7463319064601508, 0.1019301198172407},
             {0.8391169718222188, 0.08327674157670471},
             {0.912234428251326, 0.06267204833410879},
             {0.9639719272779138, 0.040601429800386446},
             {0.993128599185095, 0.017614007139150893}}};
        double sum = 0.0;
        for (const auto& [node, weight] : nodes) {
            const double t = h * node;
            sum += weight * (std::exp(-c * t - 0.5 * t * t) + std::exp(c * t - 0.5 * t * t));
        }
        return sum;
    }

    /// Quantile in the reflected frame, up to rounding of a^2.
    double guess(const Tails& tails) const {
        const double log_p = std::log(tails.p), log_q = std::log(tails.q);
        const double lower = log_sum(log_lower_tail(a_) + log_q, log_lower_tail(b_) + log_p);
        const double upper = log_sum(log_lower_tail(-a_) + log_q, log_lower_tail(-b_) + log_p);
        return lower < upper ? normal_quantile_of_log(lower) : -normal_quantile_of_log(upper);
    }

    /// log(e^x + e^y).
    static double log_sum(double x, double y) {
        const double high = std::max(x, y);
        return std::isinf(high) ? high : high + std::log1p(std::exp(std::min(x, y) - high));
    }

    /// Distances of the quantile from a and from b, infinite where the bound is.
    Distances distances(double xi, const Tails& tails) const {
        const Distances near = near_bounds(xi, tails);
        const bool near_a = near.from_a <= near.from_b;
        const double nearest = near_a ? near.from_a : near.from_b;
        const double t = refine(std::min(std::max(nearest, tiny), width_), near_a, tails);
        if (!std::isfinite(t)) return near;
        return near_a ? Distances{t, width_ - t} : Distances{width_ - t, t};
    }

    /// Distances from a and from b, to a few per cent.
    ///
    /// Close to a bound, the difference of the standardised values is all rounding: there the density is constant, or
    /// for a far in the tail exponential.
    Distances near_bounds(double xi, const Tails& tails) const {
        const double linear_a = tails.p * total_ * std::exp(0.5 * (a_ - anchor_) * (a_ + anchor_));
        const double linear_b = tails.q * total_ * std::exp(0.5 * (b_ - anchor_) * (b_ + anchor_));
        Distances near{linear_a * std::max(1.0, std::abs(a_)) < 0.05 ? linear_a : xi - a_,
                       linear_b * std::max(1.0, std::abs(b_)) < 0.05 ? linear_b : b_ - xi};
        if (a_ > 100.0) {
            // S = q + p exp(-a width - width^2 / 2) = exp(-a t), up to terms of order 1 / a^2.
            const double beyond = std::exp(-width_ * (a_ + 0.5 * width_));
            near.from_a = (tails.p < tails.q ? -std::log1p(-tails.p * (1.0 - beyond))
                                             : -std::log(tails.q + tails.p * beyond)) /
                          a_;
        }
        return near;
    }

    /// Newton steps for the distance t to the nearer bound.
    ///
    /// With G the integral over the smaller tail, a step solves log G(log t) = log(tail probability * total),
    /// linearised: d log G / d log t = +- t * density / G.
    double refine(double t, bool near_a, const Tails& tails) const {
        const bool lower = tails.p <= tails.q;
        const double goal = std::log(std::min(tails.p, tails.q) * total_);
        for (int i = 0; i < 4; ++i) {
            const double other = width_ - t;
            const double here = near_a ? a_ + t : b_ - t;
            const double offset = near_a ? (a_ - anchor_) + t : (b_ - anchor_) - t;
            const double tail = lower ? integral(a_, here, a_ - anchor_, near_a ? t : other)
                                      : integral(here, b_, offset, near_a ? other : t);
            const double density = std::exp(-0.5 * offset * (offset + 2.0 * anchor_));
            const double step = (goal - std::log(tail)) * tail / ((lower == near_a ? 1.0 : -1.0) * t * density);
            if (std::isfinite(step)) t *= std::exp(std::min(std::max(step, -1.0), 1.0));
            t = std::min(std::max(t, 0.0), width_);
        }
        return t;
    }

    double mean_, stddev_, low_, high_;
    bool flip_;
    double a_, b_;   // standardised bounds, reflected so that a + b >= 0; a is -infinity only if b is infinite
    double width_;   // b - a
    double anchor_;  // max(a, 0)
    double total_;   // G(a, b)
};

}  // namespace ppx_client::detail

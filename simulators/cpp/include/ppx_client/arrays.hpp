// Drawing and weighing arrays of independent values, such as the image of a detector.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "ppx_client/normal.hpp"
#include "ppx_client/philox.hpp"
#include "ppx_client/prior.hpp"

namespace ppx_client::detail {

/// Draws an array with the numbers of a stream from `first` on.
inline void draw_array(const Prior& prior, Uniforms& uniforms, std::uint64_t first, double* out) {
    uniforms.fill(first, prior.size, out);
    if (prior.family != Family::Normal) {
        for (std::size_t i = 0; i < prior.size; ++i) out[i] = prior.draw(i, out[i]);
        return;
    }
    normal_quantiles(out, prior.size);
    const View &mean = prior.params[0], &stddev = prior.params[1];
    const std::size_t mean_step = mean.size > 1, stddev_step = stddev.size > 1;
    for (std::size_t i = 0; i < prior.size; ++i)
        out[i] = mean.data[i * mean_step] + stddev.data[i * stddev_step] * out[i];
}

/// Sum of the log densities of many normal values; `mean` and `stddev` have `size` elements, or one with step 0.
inline double normal_log_density(const double* x, const double* mean, std::size_t mean_step, const double* stddev,
                                 std::size_t stddev_step, std::size_t size) {
    double logs = 0.0, last_log = 0.0, last = 0.0;
    if (stddev_step == 0) {
        logs = static_cast<double>(size) * std::log(*stddev);
    } else {
        for (std::size_t i = 0; i < size; ++i) {
            if (stddev[i] != last) last_log = std::log(last = stddev[i]);
            logs += last_log;
        }
    }
    // Four sums, of which the processor does several at once.
    std::array<double, 4> squares{};
    const auto add = [&](std::size_t i, std::size_t k) {
        const double residual = (x[i] - mean[i * mean_step]) / stddev[i * stddev_step];
        squares[k] += residual * residual;
    };
    std::size_t i = 0;
    const double scale = 1.0 / *stddev;
    if (mean_step == 1 && stddev_step == 0 && std::isfinite(scale)) {
        for (; i + 4 <= size; i += 4) {
            for (std::size_t k = 0; k < 4; ++k) {
                const double residual = (x[i + k] - mean[i + k]) * scale;
                squares[k] += residual * residual;
            }
        }
    }
    for (; i < size; ++i) add(i, i % 4);
    const double sum = (squares[0] + squares[1]) + (squares[2] + squares[3]);
    const double log_prob = -0.5 * sum - logs - static_cast<double>(size) * log_root_2_pi;
    return std::isnan(log_prob) ? -infinity : log_prob;
}

/// Sum of the log densities of an array's elements; of those that are not missing, where it is said which are.
inline double array_log_density(const Prior& prior, const double* value, const std::uint8_t* missing = nullptr) {
    if (prior.family == Family::Normal && missing == nullptr)
        return normal_log_density(value, prior.params[0].data, prior.params[0].size > 1, prior.params[1].data,
                                  prior.params[1].size > 1, prior.size);
    double sum = 0.0;
    for (std::size_t i = 0; i < prior.size; ++i) {
        if (missing != nullptr && missing[i]) continue;
        std::array<double, 4> memory;
        const Params params = prior.element(i, memory);
        sum += prior.functions->log_density(value[i], params.data, params.size,
                                            prior.functions->normaliser(params.data, params.size));
    }
    return sum;
}

}  // namespace ppx_client::detail

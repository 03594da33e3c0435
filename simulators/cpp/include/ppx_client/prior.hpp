// A distribution in the form that everything behind sample and observe works with, and its check.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

#include "ppx_client/densities.hpp"
#include "ppx_client/families.hpp"
#include "ppx_client/tensor.hpp"

namespace ppx_client::detail {

enum class Domain : std::uint8_t { Real, Extended, Positive, NonNegative, Unit, Count };

struct FamilyInfo {
    const char* name;
    bool discrete;
    std::array<const char*, 4> param_names;
    std::array<Domain, 4> domains;
};

/// In the order of the schema, whose first member has number 1.
inline constexpr std::array<FamilyInfo, 12> family_table{{
    {"Normal", false, {"mean", "stddev"}, {Domain::Real, Domain::Positive}},
    {"Uniform", false, {"low", "high"}, {Domain::Real, Domain::Real}},
    {"Categorical", true, {"probs"}, {Domain::NonNegative}},
    {"Poisson", true, {"rate"}, {Domain::NonNegative}},
    {"Bernoulli", true, {"probs"}, {Domain::Unit}},
    {"Beta", false, {"concentration1", "concentration0"}, {Domain::Positive, Domain::Positive}},
    {"Exponential", false, {"rate"}, {Domain::Positive}},
    {"Gamma", false, {"concentration", "rate"}, {Domain::Positive, Domain::Positive}},
    {"LogNormal", false, {"loc", "scale"}, {Domain::Real, Domain::Positive}},
    {"Binomial", true, {"total_count", "probs"}, {Domain::Count, Domain::Unit}},
    {"Weibull", false, {"scale", "concentration"}, {Domain::Positive, Domain::Positive}},
    {"TruncatedNormal",
     false,
     {"mean", "stddev", "low", "high"},
     {Domain::Real, Domain::Positive, Domain::Extended, Domain::Extended}},
}};

constexpr const FamilyInfo& info(Family family) { return family_table[static_cast<std::size_t>(family) - 1]; }

inline bool contains(Domain domain, double x) {
    switch (domain) {
        case Domain::Real:
            return std::isfinite(x);
        case Domain::Extended:
            return !std::isnan(x);
        case Domain::Positive:
            return x > 0.0 && std::isfinite(x);
        case Domain::NonNegative:
            return x >= 0.0 && std::isfinite(x);
        case Domain::Unit:
            return x >= 0.0 && x <= 1.0;
        case Domain::Count:
            return x >= 0.0 && std::isfinite(x) && x == std::floor(x);
    }
    return false;
}

inline const char* describe(Domain domain) {
    constexpr std::array<const char*, 6> texts{
        "finite", "a number or an infinity", "finite and > 0", "finite and >= 0", "in [0, 1]", "a whole number >= 0"};
    return texts[static_cast<std::size_t>(domain)];
}

/// What can be done with any family, for code that is compiled once for all of them.
struct FamilyFunctions {
    double (*value_of)(const double* params, std::size_t size, const Tails& tails, double z);
    double (*normaliser)(const double* params, std::size_t size);
    double (*log_density)(double x, const double* params, std::size_t size, double normaliser);
};

template <Family F>
inline constexpr FamilyFunctions functions_of{&value_of<F>, &normaliser<F>, &log_density<F>};

/// The parameters of one element of a draw.
struct Params {
    const double* data;
    std::size_t size;
};

/// A distribution of the model, whatever its family; it points into the distribution and must not outlive it.
struct Prior {
    Family family;
    std::size_t num_params;
    std::array<View, 4> params;
    const std::int32_t* shape = nullptr;  // of the value
    std::size_t rank = 0;
    std::size_t size = 1;
    const FamilyFunctions* functions = nullptr;

    /// The parameters of element i of the value; they may lie in `memory`.
    Params element(std::size_t i, std::array<double, 4>& memory) const {
        if (family == Family::Categorical) {
            const bool shared = params[0].rank == 1;
            const std::size_t categories = shared ? params[0].size : params[0].size / size;
            return {params[0].data + (shared ? 0 : i * categories), categories};
        }
        for (std::size_t k = 0; k < num_params; ++k) memory[k] = params[k].data[params[k].size == 1 ? 0 : i];
        return {memory.data(), num_params};
    }

    /// The value of element i that a uniform number makes.
    double draw(std::size_t i, double uniform) const {
        std::array<double, 4> memory;
        const Params own = element(i, memory);
        const Tails tails = tails_of_uniform(uniform);
        return functions->value_of(own.data, own.size, tails, normal_quantile(tails));
    }
};

inline std::string number_text(double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", x);
    return text;
}

[[noreturn]] inline void refuse_prior(const Prior& prior, std::string_view address, const std::string& what) {
    throw std::invalid_argument(std::string("draw '").append(address) + "': " + info(prior.family).name + ": " + what);
}

/// Sets the shape of the value: that of the parameters, of which single numbers fit any.
inline void broadcast(Prior& prior, std::string_view address) {
    const FamilyInfo& family = info(prior.family);
    for (std::size_t k = 0; k < prior.num_params; ++k) {
        const View& param = prior.params[k];
        check_shape(param, std::string("draw '").append(address) + "': " + family.name + ": " + family.param_names[k]);
        if (param.rank == 0) continue;
        if (prior.family == Family::Categorical) {
            prior.shape = param.shape;
            prior.rank = param.rank - 1;
            prior.size = param.size / static_cast<std::size_t>(param.shape[param.rank - 1]);
        } else if (prior.rank == 0) {
            prior.shape = param.shape;
            prior.rank = param.rank;
            prior.size = param.size;
        } else if (!std::equal(param.shape, param.shape + param.rank, prior.shape, prior.shape + prior.rank)) {
            refuse_prior(prior, address,
                         std::string(family.param_names[k]) + " has shape " + to_text(param.shape, param.rank) +
                             " beside " + to_text(prior.shape, prior.rank) + "; give numbers or equal shapes");
        }
    }
    if (prior.family == Family::Categorical && prior.params[0].rank == 0)
        refuse_prior(prior, address, "probs is a single number; give one probability per category");
}

/// Whether a draw can lie between these bounds; the width of a Uniform must be finite, too.
inline bool are_bounds(Family family, double low, double high) {
    return low < high && (family == Family::Uniform ? std::isfinite(high - low) : low < infinity && high > -infinity);
}

inline void check_bounds(const Prior& prior, std::string_view address, const View& low, const View& high) {
    for (std::size_t i = 0; i < prior.size; ++i) {
        const double a = low.data[low.size == 1 ? 0 : i], b = high.data[high.size == 1 ? 0 : i];
        if (!are_bounds(prior.family, a, b))
            refuse_prior(prior, address,
                         "low = " + number_text(a) + " is not below high = " + number_text(b) + ", or no draw can be");
    }
}

inline void check_probs(const Prior& prior, std::string_view address) {
    const std::size_t categories = prior.params[0].size / prior.size;
    for (std::size_t i = 0; i < prior.size; ++i) {
        double sum = 0.0;
        for (std::size_t c = 0; c < categories; ++c) sum += prior.params[0].data[i * categories + c];
        if (!(sum > 0.0) || !std::isfinite(sum))
            refuse_prior(prior, address, "probs are all 0, or their sum overflows; scale them");
    }
}

/// Whether all numbers are finite, without a branch per number: 0 x is NaN for infinities and NaN.
inline bool all_finite(const double* numbers, std::size_t size) {
    std::array<double, 4> sums{};
    std::size_t i = 0;
    for (; i + 4 <= size; i += 4)
        for (std::size_t k = 0; k < 4; ++k) sums[k] += 0.0 * numbers[i + k];
    for (; i < size; ++i) sums[0] += 0.0 * numbers[i];
    return sums[0] + sums[1] + sums[2] + sums[3] == 0.0;
}

/// Throws std::invalid_argument if a parameter is outside its domain.
inline void check_domains(const Prior& prior, std::string_view address) {
    const FamilyInfo& family = info(prior.family);
    for (std::size_t k = 0; k < prior.num_params; ++k) {
        const View& param = prior.params[k];
        if (family.domains[k] == Domain::Real && all_finite(param.data, param.size)) continue;
        for (std::size_t i = 0; i < param.size; ++i) {
            if (contains(family.domains[k], param.data[i])) continue;
            refuse_prior(prior, address,
                         std::string(family.param_names[k]) + (param.rank ? "[" + std::to_string(i) + "]" : "") +
                             " = " + number_text(param.data[i]) + ", but it must be " + describe(family.domains[k]) +
                             "; correct it in the model");
        }
    }
    if (prior.family == Family::Uniform) check_bounds(prior, address, prior.params[0], prior.params[1]);
    if (prior.family == Family::TruncatedNormal) check_bounds(prior, address, prior.params[2], prior.params[3]);
    if (prior.family == Family::Categorical) check_probs(prior, address);
}

/// Says why a model cannot be given a number as a draw of the family, or nothing. What merely lies outside the support
/// has log density -inf.
///
/// @param num_params Number of parameters, which for Categorical is that of the categories.
inline std::string choice_defect(Family family, double x, std::size_t num_params) {
    if (!std::isfinite(x)) return "must be finite";
    if (!info(family).discrete) return {};
    if (x != std::floor(x)) return "must be a whole number";
    if (family != Family::Categorical || (x >= 0.0 && x < static_cast<double>(num_params))) return {};
    return "must be an index of its " + std::to_string(num_params) + " categories";
}

/// Whether the parameters of a single draw lie in their domains; `check_domains` says which does not.
template <Family F>
bool accepts(const double* p, std::size_t size) {
    if constexpr (F == Family::Categorical) {
        double sum = 0.0;
        bool valid = true;
        for (std::size_t c = 0; c < size; ++c) {
            valid &= p[c] >= 0.0;
            sum += p[c];
        }
        return valid && sum > 0.0 && std::isfinite(sum);
    } else {
        for (std::size_t k = 0; k < size; ++k)
            if (!contains(info(F).domains[k], p[k])) return false;
        if constexpr (F == Family::Uniform) return are_bounds(F, p[0], p[1]);
        if constexpr (F == Family::TruncatedNormal) return are_bounds(F, p[2], p[3]);
        return true;
    }
}

/// The checked prior of a distribution.
template <class D>
Prior make_prior(const D& distribution, std::string_view address) {
    Prior prior{};
    prior.family = D::family;
    prior.num_params = D::num_params;
    prior.functions = &functions_of<D::family>;
    prior.size = 1;
    for (std::size_t k = 0; k < D::num_params; ++k) prior.params[k] = view(distribution.params[k]);
    if constexpr (D::is_array || D::family == Family::Categorical) broadcast(prior, address);
    check_domains(prior, address);
    return prior;
}

}  // namespace ppx_client::detail

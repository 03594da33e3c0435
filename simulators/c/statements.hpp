// What the statements of ppx.h do: draws and observations of numbers and arrays, and the rest.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "traces.hpp"

namespace ppx_c {

/// A value for a model whose trace is over: from the prior, or NaN where that is none.
template <class D>
double coast(const D& distribution) noexcept {
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    if (now.served == nullptr) return none;
    try {
        const detail::Params params = detail::scalar_params(distribution);
        if (!detail::accepts<D::family>(params.data, params.size)) return none;
        const detail::Tails tails = detail::tails_of_uniform(now.served->coasting.next());
        return detail::value_of<D::family>(params.data, params.size, tails, detail::normal_quantile(tails));
    } catch (...) {
        return none;
    }
}

/// What a draw of this family is for a C program.
template <class D>
using Value = std::conditional_t<detail::info(D::family).discrete, std::int64_t, double>;

template <class D>
Value<D> to_model(double value) {
    if constexpr (std::is_same_v<Value<D>, double>) {
        return value;
    } else {
        return std::abs(value) <= 0x1p53 ? static_cast<std::int64_t>(value) : 0;
    }
}

/// The same memory for all of a thread's categorical draws.
inline const Categorical<double>& categorical(const double* probs, int size) {
    static thread_local Categorical<double> distribution{std::vector<double>{1.0}};
    const std::size_t count = probs == nullptr || size < 0 ? 0 : static_cast<std::size_t>(size);
    distribution.params[0].data.assign(probs, probs + count);
    distribution.params[0].shape[0] = static_cast<std::int32_t>(count);
    return distribution;
}

/// Gives `use` the distribution of this family; fails the trace if there is none.
template <class F>
double with_distribution(int family, int size, const double* p, const F& use) {
    if (p == nullptr) size = 0;
    if (family == PPX_CATEGORICAL) return use(categorical(p, size));
    if (size == 1) {
        if (family == PPX_POISSON) return use(Poisson{p[0]});
        if (family == PPX_BERNOULLI) return use(Bernoulli{p[0]});
        if (family == PPX_EXPONENTIAL) return use(Exponential{p[0]});
    }
    if (size == 2) {
        if (family == PPX_NORMAL) return use(Normal{p[0], p[1]});
        if (family == PPX_UNIFORM) return use(Uniform{p[0], p[1]});
        if (family == PPX_BETA) return use(Beta{p[0], p[1]});
        if (family == PPX_GAMMA) return use(Gamma{p[0], p[1]});
        if (family == PPX_LOG_NORMAL) return use(LogNormal{p[0], p[1]});
        if (family == PPX_BINOMIAL) return use(Binomial{p[0], p[1]});
        if (family == PPX_WEIBULL) return use(Weibull{p[0], p[1]});
    }
    if (size == 4 && family == PPX_TRUNCATED_NORMAL) return use(TruncatedNormal{p[0], p[1], p[2], p[3]});
    if (!is_coasting())
        complain("there is no family " + std::to_string(family) + " with " + std::to_string(size) +
                 " parameters; see ppx_family");
    return std::numeric_limits<double>::quiet_NaN();
}

template <class D>
Value<D> draw(const D& distribution, const char* name, const ppx_site* site) {
    if (is_coasting()) return to_model<D>(coast(distribution));
    try {
        const CallSite where = place(name, site);
        return detail::sample(distribution, detail::Label{text(name), where, now.part}, now.control);
    } catch (...) {
        end_trace();
    }
    return to_model<D>(coast(distribution));
}

template <class D>
double compare(const D& distribution, const double* value, const char* name, const ppx_site* site) {
    if (!is_coasting()) {
        try {
            if (value == nullptr) return observe(distribution, text(name), place(name, site));
            return observe(distribution, *value, text(name), place(name, site));
        } catch (...) {
            end_trace();
        }
    }
    return value == nullptr ? coast(distribution) : *value;
}

// ---- Arrays ----

/// The arguments of an array statement.
struct Array {
    int family, num_params;
    const ppx_param* params;
    int rank;
    const std::int32_t* shape;
};

/// Number of elements; 0 if the shape is none.
inline std::size_t size_of(int rank, const std::int32_t* shape) {
    constexpr std::size_t max_size = std::size_t{1} << 30;  // more would not fit into a message
    if (rank < 0 || rank > 32 || (rank > 0 && shape == nullptr)) return 0;
    std::size_t size = 1;
    for (int i = 0; i < rank; ++i) {
        const std::size_t extent = shape[i] > 0 ? static_cast<std::size_t>(shape[i]) : 0;
        if (extent == 0 || size > max_size / extent) return 0;
        size *= extent;
    }
    return size;
}

[[noreturn]] inline void refuse(std::string_view address, const std::string& what) {
    throw std::invalid_argument(std::string("'").append(address).append("': ") + what);
}

/// An array of the model, to be reported under this address.
inline detail::View view_of(const double* values, int rank, const std::int32_t* shape, std::string_view address) {
    const std::size_t size = size_of(rank, shape);
    if (size == 0 || values == nullptr)
        refuse(address, "the array has no elements, or more than 32 axes; correct its shape");
    return {values, size, shape, static_cast<std::size_t>(rank)};
}

template <std::size_t... I>
constexpr std::array<const detail::FamilyFunctions*, sizeof...(I)> table_of_functions(std::index_sequence<I...>) {
    return {&detail::functions_of<static_cast<Family>(I + 1)>...};
}

/// Everything of a prior but its parameters.
inline detail::Prior make_shape(const Array& array, std::string_view address) {
    static constexpr auto functions = table_of_functions(std::make_index_sequence<detail::family_table.size()>());
    if (array.family < 1 || array.family > static_cast<int>(functions.size()))
        refuse(address, "there is no family " + std::to_string(array.family) + "; see ppx_family");
    detail::Prior prior{};
    prior.family = static_cast<Family>(array.family);
    prior.functions = functions[static_cast<std::size_t>(array.family) - 1];
    const auto& names = detail::info(prior.family).param_names;
    prior.num_params = static_cast<std::size_t>(std::find(names.begin(), names.end(), nullptr) - names.begin());
    if (static_cast<std::size_t>(array.num_params) != prior.num_params || array.params == nullptr)
        refuse(address, std::string(detail::info(prior.family).name) + " takes " + std::to_string(prior.num_params) +
                            " parameters, not " + std::to_string(array.num_params) + "; correct the statement");
    prior.shape = array.shape;
    prior.rank = static_cast<std::size_t>(array.rank);
    prior.size = size_of(array.rank, array.shape);
    if (prior.size == 0 || array.rank == 0)
        refuse(address, "the array has no elements, no axes or more than 32; correct its shape");
    return prior;
}

/// The prior of an array statement, unchecked. It points into the arguments and into memory of this thread.
///
/// @param needs_array Whether a parameter must be an array: a controller takes the shape of a draw from them.
inline detail::Prior make_prior(const Array& array, bool needs_array, std::string_view address) {
    static thread_local std::vector<double> repeated;
    static thread_local std::vector<std::int32_t> shape_of_probs;
    detail::Prior prior = make_shape(array, address);
    if (prior.family == Family::Categorical) {
        const ppx_param& probs = array.params[0];
        if (probs.each == nullptr || probs.categories < 1)
            refuse(address, "Categorical: give the probabilities of each element by PPX_PROBS");
        shape_of_probs.assign(array.shape, array.shape + array.rank);
        shape_of_probs.push_back(probs.categories);
        prior.params[0] = {probs.each, prior.size * static_cast<std::size_t>(probs.categories),
                           shape_of_probs.data(), shape_of_probs.size()};
        return prior;
    }
    for (std::size_t k = 0; k < prior.num_params; ++k) {
        const ppx_param& param = array.params[k];
        prior.params[k] = param.each == nullptr ? detail::view(param.all)
                                                : detail::View{param.each, prior.size, prior.shape, prior.rank};
        needs_array &= param.each == nullptr;
    }
    if (needs_array) {
        repeated.assign(prior.size, array.params[0].all);
        prior.params[0] = {repeated.data(), prior.size, prior.shape, prior.rank};
    }
    return prior;
}

/// Fills an array of a model whose trace is over.
inline void coast(const Array& array, double* out) noexcept {
    const std::size_t size = size_of(array.rank, array.shape);
    if (out == nullptr) return;
    try {
        if (now.served != nullptr) {
            const detail::Prior prior = make_prior(array, false, {});
            detail::check_domains(prior, {});
            for (std::size_t i = 0; i < size; ++i) out[i] = prior.draw(i, now.served->coasting.next());
            return;
        }
    } catch (...) {
    }
    std::fill(out, out + size, std::numeric_limits<double>::quiet_NaN());
}

inline int status() { return now.is_over ? PPX_TRACE_OVER : PPX_MISUSE; }

/// What needs no trace and has no value: runs it unless the trace is over.
template <class F>
inline int state(const F& statement) {
    if (is_coasting()) return PPX_TRACE_OVER;
    try {
        statement();
        return PPX_OK;
    } catch (...) {
        end_trace();
    }
    return status();
}

inline void report(const detail::View& value, const char* name, const ppx_site* site) {
    detail::ThreadState& thread = detail::this_thread();
    const CallSite where = place(name, site);
    if (thread.player == nullptr && thread.controller == nullptr) thread.stray(text(name));
    if (thread.player != nullptr) thread.player->tag(value, {text(name), where});
    if (thread.controller != nullptr)
        thread.controller->tag({thread.path.address(text(name), where), text(name)}, value);
}

}  // namespace ppx_c

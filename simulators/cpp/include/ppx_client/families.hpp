// The twelve families of distributions, as a model names them in sample and observe.
//
// Parameters are numbers, or arrays (Tensor, std::vector<double>): then every one is a single number or has
// the common shape, and the draw is an array of that shape of independent draws.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ppx_client/tensor.hpp"

namespace ppx_client {

/// Families by their number in the PPX schema. TruncatedNormal is not part of PPX 1.0.
enum class Family : std::uint8_t {
    Normal = 1,
    Uniform,
    Categorical,
    Poisson,
    Bernoulli,
    Beta,
    Exponential,
    Gamma,
    LogNormal,
    Binomial,
    Weibull,
    TruncatedNormal,
};

namespace detail {

/// The parameters of a distribution. T is double for a single draw and Tensor for an array of draws.
template <Family F, class T, std::size_t N>
struct Parameters {
    static constexpr Family family = F;
    static constexpr bool is_array = std::is_same_v<T, Tensor>;
    static constexpr std::size_t num_params = N;

    template <class... A, std::enable_if_t<sizeof...(A) == N && (is_value<A> && ...), int> = 0>
    explicit Parameters(A... values) : params{{convert<T>(std::move(values))...}} {}

    std::array<T, N> params;
};

}  // namespace detail

/// Normal{mean, stddev}: mean finite, stddev > 0.
template <class T = double>
struct Normal : detail::Parameters<Family::Normal, T, 2> {
    using detail::Parameters<Family::Normal, T, 2>::Parameters;
};
template <class A, class B>
Normal(A, B) -> Normal<detail::Common<A, B>>;

/// Uniform{low, high}: low < high.
template <class T = double>
struct Uniform : detail::Parameters<Family::Uniform, T, 2> {
    using detail::Parameters<Family::Uniform, T, 2>::Parameters;
};
template <class A, class B>
Uniform(A, B) -> Uniform<detail::Common<A, B>>;

/// Categorical{probs}: an index into probs, which are >= 0, not all 0, and divided by their sum. A Tensor of
/// probs has the categories along its last axis and makes an array of draws.
template <class T = double>
struct Categorical {
    static constexpr Family family = Family::Categorical;
    static constexpr bool is_array = std::is_same_v<T, Tensor>;
    static constexpr std::size_t num_params = 1;

    explicit Categorical(std::vector<double> probs) : params{{detail::convert<Tensor>(std::move(probs))}} {}
    explicit Categorical(Tensor probs) : params{{std::move(probs)}} {}

    std::array<Tensor, 1> params;
};
Categorical(std::vector<double>)->Categorical<double>;
Categorical(Tensor)->Categorical<Tensor>;

/// Poisson{rate}: rate > 0.
template <class T = double>
struct Poisson : detail::Parameters<Family::Poisson, T, 1> {
    using detail::Parameters<Family::Poisson, T, 1>::Parameters;
};
template <class A, std::enable_if_t<detail::is_value<A>, int> = 0>
Poisson(A) -> Poisson<detail::Common<A>>;

/// Bernoulli{probs}: 1 with probability probs in [0, 1], else 0.
template <class T = double>
struct Bernoulli : detail::Parameters<Family::Bernoulli, T, 1> {
    using detail::Parameters<Family::Bernoulli, T, 1>::Parameters;
};
template <class A, std::enable_if_t<detail::is_value<A>, int> = 0>
Bernoulli(A) -> Bernoulli<detail::Common<A>>;

/// Beta{concentration1, concentration0}: both > 0; mean concentration1 / (concentration1 + concentration0).
template <class T = double>
struct Beta : detail::Parameters<Family::Beta, T, 2> {
    using detail::Parameters<Family::Beta, T, 2>::Parameters;
};
template <class A, class B>
Beta(A, B) -> Beta<detail::Common<A, B>>;

/// Exponential{rate}: rate > 0; mean 1 / rate.
template <class T = double>
struct Exponential : detail::Parameters<Family::Exponential, T, 1> {
    using detail::Parameters<Family::Exponential, T, 1>::Parameters;
};
template <class A, std::enable_if_t<detail::is_value<A>, int> = 0>
Exponential(A) -> Exponential<detail::Common<A>>;

/// Gamma{concentration, rate}: both > 0; mean concentration / rate.
template <class T = double>
struct Gamma : detail::Parameters<Family::Gamma, T, 2> {
    using detail::Parameters<Family::Gamma, T, 2>::Parameters;
};
template <class A, class B>
Gamma(A, B) -> Gamma<detail::Common<A, B>>;

/// LogNormal{loc, scale}: exp of Normal{loc, scale}.
template <class T = double>
struct LogNormal : detail::Parameters<Family::LogNormal, T, 2> {
    using detail::Parameters<Family::LogNormal, T, 2>::Parameters;
};
template <class A, class B>
LogNormal(A, B) -> LogNormal<detail::Common<A, B>>;

/// Binomial{total_count, probs}: total_count a whole number >= 0, probs in [0, 1].
template <class T = double>
struct Binomial : detail::Parameters<Family::Binomial, T, 2> {
    using detail::Parameters<Family::Binomial, T, 2>::Parameters;
};
template <class A, class B>
Binomial(A, B) -> Binomial<detail::Common<A, B>>;

/// Weibull{scale, concentration}: both > 0; survival function exp(-(x / scale)^concentration).
template <class T = double>
struct Weibull : detail::Parameters<Family::Weibull, T, 2> {
    using detail::Parameters<Family::Weibull, T, 2>::Parameters;
};
template <class A, class B>
Weibull(A, B) -> Weibull<detail::Common<A, B>>;

/// TruncatedNormal{mean, stddev, low, high}: Normal{mean, stddev} given low < x < high; bounds may be
/// infinite.
template <class T = double>
struct TruncatedNormal : detail::Parameters<Family::TruncatedNormal, T, 4> {
    using detail::Parameters<Family::TruncatedNormal, T, 4>::Parameters;
};
template <class A, class B, class C, class D>
TruncatedNormal(A, B, C, D) -> TruncatedNormal<detail::Common<A, B, C, D>>;

}  // namespace ppx_client

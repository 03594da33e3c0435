// Stand-ins for the functions by which programs draw from a generator of the GNU Scientific Library, so that inference
// sees Normal, Gamma, Poisson draws and the like, each where it is called, and not the uniform numbers behind them.
//
//     #include <ppx_client/gsl_randist.hpp>  // instead of, or behind, <gsl/gsl_rng.h> and <gsl/gsl_randist.h>
//     gsl_rng* r = gsl_rng_alloc(ppx_client::gsl_rng_ppx);
//     const double x = gsl_ran_gaussian(r, 2.0);  // Normal{0, 2}
//
// Macros put them in the place of GSL's functions in the source that includes this header. They leave generators of
// other types to GSL, and so they do with functions that are not here, whose draws are those of gsl.hpp.
#pragma once

#include <gsl/gsl_randist.h>
#include <gsl/gsl_rng.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include "ppx_client/gsl.hpp"
#include "ppx_client/random_draws.hpp"
#include "ppx_client/uniform.hpp"

namespace ppx_client {

namespace detail {

inline bool is_controlled(const gsl_rng* r) { return r->type == gsl_rng_ppx; }

/// The chance of each index of a table, in a time that grows as the square of their number.
inline std::vector<double> gsl_probs(const gsl_ran_discrete_t* table) {
    std::vector<double> probs(table->K);
    for (std::size_t k = 0; k < probs.size(); ++k) probs[k] = gsl_ran_discrete_pdf(k, table);
    return probs;
}

}  // namespace detail

inline double gsl_rng_uniform(const gsl_rng* r, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_rng_uniform(r);
    return detail::choose_unit({{}, site});
}

inline double gsl_rng_uniform_pos(const gsl_rng* r, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_rng_uniform_pos(r);
    return detail::choose_unit({{}, site});
}

inline unsigned long gsl_rng_uniform_int(const gsl_rng* r, unsigned long n, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_rng_uniform_int(r, n);
    return n == 0 ? ::gsl_rng_uniform_int(r, n) : detail::choose_whole<unsigned long>(0, n - 1, {{}, site});
}

inline unsigned long gsl_rng_get(const gsl_rng* r, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_rng_get(r);
    return static_cast<unsigned long>(detail::choose_unit({{}, site, "uniform"}) * 0x1p32);
}

inline double gsl_ran_gaussian(const gsl_rng* r, double sigma, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_gaussian(r, sigma);
    return detail::choose_normal(0.0, std::abs(sigma), {{}, site});
}

inline double gsl_ran_gaussian_ziggurat(const gsl_rng* r, double sigma, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_gaussian_ziggurat(r, sigma);
    return detail::choose_normal(0.0, std::abs(sigma), {{}, site});
}

inline double gsl_ran_gaussian_ratio_method(const gsl_rng* r, double sigma, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_gaussian_ratio_method(r, sigma);
    return detail::choose_normal(0.0, std::abs(sigma), {{}, site});
}

inline double gsl_ran_ugaussian(const gsl_rng* r, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_ugaussian(r);
    return detail::choose(Normal{0.0, 1.0}, {{}, site});
}

inline double gsl_ran_ugaussian_ratio_method(const gsl_rng* r, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_ugaussian_ratio_method(r);
    return detail::choose(Normal{0.0, 1.0}, {{}, site});
}

inline double gsl_ran_gaussian_tail(const gsl_rng* r, double a, double sigma, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_gaussian_tail(r, a, sigma);
    return detail::choose(TruncatedNormal{0.0, sigma, a, detail::infinity}, {{}, site});
}

inline double gsl_ran_ugaussian_tail(const gsl_rng* r, double a, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_ugaussian_tail(r, a);
    return detail::choose(TruncatedNormal{0.0, 1.0, a, detail::infinity}, {{}, site});
}

inline double gsl_ran_lognormal(const gsl_rng* r, double zeta, double sigma, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_lognormal(r, zeta, sigma);
    return detail::choose(LogNormal{zeta, sigma}, {{}, site});
}

inline double gsl_ran_flat(const gsl_rng* r, double a, double b, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_flat(r, a, b);
    return a < b ? detail::choose(Uniform{a, b}, {{}, site}) : ::gsl_ran_flat(r, a, b);
}

inline double gsl_ran_exponential(const gsl_rng* r, double mu, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_exponential(r, mu);
    return detail::choose(Exponential{1.0 / mu}, {{}, site});
}

inline double gsl_ran_gamma(const gsl_rng* r, double a, double b, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_gamma(r, a, b);
    return detail::choose(Gamma{a, 1.0 / b}, {{}, site});
}

inline double gsl_ran_gamma_knuth(const gsl_rng* r, double a, double b, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_gamma_knuth(r, a, b);
    return detail::choose(Gamma{a, 1.0 / b}, {{}, site});
}

inline double gsl_ran_gamma_mt(const gsl_rng* r, double a, double b, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_gamma_mt(r, a, b);
    return detail::choose(Gamma{a, 1.0 / b}, {{}, site});
}

inline double gsl_ran_chisq(const gsl_rng* r, double nu, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_chisq(r, nu);
    return detail::choose(Gamma{0.5 * nu, 0.5}, {{}, site});
}

inline double gsl_ran_beta(const gsl_rng* r, double a, double b, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_beta(r, a, b);
    return detail::choose(Beta{a, b}, {{}, site});
}

inline double gsl_ran_weibull(const gsl_rng* r, double a, double b, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_weibull(r, a, b);
    return detail::choose(Weibull{a, b}, {{}, site});
}

inline double gsl_ran_rayleigh(const gsl_rng* r, double sigma, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_rayleigh(r, sigma);
    return detail::choose(Weibull{sigma * std::sqrt(2.0), 2.0}, {{}, site});
}

inline double gsl_ran_pareto(const gsl_rng* r, double a, double b, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_pareto(r, a, b);
    return b * std::exp(detail::choose(Exponential{a}, {{}, site, "exponential"}));
}

inline unsigned gsl_ran_poisson(const gsl_rng* r, double mu, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_poisson(r, mu);
    return detail::to_count<unsigned>(detail::choose(Poisson{mu}, {{}, site}));
}

inline unsigned gsl_ran_bernoulli(const gsl_rng* r, double p, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_bernoulli(r, p);
    return detail::choose(Bernoulli{p}, {{}, site}) != 0;
}

inline unsigned gsl_ran_binomial(const gsl_rng* r, double p, unsigned n, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_binomial(r, p, n);
    return detail::to_count<unsigned>(detail::choose(Binomial{n, p}, {{}, site}));
}

inline unsigned gsl_ran_binomial_knuth(const gsl_rng* r, double p, unsigned n, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_binomial_knuth(r, p, n);
    return detail::to_count<unsigned>(detail::choose(Binomial{n, p}, {{}, site}));
}

inline unsigned gsl_ran_binomial_tpe(const gsl_rng* r, double p, unsigned n, CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r)) return ::gsl_ran_binomial_tpe(r, p, n);
    return detail::to_count<unsigned>(detail::choose(Binomial{n, p}, {{}, site}));
}

/// Tables of more than 64 entries are left to GSL.
inline std::size_t gsl_ran_discrete(const gsl_rng* r, const gsl_ran_discrete_t* table,
                                    CallSite site = CallSite::current()) {
    if (!detail::is_controlled(r) || table->K > 64) return ::gsl_ran_discrete(r, table);
    return static_cast<std::size_t>(detail::choose(Categorical{detail::gsl_probs(table)}, {{}, site}));
}

}  // namespace ppx_client

// With arguments, so that pointers to GSL's functions stay what they are.
#define gsl_rng_uniform(...) ppx_client::gsl_rng_uniform(__VA_ARGS__)
#define gsl_rng_uniform_pos(...) ppx_client::gsl_rng_uniform_pos(__VA_ARGS__)
#define gsl_rng_uniform_int(...) ppx_client::gsl_rng_uniform_int(__VA_ARGS__)
#define gsl_rng_get(...) ppx_client::gsl_rng_get(__VA_ARGS__)
#define gsl_ran_gaussian(...) ppx_client::gsl_ran_gaussian(__VA_ARGS__)
#define gsl_ran_gaussian_ziggurat(...) ppx_client::gsl_ran_gaussian_ziggurat(__VA_ARGS__)
#define gsl_ran_gaussian_ratio_method(...) ppx_client::gsl_ran_gaussian_ratio_method(__VA_ARGS__)
#define gsl_ran_ugaussian(...) ppx_client::gsl_ran_ugaussian(__VA_ARGS__)
#define gsl_ran_ugaussian_ratio_method(...) ppx_client::gsl_ran_ugaussian_ratio_method(__VA_ARGS__)
#define gsl_ran_gaussian_tail(...) ppx_client::gsl_ran_gaussian_tail(__VA_ARGS__)
#define gsl_ran_ugaussian_tail(...) ppx_client::gsl_ran_ugaussian_tail(__VA_ARGS__)
#define gsl_ran_lognormal(...) ppx_client::gsl_ran_lognormal(__VA_ARGS__)
#define gsl_ran_flat(...) ppx_client::gsl_ran_flat(__VA_ARGS__)
#define gsl_ran_exponential(...) ppx_client::gsl_ran_exponential(__VA_ARGS__)
#define gsl_ran_gamma(...) ppx_client::gsl_ran_gamma(__VA_ARGS__)
#define gsl_ran_gamma_knuth(...) ppx_client::gsl_ran_gamma_knuth(__VA_ARGS__)
#define gsl_ran_gamma_mt(...) ppx_client::gsl_ran_gamma_mt(__VA_ARGS__)
#define gsl_ran_chisq(...) ppx_client::gsl_ran_chisq(__VA_ARGS__)
#define gsl_ran_beta(...) ppx_client::gsl_ran_beta(__VA_ARGS__)
#define gsl_ran_weibull(...) ppx_client::gsl_ran_weibull(__VA_ARGS__)
#define gsl_ran_rayleigh(...) ppx_client::gsl_ran_rayleigh(__VA_ARGS__)
#define gsl_ran_pareto(...) ppx_client::gsl_ran_pareto(__VA_ARGS__)
#define gsl_ran_poisson(...) ppx_client::gsl_ran_poisson(__VA_ARGS__)
#define gsl_ran_bernoulli(...) ppx_client::gsl_ran_bernoulli(__VA_ARGS__)
#define gsl_ran_binomial(...) ppx_client::gsl_ran_binomial(__VA_ARGS__)
#define gsl_ran_binomial_knuth(...) ppx_client::gsl_ran_binomial_knuth(__VA_ARGS__)
#define gsl_ran_binomial_tpe(...) ppx_client::gsl_ran_binomial_tpe(__VA_ARGS__)
#define gsl_ran_discrete(...) ppx_client::gsl_ran_discrete(__VA_ARGS__)

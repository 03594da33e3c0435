// A generator for the GNU Scientific Library whose numbers a controller controls.
//
//     #include <ppx_client/gsl.hpp>
//     gsl_rng* r = gsl_rng_alloc(ppx_client::gsl_rng_ppx);  // was: gsl_rng_alloc(gsl_rng_mt19937)
//
// Every number that GSL takes from it is one Uniform draw with the address `gsl_rng`; those of several generators are
// visits of this one address, unless scopes tell them apart. Where GSL draws until something is accepted, as in
// gsl_ran_gaussian, the number of draws varies. With gsl_randist.hpp inference sees Normal draws instead.
//
// A trace may end by an exception inside a function of GSL. The library must have unwind tables, as any has that was
// compiled for x86-64 or AArch64 without -fno-asynchronous-unwind-tables (Debian's has).
#pragma once

#include <gsl/gsl_rng.h>

#include "ppx_client/uniform.hpp"

namespace ppx_client {

namespace detail {

// One address, because GSL does not say who asks, nor which generator is asked.
inline double gsl_get_double(void*) { return uniform("gsl_rng"); }

inline unsigned long gsl_get(void*) { return static_cast<unsigned long>(gsl_get_double(nullptr) * 0x1p32); }

inline void gsl_set(void*, unsigned long) {}

inline constexpr ::gsl_rng_type gsl_type{"ppx", 0xFFFFFFFF, 0, 1, gsl_set, gsl_get, gsl_get_double};

}  // namespace detail

/// The type to give to gsl_rng_alloc: numbers from 0 to 2^32 - 1, and doubles in (0, 1). Seeds are ignored.
inline const ::gsl_rng_type* const gsl_rng_ppx = &detail::gsl_type;

}  // namespace ppx_client

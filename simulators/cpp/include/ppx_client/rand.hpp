// Stand-ins for the generators of <stdlib.h>: rand, random and drand48.
//
//     #include <ppx_client/rand.hpp>
//     const int n = ppx_client::rand();     // instead of std::rand()
//     #define rand ppx_client::rand         // or, behind the last #include, for all calls without std::
//
// Each number is made of one Uniform draw at the place where it is called. Seeds are ignored: numbers come from the controller,
// and without one ppx_client::seed or the environment variable PPX_SEED seeds them.
#pragma once

#include <cstdlib>

#include "ppx_client/uniform.hpp"

namespace ppx_client {

/// A whole number from 0 to RAND_MAX.
inline int rand(CallSite site = CallSite::current()) {
    return static_cast<int>(detail::choose_unit({{}, site, "uniform"}) * (static_cast<double>(RAND_MAX) + 1.0));
}

/// A whole number from 0 to 2^31 - 1.
inline long random(CallSite site = CallSite::current()) {
    return static_cast<long>(detail::choose_unit({{}, site, "uniform"}) * 0x1p31);
}

/// A number from 0 up to, but not including, 1.
inline double drand48(CallSite site = CallSite::current()) { return uniform({}, site); }

inline void srand(unsigned) {}
inline void srandom(unsigned) {}
inline void srand48(long) {}

}  // namespace ppx_client

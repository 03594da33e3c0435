/* A generator for the GNU Scientific Library whose numbers a controller controls.
 *
 *     #include <ppx_gsl.h>
 *     gsl_rng *r = gsl_rng_alloc(gsl_rng_ppx);  // was: gsl_rng_alloc(gsl_rng_mt19937)
 *
 * Every number that GSL takes is one Uniform draw with the address `gsl_rng`. Where GSL draws until something is accepted, as in
 * gsl_ran_gaussian, the number of draws varies. Seeds are ignored. */
#ifndef PPX_GSL_H
#define PPX_GSL_H

#include <gsl/gsl_rng.h>
#include <ppx.h>

static double ppx_gsl_get_double(void *state) {
    const double u = ppx_uniform_real(0.0, 1.0, "gsl_rng");
    (void)state;
    /* Rounding can reach the ends, and a controller can force them. */
    return u < 0x1p-1022 ? 0x1p-1022 : u > 1.0 - 0x1p-53 ? 1.0 - 0x1p-53 : u;
}

static unsigned long ppx_gsl_get(void *state) { return (unsigned long)(ppx_gsl_get_double(state) * 0x1p32); }

static void ppx_gsl_set(void *state, unsigned long seed) {
    (void)state;
    (void)seed;
}

static const gsl_rng_type ppx_gsl_type = {"ppx", 0xFFFFFFFF, 0, 1, ppx_gsl_set, ppx_gsl_get, ppx_gsl_get_double};
static const gsl_rng_type *const gsl_rng_ppx = &ppx_gsl_type;

#endif

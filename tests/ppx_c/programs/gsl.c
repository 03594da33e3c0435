/* A Gaussian of unknown mean, measured twice, as a C program on GSL: only its generator's type is ours. */
#include <gsl/gsl_randist.h>
#include <math.h>
#include <ppx_gsl.h>

static int forward(void *user) {
    const gsl_rng *r = user;
    const double mu = 1.0 + gsl_ran_gaussian(r, sqrt(5.0));
    ppx_observe_normal(mu, sqrt(2.0), NULL, "y0");
    ppx_observe_normal(mu, sqrt(2.0), NULL, "y1");
    ppx_tag(mu, "mu");
    return 0;
}

int main(void) { return ppx_serve(forward, gsl_rng_alloc(gsl_rng_ppx), "gsl", NULL); }

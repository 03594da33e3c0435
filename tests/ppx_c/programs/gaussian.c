/* A Gaussian of unknown mean, measured twice: the same model as simulators/gaussian. */
#include "ppx.h"

static int forward(void *user) {
    const double root_5 = 2.23606797749979, root_2 = 1.4142135623730951;
    const double mu = ppx_normal(1.0, root_5, "mu");
    ppx_observe_normal(mu, root_2, NULL, "y0");
    ppx_observe_normal(mu, root_2, NULL, "y1");
    return user != NULL;
}

int main(void) { return ppx_serve(forward, NULL, "gaussian", NULL); }

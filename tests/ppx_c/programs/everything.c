/* Every statement and family; the same model as everything.py. */
#include "ppx.h"

static int forward(void *user) {
    const double probs[] = {0.2, 0.0, 0.8}, halves[] = {0.5, 0.5}, pairs[] = {0.5, 0.5, 0.1, 0.9};
    const double three = 3.0, stddevs[] = {1.0, 2.0, 3.0}, measured[] = {0.5, 0.25};
    double noise[3], flat[2], indices[2];
    const double mu = ppx_normal(0.5, 2.0, "mu");
    const int control = ppx_control(0);
    ppx_uniform_real(-1.0, 2.0, "uniform");
    ppx_control(control);
    const int64_t k = ppx_categorical(probs, 3, "categorical");
    const int64_t n = ppx_poisson(4.0, "poisson");
    ppx_bernoulli(0.25, "bernoulli");
    ppx_beta(2.0, 3.0, "beta");
    ppx_exponential(2.0, "exponential");
    ppx_gamma(2.5, 0.5, "gamma");
    ppx_lognormal(0.1, 0.2, "lognormal");
    ppx_binomial(10, 0.3, "binomial");
    ppx_weibull(1.5, 2.0, "weibull");
    ppx_truncated_normal(mu, 1.0, -1.0, 3.0, "truncated_normal");
    ppx_draw_array(PPX_NORMAL, PPX_PARAMS(PPX_ALL(0.0), PPX_EACH(stddevs)), PPX_SHAPE(3), noise, "noise");
    ppx_draw_array(PPX_UNIFORM, PPX_PARAMS(PPX_ALL(0.0), PPX_ALL(1.0)), PPX_SHAPE(2), flat, "flat");
    ppx_draw_array(PPX_CATEGORICAL, PPX_PARAMS(PPX_PROBS(pairs, 2)), PPX_SHAPE(2), indices, "indices");
    ppx_scope_enter("detector");
    ppx_rejection_begin("loop");
    while (ppx_uniform_real(0.0, 1.0, "try") > 0.5) continue;
    ppx_rejection_end();
    ppx_scope_leave();
    ppx_observe_normal(mu, 0.5, NULL, "y");
    ppx_observe_poisson((double)n + 1.0, &three, "count");
    ppx_observe_categorical(halves, 2, NULL, "index");
    ppx_observe_array(PPX_NORMAL, PPX_PARAMS(PPX_EACH(noise), PPX_ALL(0.5)), PPX_SHAPE(3), NULL, NULL, "image");
    ppx_observe_array(PPX_EXPONENTIAL, PPX_PARAMS(PPX_ALL(2.0)), PPX_SHAPE(2), measured, NULL, "repeated");
    ppx_tag(mu * 2.0, "twice");
    ppx_tag_array(noise, PPX_SHAPE(3), "noise");
    const double result[] = {mu, (double)k, flat[1]};
    ppx_result_array(result, PPX_SHAPE(3));
    return user != NULL;
}

int main(void) { return ppx_serve(forward, NULL, "everything", NULL); }

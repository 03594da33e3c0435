// A radioactive source of unknown activity in front of a counter that sees six in ten decays.
// The counter's charge is read out: the number of decays seen, with noise.
#include <gsl/gsl_randist.h>
#include <gsl/gsl_rng.h>

#include <cstdio>

namespace {

constexpr double exposure = 1.0;    // s
constexpr double efficiency = 0.6;  // chance that a decay is seen
constexpr double noise = 1.5;       // of the read-out, in units of one decay

void count(const gsl_rng* rng) {
    const double activity = gsl_ran_gamma(rng, 2.0, 5.0);  // decays per second
    int decays = 0, seen = 0;
    double time = gsl_ran_exponential(rng, 1.0 / activity);
    while (time < exposure) {
        decays += 1;
        seen += gsl_rng_uniform(rng) < efficiency;
        time += gsl_ran_exponential(rng, 1.0 / activity);
    }
    std::printf("%g\n", seen + gsl_ran_gaussian(rng, noise));
}

}  // namespace

int main() {
    gsl_rng* rng = gsl_rng_alloc(gsl_rng_mt19937);
    count(rng);
    gsl_rng_free(rng);
}

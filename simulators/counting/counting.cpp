// A radioactive source of unknown activity in front of a counter that sees six in ten decays.
// The counter's charge is read out: the number of decays seen, with noise.
#include <ppx_client.hpp>
#include <ppx_client/gsl_randist.hpp>

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
    ppx_client::tag(activity, "activity");
    ppx_client::tag(decays, "decays");
    ppx_client::tag(seen, "seen");
    ppx_client::observe(ppx_client::Normal{static_cast<double>(seen), noise}, "charge");
}

}  // namespace

int main() {
    gsl_rng* rng = gsl_rng_alloc(ppx_client::gsl_rng_ppx);
    const int status = ppx_client::serve([=] { count(rng); }, "counting");
    gsl_rng_free(rng);
    return status;
}

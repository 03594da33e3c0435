// What the adapters make of code written against <random>, GSL and rand, in two translation units.
//
//     adapters                           serves one draw of everything
//     adapters gaussian|bits|gsl|wrong   serves a Gaussian of unknown mean, measured twice, drawn in this way
//     adapters std N                     N times one number of each of std::, without PPX; one line each
//     adapters local                     one number of each of ours, without a controller
//     adapters interface                 0 if what does not draw is as in std::
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <ppx_client.hpp>
#include <ppx_client/rand.hpp>
#include <ppx_client/random.hpp>
#include <random>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>
#ifdef WITH_GSL
#include <ppx_client/gsl_randist.hpp>
#endif

namespace of_std {
#define RANDOM std
#include "adapters_random.inc"
#undef RANDOM
}  // namespace of_std

namespace of_ppx {
#define RANDOM ppx_client
#include "adapters_random.inc"
#undef RANDOM
}  // namespace of_ppx

double elsewhere();

namespace {

struct Detector {
    std::mt19937 unused{1};
    ppx_client::normal_distribution<> noise{"noise", 0.0, 1.0};
    ppx_client::exponential_distribution<> time{2.0};
    ppx_client::random_bit_generator member;

    double hit() { return noise(unused) + time(unused); }
};

ppx_client::random_bit_generator_64 global_bits;

void addresses() {
    std::mt19937_64 g(42);
    const ppx_client::scope s("addresses");
    Detector detector;
    detector.hit();
    detector.hit();
    detector.member();
    global_bits();
    ppx_client::random_bit_generator local(42);
    const auto lambda = [&] { return ppx_client::poisson_distribution<>(3.0)(g); };
    lambda();
    std::uniform_real_distribution<float> of_std;
    of_std(local);
    of_std(local);
    ppx_client::random_bit_generator_64 named("bits");
    std::uniform_real_distribution<double> real;
    real(named);
    ppx_client::student_t_distribution<> t("t", 3.0);
    t(g);
    ppx_client::discrete_distribution<> kind("kind", {0.5, 0.5});
    kind(g);
    ppx_client::normal_distribution<>(1.0, 0.0)(g);
    ppx_client::uniform();
    ppx_client::uniform("u");
    ppx_client::rand();
    ppx_client::random();
    ppx_client::drand48();
    elsewhere();
}

ppx_client::Tensor gsl() {
    std::vector<double> x;
#ifdef WITH_GSL
    const ppx_client::scope s("gsl");
    gsl_rng* const r = gsl_rng_alloc(ppx_client::gsl_rng_ppx);
    gsl_rng* const other = gsl_rng_alloc(gsl_rng_mt19937);
    const double weights[] = {0.2, 0.5, 0.3};
    gsl_ran_discrete_t* const table = gsl_ran_discrete_preproc(3, weights);
    gsl_rng_set(r, 7);
    for (gsl_rng* const source : {r, other}) {
        x.insert(x.end(), {gsl_rng_uniform(source), gsl_rng_uniform_pos(source)});
        x.insert(x.end(), {double(gsl_rng_uniform_int(source, 6)), double(gsl_rng_get(source))});
        x.insert(x.end(), {gsl_ran_gaussian(source, 2.0), gsl_ran_gaussian_ziggurat(source, 2.0)});
        x.insert(x.end(), {gsl_ran_ugaussian(source), gsl_ran_gaussian_tail(source, 1.0, 2.0)});
        x.insert(x.end(), {gsl_ran_lognormal(source, 0.1, 0.5), gsl_ran_flat(source, -1.0, 3.0)});
        x.insert(x.end(), {gsl_ran_exponential(source, 2.0), gsl_ran_gamma(source, 2.5, 0.5)});
        x.insert(x.end(), {gsl_ran_chisq(source, 3.0), gsl_ran_beta(source, 2.0, 3.0)});
        x.insert(x.end(), {gsl_ran_weibull(source, 1.5, 2.0), gsl_ran_rayleigh(source, 1.5)});
        x.insert(x.end(), {gsl_ran_pareto(source, 3.0, 1.5), double(gsl_ran_poisson(source, 4.0))});
        x.insert(x.end(), {double(gsl_ran_bernoulli(source, 0.25)), double(gsl_ran_binomial(source, 0.3, 10))});
        x.insert(x.end(), {double(gsl_ran_discrete(source, table))});
        // GSL's own functions, on the uniform numbers of `source`.
        double (*const gaussian)(const gsl_rng*, double) = gsl_ran_gaussian;
        x.insert(x.end(), {gaussian(source, 2.0), gsl_ran_tdist(source, 3.0), gsl_ran_logistic(source, 2.0)});
        x.insert(x.end(), {double((gsl_rng_get)(source)), double((gsl_rng_uniform_int)(source, 6))});
    }
    gsl_ran_discrete_free(table);
    gsl_rng_free(other);
    gsl_rng_free(r);
#endif
    return {x, {static_cast<std::int32_t>(x.size())}};
}

void everything() {
    std::mt19937_64 unused(1);
    const std::vector<double> random = of_ppx::one_of_each(unused);
    ppx_client::tag(random, "random");
    {
        // The same with std:: alone, on our bits.
        ppx_client::random_bit_generator bits("bits32");
        ppx_client::random_bit_generator_64 bits_64("bits64");
        ppx_client::tag(of_std::one_of_each(bits), "std on 32 bits");
        of_std::global_noise.reset();
        ppx_client::tag(of_std::one_of_each(bits_64), "std on 64 bits");
        of_std::global_noise.reset();
    }
    if (const ppx_client::Tensor numbers = gsl(); numbers.size() > 0) ppx_client::tag(numbers, "gsl");
    addresses();
}

// The model of simulators/gaussian, as somebody wrote it who knew nothing of PPX.
template <class Draw>
double gaussian(const Draw& draw) {
    const double mu = draw(1.0, std::sqrt(5.0));
    ppx_client::tag(mu, "mu");
    for (const char* const name : {"y0", "y1"}) ppx_client::observe(ppx_client::Normal{mu, std::sqrt(2.0)}, name);
    return mu;
}

int serve_gaussian(const std::string& way) {
    return ppx_client::serve([&] {
        if (way == "gaussian") {
            std::mt19937 g(1);
            return gaussian([&](double mean, double sd) { return ppx_client::normal_distribution<>(mean, sd)(g); });
        }
        if (way == "wrong") {  // the scale of another distribution: it must be noticed
            std::mt19937 g(1);
            return gaussian([&](double mean, double sd) {
                return ppx_client::normal_distribution<>(mean, 0.7 * sd)(g);
            });
        }
#ifdef WITH_GSL
        if (way == "gsl") {
            gsl_rng* const r = gsl_rng_alloc(ppx_client::gsl_rng_ppx);
            const double mu = gaussian([&](double mean, double sd) { return mean + (gsl_ran_gaussian)(r, sd); });
            gsl_rng_free(r);
            return mu;
        }
#endif
        ppx_client::random_bit_generator_64 bits("bits");
        return gaussian([&](double mean, double sd) { return std::normal_distribution<>(mean, sd)(bits); });
    }, way);
}

void print(const std::vector<double>& numbers) {
    for (const double x : numbers) std::printf("%.17g ", x);
    std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
    const std::string command = argc > 1 ? argv[1] : "";
    if (command == "std") {
        std::mt19937_64 g(1);
        for (int i = 0; i < std::atoi(argv[2]); ++i) print(of_std::one_of_each(g));
    } else if (command == "interface") {
        return of_std::has_the_interface() && of_ppx::has_the_interface() ? 0 : 1;
    } else if (command == "local") {
        std::mt19937_64 unused(1);
        print(of_ppx::one_of_each(unused));
    } else {
        return command.empty() ? ppx_client::serve(everything, "adapters") : serve_gaussian(command);
    }
    return 0;
}

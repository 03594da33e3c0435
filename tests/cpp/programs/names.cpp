// Distributions of <random> that have names, each with the number that the program got as a tag: `NAME got`.
#include <cstdint>
#include <ppx_client.hpp>
#include <ppx_client/random.hpp>
#include <random>
#include <string>
#include <vector>

namespace rnd = ppx_client;

static std::mt19937 unused(1);

template <class Distribution>
static double get(const char* name, Distribution distribution) {
    const double value = static_cast<double>(distribution(unused));
    ppx_client::tag(value, std::string(name) + " got");
    return value;
}

static void names() {
    const double six = get("die", rnd::uniform_int_distribution<>("die", 1, 6));
    ppx_client::observe(ppx_client::Normal{six, 0.1}, "y");
    get("from_zero", rnd::uniform_int_distribution<>("from_zero", 0, 5));
    get("wide", rnd::uniform_int_distribution<std::int64_t>("wide", -1000, 1000));
    get("only", rnd::uniform_int_distribution<>("only", 3, 3));
    get("coin", rnd::bernoulli_distribution("coin", 0.5));
    get("successes", rnd::binomial_distribution<>("successes", 10, 0.3));
    get("count", rnd::poisson_distribution<>("count", 4.0));
    get("failures", rnd::geometric_distribution<>("failures", 0.3));
    get("waiting", rnd::negative_binomial_distribution<>("waiting", 3, 0.4));
    get("kind", rnd::discrete_distribution<>("kind", {0.2, 0.5, 0.3}));
    get("sure", rnd::discrete_distribution<>("sure", {1.0}));
    get("x", rnd::normal_distribution<>("x", 1.0, 2.0));
    get("still", rnd::normal_distribution<>("still", 1.0, 0.0));
    get("size", rnd::lognormal_distribution<>("size", 0.1, 0.5));
    get("u", rnd::uniform_real_distribution<>("u", -1.0, 3.0));
    get("time", rnd::exponential_distribution<>("time", 2.0));
    get("shape", rnd::gamma_distribution<>("shape", 2.5, 0.5));
    get("life", rnd::weibull_distribution<>("life", 2.0, 1.5));
    get("flood", rnd::extreme_value_distribution<>("flood", 1.0, 2.0));
    get("square", rnd::chi_squared_distribution<>("square", 3.0));
    get("line", rnd::cauchy_distribution<>("line", 1.0, 2.0));
    get("ratio", rnd::fisher_f_distribution<>("ratio", 4.0, 7.0));
    get("heavy", rnd::student_t_distribution<>("heavy", 3.0));
    get("heavier", rnd::student_t_distribution<>("heavier", 2.0));
    const std::vector<double> ends{-1.0, 0.0, 3.0}, steps{1.0, 2.0}, corners{0.0, 2.0, 1.0};
    get("steps", rnd::piecewise_constant_distribution<>("steps", ends.begin(), ends.end(), steps.begin()));
    get("slope", rnd::piecewise_linear_distribution<>("slope", ends.begin(), ends.end(), corners.begin()));
    rnd::random_bit_generator_64 bits("bits");
    bits();
    // Without names nothing is reported, and the same place is the same address in each trace.
    rnd::geometric_distribution<>(0.3)(unused);
    rnd::cauchy_distribution<>()(unused);
}

int main() { return ppx_client::serve(names, "names"); }

// A Gaussian of unknown mean that comes out of a rejection loop, measured twice; the same model as
// `gaussian.py --marsaglia`, where the exact posterior stands.
#include <cmath>

#include "random.hpp"

// A normal number from uniform ones (Marsaglia and Bray 1964, polar method).
template <class Random>
static double marsaglia(Random& random, double mean, double stddev) {
    const typename Random::Rejection loop("marsaglia");
    for (;;) {
        const double x = random.uniform(-1.0, 1.0, "x");
        const double y = random.uniform(-1.0, 1.0, "y");
        const double s = x * x + y * y;
        if (0.0 < s && s < 1.0) return mean + stddev * x * std::sqrt(-2.0 * std::log(s) / s);
    }
}

int main(int argc, char** argv) {
    return gaussian::run(argc, argv, "gaussian_marsaglia", [](auto& random) {
        const double mu = marsaglia(random, 1.0, std::sqrt(5.0));
        random.tag(mu, "mu");
        random.observe(mu, std::sqrt(2.0), "y0");
        random.observe(mu, std::sqrt(2.0), "y1");
        return mu;
    });
}

// A Gaussian of unknown mean, measured twice; the same model as gaussian.py, where the exact posterior
// stands.
#include <cmath>

#include "random.hpp"

int main(int argc, char** argv) {
    return gaussian::run(argc, argv, "gaussian", [](auto& random) {
        const double mu = random.normal(1.0, std::sqrt(5.0), "mu");
        random.observe(mu, std::sqrt(2.0), "y0");
        random.observe(mu, std::sqrt(2.0), "y1");
        return mu;
    });
}

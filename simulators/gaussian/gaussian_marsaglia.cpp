// A Gaussian of unknown mean that comes out of a rejection loop, measured twice; the same model as
// `gaussian.py --marsaglia`, where the exact posterior stands.
#include <cmath>
#include <ppx_client.hpp>

// A normal number from uniform ones (Marsaglia and Bray 1964, polar method).
static double marsaglia(double mean, double stddev) {
    const ppx_client::Uniform square{-1.0, 1.0};
    for (;;) {
        const double x = ppx_client::sample(square, "x");
        const double y = ppx_client::sample(square, "y");
        const double s = x * x + y * y;
        if (0.0 < s && s < 1.0) return mean + stddev * x * std::sqrt(-2.0 * std::log(s) / s);
    }
}

static double gaussian_marsaglia() {
    const double mu = marsaglia(1.0, std::sqrt(5.0));
    ppx_client::tag(mu, "mu");
    const ppx_client::Normal likelihood{mu, std::sqrt(2.0)};
    ppx_client::observe(likelihood, "y0");
    ppx_client::observe(likelihood, "y1");
    return mu;
}

int main() { return ppx_client::serve(gaussian_marsaglia, "gaussian_marsaglia"); }

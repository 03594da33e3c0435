// A Gaussian of unknown mean, measured twice; the same model as gaussian.py, where the exact posterior
// stands.
#include <cmath>
#include <ppx_client.hpp>

static double gaussian() {
    const double mu = ppx_client::sample(ppx_client::Normal{1.0, std::sqrt(5.0)}, "mu");
    const ppx_client::Normal likelihood{mu, std::sqrt(2.0)};
    ppx_client::observe(likelihood, "y0");
    ppx_client::observe(likelihood, "y1");
    return mu;
}

int main() { return ppx_client::serve(gaussian, "gaussian"); }

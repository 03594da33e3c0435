// A model for scripts: what it does depends on its draws.
#include <cmath>
#include <ppx_client.hpp>
#include <stdexcept>
#include <vector>

using namespace ppx_client;

static double first() { return sample(Uniform{0.0, 1.0}, "r"); }

static double twice_at_one_line() {
    double sum = 0.0;
    for (int i = 0; i < 2; ++i) sum += sample(Exponential{1.0 + i});
    return sum;
}

static void fail(std::int64_t fault) {
    switch (fault) {
        case 1:
            throw std::runtime_error("the detector melted");
        case 2:
            throw 42;
        case 3:  // swallows what unwinds it, and goes on
            try {
                sample(Normal{0.0, 1.0}, "swallowed");
            } catch (...) {
            }
            tag(1.0, "after");
            break;
        case 4:
            sample(Normal{0.0, -1.0}, "negative");
            break;
        case 5:
            sample(Weibull{1e-300, 1e300}, "dense");
            break;
        case 6:
            observe(Normal{0.0, 1.0}, "unheard");
            break;
        case 7:
            tag(Tensor{{1.0, 2.0, 3.0}, {2, 2}}, "misshapen");
            break;
        case 8:  // leaves a loop by an exception that it catches
            try {
                const rejection_scope loop("caught");
                throw std::runtime_error("rejected");
            } catch (const std::exception&) {
            }
            break;
        default:
            break;
    }
}

static Tensor batches() {
    const auto fault = sample(Categorical{std::vector<double>{100, 1, 1, 1, 1, 1, 0, 1, 1}}, "fault");
    const auto n = sample(Poisson{2.0}, "n");
    double sum = 0.0;
    for (std::int64_t i = 0; i < n; ++i) sum += sample(Normal{sum, 1.0}, "x");
    sample(Uniform{-1.0, 1.0}, "free", false);
    fail(fault);
    {
        const rejection_scope outer("outer");
        const rejection_scope unnamed;
        while (first() > 0.5) continue;
    }
    const Tensor array = sample(Normal{Tensor{{0.0, 0.0, 1.0, 2.0}, {2, 2}}, 1.0}, "array");
    sum += twice_at_one_line();
    tag(sum, "sum");
    const double y = observe(Normal{sum, 1.0}, "y");
    {
        const scope inner("inner");
        observe(Normal{sum, 1.0}, "y");
    }
    const double coded = observe(Normal{sum, 1.0}, 3, "coded");
    observe(Normal{array, std::vector<double>{1.0}[0]}, "image");
    observe(Poisson{4.0}, std::vector<double>{3.0, 4.0}, "counts");
    tag(array, "array");
    if (n == 0) return Tensor{};
    return n == 1 ? Tensor{{y}, {}} : Tensor{{y, coded}, {2, 1}};
}

int main() { return serve(batches, "batches", bind_address(), "version 1"); }

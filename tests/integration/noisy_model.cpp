// The twin of noisy_model.py.
#include <cstddef>
#include <ppx_client.hpp>
#include <stdexcept>
#include <string_view>
#include <vector>

using namespace ppx_client;

double left(std::string_view name) {
    const uncontrolled region;
    return sample(Normal{0.0, 1.0}, name);
}

void give_up() {
    const uncontrolled region;
    sample(Exponential{1.0}, "before");
    throw std::runtime_error("gives up");
}

double sum(const Tensor& tensor) {
    double total = 0.0;
    for (const double x : tensor.data) total += x;
    return total;
}

double forward() {
    const double x = sample(Normal{0.0, 1.0}, "x");
    double total = x;
    {
        const rejection_scope loop("loop");
        while (sample(Uniform{0.0, 1.0}, "u") > 0.7) total += sample(Gamma{0.5, 2.0}, "g", false);
    }
    {
        const uncontrolled region;
        total += left("twice") + static_cast<double>(sample(Poisson{2.0 + x * x}, "n"));
        total += sum(sample(Normal{std::vector<double>(3, 0.0), 2.0}, "a"));
    }
    try {
        give_up();
    } catch (const std::runtime_error&) {
        total += left("after") + sample(Normal{x, 1.0}, "twice");
    }
    {
        const scope walk("walk");
        for (int i = 0; i < 20; ++i) total += sample(Uniform{-1.0, 1.0}, "step");
    }
    total += sum(sample(Normal{std::vector<double>(2, 0.0), 1.0}, "noise[0]"));
    const auto k = static_cast<double>(sample(Categorical{{0.2, 0.3, 0.5}}, "k"));
    observe(Normal{total, 1.0 + k}, "y");
    tag(total, "total");
    return total;
}

int main() { return serve(forward, "noisy"); }

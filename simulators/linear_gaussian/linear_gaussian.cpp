// A body that moves along a line, measured at every step; the same model as linear_gaussian.py.
#include <cstdlib>
#include <ppx_client.hpp>
#include <string>
#include <vector>

namespace {

using ppx_client::Normal;
using Vector = std::vector<double>;

const Vector first{1.0, 1.0};
const Vector noise{0.3, 0.5};
constexpr double measurement_noise = 1.0;

// Returns the positions.
Vector move(int num_steps) {
    Vector positions;
    double position = 0.0, velocity = 0.0;
    for (int step = 0; step < num_steps; ++step) {
        const Vector mean{position + velocity, 0.9 * velocity};
        const ppx_client::Tensor state = ppx_client::sample(Normal{mean, step == 0 ? first : noise}, "state");
        position = state[0];
        velocity = state[1];
        ppx_client::observe(Normal{position, measurement_noise}, "y" + std::to_string(step));
        positions.push_back(position);
    }
    return positions;
}

}  // namespace

int main(int argc, char** argv) {
    const int num_steps = argc > 1 ? std::atoi(argv[1]) : 12;
    return ppx_client::serve([=] { return move(num_steps); }, "linear_gaussian");
}

// A body that moves along a line, measured at every step; the same model as linear_gaussian.py.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace {

using Normal = std::normal_distribution<double>;
using Vector = std::vector<double>;

const Vector first{1.0, 1.0};
const Vector noise{0.3, 0.5};
constexpr double measurement_noise = 1.0;
std::mt19937_64 rng{std::random_device{}()};

// Returns the positions.
Vector move(int num_steps) {
    Vector positions;
    double position = 0.0, velocity = 0.0;
    for (int step = 0; step < num_steps; ++step) {
        const Vector mean{position + velocity, 0.9 * velocity};
        const Vector stddev = step == 0 ? first : noise;
        position = Normal{mean[0], stddev[0]}(rng);
        velocity = Normal{mean[1], stddev[1]}(rng);
        std::printf("%g\n", Normal{position, measurement_noise}(rng));
        positions.push_back(position);
    }
    return positions;
}

}  // namespace

int main(int argc, char** argv) {
    const int num_steps = argc > 1 ? std::atoi(argv[1]) : 12;
    move(num_steps);
}

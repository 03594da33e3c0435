// A model that misbehaves above a threshold: `fault_simulator FAULT THRESHOLD`, as fault_models.py does in Python.
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <ppx_client.hpp>
#include <stdexcept>
#include <string>
#include <vector>

using namespace ppx_client;

static std::string fault;
static double threshold = std::numeric_limits<double>::infinity();
static volatile bool forever = true;

static void misbehave() {
    if (fault == "segfault") {
        static volatile int* volatile nowhere = nullptr;
        *nowhere = 1;
    } else if (fault == "abort") {
        std::abort();
    } else if (fault == "exit") {
        std::exit(0);
    } else if (fault == "hang") {
        while (forever) {
        }
    } else if (fault == "balloon") {
        std::vector<std::vector<char>> balloon;
        while (forever) balloon.emplace_back(1 << 24, 'x');
    } else if (fault == "malloc") {  // a C model that does not look at what malloc returns
        while (forever) std::memset(std::malloc(1 << 24), 'x', 1 << 24);
    } else if (fault == "raise") {
        throw std::runtime_error("the table of cross sections is negative");
    }
}

static double faults() {
    const double mu = sample(Normal{0.0, 1.0}, "mu");
    if (mu > threshold) misbehave();
    const double x = sample(Normal{mu, 1.0}, "x");
    observe(Normal{x, 0.5}, "y");
    return mu + x;
}

int main(int argc, char** argv) {
    if (argc > 2) {
        fault = argv[1];
        threshold = std::stod(argv[2]);
    }
    return serve(faults, "faults");
}

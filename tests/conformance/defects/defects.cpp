// Simulators with one defect each, in C++: `defects NAME` serves one. Names are those of the Python ones where these
// have the same defect.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <iostream>
#include <map>
#include <ppx_client.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using ppx_client::Normal;
using ppx_client::observe;
using ppx_client::sample;

double sound() {
    const double mu = sample(Normal{0.0, 1.0}, "mu");
    const auto n = sample(ppx_client::Poisson{3.0}, "n");
    const double width = sample(ppx_client::Exponential{2.0}, "width");
    observe(Normal{mu + static_cast<double>(n), 0.5 + std::abs(width)}, "y");
    ppx_client::tag(2.0 * mu, "twice");
    return mu;
}

void hidden_randomness() {
    static std::mt19937 engine{std::random_device{}()};
    const double mu = sample(Normal{0.0, 1.0}, "mu");
    const double x = sample(Normal{mu + std::normal_distribution<double>{}(engine), 1.0}, "x");
    observe(Normal{x, 1.0}, "y");
}

// A generator of its own with a fixed seed, which only the first run finds fresh.
void seeded_once() {
    static std::mt19937 engine{42};
    const double mu = sample(Normal{std::uniform_real_distribution<double>{}(engine), 1.0}, "mu");
    observe(Normal{mu, 1.0}, "y");
}

void counter() {
    static int runs = 0;
    const double mu = sample(Normal{0.01 * ++runs, 1.0}, "mu");
    observe(Normal{mu, 1.0}, "y");
}

// What is read was written by the run before.
void uninitialised() {
    static std::vector<double> work(3);
    const double mu = sample(Normal{work[2], 1.0}, "mu");
    work[2] += mu;
    observe(Normal{mu, 1.0}, "y");
}

void pointer() {
    char name[64];
    std::snprintf(name, sizeof name, "hit of %p", reinterpret_cast<void*>(&sound));
    const double x = sample(Normal{0.0, 1.0}, name);
    observe(Normal{x, 1.0}, "y");
}

void loop_counter() {
    double x = 0.0;
    const auto steps = 5 + sample(ppx_client::Poisson{20.0}, "steps");
    for (int i = 0; i < steps; ++i) x += sample(Normal{0.0, 1.0}, "step_" + std::to_string(i));
    observe(Normal{x, 1.0}, "y");
}

void unmarked_rejection() {
    double x;
    do x = sample(Normal{0.0, 1.0}, "x");
    while (x < 0.5);
    observe(Normal{x, 1.0}, "y");
}

// Noise that is the same in every trace, and in every repetition.
void frozen() {
    const double mu = sample(Normal{0.0, 1.0}, "mu");
    std::srand(1);
    observe(Normal{mu + static_cast<double>(std::rand()) / RAND_MAX, 1.0}, "y");
}

void no_observations() { sample(Normal{0.0, 1.0}, "x"); }

void unnamed_observation() { observe(Normal{sample(Normal{0.0, 1.0}, "x"), 1.0}); }

void memory_leak() {
    static std::vector<std::vector<double>*> hoard;
    hoard.push_back(new std::vector<double>(3000, 1.0));
    sound();
}

void thread_leak() {
    static int runs = 0;
    if (runs++ % 10 == 0) std::thread([] { ::pause(); }).detach();
    sound();
}

// An index computed from a value that is trusted to be in its support.
void dies_of_values() {
    const double x = sample(ppx_client::Uniform{0.0, 1.0}, "x");
    if (x < 0.0 || x > 1.0) std::abort();
    observe(Normal{x, 1.0}, "y");
}

// A handler that catches all there is, and goes on.
void swallows_everything() {
    double x = 0.0;
    for (int i = 0; i < 3; ++i) {
        try {
            x += sample(Normal{0.0, 1.0}, "x");
        } catch (...) {
            std::_Exit(3);
        }
    }
    observe(Normal{x, 1.0}, "y");
}

const std::map<std::string, std::function<void()>> models{
    {"sound", sound},
    {"hidden_randomness", hidden_randomness},
    {"seeded_once", seeded_once},
    {"counter", counter},
    {"uninitialised", uninitialised},
    {"pointer", pointer},
    {"loop_counter", loop_counter},
    {"unmarked_rejection", unmarked_rejection},
    {"frozen", frozen},
    {"no_observations", no_observations},
    {"unnamed_observation", unnamed_observation},
    {"memory_leak", memory_leak},
    {"thread_leak", thread_leak},
    {"dies_of_values", dies_of_values},
    {"swallows_everything", swallows_everything},
};

}  // namespace

int main(int argc, char** argv) {
    const auto model = argc == 2 ? models.find(argv[1]) : models.end();
    if (model == models.end()) {
        std::cerr << "usage: defects NAME\n";
        return 2;
    }
    return ppx_client::serve(model->second, model->first);
}

// Where the random numbers of the two Gaussians come from: PPX, or the C++ library to measure what PPX costs.
#pragma once

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ppx_client.hpp>
#include <random>

namespace gaussian {

// Random numbers from PPX: the controller's, or without one the client's own.
struct Client {
    using Rejection = ppx_client::rejection_scope;
    double uniform(double low, double high, const char* name) {
        return ppx_client::sample(ppx_client::Uniform{low, high}, name);
    }
    double normal(double mean, double stddev, const char* name) {
        return ppx_client::sample(ppx_client::Normal{mean, stddev}, name);
    }
    void observe(double mean, double stddev, const char* name) {
        ppx_client::observe(ppx_client::Normal{mean, stddev}, name);
    }
    void tag(double value, const char* name) { ppx_client::tag(value, name); }
};

// The simulator as it would be without inference: nobody sees what it draws.
class Bare {
  public:
    struct Rejection {
        explicit Rejection(const char*) {}
    };
    double uniform(double low, double high, const char*) {
        return low + (high - low) * static_cast<double>(static_cast<std::int64_t>(engine_() >> 11)) * 0x1p-53;
    }
    double normal(double mean, double stddev, const char*) { return mean + stddev * normal_(engine_); }
    void observe(double mean, double stddev, const char* name) { normal(mean, stddev, name); }
    void tag(double, const char*) {}

  private:
    std::mt19937_64 engine_{1};
    std::normal_distribution<double> normal_{0.0, 1.0};
};

// Serves a model, or with `--bare N` times N traces of it without PPX.
template <class Model>
int run(int argc, char** argv, const char* name, const Model& model) {
    if (argc != 3 || std::strcmp(argv[1], "--bare") != 0) {
        Client client;
        return ppx_client::serve([&] { return model(client); }, name);
    }
    Bare bare;
    const long num_traces = std::atol(argv[2]);
    double sum = 0.0;  // so that nothing is optimised away
    const auto start = std::chrono::steady_clock::now();
    for (long i = 0; i < num_traces; ++i) sum += model(bare);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    std::printf("%ld traces in %.3f s: %.0f traces/s, %.1f ns each (mean %.3f)\n", num_traces, elapsed.count(),
                static_cast<double>(num_traces) / elapsed.count(),
                1e9 * elapsed.count() / static_cast<double>(num_traces), sum / static_cast<double>(num_traces));
    return 0;
}

}  // namespace gaussian

// Where the random numbers of the two Gaussians come from: PPX, or a small generator to measure what PPX costs.
#pragma once

#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ppx_client.hpp>

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

// The simulator as it would be without inference, and as fast as it can be: nobody sees what it draws.
class Bare {
  public:
    struct Rejection {
        explicit Rejection(const char*) {}
    };
    double uniform(double low, double high, const char*) { return low + (high - low) * next(); }
    // By the polar method, which makes two numbers at a time.
    double normal(double mean, double stddev, const char*) {
        if ((has_second_ = !has_second_)) {
            double x, y, s;
            do {
                x = 2.0 * next() - 1.0;
                y = 2.0 * next() - 1.0;
                s = x * x + y * y;
            } while (s >= 1.0 || s == 0.0);
            const double scale = std::sqrt(-2.0 * std::log(s) / s);
            second_ = y * scale;
            return mean + stddev * x * scale;
        }
        return mean + stddev * second_;
    }
    double observe(double mean, double stddev, const char* name) { return sum_ += normal(mean, stddev, name); }
    void tag(double, const char*) {}
    double sum() const { return sum_; }

  private:
    // xoshiro256++ (Blackman and Vigna, ACM Transactions on Mathematical Software 47 (2021) 36).
    double next() {
        const auto rotated = [](std::uint64_t x, int bits) { return x << bits | x >> (64 - bits); };
        const std::uint64_t result = rotated(state_[0] + state_[3], 23) + state_[0];
        const std::uint64_t shifted = state_[1] << 17;
        state_[2] ^= state_[0];
        state_[3] ^= state_[1];
        state_[1] ^= state_[2];
        state_[0] ^= state_[3];
        state_[2] ^= shifted;
        state_[3] = rotated(state_[3], 45);
        return static_cast<double>(static_cast<std::int64_t>(result >> 11)) * 0x1p-53;
    }

    std::array<std::uint64_t, 4> state_{0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 1};
    bool has_second_ = false;
    double second_ = 0.0;
    double sum_ = 0.0;  // of what was measured
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
    std::printf("%ld traces in %.3f s: %.0f traces/s, %.1f ns each (means %.3f, %.3f)\n", num_traces, elapsed.count(),
                static_cast<double>(num_traces) / elapsed.count(),
                1e9 * elapsed.count() / static_cast<double>(num_traces), sum / static_cast<double>(num_traces),
                0.5 * bare.sum() / static_cast<double>(num_traces));
    return 0;
}

}  // namespace gaussian

// Where random numbers come from. The simulator takes any class with this interface; instrumenting it for
// inference meant writing `Client` beside the generator that it always had.
#pragma once

#include <cstdint>
#include <ppx_client.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace tau_decay {

using Shape = std::vector<std::int32_t>;

// Random numbers from PPX: the controller's, or without one the client's own.
struct Client {
    struct Scope {
        Scope(Client&, const char* name) : scope(name) {}
        ppx_client::scope scope;
    };
    struct Rejection {
        Rejection(Client&, const char* name) : loop(name) {}
        ppx_client::rejection_scope loop;
    };
    double uniform(double low, double high, const char* name) {
        return ppx_client::sample(ppx_client::Uniform{low, high}, name);
    }
    double normal(double mean, double sd, const char* name) {
        return ppx_client::sample(ppx_client::Normal{mean, sd}, name);
    }
    int categorical(const std::vector<double>& probs, const char* name) {
        return static_cast<int>(ppx_client::sample(ppx_client::Categorical{probs}, name));
    }
    // Returns what was measured, where each element of the image is normal about `mean`.
    std::vector<double> observe(const std::vector<double>& mean, Shape shape, double sd, const char* name) {
        return ppx_client::observe(ppx_client::Normal{ppx_client::Tensor{mean, std::move(shape)}, sd}, name).data;
    }
    void tag(double value, const char* name) { ppx_client::tag(value, name); }
};

// The simulator as it was before: its own generator, nothing that inference could see. For measuring what PPX
// costs.
class Bare {
  public:
    struct Scope {
        Scope(Bare&, const char*) {}
    };
    struct Rejection {
        Rejection(Bare&, const char*) {}
    };
    explicit Bare(unsigned long long seed) : engine_(seed) {}
    double uniform(double low, double high, const char*) { return low + (high - low) * uniform_(engine_); }
    double normal(double mean, double sd, const char*) { return mean + sd * normal_(engine_); }
    int categorical(const std::vector<double>& probs, const char*) {
        double rest = uniform_(engine_);
        size_t index = 0;
        while (index + 1 < probs.size() && rest >= probs[index]) {
            rest -= probs[index++];
        }
        return static_cast<int>(index);
    }
    std::vector<double> observe(const std::vector<double>& mean, const Shape&, double sd, const char*) {
        std::vector<double> measured(mean);
        for (double& value : measured) {
            value += sd * normal_(engine_);
        }
        return measured;
    }
    void tag(double, const char*) {}

  private:
    std::mt19937_64 engine_;
    std::uniform_real_distribution<double> uniform_{0.0, 1.0};
    std::normal_distribution<double> normal_{0.0, 1.0};
};

// Passes everything on to another source and keeps address and value of every draw.
template <class Source>
class Recorder {
  public:
    struct Scope {
        Scope(Recorder& recorder, const char* name) : recorder_(recorder), inner_(recorder.source_, name) {
            recorder.prefix_.push_back(std::string(name) + "/");
        }
        Scope(const Scope&) = delete;
        Scope& operator=(const Scope&) = delete;
        ~Scope() { recorder_.prefix_.pop_back(); }

      private:
        Recorder& recorder_;
        typename Source::Scope inner_;
    };
    struct Rejection {
        Rejection(Recorder& recorder, const char* name) : inner(recorder.source_, name) {}
        typename Source::Rejection inner;
    };
    explicit Recorder(Source& source) : source_(source) {}
    double uniform(double low, double high, const char* name) { return keep(source_.uniform(low, high, name), name); }
    double normal(double mean, double sd, const char* name) { return keep(source_.normal(mean, sd, name), name); }
    int categorical(const std::vector<double>& probs, const char* name) {
        return static_cast<int>(keep(source_.categorical(probs, name), name));
    }
    std::vector<double> observe(const std::vector<double>& mean, Shape shape, double sd, const char* name) {
        return source_.observe(mean, std::move(shape), sd, name);
    }
    void tag(double value, const char* name) {
        source_.tag(value, name);
        tags.emplace_back(name, value);
    }

    std::vector<std::pair<std::string, double>> draws;
    std::vector<std::pair<std::string, double>> tags;

  private:
    double keep(double value, const char* name) {
        std::string address;
        for (const std::string& scope : prefix_) {
            address += scope;
        }
        draws.emplace_back(address + name, value);
        return value;
    }

    Source& source_;
    std::vector<std::string> prefix_;
};

}  // namespace tau_decay

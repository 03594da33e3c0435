// Who answers draws: while serve runs the model a controller or the player of its scripts, and otherwise a generator of
// this process.
#pragma once

#include <atomic>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>

#include "ppx_client/address.hpp"
#include "ppx_client/philox.hpp"
#include "ppx_client/prior.hpp"
#include "ppx_client/strays.hpp"

namespace ppx_client::detail {

/// Thrown through the model when its trace ends before the model does. Not a std::exception, so that a handler in the
/// model does not catch it.
struct AbandonedTrace {};

class Player;

/// A draw, observation or tag on its way to a controller.
struct Request {
    std::string_view address, name;
};

/// Answers what the model asks while a trace runs for a controller that answers each statement (PPX 1.0).
class Controller {
  public:
    virtual ~Controller() = default;

    /// Writes the value chosen for a draw to `result`, which has prior.size elements.
    virtual void sample(const Request& request, const Prior& prior, bool control, double* result) = 0;

    /// Reports an observation; writes the observed value, or NaN where it is unknown, to `result`. `value` is
    /// the one in the model's code, or null.
    virtual void observe(const Request& request, const Prior& prior, const View* value, double* result) = 0;

    /// Reports a value of interest.
    virtual void tag(const Request& request, const View& value) = 0;

    /// Reports that a rejection loop begins or ends.
    virtual void rejection(const Request& request, bool begin) = 0;
};

/// Number of traces that controllers are running in this process.
inline std::atomic<int>& running_traces() {
    static std::atomic<int> count{0};
    return count;
}

inline std::uint64_t first_seed() {
    const char* const text = std::getenv("PPX_SEED");
    if (text == nullptr) {
        std::random_device device;
        return (std::uint64_t{device()} << 32) | device();
    }
    std::uint64_t seed = 0;
    const char* const end = text + std::char_traits<char>::length(text);
    const auto parsed = std::from_chars(text, end, seed);
    if (parsed.ec != std::errc() || parsed.ptr != end)
        throw std::invalid_argument(std::string("environment variable PPX_SEED = '") + text +
                                    "' is no whole number >= 0; correct or unset it");
    return seed;
}

/// What a thread that runs a model has of its own.
class ThreadState {
  public:
    AddressPath path;
    Controller* controller = nullptr;  // while one answers each statement
    Player* player = nullptr;          // while a batch is played
    std::size_t num_uncontrolled = 0;  // regions whose draws are left to the prior that the model is in

    void seed(std::uint64_t value) { uniforms_.emplace(value, 0); }

    /// The generator of draws that no controller answers.
    Uniforms& uniforms() {
        if (!uniforms_) {
            static std::atomic<std::uint64_t> num_threads{0};
            uniforms_.emplace(first_seed(), num_threads++);  // threads draw different numbers
        }
        return *uniforms_;
    }

    /// A statement that nobody answers: the trace that another thread of this process runs meanwhile fails.
    void stray(std::string_view address) {
        if (running_traces().load(std::memory_order_relaxed) > 0) stray_report().add(Stray::Thread, address);
    }

    /// Draws where no controller is.
    void draw(std::string_view address, const Prior& prior, double* result) {
        stray(address);
        Uniforms& generator = uniforms();
        for (std::size_t i = 0; i < prior.size; ++i) result[i] = prior.draw(i, generator.next());
    }

  private:
    std::optional<Uniforms> uniforms_;
};

inline ThreadState& this_thread() {
    static thread_local ThreadState state;
    return state;
}

/// Puts a controller or a player in charge of the thread's statements, and the thread outside all scopes.
class Charge {
  public:
    Charge(Controller* controller, Player* player) : thread_(this_thread()), scope_(thread_.path.go_out()) {
        thread_.controller = controller;
        thread_.player = player;
        ++running_traces();
    }
    ~Charge() {
        --running_traces();
        thread_.controller = nullptr;
        thread_.player = nullptr;
        thread_.path.go_back(scope_);
    }
    Charge(const Charge&) = delete;
    Charge& operator=(const Charge&) = delete;

  private:
    ThreadState& thread_;
    const ScopeNode* scope_;
};

}  // namespace ppx_client::detail

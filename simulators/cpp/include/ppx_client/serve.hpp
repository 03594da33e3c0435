// Serving a model to a controller.
//
// The simulator answers requests: Handshake -> HandshakeResult; Run -> Sample, Observe and Tag, one for each
// of the controller's *Result messages, and at last RunResult. While the model's code runs, the controller is
// always owed one message. The rules where something else comes:
//
// - A Handshake is always answered; its sender is the controller from then on, and a running trace is
// abandoned: the
//   stack of the model is unwound by an exception that does not derive from std::exception, so that a handler
//   in the model does not catch it. A model that catches (...) and goes on meets it again at its next draw.
// - Bytes that are no message, or one that is not due, are answered by Error or, for a controller that did
// not announce
//   that capability, Reset. From the controller, they end the running trace; from others, they change
//   nothing.
// - So does a value that the distribution cannot have: of another shape, not finite, for a discrete family no whole
//   number >= 0, or no index of a Categorical. The model never sees it.
// - A model that throws ends its trace in the same way. After all of that, the next Run is welcome.
//
// The socket is a ROUTER, which to a controller's REQ is what a REP is, but knows who sent what: with a REP,
// a second controller would be given the first one's draws.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <zmq.hpp>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "ppx_client/messages.hpp"
#include "ppx_client/runtime.hpp"
#include "ppx_client/signals.hpp"
#include "ppx_client/version.hpp"

namespace ppx_client {

namespace detail {

/// Thrown through the model when its trace is abandoned. Not a std::exception, see above.
struct AbandonedTrace {};

using Model = std::function<std::optional<Tensor>()>;

class Server final : public Controller {
  public:
    Server(Model model, std::string name, const std::string& address)
        : model_(std::move(model)), name_(std::move(name)), socket_(context_, zmq::socket_type::router) {
        socket_.set(zmq::sockopt::linger, 100);                        // ms; the last answer leaves
        socket_.set(zmq::sockopt::rcvtimeo, 200);                      // ms; a signal just before waiting is seen then
        socket_.set(zmq::sockopt::maxmsgsize, std::int64_t{1} << 30);  // bytes
        socket_.bind(address);
    }

    std::string endpoint() const { return socket_.get(zmq::sockopt::last_endpoint); }

    /// Serves until told to stop.
    void run() {
        while (pending_ || receive()) {
            pending_ = false;
            const auto type = received_.type();
            if (type == ppx::MessageBody_Handshake) {
                greet();
            } else if (sender_ == controller_ && type == ppx::MessageBody_Run) {
                run_model();
            } else {
                refuse(std::string("no trace is running and ") + received_.name() + " came; send a Run");
            }
        }
    }

    void sample(const Request& request, const Prior& prior, bool control, double* result) override {
        check_supported(request, prior);
        encoder_.sample(request, prior, control);
        exchange(ppx::MessageBody_SampleResult);
        const auto* const answer = received_.message().body_as_SampleResult();
        check_answer(read_value(answer->result(), prior, result), request, "SampleResult");
    }

    void observe(const Request& request, const Prior& prior, const View* value, double* result) override {
        check_supported(request, prior);
        encoder_.observe(request, prior, value);
        exchange(ppx::MessageBody_ObserveResult);
        const auto* const answer = received_.message().body_as_ObserveResult();
        const bool due = value == nullptr && capabilities_.observed_value;
        if (due || !is_empty(answer->value())) {
            check_answer(read_value(answer->value(), prior, result), request, "ObserveResult");
        } else if (value != nullptr) {
            std::copy(value->data, value->data + value->size, result);
        } else {
            std::fill(result, result + prior.size, std::numeric_limits<double>::quiet_NaN());
        }
    }

    void tag(const Request& request, const View& value) override {
        encoder_.tag(request, value);
        exchange(ppx::MessageBody_TagResult);
    }

  private:
    /// Puts this object in charge of the thread's draws while the model runs.
    class Charge {
      public:
        explicit Charge(Controller* controller) : thread_(this_thread()), path_(std::move(thread_.path)) {
            thread_.path = AddressPath();
            thread_.controller = controller;
            ++running_traces();
        }
        ~Charge() {
            --running_traces();
            thread_.controller = nullptr;
            thread_.path = std::move(path_);
        }
        Charge(const Charge&) = delete;
        Charge& operator=(const Charge&) = delete;

      private:
        ThreadState& thread_;
        AddressPath path_;
    };

    void greet() {
        capabilities_ = Capabilities();
        const auto* const offered = received_.message().body_as_Handshake()->capabilities();
        if (offered != nullptr)
            for (const auto* name : *offered) capabilities_.add(name->string_view());
        controller_ = sender_;
        encoder_.handshake_result(system_name, name_, offered != nullptr);
        send();
    }

    void run_model() {
        abandoned_ = false;
        std::optional<std::string> failure;
        std::optional<Tensor> result;
        try {
            const Charge charge(this);
            result = model_();
            if (result) check_shape(view(*result), "the model's result");
        } catch (const AbandonedTrace&) {
        } catch (const std::exception& error) {
            failure = error.what();
        } catch (...) {
            failure = "the model threw something that is no std::exception";
        }
        if (abandoned_) return;
        if (failure) {
            fail(*failure);
        } else {
            encoder_.run_result(result);
            send();
        }
    }

    /// Ends the controller's trace with an error.
    void fail(const std::string& what) {
        if (!capabilities_.error) std::fprintf(stderr, "%s: trace failed: %s\n", name_.c_str(), what.c_str());
        refuse(what);
    }

    /// Sends what is encoded and waits for the controller's answer, of this type.
    void exchange(ppx::MessageBody expected) {
        if (abandoned_) throw AbandonedTrace();
        send();
        for (;;) {
            if (!receive()) abandon();
            if (received_.type() == ppx::MessageBody_Handshake) {
                pending_ = true;
                abandon();
            }
            if (sender_ != controller_) {
                refuse("this simulator serves another controller; send a Handshake to take it over");
                sender_ = controller_;
                continue;
            }
            if (received_.type() == expected) return;
            fail(std::string("expected ") + ppx::EnumNameMessageBody(expected) + " in a running trace and got " +
                 received_.name() + "; the trace is abandoned");
            abandon();
        }
    }

    [[noreturn]] void abandon() {
        abandoned_ = true;
        throw AbandonedTrace();
    }

    void check_answer(const std::string& defect, const Request& request, const char* type) {
        if (defect.empty()) return;
        fail(std::string(type) + " for '" + std::string(request.address) + "' " + defect + "; the trace is abandoned");
        abandon();
    }

    void check_supported(const Request& request, const Prior& prior) const {
        if (prior.family == Family::TruncatedNormal && !capabilities_.truncated_normal)
            throw std::invalid_argument("draw '" + std::string(request.address) +
                                        "': TruncatedNormal is not part of PPX 1.0, which is all that this controller "
                                        "speaks; draw from a Uniform and transform it, or use a newer controller");
    }

    /// Answers the last message by Error, or Reset where Error is not understood.
    void refuse(const std::string& why) {
        if (sender_ == controller_ && capabilities_.error) {
            encoder_.error(why);
        } else {
            encoder_.reset();
        }
        send();
    }

    /// Waits for a message: an envelope of sender and empty frame, and a body. False if told to stop.
    bool receive() {
        while (!stop_requested()) {
            try {
                if (!socket_.recv(frame_)) continue;
                sender_.assign(static_cast<const char*>(frame_.data()), frame_.size());
                if (!next_frame()) continue;
                if (frame_.size() != 0) {  // no envelope of a REQ; a REP would be silent, too
                    while (next_frame()) continue;
                    continue;
                }
                if (!next_frame()) continue;
                received_.read(frame_.data(), frame_.size());
                while (next_frame()) received_.clear();
                return true;
            } catch (const zmq::error_t& error) {
                if (error.num() != EINTR) throw;
            }
        }
        return false;
    }

    bool next_frame() { return frame_.more() && socket_.recv(frame_).has_value(); }

    /// Sends what is encoded to the sender of the last message.
    void send() {
        send_frame(zmq::const_buffer(sender_.data(), sender_.size()), zmq::send_flags::sndmore);
        send_frame(zmq::const_buffer(), zmq::send_flags::sndmore);
        send_frame(zmq::const_buffer(encoder_.data(), encoder_.size()), zmq::send_flags::none);
    }

    void send_frame(zmq::const_buffer bytes, zmq::send_flags flags) {
        for (;;) {
            try {
                socket_.send(bytes, flags);
                return;
            } catch (const zmq::error_t& error) {
                if (error.num() != EINTR) throw;
            }
        }
    }

    Model model_;
    std::string name_;
    zmq::context_t context_;
    zmq::socket_t socket_;
    zmq::message_t frame_;
    Encoder encoder_;
    Decoder received_;
    std::string sender_;      // of the received message
    std::string controller_;  // sender of the last Handshake
    Capabilities capabilities_;
    bool abandoned_ = false;  // the running trace
    bool pending_ = false;    // the received message is still to be handled
};

template <class F>
Model make_model(F& forward) {
    return [&forward]() -> std::optional<Tensor> {
        if constexpr (std::is_void_v<std::invoke_result_t<F&>>) {
            forward();
            return std::nullopt;
        } else {
            return convert<Tensor>(forward());
        }
    };
}

/// Keeps memory that a trace frees for the next trace. By default glibc returns blocks of the size of an image to the
/// system and asks for them again each time: an observation of 24,500 numbers then takes 160 us instead of 30.
inline void keep_freed_memory() {
#ifdef __GLIBC__
    if (std::getenv("MALLOC_TRIM_THRESHOLD_") != nullptr || std::getenv("MALLOC_MMAP_THRESHOLD_") != nullptr) return;
    mallopt(M_TRIM_THRESHOLD, 256 << 20);  // bytes
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
#endif
}

inline std::string bind_address() {
    const char* const address = std::getenv("PPX_BIND");
    return address == nullptr || *address == '\0' ? "tcp://127.0.0.1:5555" : address;
}

}  // namespace detail

/// Serves a model to PPX controllers until SIGTERM or SIGINT; what a simulator's main returns.
///
/// @param forward What makes one trace: a callable without arguments that returns nothing, a number, a
///                std::vector<double> or a Tensor.
/// @param name    What controllers call the model.
/// @param address Where to listen, as ZeroMQ writes it; the environment variable PPX_BIND, or
/// tcp://127.0.0.1:5555.
/// @return 0 when told to stop; 1 if it cannot listen there, with the reason on stderr.
template <class F>
int serve(F&& forward, const std::string& name, const std::string& address = detail::bind_address()) {
    try {
        const detail::StopSignals signals;
        detail::keep_freed_memory();
        detail::Server server(detail::make_model(forward), name, address);
        std::fprintf(stderr, "%s: serving PPX at %s\n", name.c_str(), server.endpoint().c_str());
        server.run();
        return 0;
    } catch (const zmq::error_t& error) {
        std::fprintf(stderr, "%s: cannot serve PPX at %s: %s; choose another address in PPX_BIND\n", name.c_str(),
                     address.c_str(), error.what());
        return 1;
    }
}

}  // namespace ppx_client

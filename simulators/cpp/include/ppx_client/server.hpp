// Answering controllers.
//
// Every controller has a session, which its Handshake begins. Between traces the simulator answers whoever asks:
// RunBatch -> BatchResult, and Shutdown -> ShutdownResult, after which the process ends. Who has no session gets a
// Reset.
//
// A controller of PPX 1.0 runs one trace: Run -> Sample, Observe and Tag, one for each of the controller's *Result
// messages, and at last RunResult. While the model's code runs, the controller is always owed one message. The rules
// where something else comes:
//
// - A Handshake is always answered, and a running trace is abandoned for it: the stack of the model is unwound by an
//   exception that does not derive from std::exception, so that a handler in the model does not catch it. A model that
//   catches (...) and goes on meets it again at its next draw.
// - Bytes that are no message, or one that is not due, are answered by Error or, for a controller that did not announce
//   that capability, Reset. From the controller, they end the running trace; from others, they change nothing.
// - So does a value that the distribution cannot have: of another shape, not finite, for a discrete family no whole
//   number >= 0, or no index of a Categorical. The model never sees it.
// - A model that throws ends its trace in the same way. After all of that, the next Run is welcome.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "ppx_client/batch.hpp"
#include "ppx_client/channel.hpp"
#include "ppx_client/decoder.hpp"
#include "ppx_client/encoder.hpp"
#include "ppx_client/player.hpp"
#include "ppx_client/runtime.hpp"
#include "ppx_client/session.hpp"
#include "ppx_client/version.hpp"

namespace ppx_client::detail {

class Server final : public Controller {
  public:
    /// @param fingerprint Text that changes whenever the model does.
    Server(Model model, std::string name, const std::string& address, std::string fingerprint)
        : model_(std::move(model)),
          name_(std::move(name)),
          fingerprint_(std::move(fingerprint)),
          channel_(address),
          player_(this_thread().path) {}

    std::string endpoint() const { return channel_.endpoint(); }

    /// Serves until told to stop, by a signal or a Shutdown.
    void run() {
        while (pending_ || channel_.receive()) {
            pending_ = false;
            const auto type = channel_.received().type();
            Session* const session = sessions_.find(channel_.sender());
            if (type == ppx::MessageBody_Handshake) {
                greet();
            } else if (session == nullptr) {
                refuse("no Handshake came before");
            } else if (type == ppx::MessageBody_Run) {
                run_trace(*session);
            } else if (type == ppx::MessageBody_RunBatch) {
                run_batch(*session);
            } else if (type == ppx::MessageBody_Shutdown) {
                encoder_.shutdown_result();
                channel_.send(encoder_);
                return;
            } else {
                refuse(std::string("no trace is running and ") + channel_.received().name() + " came; send a Run");
            }
        }
    }

    void sample(const Request& request, const Prior& prior, bool control, double* result) override {
        check_supported(request, prior);
        encoder_.sample(request, prior, control);
        exchange(ppx::MessageBody_SampleResult);
        const auto* const answer = channel_.received().message().body_as_SampleResult();
        check_answer(read_value(answer->result(), prior, result), request, "SampleResult");
    }

    void observe(const Request& request, const Prior& prior, const View* value, double* result) override {
        check_supported(request, prior);
        encoder_.observe(request, prior, value);
        exchange(ppx::MessageBody_ObserveResult);
        const auto* const answer = channel_.received().message().body_as_ObserveResult();
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

    void rejection(const Request& request, bool begin) override {
        if (!capabilities_.rejection) return;
        encoder_.rejection(request, begin);
        exchange(ppx::MessageBody_RejectionResult);
    }

  private:
    void greet() {
        Session& session = sessions_.begin(channel_.sender());
        const ppx::Handshake& handshake = *channel_.received().message().body_as_Handshake();
        session.left.read(handshake.uncontrolled());
        session.left.omits = handshake.omit_uncontrolled();
        const auto* const offered = handshake.capabilities();
        if (offered != nullptr)
            for (const auto* name : *offered) session.capabilities.add(name->string_view());
        encoder_.handshake_result(system_name, name_, fingerprint_, offered != nullptr);
        channel_.send(encoder_);
    }

    void run_batch(Session& session) {
        const auto& batch = *channel_.received().message().body_as_RunBatch();
        const std::string defect = play(batch, session, model_, player_);
        if (stop_requested()) return;
        if (!defect.empty()) return refuse(defect);
        const auto& addresses = player_.sites().mentioned();
        encoder_.batch_result(batch.batch(), player_.columns(), addresses, session.told);
        session.told = addresses.size();
        channel_.send(encoder_);
    }

    void run_trace(const Session& session) {
        controller_ = session.sender;
        capabilities_ = session.capabilities;
        abandoned_ = false;
        Returned returned;
        std::string failure;
        {
            const Charge charge(this, nullptr);
            failure = run_model(model_, returned);
        }
        if (abandoned_) return;
        if (!failure.empty()) return fail(failure);
        const View result = returned.view();
        encoder_.run_result(returned.is_set() ? &result : nullptr);
        channel_.send(encoder_);
    }

    /// Ends the controller's trace with an error.
    void fail(const std::string& what) {
        if (!capabilities_.error) std::fprintf(stderr, "%s: trace failed: %s\n", name_.c_str(), what.c_str());
        refuse(what);
    }

    /// Sends what is encoded and waits for the controller's answer, of this type.
    void exchange(ppx::MessageBody expected) {
        if (abandoned_) throw AbandonedTrace();
        channel_.send(encoder_);
        for (;;) {
            if (!channel_.receive()) abandon();
            if (channel_.received().type() == ppx::MessageBody_Handshake) {
                pending_ = true;
                abandon();
            }
            if (channel_.sender() != controller_) {
                refuse("this simulator runs a trace for another controller; send a Handshake to take it over");
                channel_.turn_to(controller_);
                continue;
            }
            if (channel_.received().type() == expected) return;
            fail(std::string("expected ") + ppx::EnumNameMessageBody(expected) + " in a running trace and got " +
                 channel_.received().name() + "; the trace is abandoned");
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
        const Session* const session = sessions_.find(channel_.sender());
        if (session != nullptr && session->capabilities.error) {
            encoder_.error(why);
        } else {
            encoder_.reset();
        }
        channel_.send(encoder_);
    }

    Model model_;
    std::string name_, fingerprint_;
    Channel channel_;
    Encoder encoder_;
    Sessions sessions_;
    Player player_;
    std::string controller_;  // whose trace is running; with what it can do
    Capabilities capabilities_;
    bool abandoned_ = false;  // the running trace
    bool pending_ = false;    // the received message is still to be handled
};

}  // namespace ppx_client::detail

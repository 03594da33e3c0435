// Answering controllers.
//
// Every controller has a session, which its Handshake begins. Between traces, also those of a batch, the simulator
// answers whoever asks: RunBatch -> BatchResult, and Shutdown -> ShutdownResult, after which the process ends. Who has no
// session gets a Reset. A batch that nobody waits for any more is given up.
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
#include <cstdint>
#include <cstdio>
#include <deque>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "ppx_client/batch.hpp"
#include "ppx_client/channel.hpp"
#include "ppx_client/decoder.hpp"
#include "ppx_client/encoder.hpp"
#include "ppx_client/memory.hpp"
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
          is_private_(channel_.endpoint().rfind("ipc://", 0) == 0),
          player_(this_thread().path) {}

    std::string endpoint() const { return channel_.endpoint(); }

    /// Serves until told to stop, by a signal or a Shutdown.
    void run() {
        for (;;) {
            if (pending_) {
                pending_ = false;
            } else if (!waiting_.empty()) {
                received_ = std::move(waiting_.front());
                waiting_.pop_front();
            } else if (!channel_.receive(received_)) {
                return;
            }
            if (!answer()) return;
            if (received_.message.size() > long_message) {
                received_.message = Decoder();
                give_back_memory();
            }
        }
    }

    void sample(const Request& request, const Prior& prior, bool control, double* result) override {
        check_supported(request, prior);
        encoder_.sample(request, prior, control);
        exchange(ppx::MessageBody_SampleResult);
        const auto* const answer = received_.message.message().body_as_SampleResult();
        check_answer(read_value(answer->result(), prior, result), request, "SampleResult");
    }

    void observe(const Request& request, const Prior& prior, const View* value, double* result) override {
        check_supported(request, prior);
        encoder_.observe(request, prior, value);
        exchange(ppx::MessageBody_ObserveResult);
        const auto* const answer = received_.message.message().body_as_ObserveResult();
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
    /// Answers the message that came between traces. False if it ends the process.
    bool answer() {
        if (!received_.refusal.empty()) {
            refuse(received_.sender, received_.refusal);
            return true;
        }
        if (!read(received_)) return true;
        Session& session = *sessions_.find(received_.sender);
        const auto type = received_.message.type();
        if (type == ppx::MessageBody_Run) {
            sessions_.begin_work(session);
            run_trace(session);
        } else if (type == ppx::MessageBody_RunBatch) {
            sessions_.begin_work(session);
            run_batch(session);
            sessions_.limit_memory();
        } else if (type != ppx::MessageBody_Shutdown) {
            refuse(received_.sender,
                   std::string("no trace is running and ") + received_.message.name() + " came; send a Run");
        } else if (!is_private_) {
            refuse(received_.sender, "a simulator at " + endpoint() + " is ended by its owner only, by SIGTERM");
        } else {
            encoder_.shutdown_result();
            send(received_.sender);
            return false;
        }
        return true;
    }

    /// Answers what can be answered at once. True if more is to be done for a controller that has a session.
    bool read(const Received& request) {
        if (request.message.type() == ppx::MessageBody_Handshake) {
            greet(request);
        } else if (sessions_.find(request.sender) == nullptr) {
            refuse(request.sender, "no Handshake came before");
        } else {
            return true;
        }
        return false;
    }

    void greet(const Received& request) {
        // Before it begins: its connection may have the descriptor of one that was closed.
        sessions_.forget_connections(channel_.disconnected());
        Session* const before = sessions_.find(request.sender);
        const bool knew_much = before != nullptr && before->num_bytes() > long_message;
        Session& session = sessions_.begin(request.sender, request.connection);
        if (knew_much) give_back_memory();
        drop_waiting(request.sender);
        const auto& handshake = *request.message.message().body_as_Handshake();
        const auto* const offered = handshake.capabilities();
        if (offered != nullptr)
            for (const auto* name : *offered) session.capabilities.add(name->string_view());
        const std::int32_t limit = channel_.max_bytes();
        session.max_bytes =
            static_cast<std::size_t>(handshake.max_bytes() > 0 ? std::min(limit, handshake.max_bytes()) : limit);
        const bool batch = session.capabilities.batch;
        encoder_.handshake_result(system_name, name_, fingerprint_, offered != nullptr, is_private_,
                                  batch ? max_traces : 0, batch ? limit : 0);
        send(request.sender);
    }

    void run_batch(Session& session) {
        const auto& batch = *received_.message.message().body_as_RunBatch();
        const std::string sender = session.sender;
        bool abandoned = false;
        const std::string defect = play(
            batch, session, model_, player_, [&, serial = session.serial] { return attend(sender, serial); }, abandoned);
        if (stop_requested() || abandoned) return;
        if (!defect.empty()) {
            refuse(sender, defect);
        } else {
            const auto& addresses = player_.sites().mentioned();
            encoder_.batch_result(batch.batch(), player_.columns(), addresses, session.told);
            session.told = addresses.size();
            send(sender);
        }
        if (player_.columns().bytes() > long_result) {
            player_.columns() = BatchColumns();
            encoder_.release();
            give_back_memory();
        }
    }

    /// Looks, between the traces of a batch, who is gone and who has said something. False if whoever sent the batch is
    /// gone, or begins again.
    bool attend(const std::string& sender, std::uint64_t serial) {
        constexpr int most = 64;
        sessions_.forget_connections(channel_.disconnected());
        for (int i = 0; i < most; ++i) {
            const Session* const own = sessions_.find(sender);
            if (own == nullptr || own->serial != serial) return false;
            Received request;
            if (!channel_.look(request)) break;
            if (read(request)) wait(std::move(request), sender);
        }
        return true;
    }

    /// Keeps a request until the batch of a controller is executed. Without room for it, says why: at once or, behind
    /// others of its controller, in its turn, because answers come in the order of the requests.
    void wait(Received&& request, const std::string& executing) {
        constexpr int most = 2, flood = 64;
        const std::string sender = request.sender;
        std::size_t num_bytes = request.message.size();
        int own = sender == executing ? 1 : 0;
        for (const Received& waiting : waiting_) {
            num_bytes += waiting.message.size();
            if (waiting.sender == sender) ++own;
        }
        if (own > flood) {  // it does not wait for answers at all
            sessions_.forget(sender);
            return drop_waiting(sender);
        }
        if (own >= most) {
            request.refusal = "2 requests of this controller were unanswered; wait for answers";
        } else if (!waiting_.empty() && num_bytes > static_cast<std::size_t>(channel_.max_bytes())) {
            request.refusal = "too much was waiting; send this again later";
        }
        if (!request.refusal.empty()) {
            if (own == 0) return refuse(sender, request.refusal);
            request.message = Decoder();
        }
        waiting_.push_back(std::move(request));
    }

    /// Drops what a controller sent before it began again.
    void drop_waiting(const std::string& sender) {
        waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(),
                                      [&](const Received& waiting) { return waiting.sender == sender; }),
                       waiting_.end());
    }

    void run_trace(const Session& session) {
        for (; !waiting_.empty(); waiting_.pop_front()) refuse(waiting_.front().sender, busy);
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
        send(controller_);
    }

    /// Ends the controller's trace with an error.
    void fail(const std::string& what) {
        if (!capabilities_.error) std::fprintf(stderr, "%s: trace failed: %s\n", name_.c_str(), what.c_str());
        refuse(controller_, what);
    }

    /// Sends what is encoded and waits for the controller's answer, of this type.
    void exchange(ppx::MessageBody expected) {
        if (abandoned_) throw AbandonedTrace();
        send(controller_);
        for (;;) {
            if (!channel_.receive(received_)) abandon();
            if (received_.message.type() == ppx::MessageBody_Handshake) {
                pending_ = true;
                abandon();
            }
            if (received_.sender != controller_) {
                refuse(received_.sender, busy);
                continue;
            }
            if (received_.message.type() == expected) return;
            fail(std::string("expected ") + ppx::EnumNameMessageBody(expected) + " in a running trace and got " +
                 received_.message.name() + "; the trace is abandoned");
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

    /// Answers by Error, or Reset where Error is not understood.
    void refuse(const std::string& sender, const std::string& why) {
        const Session* const session = sessions_.find(sender);
        if (session != nullptr && session->capabilities.error) {
            encoder_.error(why);
        } else {
            encoder_.reset();
        }
        send(sender);
    }

    /// Sends what is encoded; forgets a controller that does not read its answers, and waits no more for it.
    void send(const std::string& receiver) {
        if (channel_.send(encoder_, receiver, sessions_.find(receiver) != nullptr)) return;
        sessions_.forget(receiver);
        drop_waiting(receiver);
    }

    static constexpr const char* busy =
        "this simulator runs a trace for another controller; send a Handshake to take it over";

    Model model_;
    std::string name_, fingerprint_;
    Channel channel_;
    bool is_private_;  // the file system says who may connect
    Encoder encoder_;
    Received received_;
    std::deque<Received> waiting_;  // what came while a batch was executed
    Sessions sessions_;
    Player player_;
    std::string controller_;  // whose trace is running; with what it can do
    Capabilities capabilities_;
    bool abandoned_ = false;  // the running trace
    bool pending_ = false;    // the received message is still to be handled
};

}  // namespace ppx_client::detail

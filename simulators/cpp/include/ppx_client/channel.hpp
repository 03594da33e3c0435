// The socket of a simulator.
//
// A ROUTER, which to a controller's REQ is what a REP is, but knows who sent what: with a REP, a second controller
// would be given the first one's draws.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "ppx_client/decoder.hpp"
#include "ppx_client/encoder.hpp"
#include "ppx_client/signals.hpp"

namespace ppx_client::detail {

/// A message of a controller.
struct Received {
    std::string sender;   // as ZeroMQ calls it
    int connection = -1;  // descriptor of what it came by
    Decoder message;
    std::string refusal;  // why it will not be executed, if that is known already; then the message is dropped
};

/// Bytes of the longest message, from the environment variable PPX_MAX_MESSAGE.
inline std::int32_t message_limit() {
    constexpr long least = 1L << 16, usual = 1L << 26, most = 1L << 30;
    const char* const text = std::getenv("PPX_MAX_MESSAGE");
    if (text == nullptr || *text == '\0') return usual;
    char* end = nullptr;
    const long limit = std::strtol(text, &end, 10);
    if (*end != '\0' || limit < least || limit > most)
        throw std::invalid_argument("PPX_MAX_MESSAGE=" + std::string(text) + " is no number of bytes from " +
                                    std::to_string(least) + " to " + std::to_string(most) + "; leave it out for " +
                                    std::to_string(usual));
    return static_cast<std::int32_t>(limit);
}

/// Whether other machines can reach an endpoint.
inline bool is_public(const std::string& endpoint) {
    if (endpoint.rfind("ipc://", 0) == 0 || endpoint.rfind("inproc://", 0) == 0) return false;
    return endpoint.rfind("tcp://127.", 0) != 0 && endpoint.rfind("tcp://[::1]", 0) != 0;
}

/// Receives messages from many controllers, and answers whom it is told to.
class Channel {
  public:
    explicit Channel(const std::string& address)
        : max_bytes_(message_limit()),
          socket_(context_, zmq::socket_type::router),
          events_(context_, zmq::socket_type::pair) {
        constexpr int queue = 2;                 // messages on each side: as many as a controller may have unanswered
        socket_.set(zmq::sockopt::linger, 100);  // ms; the last answer leaves
        socket_.set(zmq::sockopt::rcvtimeo, 200);   // ms; a signal just before waiting is seen then
        socket_.set(zmq::sockopt::sndtimeo, 1000);  // ms; so long an answer waits for a controller that does not read
        socket_.set(zmq::sockopt::maxmsgsize, std::int64_t{max_bytes_});  // longer ones end their connection
        socket_.set(zmq::sockopt::rcvhwm, queue);
        socket_.set(zmq::sockopt::sndhwm, queue);
        socket_.set(zmq::sockopt::router_mandatory, true);  // wait: a ROUTER drops at once what does not fit
        constexpr const char* monitor = "inproc://ppx_client-disconnections";
        if (zmq_socket_monitor(socket_.handle(), monitor, ZMQ_EVENT_DISCONNECTED) != 0) throw zmq::error_t();
        events_.set(zmq::sockopt::linger, 0);
        events_.connect(monitor);
        socket_.bind(address);
    }

    ~Channel() { zmq_socket_monitor(socket_.handle(), nullptr, 0); }
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;

    std::string endpoint() const { return socket_.get(zmq::sockopt::last_endpoint); }

    /// The length of the longest message that it takes.
    std::int32_t max_bytes() const { return max_bytes_; }

    /// Waits for a message: an envelope of sender and empty frame, and a body. False if told to stop.
    bool receive(Received& request) {
        while (!stop_requested()) {
            if (next(request, zmq::recv_flags::none)) return true;
            read_events();  // ZeroMQ stands still when thousands of them are not read
        }
        return false;
    }

    /// Takes a message that has come. False if there is none.
    bool look(Received& request) { return next(request, zmq::recv_flags::dontwait); }

    /// Sends an answer; a controller that has gone does not get it.
    ///
    /// @param patient Whether to wait a second where answers before it have not been read.
    /// @return False if they still have not.
    bool send(const Encoder& message, const std::string& receiver, bool patient) {
        const auto wait = patient ? zmq::send_flags::none : zmq::send_flags::dontwait;
        try {
            if (!send_frame(zmq::const_buffer(receiver.data(), receiver.size()), wait | zmq::send_flags::sndmore))
                return false;
        } catch (const zmq::error_t& error) {
            if (error.num() != EHOSTUNREACH) throw;
            return true;
        }
        send_frame(zmq::const_buffer(), zmq::send_flags::sndmore);
        send_frame(zmq::const_buffer(message.data(), message.size()), zmq::send_flags::none);
        return true;
    }

    /// The connections that were closed since the last call.
    std::vector<int> disconnected() {
        read_events();
        return std::exchange(gone_, {});
    }

  private:
    bool next(Received& request, zmq::recv_flags flags) {
        for (;;) {
            try {
                if (!socket_.recv(frame_, flags)) return false;
                request.sender.assign(static_cast<const char*>(frame_.data()), frame_.size());
                if (!next_frame()) continue;
                if (frame_.size() != 0) {  // no envelope of a REQ; a REP would be silent, too
                    while (next_frame()) continue;
                    continue;
                }
                if (!next_frame()) continue;
                request.connection = frame_.get(ZMQ_SRCFD);
                request.message.read(frame_.data(), frame_.size());
                request.refusal.clear();
                while (next_frame()) request.message.clear();
                frame_.rebuild();
                return true;
            } catch (const zmq::error_t& error) {
                if (error.num() != EINTR) throw;
                return false;
            }
        }
    }

    bool next_frame() { return frame_.more() && socket_.recv(frame_).has_value(); }

    bool send_frame(zmq::const_buffer bytes, zmq::send_flags flags) {
        for (;;) {
            try {
                return socket_.send(bytes, flags).has_value();
            } catch (const zmq::error_t& error) {
                if (error.num() != EINTR) throw;
            }
        }
    }

    void read_events() {
        zmq::message_t event;
        try {
            while (events_.recv(event, zmq::recv_flags::dontwait)) {
                std::int32_t connection = -1;
                if (event.size() >= 6) std::memcpy(&connection, static_cast<const char*>(event.data()) + 2, 4);
                gone_.push_back(connection);
                while (event.more() && events_.recv(event).has_value()) continue;
            }
        } catch (const zmq::error_t& error) {
            if (error.num() != EINTR) throw;
        }
    }

    std::int32_t max_bytes_;
    zmq::context_t context_;
    zmq::socket_t socket_, events_;
    zmq::message_t frame_;
    std::vector<int> gone_;
};

}  // namespace ppx_client::detail

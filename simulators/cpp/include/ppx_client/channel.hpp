// The socket of a simulator.
//
// A ROUTER, which to a controller's REQ is what a REP is, but knows who sent what: with a REP, a second controller
// would be given the first one's draws.
#pragma once

#include <cerrno>
#include <cstdint>
#include <string>
#include <zmq.hpp>

#include "ppx_client/decoder.hpp"
#include "ppx_client/encoder.hpp"
#include "ppx_client/signals.hpp"

namespace ppx_client::detail {

/// Receives messages from many controllers, and answers the one that sent the last of them.
class Channel {
  public:
    explicit Channel(const std::string& address) : socket_(context_, zmq::socket_type::router) {
        socket_.set(zmq::sockopt::linger, 100);                        // ms; the last answer leaves
        socket_.set(zmq::sockopt::rcvtimeo, 200);                      // ms; a signal just before waiting is seen then
        socket_.set(zmq::sockopt::maxmsgsize, std::int64_t{1} << 30);  // bytes
        socket_.bind(address);
    }

    std::string endpoint() const { return socket_.get(zmq::sockopt::last_endpoint); }

    /// The message that came last, and who sent it.
    const Decoder& received() const { return received_; }
    const std::string& sender() const { return sender_; }

    /// From now on, answers go to somebody else.
    void turn_to(const std::string& sender) { sender_ = sender; }

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

    void send(const Encoder& message) {
        send_frame(zmq::const_buffer(sender_.data(), sender_.size()), zmq::send_flags::sndmore);
        send_frame(zmq::const_buffer(), zmq::send_flags::sndmore);
        send_frame(zmq::const_buffer(message.data(), message.size()), zmq::send_flags::none);
    }

  private:
    bool next_frame() { return frame_.more() && socket_.recv(frame_).has_value(); }

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

    zmq::context_t context_;
    zmq::socket_t socket_;
    zmq::message_t frame_;
    Decoder received_;
    std::string sender_;
};

}  // namespace ppx_client::detail

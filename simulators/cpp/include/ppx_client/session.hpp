// What a simulator knows of each controller that it serves.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ppx_client/encoder.hpp"
#include "ppx_client/observations.hpp"
#include "ppx_client/pattern.hpp"
#include "ppx_client/sites.hpp"

namespace ppx_client::detail {

/// A conversation with one controller, from its Handshake on.
struct Session {
    std::string sender;
    Capabilities capabilities;
    std::size_t told = 0;                 // how many of the simulator's addresses it knows
    std::vector<const Entry*> addresses;  // what its own numbers mean
    ObservationSet observations;          // the set that it sent last
    Left left;                            // what it leaves to the prior
    std::uint64_t last_used = 0;
};

/// The sessions by sender. Senders that never say goodbye are forgotten when others come.
class Sessions {
  public:
    /// Begins the session of a sender afresh.
    Session& begin(const std::string& sender) {
        constexpr std::size_t max_sessions = 16;
        Session* session = find(sender);
        if (session == nullptr && sessions_.size() < max_sessions) session = &sessions_.emplace_back();
        if (session == nullptr)
            session = &*std::min_element(sessions_.begin(), sessions_.end(), [](const Session& a, const Session& b) {
                return a.last_used < b.last_used;
            });
        *session = Session();
        session->sender = sender;
        session->last_used = session->left.number = ++clock_;
        return *session;
    }

    /// The session of a sender, or null. Valid until the next one begins.
    Session* find(const std::string& sender) {
        for (Session& session : sessions_) {
            if (session.sender != sender) continue;
            session.last_used = ++clock_;
            return &session;
        }
        return nullptr;
    }

  private:
    std::vector<Session> sessions_;
    std::uint64_t clock_ = 0;
};

}  // namespace ppx_client::detail

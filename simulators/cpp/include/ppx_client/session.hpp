// What a simulator knows of each controller that it serves, within limits: anyone may come and go.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ppx_client/encoder.hpp"
#include "ppx_client/observations.hpp"
#include "ppx_client/sites.hpp"

namespace ppx_client::detail {

/// A conversation with one controller, from its Handshake on.
struct Session {
    std::string sender;
    int connection = -1;
    Capabilities capabilities;
    std::size_t max_bytes = 0;             // the longest message that it takes, and may be sent
    bool worked = false;                   // whether it has had anything executed
    std::size_t told = 0;                  // how many of the simulator's addresses it knows
    std::vector<const Entry*> addresses;   // what its own numbers mean; null for those that the model never mentioned
    std::map<std::size_t, std::string> unknown;  // the keys of these
    ObservationSet observations;           // the set that it sent last
    std::uint64_t serial = 0;              // of its Handshake
    std::uint64_t last_used = 0;

    /// Memory for what the controller has defined: its observations, and addresses that the model never mentioned.
    std::size_t num_bytes() const { return unknown_bytes() + observations.num_bytes(); }

    std::size_t unknown_bytes() const {
        std::size_t sum = 0;
        for (const auto& [number, key] : unknown) sum += 200 + key.size();
        return sum;
    }
};

/// The sessions by sender. Senders that never say goodbye are forgotten when others come.
class Sessions {
  public:
    /// Begins the session of a sender afresh. A greeting costs nothing: it pushes nobody out who has done more.
    Session& begin(const std::string& sender, int connection) {
        constexpr std::size_t max_sessions = 256;
        forget(sender);
        if (sessions_.size() >= max_sessions) forget_oldest(false);
        Session& session = sessions_.emplace_back();
        session.sender = sender;
        session.connection = connection;
        session.serial = session.last_used = ++clock_;
        return session;
    }

    /// The session of a sender, or null. Valid until it is forgotten.
    Session* find(const std::string& sender) {
        for (Session& session : sessions_)
            if (session.sender == sender) return &session;
        return nullptr;
    }

    /// The controller has something executed now.
    void begin_work(Session& session) {
        constexpr std::ptrdiff_t max_working = 16;
        session.worked = true;
        session.last_used = ++clock_;
        if (std::count_if(sessions_.begin(), sessions_.end(), [](const Session& s) { return s.worked; }) > max_working)
            forget_oldest(true);
    }

    /// Forgets a controller.
    void forget(const std::string& sender) {
        sessions_.remove_if([&](const Session& session) { return session.sender == sender; });
    }

    /// Forgets controllers whose connection was closed.
    void forget_connections(const std::vector<int>& gone) {
        if (gone.empty()) return;
        sessions_.remove_if([&](const Session& session) {
            return std::find(gone.begin(), gone.end(), session.connection) != gone.end();
        });
    }

    /// Forgets those heard of least recently, where all together have defined too much.
    void limit_memory() {
        constexpr std::size_t max_bytes = std::size_t{1} << 27;
        while (sessions_.size() > 1) {
            std::size_t sum = 0;
            for (const Session& session : sessions_) sum += session.num_bytes();
            if (sum <= max_bytes) return;
            forget_oldest(true);
        }
    }

  private:
    void forget_oldest(bool worked) {
        auto oldest = sessions_.end();
        for (auto session = sessions_.begin(); session != sessions_.end(); ++session)
            if (session->worked == worked && (oldest == sessions_.end() || session->last_used < oldest->last_used))
                oldest = session;
        sessions_.erase(oldest == sessions_.end() ? sessions_.begin() : oldest);
    }

    std::list<Session> sessions_;
    std::uint64_t clock_ = 0;
};

}  // namespace ppx_client::detail

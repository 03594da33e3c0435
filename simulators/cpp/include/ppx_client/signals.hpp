// Stopping on SIGTERM and SIGINT.
#pragma once

#include <csignal>

namespace ppx_client::detail {

inline volatile std::sig_atomic_t& stop_requested() {
    static volatile std::sig_atomic_t flag = 0;
    return flag;
}

extern "C" inline void ppx_client_request_stop(int) { stop_requested() = 1; }

/// While it lives, the first SIGTERM or SIGINT asks serve to return; a second one ends the process as usual.
class StopSignals {
  public:
    StopSignals() {
        stop_requested() = 0;
        struct sigaction action {};
        action.sa_handler = ppx_client_request_stop;
        sigemptyset(&action.sa_mask);
        action.sa_flags = static_cast<int>(SA_RESETHAND);  // and no SA_RESTART: waiting for a message ends
        sigaction(SIGTERM, &action, &terminate_);
        sigaction(SIGINT, &action, &interrupt_);
    }
    ~StopSignals() {
        sigaction(SIGTERM, &terminate_, nullptr);
        sigaction(SIGINT, &interrupt_, nullptr);
    }
    StopSignals(const StopSignals&) = delete;
    StopSignals& operator=(const StopSignals&) = delete;

  private:
    struct sigaction terminate_ {
    }, interrupt_{};
};

}  // namespace ppx_client::detail

// What a process that the model forks may do: all but make statements, whose answers are for the process that serves.
#pragma once

#include <pthread.h>
#include <unistd.h>

#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>

#include "ppx_client/runtime.hpp"
#include "ppx_client/strays.hpp"

namespace ppx_client::detail {

/// Refuses the statements of a forked process, and tells the process that serves.
class ForkedController final : public Controller {
  public:
    void sample(const Request& request, const Prior&, bool, double*) override { refuse(request); }
    void observe(const Request& request, const Prior&, const View*, double*) override { refuse(request); }
    void tag(const Request& request, const View&) override { refuse(request); }
    void rejection(const Request&, bool) override {}  // ends while an exception is on its way, and says nothing

  private:
    [[noreturn]] void refuse(const Request& request) {
        stray_report().add(Stray::Process, request.address);
        const std::string reason = stray_reason(Stray::Process, request.address);
        if (!std::exchange(has_said_, true)) std::fprintf(stderr, "ppx: %s\n", reason.c_str());
        throw std::logic_error(reason);
    }

    bool has_said_ = false;
};

inline ForkedController& forked_controller() {
    static ForkedController controller;
    return controller;
}

/// Called in a new process, on the thread that forked it.
inline void after_fork() noexcept {
    if (running_traces() == 0) return;
    ThreadState& thread = this_thread();
    thread.player = nullptr;
    thread.controller = &forked_controller();
}

/// From now on, processes that this one forks are told from it: no statement pays for that.
inline void watch_forks() {
    stray_report();  // made before it is to be shared
    static const int outcome = pthread_atfork(nullptr, nullptr, after_fork);
    if (outcome != 0) throw std::runtime_error("pthread_atfork: no memory");
}

/// Ends a forked process that has come back from the model: what waits here belongs to the process that serves.
inline void leave_if_forked() {
    if (this_thread().controller != &forked_controller()) return;
    std::fputs("ppx: a process that the model forked came to the end of the model; let it end by _exit()\n", stderr);
    std::fflush(stderr);
    _exit(1);
}

}  // namespace ppx_client::detail

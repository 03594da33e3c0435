// Statements that cannot be part of the running trace, which is one sequence of draws: those on other threads than the
// one that serves, and those in processes that the model forks. The trace that runs meanwhile fails, and says why.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <string_view>

namespace ppx_client::detail {

enum class Stray : std::uint32_t { None, BeingWritten, Thread, Process };

/// Why a statement is none of the trace.
inline std::string stray_reason(Stray where, std::string_view address) {
    const std::string statement = address.empty() ? "a statement" : "statement '" + std::string(address) + "'";
    if (where == Stray::Thread)
        return statement +
               " was made on a thread that does not run serve(); a trace is one sequence of draws: make all draws, "
               "observations and tags on the thread that serves (OpenMP: OMP_NUM_THREADS=1), or draw before the other "
               "threads start and hand the numbers over";
    return statement +
           " was made in a process that the model forked, where nothing is controlled or recorded; make all draws, "
           "observations and tags in the process that serves: draw before fork() and hand the numbers over";
}

/// The first stray statement since the last look, in memory that forked processes share with the one that serves.
class StrayReport {
  public:
    void add(Stray where, std::string_view address) {
        Stray none = Stray::None;
        if (!state_.compare_exchange_strong(none, Stray::BeingWritten)) return;
        length_ = static_cast<std::uint32_t>(std::min(address.size(), sizeof address_));
        std::memcpy(address_, address.data(), length_);
        state_.store(where, std::memory_order_release);
    }

    /// Takes the report; empty if there is none.
    std::string take() {
        const Stray where = state_.load(std::memory_order_acquire);
        if (where == Stray::None) return {};
        // Whoever is writing now, or died of it, can be in another process only: threads are few instructions away.
        const bool is_whole = where != Stray::BeingWritten;
        const std::string reason = is_whole ? stray_reason(where, {address_, length_}) : stray_reason(Stray::Process, {});
        state_.store(Stray::None, std::memory_order_release);
        return reason;
    }

  private:
    std::atomic<Stray> state_{Stray::None};
    std::uint32_t length_ = 0;
    char address_[1000];
};

inline StrayReport& stray_report() {
    static StrayReport& report = *[] {
        void* const page = mmap(nullptr, sizeof(StrayReport), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        return page == MAP_FAILED ? new StrayReport : new (page) StrayReport;  // without the page, threads are noticed
    }();
    return report;
}

}  // namespace ppx_client::detail

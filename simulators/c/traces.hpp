// The running trace of a model behind the C ABI: how it ends, and what happens then.
//
// No exception passes the functions of ppx.h. A statement that cannot go on, because the controller has ended the trace
// or because the model has failed, marks the trace as over, and the model coasts to its end: its draws come from the
// prior, by a generator of their own, and nobody is told. When it has returned, `run_trace` throws what the statement
// would have thrown, so that the server sees what it sees of a C++ model.
#pragma once

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <ppx_client.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ppx.h"

namespace ppx_c {

using namespace ppx_client;

/// A rejection loop that has begun.
struct OpenLoop {
    std::string name;
    CallSite site;
    detail::Player::Loop loop;
};

/// A model being served.
struct Served {
    ppx_model forward = nullptr;
    void* user = nullptr;
    std::string name;
    std::int64_t patience = 0;

    // The running trace.
    bool abandoned = false;  // rather than failed
    std::string failure;
    Tensor result;  // empty: none
    std::vector<OpenLoop> loops;
    std::jmp_buf landing;
    std::int64_t num_coasted = 0;

    detail::Uniforms coasting{0, 0};
    bool has_warned = false;
};

/// What every statement looks at; of each thread.
struct Now {
    Served* served = nullptr;
    bool is_over = false;
    bool control = true;
    std::string part = {};  // which one draws are of what the model gets; "": they are that themselves
};
inline thread_local Now now;

inline std::string& last_error() {
    static thread_local std::string text;
    return text;
}

/// Length of the character of UTF-8 that `text` begins with, 0 if it does not begin with one.
inline std::size_t length_of_character(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    if (byte(0) < 0x80) return 1;
    const std::size_t length = byte(0) < 0xC2 ? 0 : byte(0) < 0xE0 ? 2 : byte(0) < 0xF0 ? 3 : byte(0) < 0xF5 ? 4 : 0;
    if (length == 0 || length > text.size()) return 0;
    for (std::size_t i = 1; i < length; ++i)
        if ((byte(i) & 0xC0) != 0x80) return 0;
    // Longer than need be, halves of UTF-16 pairs, and beyond the last character.
    const bool is_none = (byte(0) == 0xE0 && byte(1) < 0xA0) || (byte(0) == 0xED && byte(1) > 0x9F) ||
                         (byte(0) == 0xF0 && byte(1) < 0x90) || (byte(0) == 0xF4 && byte(1) > 0x8F);
    return is_none ? 0 : length;
}

/// The text with a question mark for every byte that is not UTF-8: controllers refuse messages with others.
inline std::string as_utf8(std::string_view text) {
    std::string made;
    while (!text.empty()) {
        const std::size_t length = length_of_character(text);
        if (length == 0) {
            made += '?';
            text.remove_prefix(1);
        } else {
            made.append(text.substr(0, length));
            text.remove_prefix(length);
        }
    }
    return made;
}

/// The name, or an error if it is not UTF-8.
inline std::string_view checked(std::string_view name) {
    const bool is_ascii = std::all_of(name.begin(), name.end(), [](char c) { return static_cast<signed char>(c) >= 0; });
    if (is_ascii || as_utf8(name) == name) return name;
    throw std::invalid_argument("the name '" + as_utf8(name) + "' is not UTF-8; save the source as UTF-8");
}

/// The trace has failed; outside traces, somebody should read it.
inline void complain(std::string_view said) {
    const std::string message = as_utf8(said);
    const bool is_news = last_error() != message;
    last_error() = message;
    if (now.served != nullptr) {
        now.is_over = true;
        now.served->failure = message;
        return;
    }
    detail::this_thread().stray(message);
    if (is_news) std::fprintf(stderr, "ppx: %s\n", message.c_str());
}

inline void abandon() {
    now.is_over = true;
    now.served->abandoned = true;
}

/// Ends the trace for the exception that is being handled.
inline void end_trace() noexcept {
    try {
        throw;
    } catch (const detail::AbandonedTrace&) {
        abandon();
    } catch (const std::exception& error) {
        complain(error.what());
    } catch (...) {
        complain("something was thrown that is no std::exception");
    }
}

/// Whether the trace is over: also if the process was told to stop, which the controller of a batch need not know.
inline bool is_over() {
    if (!now.is_over && detail::stop_requested() && now.served != nullptr && detail::this_thread().player != nullptr)
        abandon();
    return now.is_over;
}

/// Whether a statement is made after the end of the trace. Counts it, and leaves a model that makes too many: callers
/// hold nothing that a jump would lose.
inline bool is_coasting() {
    if (!is_over()) return false;
    if (++now.served->num_coasted > now.served->patience) std::longjmp(now.served->landing, 1);
    return true;
}

inline std::string_view text(const char* string) { return string == nullptr ? std::string_view() : string; }

inline CallSite place(const char* name, const ppx_site* site) {
    if (!checked(text(name)).empty()) return {};
    if (site == nullptr)
        throw std::invalid_argument("a statement has no name; give it one (only C programs can do without)");
    return {text(site->file), text(site->source_root), site->line, text(site->function)};
}

/// Runs the model; returns what it returned, or 0 if it had to be left.
[[gnu::noinline]] inline int call(Served& served) {
    if (setjmp(served.landing) == 0) return served.forward(served.user);
    if (!std::exchange(served.has_warned, true))
        std::fprintf(stderr,
                     "%s: the model made more than %lld statements after the end of its trace and was left by "
                     "longjmp; what it held is lost; let it return when ppx_trace_over() is true\n",
                     served.name.c_str(), static_cast<long long>(served.patience));
    return 0;
}

inline void end_loop(const OpenLoop& open) {
    detail::ThreadState& thread = detail::this_thread();
    if (thread.player != nullptr) thread.player->end_loop(open.loop);
    if (thread.controller != nullptr)
        thread.controller->rejection({thread.path.address(open.name, open.site), open.name}, false);
}

/// Runs one trace; returns its result, empty if there is none.
inline Tensor run_trace(Served& served) {
    now = {&served, false, true, {}};
    served.abandoned = false;
    served.failure.clear();
    served.result = {};
    served.loops.clear();
    served.num_coasted = 0;
    last_error().clear();
    detail::this_thread().path.go_out();
    const int code = call(served);
    const bool is_complete = !now.is_over;
    now.is_over = false;
    if (served.abandoned) throw detail::AbandonedTrace();
    if (!served.failure.empty()) throw std::runtime_error(served.failure);
    if (is_complete && code != 0) throw std::runtime_error("the model returned " + std::to_string(code));
    for (; !served.loops.empty(); served.loops.pop_back()) end_loop(served.loops.back());
    return std::move(served.result);
}

}  // namespace ppx_c

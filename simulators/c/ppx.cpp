// The C ABI of PPX on the header-only C++ client; see ppx.h.
#include <algorithm>
#include <cstdint>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "ppx.h"
#include "statements.hpp"
#include "traces.hpp"

using namespace ppx_c;

struct ppx_settings {
    std::optional<std::string> address, fingerprint;
    std::int64_t patience = 100'000;
};

namespace {

template <class F>
int set(const ppx_settings* settings, const F& assign) noexcept {
    if (settings == nullptr) return PPX_MISUSE;
    assign();
    return PPX_OK;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// ---- Serving ----

ppx_settings* ppx_settings_new() { return new (std::nothrow) ppx_settings; }

void ppx_settings_free(ppx_settings* settings) { delete settings; }

int ppx_settings_address(ppx_settings* settings, const char* address) {
    return set(settings, [&] { settings->address = text(address); });
}

int ppx_settings_fingerprint(ppx_settings* settings, const char* fingerprint) {
    return set(settings, [&] { settings->fingerprint = text(fingerprint); });
}

int ppx_settings_patience(ppx_settings* settings, int64_t num_statements) {
    return set(settings, [&] { settings->patience = num_statements; });
}

int ppx_serve(ppx_model forward, void* user, const char* name, const ppx_settings* settings) {
    if (forward == nullptr || now.served != nullptr) {
        complain(forward == nullptr ? "ppx_serve: forward is NULL" : "ppx_serve is called by a model that it runs");
        return PPX_MISUSE;
    }
    try {
        const ppx_settings chosen = settings == nullptr ? ppx_settings() : *settings;
        Served served;
        served.forward = forward;
        served.user = user;
        served.name = name == nullptr ? "simulator" : as_utf8(name);
        served.patience = chosen.patience;
        const struct Charge {
            explicit Charge(Served& served) { now.served = &served; }
            ~Charge() { now = {}; }
        } charge(served);
        const int code = serve([&served] { return run_trace(served); }, served.name,
                               chosen.address ? *chosen.address : bind_address(),
                               chosen.fingerprint ? *chosen.fingerprint : fingerprint());
        return code == 0 ? PPX_OK : PPX_CANNOT_SERVE;
    } catch (...) {
        end_trace();
        return PPX_CANNOT_SERVE;
    }
}

int ppx_trace_over() { return is_over(); }

int ppx_fail(const char* message) {
    if (is_coasting()) return PPX_TRACE_OVER;
    complain(text(message).empty() ? "the model says nothing about why it failed" : message);
    return status();
}

const char* ppx_error_message() { return last_error().c_str(); }

void ppx_clear_error() { last_error().clear(); }

void ppx_seed(uint64_t value) { seed(value); }

const char* ppx_version() { return PPX_VERSION; }

int ppx_result(double value) { return ppx_result_array(&value, 0, nullptr); }

int ppx_result_array(const double* values, int rank, const int32_t* shape) {
    return state([&] {
        const detail::View value = view_of(values, rank, shape, "result");
        if (now.served == nullptr) return detail::this_thread().stray("result");
        now.served->result.data.assign(value.data, value.data + value.size);
        now.served->result.shape.assign(value.shape, value.shape + value.rank);
    });
}

int ppx_control(int on) { return std::exchange(now.control, on != 0); }

void ppx_part(const char* part) { now.part = text(part); }

// ---- Places ----

int ppx_scope_enter(const char* name) {
    return state([&] { detail::this_thread().path.enter(checked(text(name))); });
}

int ppx_scope_leave() {
    return state([] {
        detail::AddressPath& path = detail::this_thread().path;
        if (path.scope()->parent == nullptr)
            throw std::logic_error("ppx_scope_leave: no scope is open; each needs a ppx_scope_enter before");
        path.leave();
    });
}

int ppx_rejection_begin_at(const char* name, const ppx_site* site) {
    return state([&] {
        detail::ThreadState& thread = detail::this_thread();
        if (now.served == nullptr) return;
        OpenLoop open{std::string(text(name)), place(name, site), {}};
        if (thread.player != nullptr) open.loop = thread.player->begin_loop({open.name, open.site});
        if (thread.controller != nullptr)
            thread.controller->rejection({thread.path.address(open.name, open.site), open.name}, true);
        now.served->loops.push_back(std::move(open));
    });
}

int ppx_rejection_end() {
    return state([] {
        if (now.served == nullptr) return;
        if (now.served->loops.empty())
            throw std::logic_error("ppx_rejection_end: no loop is open; each needs a ppx_rejection_begin before");
        const OpenLoop open = std::move(now.served->loops.back());
        now.served->loops.pop_back();
        end_loop(open);
    });
}

int ppx_tag_at(double value, const char* name, const ppx_site* site) {
    return state([&] { report(detail::view(value), name, site); });
}

int ppx_tag_array_at(const double* values, int rank, const int32_t* shape, const char* name, const ppx_site* site) {
    return state([&] { report(view_of(values, rank, shape, text(name)), name, site); });
}

// ---- Draws ----

double ppx_normal_at(double mean, double stddev, const char* name, const ppx_site* site) {
    return draw(Normal{mean, stddev}, name, site);
}

double ppx_uniform_real_at(double low, double high, const char* name, const ppx_site* site) {
    return draw(Uniform{low, high}, name, site);
}

int64_t ppx_categorical_at(const double* probs, int num_categories, const char* name, const ppx_site* site) {
    return draw(categorical(probs, num_categories), name, site);
}

int64_t ppx_poisson_at(double rate, const char* name, const ppx_site* site) { return draw(Poisson{rate}, name, site); }

int64_t ppx_bernoulli_at(double probability, const char* name, const ppx_site* site) {
    return draw(Bernoulli{probability}, name, site);
}

double ppx_beta_at(double concentration1, double concentration0, const char* name, const ppx_site* site) {
    return draw(Beta{concentration1, concentration0}, name, site);
}

double ppx_exponential_at(double rate, const char* name, const ppx_site* site) {
    return draw(Exponential{rate}, name, site);
}

double ppx_gamma_at(double concentration, double rate, const char* name, const ppx_site* site) {
    return draw(Gamma{concentration, rate}, name, site);
}

double ppx_lognormal_at(double loc, double scale, const char* name, const ppx_site* site) {
    return draw(LogNormal{loc, scale}, name, site);
}

int64_t ppx_binomial_at(double total_count, double probability, const char* name, const ppx_site* site) {
    return draw(Binomial{total_count, probability}, name, site);
}

double ppx_weibull_at(double scale, double concentration, const char* name, const ppx_site* site) {
    return draw(Weibull{scale, concentration}, name, site);
}

double ppx_truncated_normal_at(double mean, double stddev, double low, double high, const char* name,
                               const ppx_site* site) {
    return draw(TruncatedNormal{mean, stddev, low, high}, name, site);
}

double ppx_draw_at(int family, int num_params, const double* params, const char* name, const ppx_site* site) {
    return with_distribution(family, num_params, params, [&](const auto& distribution) {
        return static_cast<double>(draw(distribution, name, site));
    });
}

int ppx_draw_array_at(int family, int num_params, const ppx_param* params, int rank, const int32_t* shape, double* out,
                      const char* name, const ppx_site* site) {
    const Array array{family, num_params, params, rank, shape};
    if (!is_coasting()) {
        try {
            detail::ThreadState& thread = detail::this_thread();
            const CallSite where = place(name, site);
            const detail::Label label{text(name), where, now.part};
            const std::string_view address = thread.path.address(label);
            if (out == nullptr) refuse(address, "the array to draw into is NULL");
            const detail::Prior prior = make_prior(array, true, address);
            detail::check_domains(prior, address);
            if (thread.controller != nullptr) {
                thread.controller->sample({address, label.reported_name()}, prior, now.control, out);
            } else if (thread.player != nullptr) {
                thread.player->draw(prior, label, now.control, out);
            } else {
                thread.draw(address, prior, out);
            }
            return PPX_OK;
        } catch (...) {
            end_trace();
        }
    }
    coast(array, out);
    return status();
}

// ---- Observations ----

double ppx_observe_normal_at(double mean, double stddev, const double* value, const char* name, const ppx_site* site) {
    return compare(Normal{mean, stddev}, value, name, site);
}

double ppx_observe_uniform_real_at(double low, double high, const double* value, const char* name,
                                   const ppx_site* site) {
    return compare(Uniform{low, high}, value, name, site);
}

double ppx_observe_categorical_at(const double* probs, int num_categories, const double* value, const char* name,
                                  const ppx_site* site) {
    return compare(categorical(probs, num_categories), value, name, site);
}

double ppx_observe_poisson_at(double rate, const double* value, const char* name, const ppx_site* site) {
    return compare(Poisson{rate}, value, name, site);
}

double ppx_observe_bernoulli_at(double probability, const double* value, const char* name, const ppx_site* site) {
    return compare(Bernoulli{probability}, value, name, site);
}

double ppx_observe_beta_at(double concentration1, double concentration0, const double* value, const char* name,
                           const ppx_site* site) {
    return compare(Beta{concentration1, concentration0}, value, name, site);
}

double ppx_observe_exponential_at(double rate, const double* value, const char* name, const ppx_site* site) {
    return compare(Exponential{rate}, value, name, site);
}

double ppx_observe_gamma_at(double concentration, double rate, const double* value, const char* name,
                            const ppx_site* site) {
    return compare(Gamma{concentration, rate}, value, name, site);
}

double ppx_observe_lognormal_at(double loc, double scale, const double* value, const char* name,
                                const ppx_site* site) {
    return compare(LogNormal{loc, scale}, value, name, site);
}

double ppx_observe_binomial_at(double total_count, double probability, const double* value, const char* name,
                               const ppx_site* site) {
    return compare(Binomial{total_count, probability}, value, name, site);
}

double ppx_observe_weibull_at(double scale, double concentration, const double* value, const char* name,
                              const ppx_site* site) {
    return compare(Weibull{scale, concentration}, value, name, site);
}

double ppx_observe_truncated_normal_at(double mean, double stddev, double low, double high, const double* value,
                                       const char* name, const ppx_site* site) {
    return compare(TruncatedNormal{mean, stddev, low, high}, value, name, site);
}

double ppx_observe_at(int family, int num_params, const double* params, const double* value, const char* name,
                      const ppx_site* site) {
    return with_distribution(family, num_params, params,
                             [&](const auto& distribution) { return compare(distribution, value, name, site); });
}

int ppx_observe_array_at(int family, int num_params, const ppx_param* params, int rank, const int32_t* shape,
                         const double* value, double* out, const char* name, const ppx_site* site) {
    const Array array{family, num_params, params, rank, shape};
    if (!is_coasting()) {
        try {
            static thread_local std::vector<double> unseen;
            detail::ThreadState& thread = detail::this_thread();
            const CallSite where = place(name, site);
            const std::string_view address = thread.path.address(text(name), where);
            const detail::Prior prior = make_prior(array, value == nullptr, address);
            detail::check_domains(prior, address);
            if (out == nullptr) unseen.resize(prior.size);
            double* const observed = out == nullptr ? unseen.data() : out;
            if (thread.player != nullptr) {
                thread.player->observe(prior, value, {text(name), where}, observed);
            } else {
                const detail::View given{value, prior.size, prior.shape, prior.rank};
                detail::observe(thread, {address, text(name)}, prior, value == nullptr ? nullptr : &given, observed);
            }
            return PPX_OK;
        } catch (...) {
            end_trace();
        }
    }
    if (value == nullptr) {
        coast(array, out);
    } else if (out != nullptr) {
        std::copy(value, value + size_of(rank, shape), out);
    }
    return status();
}

}  // extern "C"
#pragma GCC visibility pop

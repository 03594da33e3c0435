// What a model calls: sample, observe, tag, scope, rejection_scope, seed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ppx_client/address.hpp"
#include "ppx_client/families.hpp"
#include "ppx_client/player.hpp"
#include "ppx_client/prior.hpp"
#include "ppx_client/runtime.hpp"
#include "ppx_client/tensor.hpp"

namespace ppx_client {

namespace detail {

inline double* elements(double& number) { return &number; }
inline double* elements(Tensor& tensor) { return tensor.data.data(); }

/// Room for a value of the prior.
template <bool is_array>
auto make_value(const Prior& prior) {
    if constexpr (is_array) {
        return Tensor{std::vector<double>(prior.size), {prior.shape, prior.shape + prior.rank}};
    } else {
        return double{};
    }
}

/// Counts are integers for the model.
template <class D, class T>
auto to_model(T value, ThreadState& thread, const Label& label) {
    if constexpr (!D::is_array && info(D::family).discrete) {
        // Beyond 2^53 doubles are no longer all whole numbers.
        if (!(std::abs(value) <= 0x1p53) || value != std::floor(value))
            throw std::out_of_range(
                std::string("draw '").append(thread.path.address(label)) + "': " +
                info(D::family).name + ": " + number_text(value) +
                " is no whole number up to 2^53; check who chose it");
        return static_cast<std::int64_t>(value);
    } else {
        return value;
    }
}

/// The value in the model's code must fit the distribution, or be an array of measurements that all have it.
inline void fit_value(Prior& prior, const View& value, std::string_view address) {
    check_shape(value, std::string("observation '").append(address) + "': the value");
    if (prior.rank == 0 && value.rank > 0) {
        prior.shape = value.shape;
        prior.rank = value.rank;
        prior.size = value.size;
    } else if (value.size != prior.size) {
        refuse_prior(prior, address,
                     "the observed value has shape " + to_text(value.shape, value.rank) +
                         ", but the distribution has " + to_text(prior.shape, prior.rank) + "; make both agree");
    }
}

template <class D>
auto sample(const D& distribution, const Label& label, bool control) {
    ThreadState& thread = this_thread();
    control = control && thread.num_uncontrolled == 0;
    if constexpr (!D::is_array) {
        if (thread.player != nullptr)
            return to_model<D>(thread.player->draw(distribution, label, control), thread, label);
    }
    const std::string_view address = thread.path.address(label);
    const Prior prior = make_prior(distribution, address);
    auto value = make_value<D::is_array>(prior);
    double* const out = elements(value);
    if (thread.controller != nullptr) {
        thread.controller->sample({address, label.reported_name()}, prior, control, out);
    } else if (thread.player != nullptr) {
        thread.player->draw(prior, label, control, out);
    } else {
        thread.draw(address, prior, out);
    }
    return to_model<D>(std::move(value), thread, label);
}

/// An observation that is not played: a controller's, or without one a draw.
inline void observe(ThreadState& thread, const Request& request, const Prior& prior, const View* value, double* out) {
    if (thread.controller != nullptr) {
        thread.controller->observe(request, prior, value, out);
    } else if (value != nullptr) {
        thread.stray(request.address);
        std::copy(value->data, value->data + value->size, out);
    } else {
        thread.draw(request.address, prior, out);
    }
}

template <bool is_array, class D>
auto observe(const D& distribution, const View* value, const Label& label) {
    ThreadState& thread = this_thread();
    if constexpr (!is_array) {
        if (thread.player != nullptr)
            return thread.player->observe(distribution, value == nullptr ? nullptr : value->data, label);
    }
    const std::string_view address = thread.path.address(label.name, label.call_site);
    Prior prior = make_prior(distribution, address);
    if (value != nullptr) fit_value(prior, *value, address);
    auto result = make_value<is_array>(prior);
    double* const out = elements(result);
    if constexpr (is_array) {
        if (thread.player != nullptr) {
            thread.player->observe(prior, value == nullptr ? nullptr : value->data, label, out);
            return result;
        }
    }
    observe(thread, {address, label.name}, prior, value, out);
    return result;
}

}  // namespace detail

/// Makes a random choice.
///
/// Under a controller, the controller chooses; without one the value is drawn from the distribution.
///
/// @param distribution One of the families of families.hpp.
/// @param name         Name of the draw; without one its address is the call site.
/// @param control      Whether inference may choose the value; if not, it is always drawn from the prior.
/// @return The value: std::int64_t for Categorical, Poisson, Bernoulli and Binomial, double for the others,
/// and a Tensor
///         if parameters are arrays.
/// @throws std::invalid_argument A parameter is outside its domain, or the parameters' shapes differ.
template <class D>
auto sample(const D& distribution, std::string_view name = {}, bool control = true,
            CallSite site = CallSite::current()) {
    return detail::sample(distribution, {name, site}, control);
}

/// Compares the simulation with data: the value that was observed is distributed like this, given the draws
/// so far.
///
/// @return The observed value, a double or a Tensor: what the controller observes, or in prior runs a draw. A
/// controller
///         that speaks PPX 1.0 only does not tell it: then NaN. Without a controller, a draw.
/// @throws std::invalid_argument A parameter is outside its domain, or the parameters' shapes differ.
template <class D>
auto observe(const D& distribution, std::string_view name = {}, CallSite site = CallSite::current()) {
    return detail::observe<D::is_array>(distribution, nullptr, {name, site});
}

/// The same with the observed value in the simulator's code, which a controller may override.
///
/// @param value A number, a std::vector<double> or a Tensor, with as many elements as the distribution, or
///              an array of independent measurements of the same distribution.
/// @return The observed value: the controller's if it tells one, else `value`.
template <class D, class V, std::enable_if_t<detail::is_value<V>, int> = 0>
auto observe(const D& distribution, const V& value, std::string_view name = {}, CallSite site = CallSite::current()) {
    const auto given = detail::convert<detail::Common<V>>(value);
    const detail::View view = detail::view(given);
    constexpr bool is_array = D::is_array || !std::is_arithmetic_v<V>;
    return detail::observe<is_array>(distribution, &view, {name, site});
}

/// Reports a value that is no random choice, to be found in the results under its name. Without a controller,
/// nothing.
///
/// @param value A number, a std::vector<double> or a Tensor.
template <class V, std::enable_if_t<detail::is_value<V>, int> = 0>
void tag(const V& value, std::string_view name, CallSite site = CallSite::current()) {
    detail::ThreadState& thread = detail::this_thread();
    if (thread.controller == nullptr && thread.player == nullptr) return thread.stray(name);
    const auto given = detail::convert<detail::Common<V>>(value);
    const detail::View view = detail::view(given);
    if constexpr (!std::is_arithmetic_v<V>)
        detail::check_shape(view, std::string("tag '").append(thread.path.address(name, site)) + "'");
    if (thread.player != nullptr) {
        thread.player->tag(view, {name, site});
    } else {
        thread.controller->tag({thread.path.address(name, site), name}, view);
    }
}

/// While it lives, addresses of draws on this thread begin with its name and a slash. Tells apart the draws
/// of a function that is called from several places: `ppx_client::scope s("detector");`
class [[nodiscard]] scope {
  public:
    explicit scope(std::string_view name) { detail::this_thread().path.enter(name); }
    ~scope() { detail::this_thread().path.leave(); }
    scope(const scope&) = delete;
    scope& operator=(const scope&) = delete;
};

/// While it lives, all draws on this thread are left to the prior, whatever makes them, as if each said so. For noise that
/// nobody asks for: it costs inference next to nothing. `ppx_client::uncontrolled noise;`
class [[nodiscard]] uncontrolled {
  public:
    uncontrolled() { ++detail::this_thread().num_uncontrolled; }
    ~uncontrolled() { --detail::this_thread().num_uncontrolled; }
    uncontrolled(const uncontrolled&) = delete;
    uncontrolled& operator=(const uncontrolled&) = delete;
};

/// While it lives, draws belong to a rejection loop, which inference can then treat as one: put it before a loop that
/// draws until something is accepted. Addresses do not change. `ppx_client::rejection_scope r("mass");`
class [[nodiscard]] rejection_scope {
  public:
    /// @param name Name of the loop; without one its address is the call site.
    explicit rejection_scope(std::string_view name = {}, CallSite site = CallSite::current())
        : name_(name), site_(site), exceptions_(std::uncaught_exceptions()) {
        detail::ThreadState& thread = detail::this_thread();
        if (thread.player != nullptr) loop_ = thread.player->begin_loop({name_, site_});
        if (thread.controller != nullptr) report(thread, true);
    }
    /// May throw, as statements do: a controller can abandon the trace here.
    ~rejection_scope() noexcept(false) {
        detail::ThreadState& thread = detail::this_thread();
        if (thread.player != nullptr) thread.player->end_loop(loop_);
        if (thread.controller == nullptr) return;
        try {
            report(thread, false);
        } catch (const detail::AbandonedTrace&) {
            // Another exception is on its way: if the model catches that, it meets this one at its next statement.
            if (std::uncaught_exceptions() == exceptions_) throw;
        }
    }
    rejection_scope(const rejection_scope&) = delete;
    rejection_scope& operator=(const rejection_scope&) = delete;

  private:
    void report(detail::ThreadState& thread, bool begin) const {
        thread.controller->rejection({thread.path.address(name_, site_), name_}, begin);
    }

    std::string name_;
    CallSite site_;
    int exceptions_;
    detail::Player::Loop loop_;
};

/// Seeds the draws that this thread makes without a controller; otherwise the environment variable PPX_SEED
/// does.
inline void seed(std::uint64_t value) { detail::this_thread().seed(value); }

}  // namespace ppx_client

// Executing a RunBatch: reading it, and playing its scripts one after the other.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ppx_client/forks.hpp"
#include "ppx_client/player.hpp"
#include "ppx_client/session.hpp"
#include "ppx_client/signals.hpp"
#include "ppx_client/tensor.hpp"
#include "ppx_generated.h"

namespace ppx_client::detail {

/// What a model returned: nothing, a number or an array.
class Returned {
  public:
    void clear() { is_set_ = false; }

    template <class T>
    void set(T value) {
        static_assert(is_value<T>, "a model returns nothing, a number, a std::vector<double> or a ppx_client::Tensor");
        is_array_ = !std::is_arithmetic_v<T>;
        if constexpr (std::is_arithmetic_v<T>) {
            number_ = static_cast<double>(value);
        } else {
            array_ = convert<Tensor>(std::move(value));
        }
        is_set_ = !is_array_ || array_.size() > 0;  // an empty array is nothing
        if (is_array_ && is_set_) check_shape(view(), "the model's result");
    }

    bool is_set() const { return is_set_; }
    View view() const { return is_array_ ? detail::view(array_) : detail::view(number_); }

  private:
    bool is_set_ = false, is_array_ = false;
    double number_ = 0.0;
    Tensor array_;
};

/// Executes the model once.
using Model = std::function<void(Returned&)>;

/// Calls the model; returns why it failed, or nothing. A trace that is abandoned has not failed.
inline std::string call_model(const Model& model, Returned& returned) {
    returned.clear();
    try {
        model(returned);
        return {};
    } catch (const AbandonedTrace&) {
        return {};
    } catch (const std::exception& error) {
        const std::string reason = error.what();
        return reason.empty() ? "the model threw an exception that says nothing" : reason;
    } catch (...) {
        return "the model threw something that is no std::exception";
    }
}

/// Runs the model; returns why its trace failed, or nothing.
inline std::string run_model(const Model& model, Returned& returned) {
    const std::string failure = call_model(model, returned);
    leave_if_forked();
    // What the model made of numbers that are none of the trace is of no interest.
    const std::string reason = stray_report().take();
    return reason.empty() ? failure : reason;
}

/// Takes what a controller's numbers mean; says what is wrong with it, or nothing.
inline std::string read_addresses(const ppx::RunBatch& batch, Sites& sites, Session& session) {
    if (batch.addresses() == nullptr) return {};
    const auto first = static_cast<std::size_t>(batch.first_address());
    if (batch.first_address() < 0 || first > session.addresses.size())
        return "it defines addresses from number " + std::to_string(batch.first_address()) + " on, where " +
               std::to_string(session.addresses.size()) + " are defined";
    session.addresses.resize(first);
    for (const ppx::Address* row : *batch.addresses()) {
        const auto text = [](const flatbuffers::String* string) {
            return string == nullptr ? std::string_view() : string->string_view();
        };
        const auto* const shape = row->shape();
        session.addresses.push_back(&sites.entry(text(row->address()), text(row->name()), row->family(),
                                                 shape == nullptr ? nullptr : shape->data(),
                                                 shape == nullptr ? 0 : shape->size()));
    }
    return {};
}

/// Takes the observations to condition on; says what is wrong with them, or nothing.
inline std::string read_observations(const ppx::RunBatch& batch, Session& session) {
    const std::uint64_t number = batch.observations_id();
    if (number == 0) return {};
    if (batch.observations() != nullptr) return session.observations.read(number, *batch.observations());
    if (session.observations.number() == number) return {};
    return "it conditions on the set of observations " + std::to_string(number) + ", which was not sent";
}

/// Plays all scripts of a batch into the player's columns; returns why it cannot, or nothing.
inline std::string play(const ppx::RunBatch& batch, Session& session, const Model& model, Player& player) {
    std::string defect = read_addresses(batch, player.sites(), session);
    if (defect.empty()) defect = read_observations(batch, session);
    if (defect.empty()) defect = player.scripts().read(batch, session.addresses);
    if (!defect.empty()) return "the RunBatch cannot be executed: " + defect + "; correct the controller";

    const auto start = std::chrono::steady_clock::now();
    const std::size_t num_traces = batch.index() == nullptr ? 0 : batch.index()->size();
    constexpr std::size_t max_bytes = std::size_t{1} << 30;
    const Charge charge(nullptr, &player);
    Returned returned;
    player.begin_batch(batch.seed(), batch.observations_id() == 0 ? nullptr : &session.observations,
                       session.capabilities.missing, session.left);
    for (std::size_t k = 0; k < num_traces && !stop_requested(); ++k) {
        player.begin_trace(k, batch.index()->Get(static_cast<flatbuffers::uoffset_t>(k)));
        const std::string failure = run_model(model, returned);
        if (!player.has_ended()) {
            if (!failure.empty()) player.fail(ppx::FailureKind_Model, failure);
            if (failure.empty() && returned.is_set()) player.add_result(returned.view());
        }
        player.end_trace();
        if (player.columns().bytes() > max_bytes)
            return "the first " + std::to_string(k + 1) + " of " + std::to_string(num_traces) +
                   " traces fill a message of 1 GiB; send fewer scripts in a batch";
    }
    player.columns().seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return {};
}

}  // namespace ppx_client::detail

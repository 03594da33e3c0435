// Executing a RunBatch: reading it, and playing its scripts one after the other.
#pragma once

#include <algorithm>
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

/// Runs the model; returns why it failed, or nothing. A trace that is abandoned has not failed.
inline std::string run_model(const Model& model, Returned& returned) {
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

/// Takes what a controller's numbers mean; says what is wrong with it, or nothing.
inline std::string read_addresses(const ppx::RunBatch& batch, const Sites& sites, Session& session) {
    constexpr std::size_t max_bytes = std::size_t{1} << 25;  // for those that the model never mentioned
    if (batch.addresses() == nullptr) return {};
    const auto first = static_cast<std::size_t>(batch.first_address());
    if (batch.first_address() < 0 || first > session.addresses.size())
        return "it defines addresses from number " + std::to_string(batch.first_address()) + " on, where " +
               std::to_string(session.addresses.size()) + " are defined";
    session.addresses.resize(first);
    session.unknown.erase(session.unknown.lower_bound(first), session.unknown.end());
    std::size_t num_bytes = session.unknown_bytes();
    for (const ppx::Address* row : *batch.addresses()) {
        const auto text = [](const flatbuffers::String* string) {
            return string == nullptr ? std::string_view() : string->string_view();
        };
        const auto* const shape = row->shape();
        std::string key = Sites::key_of(text(row->address()), text(row->name()), row->family(),
                                        shape == nullptr ? nullptr : shape->data(), shape == nullptr ? 0 : shape->size());
        const Entry* const entry = sites.find_entry(key);
        if (entry == nullptr) {
            num_bytes += 200 + key.size();
            session.unknown.emplace(session.addresses.size(), std::move(key));
        }
        session.addresses.push_back(entry);
        if (num_bytes > max_bytes) {
            session.addresses.clear();
            session.unknown.clear();
            return "it defines addresses that the model has never mentioned, which take more than " +
                   std::to_string(max_bytes) + " bytes; all of the controller's are forgotten: define those in use";
        }
    }
    return {};
}

/// While it lives, addresses that a batch forces and the model has not mentioned stand for something.
class ExpectedAddresses {
  public:
    ExpectedAddresses(const ppx::RunBatch& batch, Sites& sites, Session& session) : sites_(sites) {
        if (batch.address() == nullptr || session.unknown.empty()) return;
        for (const std::int32_t number : *batch.address()) {
            const auto position = static_cast<std::size_t>(number);
            if (number < 0 || position >= session.addresses.size() || session.addresses[position] != nullptr) continue;
            session.addresses[position] = sites.expect_entry(session.unknown.at(position));
            used_.push_back(position);
        }
    }

    /// What the model has come to is known from now on, the rest is not.
    void settle(Session& session) const {
        for (const std::size_t position : used_) {
            const auto unknown = session.unknown.find(position);
            session.addresses[position] = sites_.find_entry(unknown->second);
            if (session.addresses[position] != nullptr) session.unknown.erase(unknown);
        }
    }

    ~ExpectedAddresses() { sites_.forget_expected(); }
    ExpectedAddresses(const ExpectedAddresses&) = delete;
    ExpectedAddresses& operator=(const ExpectedAddresses&) = delete;

  private:
    Sites& sites_;
    std::vector<std::size_t> used_;
};

/// Takes the observations to condition on; says what is wrong with them, or nothing.
inline std::string read_observations(const ppx::RunBatch& batch, Session& session) {
    const std::uint64_t number = batch.observations_id();
    if (number == 0) return {};
    if (batch.observations() != nullptr) return session.observations.read(number, *batch.observations());
    if (session.observations.number() == number) return {};
    return "it conditions on the set of observations " + std::to_string(number) + ", which was not sent";
}

/// Says when it is time to look at something else, at the cost of a count.
class Pace {
  public:
    bool is_due() {
        if (++count_ < every_) return false;
        count_ = 0;
        const auto now = std::chrono::steady_clock::now();
        const auto passed = now - last_;
        if (passed < seconds / 2) every_ = std::min(2 * every_, 256);
        if (passed > 2 * seconds) every_ = std::max(every_ / 2, 1);
        if (passed < seconds) return false;
        last_ = now;
        return true;
    }

  private:
    static constexpr std::chrono::milliseconds seconds{20};

    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
    int count_ = 0, every_ = 1;
};

/// Traces of a batch, at most.
constexpr std::int32_t max_traces = 1 << 16;

/// The result of a batch of one trace that does not fit into a message: there is nothing smaller to ask for.
inline void fail_for_size(const ppx::RunBatch& batch, const Session& session, Player& player) {
    player.begin_batch(batch.seed(), nullptr);
    player.begin_trace(0, batch.index()->Get(0));
    player.fail(ppx::FailureKind_Model,
                "the trace does not fit into a message of " + std::to_string(session.max_bytes) +
                    " bytes; set PPX_MAX_MESSAGE to more, for the simulator and for the controller");
    player.end_trace();
}

/// Plays all scripts of a batch into the player's columns; returns why it cannot, or nothing.
///
/// @param attend Called now and then between traces; returns false if nobody waits for the batch any more. Then the
///               session may not be there any more, and true is written to `abandoned`.
template <class Attend>
std::string play(const ppx::RunBatch& batch, Session& session, const Model& model, Player& player,
                 const Attend& attend, bool& abandoned) {
    const std::size_t num_traces = batch.index() == nullptr ? 0 : batch.index()->size();
    const auto refused = [](const std::string& defect) { return "the RunBatch cannot be executed: " + defect; };
    if (num_traces > static_cast<std::size_t>(max_traces))
        return refused("it has " + std::to_string(num_traces) + " traces, and a batch may have " +
                       std::to_string(max_traces) + "; send smaller batches");
    std::string defect = read_addresses(batch, player.sites(), session);
    const ExpectedAddresses expected(batch, player.sites(), session);
    if (defect.empty()) defect = read_observations(batch, session);
    if (defect.empty()) defect = player.scripts().read(batch, session.addresses);
    if (!defect.empty()) {
        expected.settle(session);
        return refused(defect + "; correct the controller");
    }

    const auto start = std::chrono::steady_clock::now();
    const Charge charge(nullptr, &player);
    Returned returned;
    Pace pace;
    player.begin_batch(batch.seed(), batch.observations_id() == 0 ? nullptr : &session.observations);
    for (std::size_t k = 0; k < num_traces && !stop_requested(); ++k) {
        if (pace.is_due() && !attend()) {
            abandoned = true;
            return {};
        }
        player.begin_trace(k, batch.index()->Get(static_cast<flatbuffers::uoffset_t>(k)));
        const std::string failure = run_model(model, returned);
        if (!player.has_ended()) {
            if (!failure.empty()) player.fail(ppx::FailureKind_Model, failure);
            if (failure.empty() && returned.is_set()) player.add_result(returned.view());
        }
        player.end_trace();
        if (player.columns().bytes() <= session.max_bytes) continue;
        if (num_traces == 1) {
            fail_for_size(batch, session, player);
            break;
        }
        expected.settle(session);
        return refused("the first " + std::to_string(k + 1) + " of " + std::to_string(num_traces) +
                       " traces fill a message of " + std::to_string(session.max_bytes) +
                       " bytes; send fewer scripts in a batch");
    }
    expected.settle(session);
    player.columns().seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return {};
}

}  // namespace ppx_client::detail

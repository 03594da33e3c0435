// Plays scripts: answers the statements of a model during a RunBatch, without a word to the controller, and records
// what happens in columns.
//
// Statements of single numbers are templates on the family: address, random number, quantile, density and columns
// together take some tens of nanoseconds. Arrays go through `Prior`.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>

#include "ppx_client/arrays.hpp"
#include "ppx_client/columns.hpp"
#include "ppx_client/densities.hpp"
#include "ppx_client/observations.hpp"
#include "ppx_client/pattern.hpp"
#include "ppx_client/philox.hpp"
#include "ppx_client/prior.hpp"
#include "ppx_client/quantiles.hpp"
#include "ppx_client/runtime.hpp"
#include "ppx_client/script.hpp"
#include "ppx_client/sites.hpp"

namespace ppx_client::detail {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

enum class TraceStatus : std::uint8_t { Complete, Failed, Pending };

/// The parameters of a distribution of a single number.
template <class D>
Params scalar_params(const D& distribution) {
    if constexpr (D::family == Family::Categorical) {
        return {distribution.params[0].data.data(), distribution.params[0].data.size()};
    } else {
        return {distribution.params.data(), D::num_params};
    }
}

/// Whether the value of a coordinate is made of the coordinate itself, rather than of its tails.
template <Family F>
constexpr bool uses_z = F == Family::Normal || F == Family::LogNormal;

/// The running trace of a batch, and the columns of those before it.
class Player {
  public:
    /// @param path The scopes of the thread that will run the model.
    explicit Player(AddressPath& path) : path_(path) {}

    Scripts& scripts() { return scripts_; }
    Sites& sites() { return sites_; }
    BatchColumns& columns() { return columns_; }

    /// @param observations  The set to condition on, or null to draw every observation.
    /// @param draws_missing Whether an observation is drawn for which the set has no fitting value; else the trace fails.
    /// @param left          What the controller leaves to the prior.
    void begin_batch(std::uint64_t seed, const ObservationSet* observations, bool draws_missing, const Left& left) {
        columns_.clear();
        left_ = &left;
        ++batch_;
        seed_ = seed;
        observations_ = observations;
        draws_missing_ = draws_missing;
    }

    void begin_trace(std::size_t slot, std::uint64_t index) {
        ++trace_;
        status_ = TraceStatus::Complete;
        scripts_.begin(slot);
        uniforms_ = Uniforms(seed_, index);
        index_ = index;
        num_draws_ = num_observed_ = 0;
        first_row_ = columns_.draws.size;
        first_loop_ = columns_.loops.address.size();
    }

    /// Records what the model returned, if anything.
    void add_result(const View& result) {
        if (result_entry_ == nullptr || !result_entry_->has_shape(result.shape, result.rank))
            result_entry_ = &sites_.entry("", "", 0, result.shape, result.rank);
        columns_.results.add(sites_.number(*result_entry_), 0, result);
    }

    /// Whether the trace has ended already, although the model may still run.
    bool has_ended() const { return status_ != TraceStatus::Complete; }

    void fail(ppx::FailureKind kind, std::string message) {
        status_ = TraceStatus::Failed;
        columns_.failures.push_back({narrow(columns_.status.size()), kind, std::move(message)});
    }

    void end_trace() {
        columns_.status.push_back(static_cast<std::uint8_t>(status_));
        columns_.offsets.push_back(narrow(columns_.draws.size));
        columns_.observations.end_trace();
        columns_.tags.end_trace();
        columns_.results.end_trace();
        LoopRows& loops = columns_.loops;
        for (std::size_t row = first_loop_; row < loops.end.size(); ++row)
            if (loops.end[row] < 0) loops.end[row] = num_rows();
        loops.offsets.push_back(narrow(loops.address.size()));
    }

    template <class D>
    double draw(const D& distribution, const Label& label, bool control) {
        constexpr Family F = D::family;
        check_running();
        Site& site = sites_.find(Statement::Draw, F, false, path_, label);
        const std::int32_t instance = site.visits->next(trace_);
        control = control && !is_left(site);
        const Choices choices = scripts_.find(*site.entry, instance, 1, control);
        if (!control && left_->omits && choices.size == 0) return leave(site, distribution, label);
        const Params params = check_params(site, distribution, label);
        columns_.draws.reserve(1);
        const std::uint8_t flags = control ? Controlled : 0;
        begin_row(site, instance, params, flags);
        if (choices.ends) pend();
        double value, z;
        if (choices.size == 0) {
            const Tails tails = tails_of_uniform(uniforms_.at(num_draws_));
            z = normal_quantile(tails);
            value = value_of<F>(params.data, params.size, tails, z);
        } else {
            z = *choices.z;
            value = *choices.value;
            if (std::isnan(value)) {
                value = from_z<F>(params.data, params.size, z);
            } else {
                z = not_a_number;
            }
            check_choice(site, instance, F, value, params.size);
            columns_.draws.flags[columns_.draws.size] |= Forced;
        }
        const double log_prob = log_density<F>(value, params.data, params.size, site.params.normaliser);
        end_row(value, z, log_prob);
        return value;
    }

    /// Draws an array; writes its elements to `out`.
    void draw(const Prior& prior, const Label& label, bool control, double* out) {
        check_running();
        Site& site = sites_.find(Statement::Draw, prior.family, true, path_, label);
        sites_.set_shape(site, prior.shape, prior.rank);
        const std::int32_t instance = site.visits->next(trace_);
        control = control && !is_left(site);
        const Choices choices = scripts_.find(*site.entry, instance, prior.size, control);
        const bool leaves_out = !control && left_->omits;
        columns_.draws.reserve(leaves_out ? choices.size : prior.size);
        for (std::size_t i = 0; i < choices.size; ++i) {
            const double value = choices.value[i], z = choices.z[i];
            const bool by_z = std::isnan(value);
            out[i] = draw_element(prior, i, site, instance, control, [&](const Params& params) {
                return by_z ? prior.functions->value_of(params.data, params.size, tails_of_z(z), z) : value;
            }, by_z ? z : not_a_number, Forced);
        }
        if (choices.ends) pend(prior, choices.size, site, instance, control);
        if (leaves_out && choices.size < prior.size) {
            const std::size_t first = choices.size, count = prior.size - first;
            for (std::size_t i = 0; i < count; ++i) out[first + i] = prior.draw(first + i, uniforms_.at(num_draws_ + i));
            return note_left_out(site, count);
        }
        for (std::size_t i = choices.size; i < prior.size; ++i) {
            const Tails tails = tails_of_uniform(uniforms_.at(num_draws_));
            const double z = normal_quantile(tails);
            out[i] = draw_element(prior, i, site, instance, control, [&](const Params& params) {
                return prior.functions->value_of(params.data, params.size, tails, z);
            }, z, 0);
        }
    }

    /// @param coded The value in the model's code, or null.
    template <class D>
    double observe(const D& distribution, const double* coded, const Label& label) {
        constexpr Family F = D::family;
        check_running();
        Site& site = sites_.find(Statement::Observation, F, false, path_, label);
        const ObservedVisit visit = next_visit(site);
        const Params params = check_params(site, distribution, label);
        const double* const value = observations_ == nullptr ? nullptr : given(site, visit, coded).value;
        if (value != nullptr) {
            add_observation(site, visit, log_density<F>(*value, params.data, params.size, site.params.normaliser));
            return *value;
        }
        const Tails tails = tails_of_uniform(observation_uniforms().at(num_observed_++));
        const double drawn = value_of<F>(params.data, params.size, tails, normal_quantile(tails));
        columns_.observations.data.push_back(drawn);
        const bool counts = observations_ == nullptr;
        add_observation(site, visit,
                        counts ? log_density<F>(drawn, params.data, params.size, site.params.normaliser) : 0.0);
        return drawn;
    }

    /// Observes an array; writes its elements to `out`.
    void observe(const Prior& prior, const double* coded, const Label& label, double* out) {
        check_running();
        Site& site = sites_.find(Statement::Observation, prior.family, true, path_, label);
        sites_.set_shape(site, prior.shape, prior.rank);
        const ObservedVisit visit = next_visit(site);
        const Measured found = observations_ == nullptr ? Measured() : given(site, visit, coded);
        if (found.value != nullptr && found.missing == nullptr) {
            std::copy(found.value, found.value + prior.size, out);
            return add_observation(site, visit, array_log_density(prior, out));
        }
        draw_array(prior, observation_uniforms(), num_observed_, out);
        num_observed_ += prior.size;
        if (found.value != nullptr)
            for (std::size_t i = 0; i < prior.size; ++i)
                if (!found.missing[i]) out[i] = found.value[i];
        std::vector<double>& data = columns_.observations.data;
        data.insert(data.end(), out, out + prior.size);
        const bool counts = observations_ == nullptr || found.value != nullptr;
        add_observation(site, visit, counts ? array_log_density(prior, out, found.missing) : 0.0);
    }

    void tag(const View& value, const Label& label) {
        check_running();
        Site& site = sites_.find(Statement::Tag, no_family, value.rank > 0, path_, label);
        sites_.set_shape(site, value.shape, value.rank);
        columns_.tags.add(sites_.number(*site.entry), site.visits->next(trace_), value);
    }

    /// A loop of the running trace.
    struct Loop {
        std::uint64_t trace = 0;
        std::size_t row = 0;
    };

    Loop begin_loop(const Label& label) {
        check_running();
        Site& site = sites_.find(Statement::Loop, no_family, false, path_, label);
        LoopRows& loops = columns_.loops;
        loops.address.push_back(sites_.number(*site.entry));
        loops.begin.push_back(num_rows());
        loops.end.push_back(-1);
        return {trace_, loops.address.size() - 1};
    }

    void end_loop(const Loop& loop) {
        if (loop.trace == trace_) columns_.loops.end[loop.row] = num_rows();
    }

  private:
    static constexpr Family no_family{};

    /// Numbers of a visit to an observation.
    struct ObservedVisit {
        std::int32_t by_name, by_address;
    };

    void check_running() const {
        if (has_ended()) throw AbandonedTrace();
    }

    /// Number of scalar draws of the trace that have rows.
    std::int32_t num_rows() const { return narrow(columns_.draws.size - first_row_); }

    /// Whether the controller leaves a draw to the prior; found out once for each.
    bool is_left(Site& site) const {
        if (site.left != left_->number) {
            site.left = left_->number;
            site.is_left = left_->matches(site.entry->address, site.entry->name);
        }
        return site.is_left;
    }

    /// A draw from the prior that leaves nothing behind but that its random number is used.
    template <class D>
    double leave(Site& site, const D& distribution, const Label& label) {
        constexpr Family F = D::family;
        const Params params = scalar_params(distribution);
        if (!accepts<F>(params.data, params.size))
            make_prior(distribution, path_.address(label.name, label.call_site));
        note_left_out(site, 1);
        const Tails tails = tails_of_uniform(uniforms_.at(num_draws_ - 1));
        return value_of<F>(params.data, params.size, tails, uses_z<F> ? normal_quantile(tails) : 0.0);
    }

    void note_left_out(Site& site, std::size_t size) {
        sites_.number(*site.entry);  // the controller learns what its patterns match
        columns_.has_left_out = true;
        num_draws_ += size;
    }

    [[noreturn]] void abandon(ppx::FailureKind kind, std::string message) {
        fail(kind, std::move(message));
        throw AbandonedTrace();
    }

    /// Checks parameters that are not those of the last visit.
    template <class D>
    Params check_params(Site& site, const D& distribution, const Label& label) {
        const Params params = scalar_params(distribution);
        if (site.params.equal(params.data, params.size)) return params;
        if (!accepts<D::family>(params.data, params.size))
            make_prior(distribution, path_.address(label));
        // That of a Normal depends on stddev alone, while the mean of a measurement is another one in each trace.
        const bool is_normalised = D::family == Family::Normal && site.params.holds(1, params.data[1]);
        site.params.set(params.data, params.size);
        if (!is_normalised) site.params.normaliser = normaliser<D::family>(params.data, params.size);
        return params;
    }

    /// Writes what is known of a row before its value is.
    void begin_row(Site& site, std::int32_t instance, const Params& params, std::uint8_t flags) {
        DrawColumns& draws = columns_.draws;
        if (site.params.batch != batch_) {
            site.params.batch = batch_;
            site.params.number = draws.add_params(params.data, params.size);
        }
        const std::size_t row = draws.size;
        draws.address[row] = sites_.number(*site.entry);
        draws.instance[row] = instance;
        draws.params[row] = site.params.number;
        draws.flags[row] = flags;
    }

    void end_row(double value, double z, double log_prob) {
        DrawColumns& draws = columns_.draws;
        const std::size_t row = draws.size;
        if (!(log_prob < infinity)) refuse_density(draws.address[row], log_prob);
        draws.value[row] = value;
        draws.z[row] = z;
        draws.log_prob[row] = log_prob;
        draws.ordinal[row] = num_draws_++;
        draws.size = row + 1;
    }

    template <class Choose>
    double draw_element(const Prior& prior, std::size_t i, Site& site, std::int32_t instance, bool control,
                        const Choose& choose, double z, std::uint8_t forced) {
        std::array<double, 4> memory;
        const Params params = prior.element(i, memory);
        know_params(prior, params, site);
        begin_row(site, instance, params, (control ? Controlled : 0) | forced);
        const double value = choose(params);
        if (forced) check_choice(site, instance, prior.family, value, params.size);
        end_row(value, z, prior.functions->log_density(value, params.data, params.size, site.params.normaliser));
        return value;
    }

    static void know_params(const Prior& prior, const Params& params, Site& site) {
        if (site.params.equal(params.data, params.size)) return;
        site.params.set(params.data, params.size);
        site.params.normaliser = prior.functions->normaliser(params.data, params.size);
    }

    /// Ends the trace at the draw whose row has begun.
    [[noreturn]] void pend() {
        columns_.draws.flags[columns_.draws.size] |= Pending;
        end_row(not_a_number, not_a_number, -infinity);
        columns_.draws.log_prob[columns_.draws.size - 1] = not_a_number;
        status_ = TraceStatus::Pending;
        throw AbandonedTrace();
    }

    /// Ends the trace at an array of which the elements before `first` were chosen.
    [[noreturn]] void pend(const Prior& prior, std::size_t first, Site& site, std::int32_t instance, bool control) {
        for (std::size_t i = first;; ++i) {
            std::array<double, 4> memory;
            const Params params = prior.element(i, memory);
            know_params(prior, params, site);
            begin_row(site, instance, params, control ? Controlled : 0);
            if (i + 1 == prior.size) pend();
            columns_.draws.flags[columns_.draws.size] |= Pending;
            end_row(not_a_number, not_a_number, -infinity);
            columns_.draws.log_prob[columns_.draws.size - 1] = not_a_number;
        }
    }

    void check_choice(const Site& site, std::int32_t instance, Family family, double value, std::size_t num_params) {
        const std::string defect = choice_defect(family, value, num_params);
        if (!defect.empty())
            abandon(ppx::FailureKind_Choice, "the script forces " + number_text(value) + " for draw '" +
                                                 site.entry->address + "' (" + info(family).name + ", visit " +
                                                 std::to_string(instance) + "), but it " + defect +
                                                 "; correct the script");
    }

    [[noreturn]] void refuse_density(std::int32_t address, double log_prob) {
        abandon(ppx::FailureKind_Density,
                "log_prob of '" + sites_.mentioned()[static_cast<std::size_t>(address)]->address + "' is " +
                    number_text(log_prob) + "; correct the parameters that the model gives");
    }

    ObservedVisit next_visit(Site& site) { return {site.visits->next(trace_), site.visits_by_address->next(trace_)}; }

    /// A value to condition on, of the shape of the site's entry; null where nothing was measured.
    struct Measured {
        const double* value = nullptr;
        const std::uint8_t* missing = nullptr;  // null where all elements were measured
    };

    Uniforms& observation_uniforms() {
        if (num_observed_ == 0) observation_uniforms_ = Uniforms(seed_, index_, Stream::Observations);
        return observation_uniforms_;
    }

    Measured given(Site& site, const ObservedVisit& visit, const double* coded) {
        if (site.observations != observations_->serial()) {
            site.observations = observations_->serial();
            site.by_name = observations_->find(site.entry->name);
            // Where name and address are the same, only visits by name count.
            const bool is_scoped = site.entry->address != site.entry->name;
            site.by_address = is_scoped ? observations_->find(site.entry->address) : nullptr;
        }
        const auto at = [](const Given* given, std::int32_t number) {
            return given == nullptr ? nullptr : given->at(number);
        };
        const Measurement* found = at(site.by_name, visit.by_name);
        if (found == nullptr) found = at(site.by_address, visit.by_address);
        if (found == nullptr) found = at(site.by_name, Given::every_visit);
        if (found == nullptr) found = at(site.by_address, Given::every_visit);
        if (found == nullptr) {
            if (coded == nullptr && !draws_missing_) refuse_missing(site.entry->name, visit.by_name);
            return {coded, nullptr};
        }
        if (found->is_missing) return {};
        if (!site.entry->has_shape(found->value.shape.data(), found->value.shape.size())) {
            if (!draws_missing_) refuse_shape(*site.entry, found->value);
            return {};  // the controller sees that it does not fit
        }
        return {found->value.data.data(), found->missing.empty() ? nullptr : found->missing.data()};
    }

    [[noreturn]] void refuse_missing(const std::string& name, std::int32_t visit) {
        if (visit > 0)
            abandon(ppx::FailureKind_Observation,
                    "the simulator observes '" + name + "' again (visit " + std::to_string(visit + 1) +
                        "); give that value as observations[('" + name + "', " + std::to_string(visit) + ")]");
        abandon(ppx::FailureKind_Observation,
                "the simulator observes '" + name + "', which is not among the observations given (" +
                    observations_->names() + "); add it");
    }

    [[noreturn]] void refuse_shape(const Entry& entry, const Tensor& value) {
        abandon(ppx::FailureKind_Observation,
                "observation '" + entry.name + "' has shape " + to_text(value.shape.data(), value.shape.size()) +
                    ", but the simulator observes shape " + to_text(entry.shape.data(), entry.shape.size()) +
                    "; give it in that shape");
    }

    void add_observation(Site& site, const ObservedVisit& visit, double log_prob) {
        const std::int32_t number = sites_.number(*site.entry);
        if (!(log_prob < infinity)) {
            columns_.observations.drop_data();
            refuse_density(number, log_prob);
        }
        columns_.observations.add(number, visit.by_name, log_prob);
    }

    AddressPath& path_;
    Sites sites_;
    Scripts scripts_;
    BatchColumns columns_;
    Uniforms uniforms_, observation_uniforms_;
    const ObservationSet* observations_ = nullptr;
    const Left* left_ = nullptr;
    Entry* result_entry_ = nullptr;
    std::uint64_t seed_ = 0, index_ = 0;
    std::uint64_t batch_ = 0, trace_ = 0;  // numbers of those that are running, from 1
    std::uint64_t num_draws_ = 0, num_observed_ = 0;  // numbers of both streams that the trace has used
    std::size_t first_row_ = 0, first_loop_ = 0;
    TraceStatus status_ = TraceStatus::Complete;
    bool draws_missing_ = false;
};

}  // namespace ppx_client::detail

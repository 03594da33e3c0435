// PPX messages as FlatBuffers: building those that a simulator sends.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "flatbuffers/flatbuffers.h"
#include "ppx_client/columns.hpp"
#include "ppx_client/prior.hpp"
#include "ppx_client/runtime.hpp"
#include "ppx_client/sites.hpp"
#include "ppx_client/tensor.hpp"
#include "ppx_generated.h"

static_assert(static_cast<int>(ppx::Distribution_MAX) == static_cast<int>(ppx_client::Family::TruncatedNormal),
              "ppx_generated.h is of another version of the schema than ppx_client.hpp; generate it again with flatc");

namespace ppx_client::detail {

/// What a controller and this client can do beyond PPX 1.0.
struct Capabilities {
    bool error = false;
    bool observed_value = false;
    bool truncated_normal = false;
    bool rejection = false;
    bool batch = false;

    /// Those of this client; "shutdown", the last one, only where not just anyone may end the process. That of a
    /// controller for "shutdown" shows in its messages.
    static constexpr std::array<const char*, 6> names{"observed_value", "error",     "truncated_normal",
                                                      "batch",          "rejection", "shutdown"};

    void add(std::string_view name) {
        if (name == "error") error = true;
        if (name == "observed_value") observed_value = true;
        if (name == "truncated_normal") truncated_normal = true;
        if (name == "rejection") rejection = true;
        if (name == "batch") batch = true;
    }
};

/// Builds one message at a time, always in the same memory.
class Encoder {
  public:
    const void* data() const { return builder_.GetBufferPointer(); }
    std::size_t size() const { return builder_.GetSize(); }

    /// Gives the memory of a long message back.
    void release() { builder_.Reset(); }

    /// @param max_traces Traces of a batch, at most, and `max_bytes` those of a message; 0 for controllers that send none.
    void handshake_result(std::string_view system_name, std::string_view model_name, std::string_view fingerprint,
                          bool with_extensions, bool with_shutdown, std::int32_t max_traces,
                          std::int32_t max_bytes) {
        start();
        // Controllers of PPX 1.0 know neither of these fields.
        flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>> capabilities = 0;
        flatbuffers::Offset<flatbuffers::String> version = 0;
        if (with_extensions) {
            std::array<flatbuffers::Offset<flatbuffers::String>, Capabilities::names.size()> names;
            std::transform(Capabilities::names.begin(), Capabilities::names.end(), names.begin(),
                           [this](const char* name) { return builder_.CreateString(name); });
            capabilities = builder_.CreateVector(names.data(), names.size() - (with_shutdown ? 0 : 1));
            version = string(fingerprint);
        }
        const auto system = string(system_name), model = string(model_name);
        finish(ppx::MessageBody_HandshakeResult,
               ppx::CreateHandshakeResult(builder_, system, model, capabilities, version, max_traces, max_bytes)
                   .Union());
    }

    void sample(const Request& request, const Prior& prior, bool control) {
        start();
        const auto distribution = this->distribution(prior);
        const auto address = string(request.address), name = string(request.name);
        finish(ppx::MessageBody_Sample,
               ppx::CreateSample(builder_, address, name, type(prior), distribution, control).Union());
    }

    void observe(const Request& request, const Prior& prior, const View* value) {
        start();
        const auto given = value != nullptr ? tensor(*value) : flatbuffers::Offset<ppx::Tensor>(0);
        const auto distribution = this->distribution(prior);
        const auto address = string(request.address), name = string(request.name);
        finish(ppx::MessageBody_Observe,
               ppx::CreateObserve(builder_, address, name, type(prior), distribution, given).Union());
    }

    void tag(const Request& request, const View& value) {
        start();
        const auto given = tensor(value);
        const auto address = string(request.address), name = string(request.name);
        finish(ppx::MessageBody_Tag, ppx::CreateTag(builder_, address, name, given).Union());
    }

    void rejection(const Request& request, bool begin) {
        start();
        const auto address = string(request.address), name = string(request.name);
        finish(ppx::MessageBody_Rejection, ppx::CreateRejection(builder_, address, name, begin).Union());
    }

    /// Null where the model returned nothing.
    void run_result(const View* result) {
        start();
        const auto given = result != nullptr ? tensor(*result) : flatbuffers::Offset<ppx::Tensor>(0);
        finish(ppx::MessageBody_RunResult, ppx::CreateRunResult(builder_, given).Union());
    }

    void reset() {
        start();
        finish(ppx::MessageBody_Reset, ppx::CreateReset(builder_).Union());
    }

    void error(std::string_view message) {
        start();
        finish(ppx::MessageBody_Error, ppx::CreateError(builder_, string(message)).Union());
    }

    void shutdown_result() {
        start();
        finish(ppx::MessageBody_ShutdownResult, ppx::CreateShutdownResult(builder_).Union());
    }

    /// @param told How many entries of the address table the controller knows already.
    void batch_result(std::uint64_t batch, const BatchColumns& columns, const std::vector<const Entry*>& addresses,
                      std::size_t told) {
        start();
        const auto entries = this->addresses(addresses, told);
        const auto failures = this->failures(columns.failures);
        const auto observations = columns.observations.encode(builder_, true);
        const auto tags = columns.tags.encode(builder_, false);
        const auto results = columns.results.encode(builder_, false);
        const auto loops = columns.loops.encode(builder_);
        const DrawColumns& draws = columns.draws;
        const auto status = create_column(builder_, columns.status);
        const auto offsets = create_column(builder_, columns.offsets);
        const auto address = create_column(builder_, draws.address, draws.size);
        const auto instance = create_column(builder_, draws.instance, draws.size);
        const auto params = create_column(builder_, draws.params, draws.size);
        const auto value = create_column(builder_, draws.value, draws.size);
        const auto z = create_column(builder_, draws.z, draws.size);
        const auto log_prob = create_column(builder_, draws.log_prob, draws.size);
        const auto flags = create_column(builder_, draws.flags, draws.size);
        const auto params_offsets = create_column(builder_, draws.params_offsets);
        const auto params_data = create_column(builder_, draws.params_data);
        finish(ppx::MessageBody_BatchResult,
               ppx::CreateBatchResult(builder_, batch, columns.seconds, status, offsets, address, instance, params,
                                      value, z, log_prob, flags, params_offsets, params_data, observations, tags,
                                      results, loops, failures, narrow(told), entries)
                   .Union());
    }

  private:
    static ppx::Distribution type(const Prior& prior) { return static_cast<ppx::Distribution>(prior.family); }

    void start() {
        builder_.Clear();
        empty_shape_ = 0;
    }

    void finish(ppx::MessageBody type, flatbuffers::Offset<void> body) {
        builder_.Finish(ppx::CreateMessage(builder_, type, body));
    }

    flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<ppx::Address>>> addresses(
        const std::vector<const Entry*>& entries, std::size_t told) {
        std::vector<flatbuffers::Offset<ppx::Address>> rows;
        for (std::size_t i = told; i < entries.size(); ++i) {
            const auto address = string(entries[i]->address), name = string(entries[i]->name);
            const auto shape = create_column(builder_, entries[i]->shape);
            rows.push_back(ppx::CreateAddress(builder_, address, name, entries[i]->family, shape));
        }
        return builder_.CreateVector(rows);
    }

    flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<ppx::Failure>>> failures(
        const std::vector<FailedTrace>& failures) {
        std::vector<flatbuffers::Offset<ppx::Failure>> rows;
        for (const FailedTrace& failure : failures) {
            const auto message = string(failure.message);
            rows.push_back(ppx::CreateFailure(builder_, failure.trace, failure.kind, message));
        }
        return builder_.CreateVector(rows);
    }

    flatbuffers::Offset<flatbuffers::String> string(std::string_view text) {
        return builder_.CreateString(text.data(), text.size());
    }

    /// Shapes are always present, because PPX 1.0 controllers read them unasked; single numbers share an
    /// empty one.
    flatbuffers::Offset<ppx::Tensor> tensor(const View& values) {
        const auto data = builder_.CreateVector(values.data, values.size);
        if (values.rank == 0 && empty_shape_.IsNull())
            empty_shape_ = builder_.CreateVector(static_cast<const std::int32_t*>(nullptr), 0);
        const auto shape = values.rank == 0 ? empty_shape_ : builder_.CreateVector(values.shape, values.rank);
        return ppx::CreateTensor(builder_, data, shape);
    }

    /// The table of every family holds its parameters in order, each a tensor: field k has index k.
    flatbuffers::Offset<void> distribution(const Prior& prior) {
        std::array<flatbuffers::Offset<ppx::Tensor>, 4> params;
        for (std::size_t k = 0; k < prior.num_params; ++k) params[k] = tensor(prior.params[k]);
        const auto table = builder_.StartTable();
        for (std::size_t k = 0; k < prior.num_params; ++k)
            builder_.AddOffset(flatbuffers::FieldIndexToOffset(static_cast<flatbuffers::voffset_t>(k)), params[k]);
        return flatbuffers::Offset<void>(builder_.EndTable(table));
    }

    flatbuffers::FlatBufferBuilder builder_{1024};
    flatbuffers::Offset<flatbuffers::Vector<std::int32_t>> empty_shape_ = 0;
};

}  // namespace ppx_client::detail

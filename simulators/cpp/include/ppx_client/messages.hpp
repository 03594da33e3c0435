// PPX messages as FlatBuffers: building those a simulator sends, reading those it receives.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flatbuffers/flatbuffers.h"
#include "ppx_client/prior.hpp"
#include "ppx_client/runtime.hpp"
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

    static constexpr std::array<const char*, 3> names{"observed_value", "error", "truncated_normal"};

    void add(std::string_view name) {
        if (name == "error") error = true;
        if (name == "observed_value") observed_value = true;
        if (name == "truncated_normal") truncated_normal = true;
    }
};

/// Builds one message at a time, always in the same memory.
class Encoder {
  public:
    const void* data() const { return builder_.GetBufferPointer(); }
    std::size_t size() const { return builder_.GetSize(); }

    void handshake_result(std::string_view system_name, std::string_view model_name, bool with_capabilities) {
        start();
        flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<flatbuffers::String>>> capabilities = 0;
        if (with_capabilities) {
            std::array<flatbuffers::Offset<flatbuffers::String>, Capabilities::names.size()> names;
            std::transform(Capabilities::names.begin(), Capabilities::names.end(), names.begin(),
                           [this](const char* name) { return builder_.CreateString(name); });
            capabilities = builder_.CreateVector(names.data(), names.size());
        }
        const auto system = string(system_name), model = string(model_name);
        finish(ppx::MessageBody_HandshakeResult,
               ppx::CreateHandshakeResult(builder_, system, model, capabilities).Union());
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

    void run_result(const std::optional<Tensor>& result) {
        start();
        const auto given = result ? tensor(view(*result)) : flatbuffers::Offset<ppx::Tensor>(0);
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

  private:
    static ppx::Distribution type(const Prior& prior) { return static_cast<ppx::Distribution>(prior.family); }

    void start() {
        builder_.Clear();
        empty_shape_ = 0;
    }

    void finish(ppx::MessageBody type, flatbuffers::Offset<void> body) {
        builder_.Finish(ppx::CreateMessage(builder_, type, body));
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

/// Holds one received message.
class Decoder {
  public:
    /// Copies the bytes, because a received frame may begin at any address, and checks every offset in them.
    void read(const void* bytes, std::size_t size) {
        words_.resize(size / sizeof(std::uint64_t) + 1);
        if (size > 0) std::memcpy(words_.data(), bytes, size);
        const auto* const data = reinterpret_cast<const std::uint8_t*>(words_.data());
        flatbuffers::Verifier verifier(data, size);
        // No file identifier: PPX 1.0 peers do not write it.
        const bool valid = size >= sizeof(flatbuffers::uoffset_t) && size < FLATBUFFERS_MAX_BUFFER_SIZE &&
                           verifier.VerifyBuffer<ppx::Message>(nullptr);
        message_ = valid ? flatbuffers::GetRoot<ppx::Message>(data) : nullptr;
    }

    void clear() { message_ = nullptr; }

    /// What kind of message it is; MessageBody_NONE if it is none.
    ppx::MessageBody type() const {
        return message_ == nullptr || message_->body() == nullptr ? ppx::MessageBody_NONE : message_->body_type();
    }

    const ppx::Message& message() const { return *message_; }

    const char* name() const {
        const auto number = static_cast<std::size_t>(type());
        if (type() == ppx::MessageBody_NONE || type() > ppx::MessageBody_MAX) return "no PPX message";
        return ppx::EnumNamesMessageBody()[number];
    }

  private:
    std::vector<std::uint64_t> words_;
    const ppx::Message* message_ = nullptr;
};

/// An empty tensor as an observed value means that there is none.
inline bool is_empty(const ppx::Tensor* tensor) {
    return tensor == nullptr || tensor->data() == nullptr || tensor->data()->size() == 0;
}

/// Says what is wrong with a tensor as an answer to a draw from the prior, or nothing. Its numbers may come without
/// their shape, in C order.
inline std::string shape_defect(const ppx::Tensor* tensor, const Prior& prior) {
    const std::size_t found = is_empty(tensor) ? 0 : tensor->data()->size();
    if (found != prior.size)
        return "holds " + std::to_string(found) + " numbers where " + std::to_string(prior.size) + " are wanted";
    const auto* const shape = tensor->shape();
    const std::size_t rank = shape == nullptr ? 0 : shape->size();
    const bool flat = rank == 0 || (rank == 1 && static_cast<std::size_t>(shape->Get(0)) == prior.size);
    if (flat || std::equal(shape->begin(), shape->end(), prior.shape, prior.shape + prior.rank)) return {};
    const std::vector<std::int32_t> extents(shape->begin(), shape->end());
    return "has shape " + to_text(extents.data(), rank) + " where " + to_text(prior.shape, prior.rank) + " is wanted";
}

/// Says which of prior.size numbers no draw from the prior's family is, or nothing. Bounds of continuous families are
/// left to the densities; an index out of range or NaN would reach the model's arrays.
inline std::string value_defect(const Prior& prior, const double* values) {
    const FamilyInfo& family = info(prior.family);
    if (!family.discrete && all_finite(values, prior.size)) return {};
    const View& probs = prior.params[0];
    const bool categorical = prior.family == Family::Categorical;
    const double end = categorical ? probs.shape[probs.rank - 1] : std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < prior.size; ++i) {
        const double x = values[i];
        if (family.discrete ? x >= 0.0 && x < end && x == std::floor(x) : std::isfinite(x)) continue;
        return "holds " + number_text(x) + (prior.rank > 0 ? " as element " + std::to_string(i) : "") + ", but a " +
               family.name + " must be " + (family.discrete ? "whole and >= 0" : "finite") +
               (categorical ? " and < " + number_text(end) : "");
    }
    return {};
}

/// Reads the controller's value for a draw from the prior; says what is wrong with it, or nothing.
inline std::string read_value(const ppx::Tensor* tensor, const Prior& prior, double* result) {
    std::string defect = shape_defect(tensor, prior);
    if (!defect.empty()) return defect;
    std::memcpy(result, tensor->data()->Data(), prior.size * sizeof(double));
    return value_defect(prior, result);
}

}  // namespace ppx_client::detail

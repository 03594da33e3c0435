// PPX messages as FlatBuffers: reading those that a simulator receives.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "flatbuffers/flatbuffers.h"
#include "ppx_client/columns.hpp"
#include "ppx_client/prior.hpp"
#include "ppx_client/tensor.hpp"
#include "ppx_generated.h"

namespace ppx_client::detail {

/// Holds one received message.
class Decoder {
  public:
    /// Copies the bytes, because a received frame may begin at any address, and checks every offset in them.
    void read(const void* bytes, std::size_t size) {
        if (words_.size() > 8 * size + kept_words) words_ = {};  // those of a long message
        words_.resize(size / sizeof(std::uint64_t) + 1);
        size_ = size;
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

    /// Bytes of the message.
    std::size_t size() const { return size_; }

  private:
    static constexpr std::size_t kept_words = std::size_t{1} << 17;

    std::vector<std::uint64_t> words_;
    std::size_t size_ = 0;
    const ppx::Message* message_ = nullptr;
};

/// A received tensor; its shape may be absent, then a single number is a scalar.
inline Tensor to_tensor(const ppx::Tensor* tensor) {
    Tensor result;
    if (tensor == nullptr || tensor->data() == nullptr) return result;
    result.data.resize(tensor->data()->size());
    // Bytes, because a damaged message may hold them at any address.
    if (!result.data.empty()) std::memcpy(result.data.data(), tensor->data()->Data(), result.size() * sizeof(double));
    if (tensor->shape() != nullptr) result.shape.assign(tensor->shape()->begin(), tensor->shape()->end());
    if (result.shape.empty() && result.size() != 1) result.shape = {narrow(result.size())};
    return result;
}

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
    const double end = categorical ? probs.shape[probs.rank - 1] : infinity;
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

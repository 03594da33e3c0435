// The values that a controller conditions on.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "ppx_client/decoder.hpp"
#include "ppx_client/tensor.hpp"
#include "ppx_generated.h"

namespace ppx_client::detail {

/// The values given for one name or address, by the number of the visit; those that are not given are empty.
struct Given {
    std::map<std::int32_t, Tensor> visits;

    const Tensor* at(std::int32_t visit) const {
        const auto found = visits.find(visit);
        return found == visits.end() || found->second.size() == 0 ? nullptr : &found->second;
    }
};

/// A set of observations.
class ObservationSet {
  public:
    /// Unique in the process, so that sites can tell whether what they know is of this set; 0: there is none yet.
    std::uint64_t serial() const { return serial_; }

    /// Its number on the wire.
    std::uint64_t number() const { return number_; }

    /// Memory that it takes.
    std::size_t num_bytes() const { return num_bytes_; }

    /// Takes the set of a message; says what is wrong with it, or nothing.
    std::string read(std::uint64_t number, const flatbuffers::Vector<flatbuffers::Offset<ppx::Observation>>& rows) {
        static std::atomic<std::uint64_t> last_serial{0};
        given_.clear();
        number_ = 0;
        num_bytes_ = 0;
        for (const ppx::Observation* row : rows) {
            const std::string name = row->name() == nullptr ? std::string() : row->name()->str();
            Tensor value = to_tensor(row->value());
            try {
                if (value.size() > 0) check_shape(view(value), "observation '" + name + "'");
            } catch (const std::invalid_argument& error) {
                return error.what();
            }
            num_bytes_ += 200 + name.size() + value.size() * sizeof(double);
            given_[name].visits[row->visit()] = std::move(value);
        }
        number_ = number;
        serial_ = ++last_serial;
        return {};
    }

    const Given* find(const std::string& name) const {
        const auto found = given_.find(name);
        return found == given_.end() ? nullptr : &found->second;
    }

    /// The names that are given, for messages.
    std::string names() const {
        const std::set<std::string_view> sorted = [this] {
            std::set<std::string_view> names;
            for (const auto& [name, given] : given_) names.insert(name);
            return names;
        }();
        std::string text;
        for (const std::string_view name : sorted) text.append(text.empty() ? "" : ", ").append(name);
        return text.empty() ? "none" : text;
    }

  private:
    std::unordered_map<std::string, Given> given_;
    std::uint64_t number_ = 0;
    std::uint64_t serial_ = 0;
    std::size_t num_bytes_ = 0;
};

}  // namespace ppx_client::detail

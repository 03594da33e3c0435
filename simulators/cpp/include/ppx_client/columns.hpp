// What the traces of a batch did, in columns: memory that is used again for every batch, and one copy per column into
// the message.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "flatbuffers/flatbuffers.h"
#include "ppx_client/tensor.hpp"
#include "ppx_generated.h"

namespace ppx_client::detail {

template <class T>
flatbuffers::Offset<flatbuffers::Vector<T>> create_column(flatbuffers::FlatBufferBuilder& builder,
                                                          const std::vector<T>& column, std::size_t size) {
    return builder.CreateVector(column.data(), size);
}

template <class T>
flatbuffers::Offset<flatbuffers::Vector<T>> create_column(flatbuffers::FlatBufferBuilder& builder,
                                                          const std::vector<T>& column) {
    return create_column(builder, column, column.size());
}

inline std::int32_t narrow(std::size_t size) { return static_cast<std::int32_t>(size); }

enum DrawFlags : std::uint8_t { Controlled = 1, Forced = 2, Pending = 8 };

/// Scalar draws. The vectors have the length of their capacity, so that a row costs one comparison.
struct DrawColumns {
    std::size_t size = 0;
    std::vector<std::int32_t> address, instance, params;
    std::vector<double> value, z, log_prob;
    std::vector<std::uint8_t> flags;
    std::vector<std::uint64_t> ordinal;  // draws that the trace made before
    std::vector<std::int32_t> params_offsets{0};
    std::vector<double> params_data;

    void clear() {
        size = 0;
        params_offsets.resize(1);
        params_data.clear();
    }

    /// Makes room for more rows, which begin at `size`.
    void reserve(std::size_t rows) {
        if (size + rows > address.size()) grow(size + rows);
    }

    /// Adds a vector of parameters; returns its number.
    std::int32_t add_params(const double* data, std::size_t length) {
        params_data.insert(params_data.end(), data, data + length);
        params_offsets.push_back(narrow(params_data.size()));
        return narrow(params_offsets.size() - 2);
    }

    std::size_t bytes() const {
        constexpr std::size_t row = 3 * sizeof(std::int32_t) + 3 * sizeof(double) + 1 + sizeof(std::uint64_t);
        return size * row + params_offsets.size() * sizeof(std::int32_t) + params_data.size() * sizeof(double);
    }

  private:
    void grow(std::size_t needed) {
        const std::size_t capacity = std::max<std::size_t>({needed, 2 * address.size(), 1024});
        for (auto* column : {&address, &instance, &params}) column->resize(capacity);
        for (auto* column : {&value, &z, &log_prob}) column->resize(capacity);
        flags.resize(capacity);
        ordinal.resize(capacity);
    }
};

/// Tensors: observations, tags or results. As with draws, rows have memory before they are added.
struct TensorRows {
    std::size_t size = 0;
    std::vector<std::int32_t> offsets, address, instance, data_offsets{0};
    std::vector<double> data, log_prob;

    void clear() {
        size = 0;
        offsets.assign(1, 0);
        data.clear();
    }

    /// Ends a row, whose data has been added already.
    void add(std::int32_t address_number, std::int32_t visit, double density = 0.0) {
        if (size == address.size()) grow();
        address[size] = address_number;
        instance[size] = visit;
        log_prob[size] = density;
        data_offsets[++size] = narrow(data.size());
    }

    void add(std::int32_t address_number, std::int32_t visit, const View& value) {
        if (value.size == 1) {
            data.push_back(*value.data);
        } else {
            data.insert(data.end(), value.data, value.data + value.size);
        }
        add(address_number, visit);
    }

    /// Takes back the data of a row that will not be added.
    void drop_data() { data.resize(static_cast<std::size_t>(data_offsets[size])); }

    void end_trace() { offsets.push_back(narrow(size)); }

    std::size_t bytes() const { return size * (3 * sizeof(std::int32_t) + sizeof(double)) + data.size() * sizeof(double); }

    flatbuffers::Offset<ppx::TensorColumns> encode(flatbuffers::FlatBufferBuilder& builder, bool with_densities) const {
        const auto offsets = create_column(builder, this->offsets);
        const auto address = create_column(builder, this->address, size);
        const auto instance = create_column(builder, this->instance, size);
        const auto data_offsets = create_column(builder, this->data_offsets, size + 1);
        const auto data = create_column(builder, this->data);
        const auto log_prob = create_column(builder, this->log_prob, with_densities ? size : 0);
        return ppx::CreateTensorColumns(builder, offsets, address, instance, data_offsets, data, log_prob);
    }

  private:
    void grow() {
        const std::size_t capacity = std::max<std::size_t>(2 * size, 256);
        address.resize(capacity);
        instance.resize(capacity);
        log_prob.resize(capacity);
        data_offsets.resize(capacity + 1);
    }
};

/// Rejection loops, as numbers of draws within their trace.
struct LoopRows {
    std::vector<std::int32_t> offsets, address, begin, end;

    void clear() {
        offsets.assign(1, 0);
        address.clear();
        begin.clear();
        end.clear();
    }

    flatbuffers::Offset<ppx::LoopColumns> encode(flatbuffers::FlatBufferBuilder& builder) const {
        const auto offsets = create_column(builder, this->offsets);
        const auto address = create_column(builder, this->address);
        const auto begin = create_column(builder, this->begin);
        const auto end = create_column(builder, this->end);
        return ppx::CreateLoopColumns(builder, offsets, address, begin, end);
    }
};

struct FailedTrace {
    std::int32_t trace;
    ppx::FailureKind kind;
    std::string message;
};

/// Everything that a BatchResult holds about the traces.
struct BatchColumns {
    std::vector<std::uint8_t> status;
    std::vector<std::int32_t> offsets;
    DrawColumns draws;
    TensorRows observations, tags, results;
    LoopRows loops;
    std::vector<FailedTrace> failures;
    double seconds = 0.0;
    bool has_left_out = false;  // draws without rows

    void clear() {
        has_left_out = false;
        status.clear();
        offsets.assign(1, 0);
        draws.clear();
        observations.clear();
        tags.clear();
        results.clear();
        loops.clear();
        failures.clear();
    }

    std::size_t bytes() const {
        return status.size() * 32 + draws.bytes() + observations.bytes() + tags.bytes() + results.bytes() +
               loops.address.size() * 3 * sizeof(std::int32_t);
    }
};

}  // namespace ppx_client::detail

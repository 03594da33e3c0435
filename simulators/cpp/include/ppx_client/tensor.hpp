// Values and parameters that are not single numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace ppx_client {

/// An array of numbers: its elements in C order, and its shape. An empty shape is a single number.
struct Tensor {
    std::vector<double> data;
    std::vector<std::int32_t> shape;

    std::size_t size() const { return data.size(); }
    double& operator[](std::size_t i) { return data[i]; }
    double operator[](std::size_t i) const { return data[i]; }
    auto begin() const { return data.begin(); }
    auto end() const { return data.end(); }
};

namespace detail {

/// A tensor that somebody else owns.
struct View {
    const double* data = nullptr;
    std::size_t size = 0;
    const std::int32_t* shape = nullptr;
    std::size_t rank = 0;
};

inline View view(const double& number) { return {&number, 1, nullptr, 0}; }

inline View view(const Tensor& tensor) {
    return {tensor.data.data(), tensor.data.size(), tensor.shape.data(), tensor.shape.size()};
}

inline std::string to_text(const std::int32_t* shape, std::size_t rank) {
    std::string text = "(";
    for (std::size_t i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + ")";
}

/// Throws unless the shape has as many elements as the tensor, and at least one.
inline void check_shape(const View& tensor, const std::string& what) {
    std::size_t size = 1;
    for (std::size_t i = 0; i < tensor.rank; ++i) {
        const std::size_t extent = tensor.shape[i] > 0 ? static_cast<std::size_t>(tensor.shape[i]) : 0;
        if (extent == 0 || size > tensor.size / extent) {
            size = 0;
            break;
        }
        size *= extent;
    }
    if (size != tensor.size || size == 0)
        throw std::invalid_argument(what + " holds " + std::to_string(tensor.size) +
                                    " numbers, which do not fill its shape " + to_text(tensor.shape, tensor.rank) +
                                    "; make both agree (and not empty)");
}

template <class A>
inline constexpr bool is_value =
    std::is_arithmetic_v<A> || std::is_same_v<A, Tensor> || std::is_same_v<A, std::vector<double>>;

/// What several values have in common: double if all are numbers, else Tensor.
template <class... A>
using Common = std::conditional_t<(std::is_arithmetic_v<A> && ...), double, Tensor>;

/// A number or an array as a double or a Tensor.
template <class T, class A>
T convert(A value) {
    static_assert(is_value<A>, "give a number, a std::vector<double> or a ppx_client::Tensor");
    if constexpr (std::is_same_v<T, double>) {
        static_assert(std::is_arithmetic_v<A>, "an array does not fit into a number");
        return static_cast<double>(value);
    } else if constexpr (std::is_same_v<A, Tensor>) {
        return value;
    } else if constexpr (std::is_arithmetic_v<A>) {
        return Tensor{{static_cast<double>(value)}, {}};
    } else {
        const auto size = static_cast<std::int32_t>(value.size());
        return Tensor{std::move(value), {size}};
    }
}

}  // namespace detail
}  // namespace ppx_client

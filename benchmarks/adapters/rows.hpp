// What the C++ programs of this folder share; __init__.py tells how they are talked to.
#pragma once

#include <iostream>
#include <ppx_client.hpp>
#include <string>

namespace rows {

constexpr int draws_per_trace = 1000;
inline volatile double sink;

template <class Draw>
void trace(Draw& draw) {
    double sum = 0;
    for (int i = 0; i < draws_per_trace; ++i) sum += static_cast<double>(draw());
    sink = sum;
}

template <class Draw>
int run(Draw& draw) {
    for (long num_traces; std::cin >> num_traces; std::cout << std::endl)
        for (long i = 0; i < num_traces; ++i) trace(draw);
    return 0;
}

/// Makes traces of a row, or serves it; what main returns.
template <class Bare, class Ours>
int run(const std::string& mode, Bare bare, Ours ours) {
    if (mode == "serve") return ppx_client::serve([&] { trace(ours); }, "adapters");
    return mode == "bare" ? run(bare) : run(ours);
}

}  // namespace rows

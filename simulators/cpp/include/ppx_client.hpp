// ppx_client: steer the random choices of a C++17 simulator from another process. Header-only.
//
//     #include <ppx_client.hpp>
//
//     double forward() {
//         const double mu = ppx_client::sample(ppx_client::Normal{0.0, 1.0}, "mu");
//         ppx_client::observe(ppx_client::Normal{mu, 0.5}, "y");
//         return mu;
//     }
//
//     int main() { return ppx_client::serve(forward, "gaussian"); }
//
// Compile with `g++ -std=c++17 sim.cpp $(ppx cpp-flags) -o sim`, or by CMake with find_package(ppx_client).
// Needs libzmq with cppzmq, FlatBuffers with ppx_generated.h (made from ppx.fbs by flatc), and Boost.Math.
//
// Called without a controller, forward() draws from the distributions: an instrumented simulator is still a
// simulator. The public names are those of namespace ppx_client outside ppx_client::detail.
#pragma once

#include "ppx_client/address.hpp"
#include "ppx_client/families.hpp"
#include "ppx_client/fingerprint.hpp"
#include "ppx_client/model.hpp"
#include "ppx_client/serve.hpp"
#include "ppx_client/tensor.hpp"
#include "ppx_client/version.hpp"

// A hidden Markov model of three states and sixteen measurements; the same model as hmm.py, where the exact
// log evidence stands.
#include <array>
#include <ppx_client.hpp>
#include <string>
#include <vector>

namespace {

using ppx_client::Categorical;
using ppx_client::Normal;

constexpr int num_measurements = 16;
const Categorical initial{{1.0, 1.0, 1.0}};
const std::array<Categorical<>, 3> transitions{Categorical{{0.10, 0.50, 0.40}}, Categorical{{0.20, 0.20, 0.60}},
                                               Categorical{{0.15, 0.15, 0.70}}};
const std::array<Normal<>, 3> emissions{Normal{-1.0, 1.0}, Normal{1.0, 1.0}, Normal{0.0, 1.0}};

// Returns the 17 hidden states.
std::vector<double> hmm() {
    std::size_t state = static_cast<std::size_t>(ppx_client::sample(initial, "state"));
    std::vector<double> states{static_cast<double>(state)};
    for (int i = 0; i < num_measurements; ++i) {
        state = static_cast<std::size_t>(ppx_client::sample(transitions[state], "state"));
        states.push_back(static_cast<double>(state));
        ppx_client::observe(emissions[state], "y" + std::to_string(i));
    }
    return states;
}

}  // namespace

int main() { return ppx_client::serve(hmm, "hmm"); }

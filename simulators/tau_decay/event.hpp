// One event from beginning to end: the tau, its decay, the calorimeter and its noise; and what is reported of
// it.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "calorimeter.hpp"
#include "decay.hpp"

namespace tau_decay {

constexpr double default_noise = 0.8;  // GeV, of a voxel of the default grid

struct Options {
    Grid grid;
    double noise = default_noise;  // GeV, standard deviation of each voxel's noise
};

// What a physicist asks of an event first; energies in GeV.
struct Summary {
    double leading_energy = 0.0,
           subleading_energy = 0.0;  // of particles that the calorimeter sees; 0 if there is none
    int num_em = 0;                  // electrons and photons
    int num_hadronic = 0;            // charged hadrons and KL
    double visible_energy = 0.0;     // what a perfect calorimeter would measure: all of these, and a muon's deposit
    FourVector missing{};            // four-momentum of what it does not see
};

inline Summary summarize(const Decay& decay, const DecayTable& table) {
    Summary summary;
    summary.missing = decay.tau.momentum;
    for (const State& state : decay.final_state) {
        const Kind kind = table.particle(state.particle).kind;
        if (!sees(kind, state.momentum)) {
            continue;
        }
        const FourVector& p = state.momentum;
        if (p.e > summary.leading_energy) {
            summary.subleading_energy = summary.leading_energy;
            summary.leading_energy = p.e;
        } else {
            summary.subleading_energy = std::max(summary.subleading_energy, p.e);
        }
        summary.num_em += kind == Kind::em;
        summary.num_hadronic += kind == Kind::hadronic;
        summary.visible_energy += kind == Kind::muon ? muon_energy : p.e;
        FourVector& rest = summary.missing;
        rest = {rest.e - p.e, rest.x - p.x, rest.y - p.y, rest.z - p.z};
    }
    return summary;
}

// Simulates events one after the other; keeps its buffers, and the last event for those who want to look at
// it.
template <class Source>
class Simulator {
  public:
    Simulator(Source& source, const Options& options)
        : source_(source), options_(options), tau_decay_(source, decay_table()), calorimeter_(options.grid) {}

    // Draws an event; its missing four-momentum (E, px, py, pz) is the simulator's result.
    std::vector<double> operator()() {
        tau_decay_(decay_);
        calorimeter_(decay_, decay_table(), source_);
        const Grid& grid = options_.grid;
        observed_ = source_.observe(calorimeter_.image(), {grid.nz, grid.nx, grid.ny}, options_.noise, "calorimeter");
        summary_ = summarize(decay_, decay_table());
        source_.tag(summary_.leading_energy, "leading_energy");
        source_.tag(summary_.subleading_energy, "subleading_energy");
        source_.tag(summary_.num_em, "num_em");
        source_.tag(summary_.num_hadronic, "num_hadronic");
        source_.tag(summary_.visible_energy, "visible_energy");
        const FourVector& missing = summary_.missing;
        return {missing.e, missing.x, missing.y, missing.z};
    }

    void keep_vertices() { decay_.keep_vertices = true; }
    const Decay& decay() const { return decay_; }
    const Summary& summary() const { return summary_; }
    const std::vector<double>& image() const { return calorimeter_.image(); }
    const std::vector<double>& observed() const { return observed_; }

    // log of the density of what was observed, given the noiseless image.
    double log_likelihood() const {
        double sum = 0.0;
        for (size_t i = 0; i < observed_.size(); ++i) {
            const double residual = (observed_[i] - image()[i]) / options_.noise;
            sum -= 0.5 * residual * residual;
        }
        return sum - static_cast<double>(observed_.size()) * std::log(options_.noise * std::sqrt(2.0 * pi));
    }

  private:
    Source& source_;
    Options options_;
    Decay decay_;
    TauDecay<Source> tau_decay_;
    Calorimeter<Source> calorimeter_;
    Summary summary_;
    std::vector<double> observed_;
};

}  // namespace tau_decay

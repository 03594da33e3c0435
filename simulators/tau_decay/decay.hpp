// The decay of a tau lepton to its final state: sequential two-body decays, four-momentum conserved at every
// vertex. Every random number comes from `random`, which may be any class with the interface of random.hpp.
#pragma once

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "decay_table.hpp"

namespace tau_decay {

constexpr double pi = 3.14159265358979323846;

struct FourVector {  // GeV
    double e, x, y, z;
};

struct State {
    int particle;  // in the decay table
    FourVector momentum;
};

struct Vertex {
    State parent;
    std::vector<State> daughters;
};

struct Decay {
    State tau;
    int channel = -1;
    std::vector<State> final_state;
    std::vector<Vertex> vertices;  // in order of the decays; filled if `keep_vertices`
    bool keep_vertices = false;
};

// Momentum of the daughters of a mass M at rest. Zero below threshold.
inline double breakup_momentum(double M, double m1, double m2) {
    const double product = (M - m1 - m2) * (M + m1 + m2) * (M - m1 + m2) * (M + m1 - m2);
    return product > 0.0 ? std::sqrt(product) / (2.0 * M) : 0.0;
}

// What has four-momentum `p` in the rest frame of `parent` (of mass M), seen from the frame in which parent
// is given.
inline FourVector boost(const FourVector& p, const FourVector& parent, double M) {
    const double e = (parent.e * p.e + parent.x * p.x + parent.y * p.y + parent.z * p.z) / M;
    const double k = (p.e + e) / (parent.e + M);
    return {e, p.x + k * parent.x, p.y + k * parent.y, p.z + k * parent.z};
}

template <class Random>
class TauDecay {
  public:
    TauDecay(Random& random, const DecayTable& table) : random_(random), table_(table) {}

    // Draws the momentum, the channel and the kinematics.
    void operator()(Decay& decay) {
        decay_ = &decay;
        decay.final_state.clear();
        decay.vertices.clear();
        const Node& tau = table_.tau();
        const double px = random_.uniform(-3.0, 3.0, "px");
        const double py = random_.uniform(-3.0, 3.0, "py");
        const double pz = random_.uniform(43.0, 47.0, "pz");
        const double mass = table_.particle(tau).mass;
        decay.tau = {tau.particle, {std::sqrt(mass * mass + px * px + py * py + pz * pz), px, py, pz}};
        decay.channel = random_.categorical(tau.fractions, "channel");
        split(tau, tau.modes[static_cast<size_t>(decay.channel)], mass, decay.tau.momentum);
    }

  private:
    // Lets a state of mass `mass` decay by its modes; a stable one goes to the final state.
    void follow(const Node& node, double mass, const FourVector& momentum) {
        if (node.stable()) {
            decay_->final_state.push_back({node.particle, momentum});
            return;
        }
        size_t mode = 0;
        if (node.modes.size() > 1) {
            typename Random::Scope scope(random_, node.scope.c_str());
            mode = static_cast<size_t>(random_.categorical(node.fractions, "mode"));
        }
        split(node, node.modes[mode], mass, momentum);
    }

    void split(const Node& node, const Node::Mode& mode, double mass, const FourVector& momentum) {
        const Node& first = table_.node(mode.daughters[0]);
        if (mode.daughters.size() == 1) {
            keep(node, momentum, {{first.particle, momentum}});
            follow(first, mass, momentum);
            return;
        }
        const Node& second = table_.node(mode.daughters[1]);
        const bool from_tau = &node == &table_.tau();
        const double m1 = draw_mass(first, mass, second.low, from_tau);
        const double m2 = draw_mass(second, mass, m1, from_tau);
        const double p = breakup_momentum(mass, m1, m2);
        double cos_theta, phi;
        {
            typename Random::Scope scope(random_, node.scope.c_str());
            cos_theta = random_.uniform(-1.0, 1.0, "cos_theta");
            phi = random_.uniform(0.0, 2.0 * pi, "phi");
        }
        const double sin_theta = std::sqrt((1.0 - cos_theta) * (1.0 + cos_theta));
        const double x = p * sin_theta * std::cos(phi), y = p * sin_theta * std::sin(phi), z = p * cos_theta;
        const FourVector p1 = boost({std::sqrt(m1 * m1 + p * p), x, y, z}, momentum, mass);
        const FourVector p2 = boost({std::sqrt(m2 * m2 + p * p), -x, -y, -z}, momentum, mass);
        keep(node, momentum, {{first.particle, p1}, {second.particle, p2}});
        follow(first, m1, p1);
        follow(second, m2, p2);
    }

    void keep(const Node& node, const FourVector& momentum, std::initializer_list<State> daughters) {
        if (decay_->keep_vertices) {
            decay_->vertices.push_back({{node.particle, momentum}, daughters});
        }
    }

    // Mass of a daughter of a state of mass M, whose sister weighs `sister` at least.
    double draw_mass(const Node& node, double M, double sister, bool from_tau) {
        if (node.low == node.high) {
            return node.low;
        }
        const Particle& particle = table_.particle(node);
        if (from_tau && particle.name == "neutrinos") {
            return michel(M, sister);
        }
        const double high = std::min(node.high, M - sister);
        const double at_threshold = breakup_momentum(M, node.low, sister);
        typename Random::Scope scope(random_, node.scope.c_str());
        typename Random::Rejection loop(random_, "mass");
        for (int attempt = 0; attempt < max_attempts; ++attempt) {
            const double quantile = random_.uniform(0.0, 1.0, "mass_quantile");
            const double mass = propose_mass(node, particle, high, from_tau, quantile);
            const double weight = from_tau ? spectral_weight(mass, node.low, M) / node.bound
                                           : breakup_momentum(M, mass, sister) / at_threshold;
            if (random_.uniform(0.0, 1.0, "accept") < weight) {
                return mass;
            }
        }
        throw std::runtime_error("tau_decay: no mass accepted for " + node.scope + " in " +
                                 std::to_string(max_attempts) + " attempts; are its draws forced?");
    }

    // The mass below which a fraction `quantile` of the proposal lies.
    static double propose_mass(const Node& node, const Particle& particle, double high, bool from_tau,
                               double quantile) {
        if (particle.width > 0.0) {  // relativistic Breit-Wigner: s = m0^2 + m0 Gamma tan(angle), angle uniform
            const double m0 = particle.mass, scale = m0 * particle.width;
            const double a = std::atan((node.low * node.low - m0 * m0) / scale);
            const double b = std::atan((high * high - m0 * m0) / scale);
            return std::sqrt(m0 * m0 + scale * std::tan(a + (b - a) * quantile));
        }
        if (from_tau) {  // uniform: the spectral weight does the rest
            return node.low + (high - node.low) * quantile;
        }
        // n bodies near threshold have a phase space of (m - low)^((3n - 5)/2); the accept-reject adds that
        // of the sister
        return node.low + (high - node.low) * std::pow(quantile, 1.0 / (1.5 * node.leaves - 1.5));
    }

    // Mass of the neutrino pair in tau -> l nu nu, from the Michel spectrum 3x^2 - 2x^3 of the lepton energy
    // E = x E_max.
    double michel(double M, double m) {
        const double e_max = (M * M + m * m) / (2.0 * M);
        typename Random::Scope scope(random_, "decay/lepton");
        typename Random::Rejection loop(random_, "michel");
        for (int attempt = 0; attempt < max_attempts; ++attempt) {
            const double x = random_.uniform(m / e_max, 1.0, "x");
            if (random_.uniform(0.0, 1.0, "accept") < x * x * (3.0 - 2.0 * x)) {
                return std::sqrt(std::max(2.0 * M * e_max * (1.0 - x), 1e-18));
            }
        }
        throw std::runtime_error("tau_decay: no lepton energy accepted in " + std::to_string(max_attempts) +
                                 " attempts; are its draws forced?");
    }

    static constexpr int max_attempts = 1000;
    Random& random_;
    const DecayTable& table_;
    Decay* decay_ = nullptr;
};

}  // namespace tau_decay

// Particles and their decay modes, read from decay_table.inc when the program starts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace tau_decay {

enum class Kind { em, hadronic, muon, invisible, unstable, system };

struct Particle {
    std::string name;
    double mass;   // GeV
    double width;  // GeV
    Kind kind;
};

// A place in a decay tree: a particle, or what stands in brackets, with the modes by which it decays (none if
// stable).
struct Node {
    struct Mode {
        std::string name;
        std::vector<int> daughters;  // nodes: two, or one where a state only gets another name (K0 -> KS)
    };
    int particle = -1;
    std::vector<Mode> modes;
    std::vector<double> fractions;  // of the modes, sum 1
    int leaves = 1;                 // number of daughters at the end of the brackets
    double low = 0.0;               // GeV; smallest and largest mass of an unstable state
    double high = INFINITY;
    double bound = 0.0;  // largest value of the spectral weight in tau decays, for accept-reject
    std::string scope;   // "decay/rho": where its draws live

    bool stable() const { return modes.empty(); }
};

// Density of the mass of the hadrons in tau -> nu + hadrons apart from resonances: (1 - x)^2 (1 + 2x), x =
// mass^2/m_tau^2, for a spin-1 current (Tsai, Phys. Rev. D 4 (1971) 2821), times the p-wave threshold (1 -
// low^2/mass^2)^(3/2).
inline double spectral_weight(double mass, double low, double m_tau) {
    const double x = mass * mass / (m_tau * m_tau);
    const double t = 1.0 - low * low / (mass * mass);
    return (1.0 - x) * (1.0 - x) * (1.0 + 2.0 * x) * t * std::sqrt(t);
}

class DecayTable {
  public:
    explicit DecayTable(const std::string& text) {
        std::istringstream lines(text);
        std::map<int, std::vector<std::vector<std::string>>> modes;  // lines of each decaying particle
        for (std::string line; std::getline(lines, line);) {
            const std::vector<std::string> fields = split(line);
            if (line.empty() || line[0] == '#' || fields.size() < 4) {
                continue;
            }
            if (index_.count(fields[0]) == 0) {
                add_particle(fields);
            } else {
                modes[index_.at(fields[0])].push_back(fields);
            }
        }
        // Particles that later ones decay to come first; the tau is last.
        for (const char* name : {"gamma", "pi0", "KS", "K0", "eta", "omega", "phi", "tau"}) {
            const int particle = index_.at(name);
            Node node = leaf(particle);
            for (const std::vector<std::string>& fields : modes[particle]) {
                node.modes.push_back({fields[2], parse_daughters(fields[3])});
                node.fractions.push_back(std::stod(fields[1]));
            }
            finish(node);
            (std::string(name) == "tau" ? tau_ : decays_[particle]) = node;
        }
    }

    const Particle& particle(int index) const { return particles_[static_cast<size_t>(index)]; }
    const Particle& particle(const Node& node) const { return particle(node.particle); }
    const Node& node(int index) const { return nodes_[static_cast<size_t>(index)]; }
    const Node& tau() const { return tau_; }
    int index(const std::string& name) const { return index_.at(name); }

  private:
    static std::vector<std::string> split(const std::string& line) {
        std::vector<std::string> fields;
        std::istringstream stream(line);
        for (std::string field; std::getline(stream, field, '|');) {
            const size_t first = field.find_first_not_of(' ');
            const size_t last = field.find_last_not_of(' ');
            fields.push_back(first == std::string::npos ? "" : field.substr(first, last - first + 1));
        }
        return fields;
    }

    void add_particle(const std::vector<std::string>& fields) {
        static const std::map<std::string, Kind> kinds = {
            {"em", Kind::em},
            {"hadronic", Kind::hadronic},
            {"muon", Kind::muon},
            {"invisible", Kind::invisible},
            {"unstable", Kind::unstable},
            {"system", Kind::system},
        };
        index_[fields[0]] = static_cast<int>(particles_.size());
        particles_.push_back(
            {fields[0], std::stod(fields[1]) * 1e-3, std::stod(fields[2]) * 1e-3, kinds.at(fields[3])});
    }

    Node leaf(int particle) const {
        const auto known = decays_.find(particle);
        if (known != decays_.end()) {
            return known->second;
        }
        Node node;
        node.particle = particle;
        node.scope = "decay/" + particles_[static_cast<size_t>(particle)].name;
        return node;
    }

    // "rho[pi pi0] pi0": names, each with the daughters in its brackets.
    std::vector<int> parse_daughters(const std::string& text) {
        size_t position = 0;
        return parse_daughters(text, position);
    }

    std::vector<int> parse_daughters(const std::string& text, size_t& position) {
        std::vector<int> daughters;
        while (position < text.size() && text[position] != ']') {
            if (text[position] == ' ') {
                ++position;
                continue;
            }
            const size_t end = std::min(text.find_first_of(" []", position), text.size());
            Node node = leaf(index_.at(text.substr(position, end - position)));
            position = end;
            if (position < text.size() && text[position] == '[') {
                ++position;
                node.modes = {{"", parse_daughters(text, position)}};
                node.fractions = {1.0};
                ++position;
            }
            finish(node);
            daughters.push_back(static_cast<int>(nodes_.size()));
            nodes_.push_back(node);
        }
        return daughters;
    }

    // Sets what follows from the modes: fractions, number of leaves, mass window, bound of the spectral
    // weight.
    void finish(Node& node) {
        const Particle& particle = particles_[static_cast<size_t>(node.particle)];
        double sum = 0.0;
        for (double fraction : node.fractions) {
            sum += fraction;
        }
        for (double& fraction : node.fractions) {
            fraction /= sum;
        }
        if (particle.kind != Kind::system && particle.width == 0.0) {
            node.low = node.high = particle.mass;
            return;
        }
        node.low = 0.0;
        node.leaves = 0;
        for (const Node::Mode& mode : node.modes) {
            double threshold = 0.0;
            int leaves = 0;
            for (int daughter : mode.daughters) {
                threshold += this->node(daughter).low;
                leaves += this->node(daughter).leaves;
            }
            node.low = std::max(node.low, threshold);
            node.leaves = std::max(node.leaves, leaves);
        }
        if (particle.width > 0.0) {  // a Breit-Wigner is cut five widths from its peak
            node.low = std::max(node.low, particle.mass - 5.0 * particle.width);
            node.high = particle.mass + 5.0 * particle.width;
        }
        const double m_tau = particles_[static_cast<size_t>(index_.at("tau"))].mass;
        const double top = std::min(node.high, m_tau);
        for (int i = 1; i < 1000; ++i) {
            const double mass = node.low + (top - node.low) * i / 1000.0;
            node.bound = std::max(node.bound, spectral_weight(mass, node.low, m_tau));
        }
        node.bound *= 1.0 + 1e-4;  // the scan misses the maximum by less
    }

    std::vector<Particle> particles_;
    std::map<std::string, int> index_;
    std::vector<Node> nodes_;
    std::map<int, Node> decays_;  // of particles that stand without brackets
    Node tau_;
};

inline const DecayTable& decay_table() {
    static const DecayTable table(
#include "decay_table.inc"
    );
    return table;
}

}  // namespace tau_decay

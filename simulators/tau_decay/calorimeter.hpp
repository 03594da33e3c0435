// A calorimeter of nz x nx x ny voxels behind the plane z = 4: what a final state deposits in it.
//
// Each particle that goes forward makes a shower around its straight line from the origin: a Gaussian
// ellipsoid, its long axis along the particle, as in the fast calorimeter of the published system (Baydin et
// al., SC19, arXiv 1907.03382). The calorimeter is calibrated: the deposits of a shower sum to its smeared
// energy.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "decay.hpp"

namespace tau_decay {

struct Grid {
    int nz = 8, nx = 11, ny = 11;
    double half_width = 1.5;  // x and y run over (-half_width, half_width)
    static constexpr double z_low = 4.0, z_high = 15.0;

    size_t size() const { return static_cast<size_t>(nz) * static_cast<size_t>(nx) * static_cast<size_t>(ny); }
};

// How a particle type looks in the calorimeter. Lengths in units of the z axis, energies in GeV.
struct Response {
    const char* scope;  // address of its draw
    double sigma_long;  // widths along and across the particle
    double sigma_side;
    double stochastic;  // relative energy resolution: stochastic / sqrt(E) and constant, added in quadrature
    double constant;
};

constexpr Response em_response{"calorimeter/em", 0.5, 0.2, 0.10, 0.01};
constexpr Response hadronic_response{"calorimeter/hadronic", 1.0, 0.2, 0.50, 0.05};
constexpr double depth = 5.0;           // of the shower's centre behind the face, along the particle, in sigma_long
constexpr double max_resolution = 0.5;  // relative
constexpr double muon_energy = 2.0;     // deposited evenly along the track by a minimum ionising muon
constexpr double muon_sigma_side = 0.2;

// Whether the calorimeter, which is in front, sees a particle.
inline bool sees(Kind kind, const FourVector& momentum) { return kind != Kind::invisible && momentum.z > 0.0; }

template <class Random>
class Calorimeter {
  public:
    explicit Calorimeter(const Grid& grid) : grid_(grid), image_(grid.size()), wx_(grid.nx), wy_(grid.ny) {}

    const std::vector<double>& image() const { return image_; }
    double deposited() const { return deposited_; }  // sum of the smeared energies

    // Draws a smearing per shower and fills the image.
    void operator()(const Decay& decay, const DecayTable& table, Random& random) {
        std::fill(image_.begin(), image_.end(), 0.0);
        deposited_ = 0.0;
        for (const State& state : decay.final_state) {
            const Kind kind = table.particle(state.particle).kind;
            if (!sees(kind, state.momentum)) {
                continue;
            }
            if (kind == Kind::muon) {
                add_track(state.momentum);
            } else {
                add_shower(state.momentum, kind == Kind::em ? em_response : hadronic_response, random);
            }
        }
    }

  private:
    static double cdf(double t) { return 0.5 * std::erfc(-t * 0.70710678118654752440); }

    void add_shower(const FourVector& p, const Response& response, Random& random) {
        const double relative = std::min(max_resolution, std::sqrt(response.stochastic * response.stochastic / p.e +
                                                                   response.constant * response.constant));
        double smearing;
        {
            typename Random::Scope scope(random, response.scope);
            smearing = random.normal(0.0, 1.0, "smearing");
        }
        // Log-normal with mean E: positive, however poor the resolution.
        const double energy = p.e * std::exp(relative * smearing - 0.5 * relative * relative);
        deposited_ += energy;
        const double norm = std::sqrt(p.x * p.x + p.y * p.y + p.z * p.z);
        const double nx = p.x / norm, ny = p.y / norm, nz = p.z / norm;
        const double side2 = response.sigma_side * response.sigma_side;
        const double extra2 = response.sigma_long * response.sigma_long - side2;
        const double variance_z = side2 + extra2 * nz * nz;
        const double centre = Grid::z_low / nz + depth * response.sigma_long;  // distance from the origin
        // Layer by layer, the ellipsoid given z: its centre moves by cov(x, z) / var(z) per unit of z.
        const double slope_x = extra2 * nx * nz / variance_z, slope_y = extra2 * ny * nz / variance_z;
        const double sigma_z = std::sqrt(variance_z);
        double below = 0.0;
        for (int k = 0; k < grid_.nz; ++k) {
            const double above = k + 1 == grid_.nz ? 1.0 : cdf((edge_z(k + 1) - centre * nz) / sigma_z);
            const double dz = 0.5 * (edge_z(k) + edge_z(k + 1)) - centre * nz;
            add_layer(k, energy * (above - below), centre * nx + slope_x * dz, centre * ny + slope_y * dz,
                      response.sigma_side);
            below = above;
        }
    }

    void add_track(const FourVector& p) {
        deposited_ += muon_energy;
        for (int k = 0; k < grid_.nz; ++k) {
            const double z = 0.5 * (edge_z(k) + edge_z(k + 1));
            add_layer(k, muon_energy / grid_.nz, z * p.x / p.z, z * p.y / p.z, muon_sigma_side);
        }
    }

    double edge_z(int k) const { return Grid::z_low + (Grid::z_high - Grid::z_low) * k / grid_.nz; }

    void add_layer(int k, double energy, double x, double y, double sigma) {
        if (energy == 0.0) {
            return;
        }
        fractions(wx_, x, sigma);
        fractions(wy_, y, sigma);
        double* voxel = &image_[static_cast<size_t>(k) * wx_.size() * wy_.size()];
        for (double fx : wx_) {
            const double ex = energy * fx;
            for (double fy : wy_) {
                *voxel++ += ex * fy;
            }
        }
    }

    // Fractions of a Gaussian in the bins of one axis; the outermost bins are open, so that nothing leaks.
    void fractions(std::vector<double>& out, double centre, double sigma) const {
        const size_t n = out.size();
        double below = 0.0;
        for (size_t i = 0; i + 1 < n; ++i) {
            const double edge = grid_.half_width * (2.0 * static_cast<double>(i + 1) / static_cast<double>(n) - 1.0);
            const double above = cdf((edge - centre) / sigma);
            out[i] = above - below;
            below = above;
        }
        out[n - 1] = 1.0 - below;
    }

    Grid grid_;
    std::vector<double> image_;
    double deposited_ = 0.0;
    std::vector<double> wx_, wy_;
};

}  // namespace tau_decay

"""A calorimeter of nz x nx x ny voxels behind the plane z = 4: what a final state deposits in it.

The twin of calorimeter.hpp; its header explains the model. Energies are GeV.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from tau_kinematics import Random, State

Z_LOW, Z_HIGH = 4.0, 15.0


class Grid(NamedTuple):
    """Voxels along z, x and y; x and y run over (-half_width, half_width)."""

    nz: int = 8
    nx: int = 11
    ny: int = 11
    half_width: float = 1.5


class Response(NamedTuple):
    """How a particle type looks in the calorimeter: address of its draw, widths, relative energy resolution."""

    scope: str
    sigma_long: float
    sigma_side: float
    stochastic: float
    constant: float


EM = Response("calorimeter/em", 0.5, 0.2, 0.10, 0.01)
HADRONIC = Response("calorimeter/hadronic", 1.0, 0.2, 0.50, 0.05)
DEPTH = 5.0
"""Of the shower's centre behind the face, along the particle, in units of sigma_long."""
MAX_RESOLUTION = 0.5
MUON_ENERGY = 2.0
"""Deposited evenly along the track by a minimum ionising muon."""
MUON_SIGMA_SIDE = 0.2


class _Deposit(NamedTuple):
    """One particle in the calorimeter.

    Attributes:
        energy: What it deposits.
        per_layer: `(nz,)` fractions of it.
        x: `(nz,)` centre of each layer's Gaussian.
        y: `(nz,)` likewise.
    """

    energy: float
    per_layer: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def sees(state: State) -> bool:
    """Whether the calorimeter, which is in front, sees this particle."""
    return state.particle.kind != "invisible" and state.momentum.z > 0.0


def deposit(final_state: Sequence[State], grid: Grid, random: Random) -> NDArray[np.float64]:
    """Draws a smearing per shower and returns the image.

    Args:
        final_state: Particles.
        grid: Voxels.
        random: Source of the draws.

    Returns:
        `(nz, nx, ny)` energies.
    """
    edges_z = Z_LOW + (Z_HIGH - Z_LOW) * np.arange(grid.nz + 1) / grid.nz
    middle_z = 0.5 * (edges_z[:-1] + edges_z[1:])
    deposits = []
    for state in final_state:
        if not sees(state):
            continue
        if state.particle.kind == "muon":
            deposits.append(_track(state, middle_z))
        else:
            deposits.append(
                _shower(state, EM if state.particle.kind == "em" else HADRONIC, edges_z, middle_z, random)
            )
    if not deposits:
        return np.zeros((grid.nz, grid.nx, grid.ny))
    weights = np.array([d.energy * d.per_layer for d in deposits])
    # All lateral widths are equal.
    x = _fractions(np.array([d.x for d in deposits]), grid.half_width, grid.nx, EM.sigma_side)
    y = _fractions(np.array([d.y for d in deposits]), grid.half_width, grid.ny, EM.sigma_side)
    image: NDArray[np.float64] = np.matmul(np.moveaxis(weights[:, :, None] * x, 0, 2), np.moveaxis(y, 0, 1))
    return image


def _shower(
    state: State,
    response: Response,
    edges_z: NDArray[np.float64],
    middle_z: NDArray[np.float64],
    random: Random,
) -> _Deposit:
    p = state.momentum
    relative = min(MAX_RESOLUTION, math.sqrt(response.stochastic**2 / p.e + response.constant**2))
    with random.scope(response.scope):
        smearing = random.normal(0.0, 1.0, "smearing")
    # Log-normal with mean E: positive, however poor the resolution.
    energy = p.e * math.exp(relative * smearing - 0.5 * relative * relative)
    norm = math.sqrt(p.x * p.x + p.y * p.y + p.z * p.z)
    nx, ny, nz = p.x / norm, p.y / norm, p.z / norm
    side2 = response.sigma_side**2
    extra2 = response.sigma_long**2 - side2
    variance_z = side2 + extra2 * nz * nz
    centre = Z_LOW / nz + DEPTH * response.sigma_long  # distance from the origin
    above = ndtr((edges_z - centre * nz) / math.sqrt(variance_z))
    above[0], above[-1] = 0.0, 1.0
    # Layer by layer, the ellipsoid given z: its centre moves by cov(x, z) / var(z) per unit of z.
    dz = middle_z - centre * nz
    slope = extra2 * nz / variance_z
    return _Deposit(energy, np.diff(above), nx * (centre + slope * dz), ny * (centre + slope * dz))


def _track(state: State, middle_z: NDArray[np.float64]) -> _Deposit:
    p = state.momentum
    even = np.full(len(middle_z), 1.0 / len(middle_z))
    return _Deposit(MUON_ENERGY, even, middle_z * p.x / p.z, middle_z * p.y / p.z)


def _fractions(centre: NDArray[np.float64], half_width: float, n: int, sigma: float) -> NDArray[np.float64]:
    """Fractions of Gaussians in the n bins of one axis; the outermost bins are open, so that nothing leaks.

    Args:
        centre: `(S, nz)` centres.
        half_width: Of the axis.
        n: Number of bins.
        sigma: Width of the Gaussians.

    Returns:
        `(S, nz, n)`.
    """
    edges = half_width * (2.0 * np.arange(1, n) / n - 1.0)
    above = np.zeros((*centre.shape, n + 1))
    above[..., 1:n] = ndtr((edges - centre[..., None]) / sigma)
    above[..., n] = 1.0
    return np.diff(above, axis=-1)

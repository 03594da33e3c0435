"""A tau lepton decays in front of a calorimeter: the example simulator, in Python; tau_decay.cpp is its twin.

Run without options it serves PPX at PPX_BIND; `--local 5` prints five events and needs no controller.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tau_calorimeter import MUON_ENERGY, Z_HIGH, Z_LOW, Grid, deposit, sees
from tau_kinematics import DECAY_TABLE, Decay, FourVector, Random, decay_tau

import ppx_client as ppx

PUBLISHED = (20, 35, 35)
"""Grid of the published system, which covers x, y in (-3, 3)."""
DEFAULT_NOISE = 0.8
"""GeV, of a voxel of the default grid."""


class Options(NamedTuple):
    """What is simulated: the voxels, and the standard deviation (GeV) of their noise."""

    grid: Grid = Grid()
    noise: float = DEFAULT_NOISE


class Summary(NamedTuple):
    """What a physicist asks of an event first; energies in GeV.

    Attributes:
        leading_energy: Largest energy of a particle that the calorimeter sees.
        subleading_energy: Second largest; 0 if there is none.
        num_em: Number of electrons and photons.
        num_hadronic: Number of charged hadrons and KL.
        visible_energy: What a perfect calorimeter would measure: all of these, and a muon's deposit.
        missing: Four-momentum of what it does not see.
    """

    leading_energy: float
    subleading_energy: float
    num_em: int
    num_hadronic: int
    visible_energy: float
    missing: FourVector


class Source(Random, Protocol):
    """Random numbers, and what a simulator tells inference beyond them."""

    def observe(self, mean: NDArray[np.float64], sd: float, name: str) -> object: ...
    def tag(self, value: float, name: str) -> None: ...


class Client:
    """Random numbers from PPX: the controller's, or without one our own."""

    def uniform(self, low: float, high: float, name: str) -> float:
        return float(ppx.sample(_uniform(low, high), name=name))

    def normal(self, mean: float, sd: float, name: str) -> float:
        return float(ppx.sample(_normal(mean, sd), name=name))

    def categorical(self, probs: Sequence[float], name: str) -> int:
        return int(ppx.sample(_categorical(tuple(probs)), name=name))

    def scope(self, name: str) -> AbstractContextManager[object]:
        return ppx.scope(name)

    def rejection(self, name: str) -> AbstractContextManager[object]:
        return ppx.rejection(name)

    def observe(self, mean: NDArray[np.float64], sd: float, name: str) -> object:
        return ppx.observe(ppx.Normal(mean, sd), name=name)

    def tag(self, value: float, name: str) -> None:
        ppx.tag(value, name=name)


# The same few priors come again in every event.
_uniform = cache(ppx.Uniform)
_normal = cache(ppx.Normal)
_categorical = cache(ppx.Categorical)


def simulate(options: Options, source: Source) -> tuple[Decay, Summary]:
    """One event: the tau, its decay, the calorimeter and its noise."""
    decay = decay_tau(source)
    image = deposit(decay.final_state, options.grid, source)
    source.observe(image, options.noise, "calorimeter")
    summary = summarize(decay)
    for name, value in zip(Summary._fields[:5], summary[:5], strict=True):
        source.tag(float(value), name)
    return decay, summary


def summarize(decay: Decay) -> Summary:
    """The quantities that are sent as tags and as the result."""
    seen = [state for state in decay.final_state if sees(state)]
    energies = [*sorted((s.momentum.e for s in seen), reverse=True), 0.0, 0.0]
    kinds = [s.particle.kind for s in seen]
    momenta = np.array([s.momentum for s in seen]).reshape(-1, 4)
    missing = FourVector(*(np.array(decay.tau.momentum) - momenta.sum(axis=0)).tolist())
    return Summary(
        energies[0],
        energies[1],
        kinds.count("em"),
        kinds.count("hadronic"),
        math.fsum(MUON_ENERGY if s.particle.kind == "muon" else s.momentum.e for s in seen),
        missing,
    )


class Recorder:
    """Passes everything on to another source and keeps it.

    Attributes:
        draws: Address and value of every draw, in order.
        tags: Values by name.
        image: The noiseless image.
        observed: The image with noise.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._prefix: list[str] = []
        self.draws: list[tuple[str, float]] = []
        self.tags: dict[str, float] = {}
        self.image = self.observed = np.empty(0)

    def _record(self, name: str, value: float) -> None:
        self.draws.append(("/".join([*self._prefix, name]), value))

    def uniform(self, low: float, high: float, name: str) -> float:
        value = self._source.uniform(low, high, name)
        self._record(name, value)
        return value

    def normal(self, mean: float, sd: float, name: str) -> float:
        value = self._source.normal(mean, sd, name)
        self._record(name, value)
        return value

    def categorical(self, probs: Sequence[float], name: str) -> int:
        value = self._source.categorical(probs, name)
        self._record(name, value)
        return value

    def scope(self, name: str) -> AbstractContextManager[object]:
        return _RecordedScope(self._prefix, name, self._source.scope(name))

    def rejection(self, name: str) -> AbstractContextManager[object]:
        return self._source.rejection(name)

    def observe(self, mean: NDArray[np.float64], sd: float, name: str) -> object:
        value = self._source.observe(mean, sd, name)
        self.image, self.observed = mean, np.asarray(value)
        return value

    def tag(self, value: float, name: str) -> None:
        self._source.tag(value, name)
        self.tags[name] = value


class _RecordedScope:
    def __init__(self, prefix: list[str], name: str, inner: AbstractContextManager[object]) -> None:
        self._prefix, self._name, self._inner = prefix, name, inner

    def __enter__(self) -> None:
        self._prefix.append(self._name)
        self._inner.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._inner.__exit__(*exception)
        self._prefix.pop()


def log_likelihood(image: NDArray[np.float64], observed: NDArray[np.float64], noise: float) -> float:
    """log of the density of what was observed, given the noiseless image."""
    residuals = (observed - image) / noise
    return float(-0.5 * np.sum(residuals**2) - image.size * math.log(noise * math.sqrt(2.0 * math.pi)))


def print_events(options: Options, num_events: int, *, as_json: bool) -> None:
    """Simulates events without a controller and prints them: a table, or a line of JSON each."""
    if not as_json:
        print(
            f"{'px':>7}{'py':>7}{'pz':>7}  {'channel':<14}{'em':>3}{'had':>4}"
            f"{'leading':>9}{'visible':>9}{'deposited':>11}{'draws':>7}    (GeV)"
        )
    for _ in range(num_events):
        recorder = Recorder(Client())
        decay, summary = simulate(options, recorder)
        print(
            _json_line(decay, summary, recorder, options)
            if as_json
            else _table_line(decay, summary, recorder)
        )


def _table_line(decay: Decay, summary: Summary, recorder: Recorder) -> str:
    p = decay.tau.momentum
    return (
        f"{p.x:7.2f}{p.y:7.2f}{p.z:7.2f}  {DECAY_TABLE.tau.modes[decay.channel].name:<14}"
        f"{summary.num_em:3d}{summary.num_hadronic:4d}{summary.leading_energy:9.2f}"
        f"{summary.visible_energy:9.2f}{recorder.image.sum():11.2f}{len(recorder.draws):7d}"
    )


def _json_line(decay: Decay, summary: Summary, recorder: Recorder, options: Options) -> str:
    vertices = [
        [[s.particle.name, list(s.momentum)] for s in (vertex.parent, *vertex.daughters)]
        for vertex in decay.vertices
    ]
    return json.dumps(
        {
            "channel": DECAY_TABLE.tau.modes[decay.channel].name,
            "draws": recorder.draws,
            "vertices": vertices,
            "tags": recorder.tags,
            "result": list(summary.missing),
            "image": recorder.image.ravel().tolist(),
            "observed": recorder.observed.ravel().tolist(),
            "log_likelihood": log_likelihood(recorder.image, recorder.observed, options.noise),
        }
    )


def make_options(grid: tuple[int, int, int] | None, half_width: float | None, noise: float | None) -> Options:
    """Fills in defaults: the published grid has its published width, and the noise goes with the root of the volume."""
    half_width = half_width or (3.0 if grid == PUBLISHED else 1.5)
    chosen = Grid(*(grid or Grid()[:3]), half_width)
    return Options(chosen, noise or DEFAULT_NOISE * math.sqrt(_voxel_volume(chosen) / _voxel_volume(Grid())))


def _voxel_volume(grid: Grid) -> float:
    return (Z_HIGH - Z_LOW) * (2.0 * grid.half_width) ** 2 / (grid.nz * grid.nx * grid.ny)


def _grid(text: str) -> tuple[int, int, int]:
    numbers = text.split("x")
    if len(numbers) != 3 or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is no grid; write three positive numbers like 8x11x11")
    nz, nx, ny = (int(n) for n in numbers)
    return nz, nx, ny


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tau_decay",
        description="A tau lepton decays in front of a calorimeter. Without --local it serves PPX at PPX_BIND.",
    )
    environment = os.environ.get
    parser.add_argument(
        "--grid",
        type=_grid,
        metavar="ZxXxY",
        default=environment("TAU_DECAY_GRID"),
        help="voxels along z, x and y (TAU_DECAY_GRID; default 8x11x11, published 20x35x35)",
    )
    parser.add_argument(
        "--half-width",
        type=_positive,
        metavar="W",
        default=environment("TAU_DECAY_HALF_WIDTH"),
        help="x and y run from -W to W (TAU_DECAY_HALF_WIDTH; default 1.5, for 20x35x35 3)",
    )
    parser.add_argument(
        "--noise",
        type=_positive,
        metavar="GEV",
        default=environment("TAU_DECAY_NOISE"),
        help="noise per voxel (TAU_DECAY_NOISE; default 0.8, scaled with the root of the voxel's volume)",
    )
    parser.add_argument("--local", type=int, metavar="N", help="print N events drawn without a controller")
    parser.add_argument(
        "--json", action="store_true", help="with --local: everything about an event, one line each"
    )
    parser.add_argument("--seed", type=int, help="with --local: seed of the draws")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Serves, or prints events."""
    parsed = _parse(arguments)
    options = make_options(parsed.grid, parsed.half_width, parsed.noise)
    if parsed.local is not None:
        if parsed.seed is not None:
            ppx.seed(parsed.seed)
        print_events(options, parsed.local, as_json=parsed.json)
        return
    client = Client()
    ppx.serve(lambda: np.array(simulate(options, client)[1].missing), name="tau_decay")


if __name__ == "__main__":
    main(sys.argv[1:])

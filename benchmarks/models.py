"""The simulators that are measured: the Marsaglia Gaussian and the tau decay, in C++ and in Python."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_client.cpp_build import compile_simulator, toolchain_missing

ROOT = Path(__file__).resolve().parents[1]
SIMULATORS = ROOT / "simulators"
LANGUAGES = ("C++", "Python")
TRUTH = (1, 149)
"""Seed and index of the prior trace whose observation is the data, where a model has no data of its own."""


class Model(NamedTuple):
    """A model that exists in C++ and in Python.

    Attributes:
        name: How it is called in tables and on the command line.
        cpp: The C++ source.
        python: The Python program and its arguments.
        observed: Names of its observations.
        data: Values to condition on; None takes those of the prior trace `TRUTH`.
    """

    name: str
    cpp: Path
    python: tuple[str, ...]
    observed: tuple[str, ...]
    data: Mapping[str, float] | None

    def command(self, language: str) -> tuple[str, ...]:
        """What starts the simulator; the C++ one is compiled first."""
        if language == "Python":
            return (sys.executable, *self.python)
        return (str(compile_simulator(self.cpp, ROOT / "build" / "simulators" / self.cpp.stem)),)


MODELS = {
    model.name: model
    for model in (
        Model(
            "gaussian",
            SIMULATORS / "gaussian" / "gaussian_marsaglia.cpp",
            (str(SIMULATORS / "gaussian" / "gaussian.py"), "--marsaglia"),
            ("y0", "y1"),
            {"y0": 8.0, "y1": 9.0},  # exact posterior N(7.25, 0.9129)
        ),
        Model(
            "tau",
            SIMULATORS / "tau_decay" / "tau_decay.cpp",
            (str(SIMULATORS / "tau_decay" / "tau_decay.py"),),
            ("calorimeter",),
            None,
        ),
    )
}


def languages() -> tuple[str, ...]:
    """The languages whose simulators can run here."""
    return LANGUAGES[1:] if toolchain_missing() else LANGUAGES


@cache
def observations(name: str) -> dict[str, NDArray[np.float64]]:
    """What a model is conditioned on, by name."""
    from ppx_inference import Simulator
    from ppx_server.script import ScriptBatch

    model = MODELS[name]
    if model.data is not None:
        return {key: np.array(value) for key, value in model.data.items()}
    seed, index = TRUTH
    with Simulator(model.command(languages()[0]), num_workers=1) as sim:
        trace = sim.execute(ScriptBatch.empty(seed, [index]), None)
    found = {}
    for key in model.observed:
        ids = trace.addresses.find(key)
        rows = trace.observations.rows(ids)
        found[key] = trace.observations.dense(rows, trace.addresses[ids[0]].shape)[0]
    return found

"""The work that is measured, on the Marsaglia Gaussian: two observations, exact posterior N(7.25, 0.9129).

Source of the exact values: docs of the model in simulators/gaussian.
"""

from __future__ import annotations

from typing import NamedTuple

OBSERVED = {"y0": 8.0, "y1": 9.0}
LSTM_SIZE = 128


class Size(NamedTuple):
    """How much of each kind of work a round does."""

    prior: int
    chain: int
    training: int
    posterior: int


FULL = Size(prior=3000, chain=2000, training=4000, posterior=500)
QUICK = Size(prior=300, chain=200, training=512, posterior=100)


class Figures(NamedTuple):
    """Rates of one round; all per second."""

    prior_traces: float
    lmh_steps: float
    rmh_steps: float
    training_traces: float
    compilation_traces: float
    compilation_effective: float


LABELS = {
    "prior_traces": "prior traces/s",
    "lmh_steps": "LMH steps/s",
    "rmh_steps": "RMH steps/s",
    "training_traces": "training traces/s",
    "compilation_traces": "inference-compilation traces/s",
    "compilation_effective": "inference-compilation effective samples/s",
}

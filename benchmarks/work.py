"""What is measured, how long, and what is asked of the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

LSTM_SIZE = 128
NUM_CHAINS = 64

LABELS = {
    "prior": "prior traces/s",
    "importance": "importance traces/s",
    "lmh": "LMH steps/s",
    "rmh": "RMH steps/s",
    "training": "IC training traces/s",
    "compilation": "IC posterior traces/s",
    "effective": "IC effective samples/s",
}
"""Kinds of work, by the names that `--only` takes. All rates are per second."""

PYPROB = {
    "prior": 200.0,
    "importance": 200.0,
    "lmh": 100.0,
    "rmh": 100.0,
    "training": 40.0,
    "effective": 500.0,
}
"""Least ratios to pyprob on C++ simulators that execute batches (the budgets of the design)."""
UNTRAINED = "tau"
"""No ratio of effective samples is asked of it: in so few seconds of training nobody's network learns it."""
STEPWISE = 3.0
"""Least ratio to pyprob on simulators that speak PPX 1.0 only."""
BARE = {"gaussian": 1.0 / 50.0, "tau": 1.0 / 2.0}
"""Least ratio of prior traces/s to the bare C++ simulator."""

Figures = dict[str, float | None]
"""Rates by kind of work; None for work that could not be done."""


class Seconds(NamedTuple):
    """How long each kind of work goes on, about, and training."""

    work: float
    training: float


def load_torch() -> None:
    """Imports what PyTorch imports with its first optimizer, a second's worth: imports are not measured."""
    import torch

    torch.optim.SGD([torch.zeros(1, requires_grad=True)])


def rate(run: Callable[[int], object], seconds: float, *, first: int = 16) -> float:
    """How often something can be done per second.

    Args:
        run: Does it about as often as it is told; if it returns an int, that is how often it was.
        seconds: How long the measurement takes, about; what comes before warms up.
        first: How often at first.
    """
    run(first)
    count = first
    while True:
        started = time.perf_counter()
        done = run(count)
        elapsed = time.perf_counter() - started
        if elapsed >= 0.5 * seconds:
            return (done if isinstance(done, int) else count) / elapsed
        count = int(count * min(max(seconds / max(elapsed, 1e-9), 1.5), 8.0))

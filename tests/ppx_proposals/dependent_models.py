"""Models whose draws depend on one another in every way that a guide which chooses ahead may get wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import numpy as np

from ppx_server.protocol import Event, Observe, Sample, WireDistribution


def draw(name: str, family: str, *params: object, control: bool = True) -> Sample:
    """A Sample event."""
    return Sample(name, name, WireDistribution(family, params), control)  # type: ignore[arg-type]


def observe(name: str, mean: float, stddev: float) -> Observe:
    """An Observe event."""
    return Observe(name, name, WireDistribution("Normal", (mean, stddev)), None)


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + math.exp(-x))


def changing() -> Generator[Event, float, None]:
    """Discrete draws whose parameters depend on the draws before them, each followed by others."""
    x = yield draw("x", "Normal", 0.0, 1.0)
    c = yield draw("c", "Categorical", np.array([sigmoid(x), sigmoid(-x)]))
    n = yield draw("n", "Poisson", math.exp(0.5 * x + c))
    b = yield draw("b", "Bernoulli", sigmoid(x - 0.3 * n))
    fixed = yield draw("fixed", "Categorical", np.array([0.3, 0.3, 0.4]))
    y = yield draw("y", "Normal", x + n, 1.0 + b)
    m = yield draw("m", "Binomial", float(int(n) + 2), 0.4)
    yield observe("o", y + m + fixed, 1.0)


def intervening() -> Generator[Event, float, None]:
    """Draws that nobody chooses, of varying number, between those that the guide chooses."""
    k = yield draw("k", "Categorical", np.array([0.5, 0.3, 0.2]))
    for _ in range(int(k)):
        yield draw("noise", "Normal", 0.0, 1.0, control=False)
    x = yield draw("x", "Normal", 0.0, 1.0)
    if x > 0.3:
        yield draw("noises", "Normal", np.zeros(3), np.ones(3), control=False)
    y = yield draw("x", "Normal", x, 1.0)
    s = yield draw("s", "Bernoulli", 0.5, control=False)
    z = (yield draw("z", "Gamma", 2.0, 1.0)) if s else (yield draw("zz", "Exponential", 1.0))
    yield observe("o", x + y + z, 1.0)


def arrays() -> Generator[Event, object, None]:
    """Array draws of every kind, with parameters that differ between elements and depend on draws before."""
    w = yield draw("w", "Normal", np.zeros((2, 2)), np.array([[1.0, 2.0], [3.0, 4.0]]))
    counts = yield draw("counts", "Poisson", np.array([1.0, 5.0, 9.0]))
    probs = np.array([[0.2, 0.8, 0.0], [0.5, 0.25, 0.25]])
    which = yield draw("which", "Categorical", probs)
    total = float(np.sum(w))  # type: ignore[arg-type]
    rates = np.exp(np.array([0.1, 0.2, -0.1]) * total)
    more = yield draw("more", "Poisson", rates)
    again = yield draw("w", "Normal", np.full((2, 2), total), np.ones((2, 2)))
    result = total + sum(float(np.sum(v)) for v in (counts, which, more, again))  # type: ignore[arg-type]
    yield observe("o", result, 3.0)


def looping() -> Generator[Event, float, None]:
    """A fixed loop, a loop whose length is drawn, and a rejection loop."""
    total = 0.0
    for _ in range(5):
        total += yield draw("step", "Normal", 0.0, 0.5)
    length = yield draw("length", "Poisson", 2.0)
    for _ in range(int(length)):
        total += yield draw("extra", "Normal", total, 0.5)
    while (yield draw("u", "Uniform", -1.0, 1.0)) > 0.2:
        pass
    yield observe("o", total, 1.0)


MODELS: dict[str, Callable[[], Generator[Event, object, None]]] = {
    "changing": changing,  # type: ignore[dict-item]
    "intervening": intervening,  # type: ignore[dict-item]
    "arrays": arrays,
    "looping": looping,  # type: ignore[dict-item]
}

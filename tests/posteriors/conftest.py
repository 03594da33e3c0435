"""Models whose posteriors are known exactly, and the simulators that implement them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ppx_client.cpp_build import compile_simulator, toolchain_missing
from ppx_inference import Posterior, Simulator
from tests.posteriors.agreement import Check, Exact, probability, too_far_off

SIMULATORS = Path(__file__).resolve().parents[2] / "simulators"


def of_gaussian(y0: float, y1: float) -> Exact:
    """Conjugate formulas: mu ~ N(1, 5), y ~ N(mu, 2) (variances)."""
    variance = 1 / (1 / 5 + 2 / 2)
    mean, std = variance * (1 / 5 + (y0 + y1) / 2), math.sqrt(variance)
    evidence = stats.multivariate_normal([1, 1], 5 + 2 * np.eye(2)).logpdf([y0, y1])
    checks = [
        Check("mean of mu", lambda p: p["mu"].values, mean, std),
        # The fourth central moment of a normal distribution is 3 sd^4.
        Check("variance of mu", lambda p: (p["mu"].values - mean) ** 2, variance, math.sqrt(2) * variance),
    ]
    for q in (0.1, 0.9):
        bound = mean + std * stats.norm.ppf(q)
        checks.append(probability(f"P(mu < {bound:.2f})", lambda p, b=bound: p["mu"].values < b, q))
    return Exact({"y0": y0, "y1": y1}, tuple(checks), float(evidence))


def of_marsaglia(y0: float, y1: float) -> Exact:
    """As the Gaussian; the number of rounds is geometric with the circle's share of the square, whatever mu."""
    exact, accepted = of_gaussian(y0, y1), math.pi / 4
    std = 2 * math.sqrt(1 - accepted) / accepted
    length = Check("mean length", lambda p: p.traces.length.astype(float), 2 / accepted, std)
    return exact._replace(checks=(*exact.checks, length))


def of_branching(y: int) -> Exact:
    """Enumeration of r and of the second draw."""
    fibonacci = [1, 1]
    while len(fibonacci) < 20:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    fib = {n: 1 if n < 2 else fibonacci[n - 1] for n in range(13)}
    counts = np.arange(60)
    prior = stats.poisson(4).pmf(counts)
    joint = np.array(
        [
            p * (stats.poisson(6).pmf(y) if r > 4 else prior @ stats.poisson(1 + fib[3 * r] + counts).pmf(y))
            for r, p in zip(counts, prior, strict=True)
        ]
    )
    posterior = joint / joint.sum()
    mean = float(posterior @ counts)
    std = math.sqrt(float(posterior @ (counts - mean) ** 2))
    checks = [Check("mean of r", lambda p: p["r"].values, mean, std)]
    for r in range(10):
        checks.append(probability(f"P(r = {r})", lambda p, r=r: p["r"].values == r, float(posterior[r])))
    return Exact({"y": float(y)}, tuple(checks), math.log(joint.sum()))


def of_hmm(y: list[float]) -> Exact:
    """The forward-backward algorithm; one state precedes the first measurement."""
    transition = np.array([[0.1, 0.5, 0.4], [0.2, 0.2, 0.6], [0.15, 0.15, 0.7]])
    likelihood = np.vstack([np.ones(3), stats.norm([-1, 1, 0], 1).pdf(np.array(y)[:, None])])
    forward, backward = np.empty((len(y) + 1, 3)), np.ones((len(y) + 1, 3))
    forward[0] = 1 / 3
    for t in range(1, len(y) + 1):
        forward[t] = forward[t - 1] @ transition * likelihood[t]
    for t in range(len(y) - 1, -1, -1):
        backward[t] = transition @ (backward[t + 1] * likelihood[t + 1])
    evidence = forward[-1].sum()
    posterior = forward * backward / evidence
    checks = tuple(
        probability(f"P(state {t} = {s})", lambda p, t=t, s=s: p["state", t].values == s, posterior[t, s])
        for t in range(len(y) + 1)
        for s in range(3)
    )
    return Exact({f"y{t}": value for t, value in enumerate(y)}, checks, math.log(evidence))


MEASURED = [0.9, 0.8, 0.7, 0, -0.025, -5, -2, -0.1, 0, 0.13, 0.45, 6, 0.2, 0.3, -1, -1]
EXACT = {
    "gaussian": of_gaussian(8, 9),
    # Nearer to the prior, for engines that draw from it.
    "gaussian, mild": of_gaussian(2.5, 4),
    "marsaglia": of_marsaglia(8, 9),
    "marsaglia, mild": of_marsaglia(2.5, 4),
    "branching": of_branching(6),
    "hmm": of_hmm(MEASURED),
}


class Agreement:
    """The check, as tests use it."""

    exact = EXACT

    def wrong(self, posterior: Posterior, model: str, *, except_for: str = "") -> dict[str, float]:
        """The estimates that are too far off, with their scores."""
        found = too_far_off(posterior, EXACT[model])
        return {name: score for name, score in found.items() if name != except_for}


@pytest.fixture(scope="session")
def agreement() -> Agreement:
    return Agreement()


@pytest.fixture(scope="session")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Simulator]]:
    """Starts the simulator of a model ("gaussian, mild") in a language, once per session."""
    running: dict[tuple[str, str], Simulator] = {}
    built = tmp_path_factory.mktemp("simulators")

    def start(model: str, language: str) -> Simulator:
        model = model.split(",")[0]
        if (model, language) not in running:
            running[model, language] = Simulator(command(model, language, built), num_workers=2)
        return running[model, language]

    yield start
    for simulator in running.values():
        simulator.close()


def command(model: str, language: str, built: Path) -> list[str]:
    folder = "gaussian" if model == "marsaglia" else model
    if language == "python":
        options = ["--marsaglia"] if model == "marsaglia" else []
        return [sys.executable, str(SIMULATORS / folder / f"{folder}.py"), *options]
    if missing := toolchain_missing():
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    source = "gaussian_marsaglia" if model == "marsaglia" else model
    return [str(compile_simulator(SIMULATORS / folder / f"{source}.cpp", built / source))]

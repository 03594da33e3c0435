"""Diagnostics of simulators in processes of their own, and of the proposal network on traces."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ppx_proposals import NetworkConfig, Proposal
from ppx_proposals.observations import ObservationLayout
from ppx_proposals.optim.stability import (
    Action,
    Verdict,
    finite_difference_lyapunov,
    finite_difference_sensitivity,
    jacobian_spectrum,
    lyapunov,
    recommend,
)
from ppx_proposals.sensitivity import ForcedRuns, proposal_core
from ppx_proposals.vocabulary import AddressKey
from ppx_server.command import Command
from ppx_server.errors import AddressError, SimulatorError
from ppx_server.executor import Executor
from ppx_server.script import ScriptBatch
from ppx_server.worker import WorkerConfig

RICKER = Path(__file__).parents[2] / "simulators" / "ricker" / "serve_ricker.py"

MODEL = """
import random
import numpy as np
import ppx_client as ppx

def forward():
    log_r = ppx.sample(ppx.Normal(2.0, 0.5), name="log_r")
    size = ppx.sample(ppx.Uniform(0.0, 9.0), name="size")
    spread = ppx.sample(ppx.Uniform(0.0, 1.0), name="spread")
    if log_r > 50:
        raise ArithmeticError("too many animals")
    hidden = spread * random.gauss(0, 1)
    sizes = []
    for _ in range(40):
        sizes.append(size)
        size = size * np.exp(log_r - size) + hidden
    ppx.observe(ppx.Normal(log_r, 1.0), name="y")
    ppx.tag(np.array([log_r, log_r ** 2]), name="powers")
    return np.array(sizes)

ppx.serve(forward, name="forty years")
"""


@pytest.fixture(scope="module")
def ricker() -> Iterator[Executor]:
    with Executor([WorkerConfig(command=Command.of([sys.executable, str(RICKER)]))]) as executor:
        yield executor


@pytest.fixture(scope="module")
def years(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    path = tmp_path_factory.mktemp("model") / "years.py"
    path.write_text(MODEL)
    with Executor([WorkerConfig(command=Command.of([sys.executable, str(path)]))]) as executor:
        yield executor


def test_values_that_the_prior_cannot_give_are_no_runs(years: Executor) -> None:
    runs = ForcedRuns(years, ["log_r", "size", "spread"])
    output = runs(np.array([[1.0, 8.9, 0.0], [1.0, 9.1, 0.0], [1.0, 0.6, 0.0]]), np.arange(3))
    assert np.isfinite(output).all(axis=1).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="theta lies outside the support of 'size' in all runs"):
        runs(np.array([[1.0, 9.1, 0.0], [1.0, -0.4, 0.0]]), np.arange(2))


def test_derivative_of_a_process_is_that_of_its_formula(ricker: Executor) -> None:
    """N' = N exp(log_r - N + noise), with the noise that the script leaves to the seed."""
    index = np.array([3, 8, 21])
    found = finite_difference_sensitivity(ForcedRuns(ricker, ["log_r"], seed=5), [2.5], index)
    assert found.verdict is Verdict.SMOOTH
    assert found.jacobian is not None
    traces = ricker.execute(ScriptBatch.empty(5, index), None)
    (noise,) = ricker.addresses.find("noise")
    expected = np.empty((3, 6))
    for k in range(3):
        rows = slice(traces.offsets[k], traces.offsets[k + 1])
        size, slope = 1.0, 0.0
        for t, z in enumerate(traces.value[rows][traces.address_id[rows] == noise]):
            factor = np.exp(2.5 - size + z)
            slope = factor * (size + (1 - size) * slope)
            size *= factor
            expected[k, t] = slope
    np.testing.assert_allclose(found.jacobian[:, :, 0], expected, rtol=1e-4)
    # Negative control: without common random numbers the same differences are nothing like it.
    runs = ForcedRuns(ricker, ["log_r"], seed=5)
    h = found.step[0]
    apart = runs(np.full((3, 1), 2.5 + h), index) - runs(np.full((3, 1), 2.5 - h), index + 100)
    assert np.abs(apart / (2 * h) - expected).max() > 10 * np.abs(expected).max()


def test_counts_have_no_derivative(ricker: Executor) -> None:
    counts = ForcedRuns(ricker, ["log_r", ("noise", 2)], outputs=[f"y{t}" for t in range(6)])
    found = finite_difference_sensitivity(counts, [2.0, 0.1], np.arange(4))
    assert found.verdict in (Verdict.FLAT, Verdict.JUMPS)
    assert recommend(6, sensitivity=found).action is Action.EVOLUTION


def ricker_orbit(log_r: float) -> tuple[np.ndarray, float]:
    """200 states on the attractor, and the mean of log |f'(N)|, f'(N) = (1 - N) exp(log_r - N), over long orbits."""
    x, total = 0.6 + 1.3 * np.random.default_rng(0).random(200), 0.0
    for t in range(3000):
        if t >= 1000:
            total += float((np.log(np.abs(1 - x)) + log_r - x).mean())
        x = x * np.exp(log_r - x)
    return x, total / 2000


def test_exponent_of_a_process_is_that_of_its_map(years: Executor) -> None:
    """Moved is the initial state, in runs that start from different ones."""
    runs = ForcedRuns(years, ["log_r", "size", "spread"])

    def from_many(log_r: float, starts: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        def f(theta: np.ndarray, seed: np.ndarray) -> np.ndarray:
            columns = [np.full(len(theta), log_r), starts[seed] + theta[:, 0], np.zeros(len(theta))]
            return runs(np.stack(columns, axis=1), seed)

        return f

    starts, exact = ricker_orbit(3.0)
    found = finite_difference_lyapunov(from_many(3.0, starts), [0.0], np.arange(200))
    assert found.rate is not None
    assert found.standard_error < 0.01
    assert abs(found.rate - exact) < 4 * found.standard_error
    assert recommend(100, exponents=found).action is Action.EVOLUTION
    # Where the population settles the derivative falls, by log |1 - log_r| per year.
    starts, exact = ricker_orbit(1.5)
    calm = finite_difference_lyapunov(from_many(1.5, starts), [0.0], np.arange(5))
    assert exact == pytest.approx(np.log(0.5), abs=1e-9)
    assert calm.rate == pytest.approx(exact, abs=1e-2)
    assert recommend(8, exponents=calm).action is Action.BACKPROPAGATE


def test_a_generator_of_its_own_is_found_out(years: Executor) -> None:
    runs = ForcedRuns(years, ["log_r", "size", "spread"])
    noisy = finite_difference_sensitivity(runs, [1.5, 1.0, 0.1], [0, 1])
    assert noisy.verdict is Verdict.NOISY
    assert noisy.jacobian is None
    assert "does not fix the program's random numbers" in str(noisy)
    assert finite_difference_lyapunov(runs, [1.5, 1.0, 0.1], [0, 1]).rate is None


def test_outputs_by_name(years: Executor) -> None:
    runs = ForcedRuns(years, ["log_r"], outputs=["powers"])
    found = finite_difference_sensitivity(runs, [1.5], [0, 1])
    assert found.jacobian is not None
    np.testing.assert_allclose(found.jacobian[0, :, 0], [1.0, 3.0], rtol=1e-6)


def test_errors_of_forced_runs(years: Executor) -> None:
    with pytest.raises(AddressError, match="they make the draws 'log_r', 'size', 'spread'"):
        ForcedRuns(years, ["r"])
    with pytest.raises(AddressError, match="visit 1"):
        ForcedRuns(years, [("log_r", 1)])
    with pytest.raises(AddressError, match="not every run observes"):
        ForcedRuns(years, ["log_r"], outputs=["nothing"])
    runs = ForcedRuns(years, ["log_r"])
    with pytest.raises(ValueError, match="2 numbers for 1 forced draws"):
        runs(np.zeros((1, 2)), np.array([0]))
    runs = ForcedRuns(years, ["log_r"], outputs=["powers"])
    some = runs(np.repeat([2.0, 60.0], [19, 1])[:, None], np.arange(20))
    assert (some[:19] == [2.0, 4.0]).all()
    assert np.isnan(some[19]).all()
    with pytest.raises(SimulatorError, match=r"no run succeeded.*too many animals"):
        runs(np.full((1, 1), 60.0), np.array([0]))


def test_core_of_the_proposal_network_on_traces(ricker: Executor) -> None:
    """The state the core comes to is what the network computes, and its exponent is negative before training."""
    traces = ricker.execute(ScriptBatch.empty(1, np.arange(30)), None)
    layout = ObservationLayout.from_traces(traces, [f"y{t}" for t in range(6)])
    proposal = Proposal.create(layout, NetworkConfig(lstm_size=16), device=torch.device("cpu"))
    seen = [traces.addresses[int(i)] for i in np.unique(traces.address_id)]
    proposal.grow([AddressKey(a.address, a.family, 0) for a in seen])
    core, inputs = proposal_core(proposal, traces, 7)
    assert inputs.shape[:2] == (7, 30)
    states = core.states(inputs)
    h = proposal.network.lstm(inputs)[0]
    torch.testing.assert_close(states[1:, :, :16], h[:-1])
    found = lyapunov(core, core.start(inputs), 7, k=3, inputs=inputs, burn_in=0)
    assert found.mean.shape == (3,)
    assert -2.0 < found.largest < 0.0
    spectrum = jacobian_spectrum(core, states[3], inputs=inputs[3])
    assert spectrum.singular_values.shape == (30, 32)
    with pytest.raises(ValueError, match="the longest of 30 traces has 7 draws"):
        proposal_core(proposal, traces, 8)

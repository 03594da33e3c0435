"""What is inferred in spite of faults: exact where traces fail away from the data, and seen to be biased where not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from ppx_inference import Posterior, Simulator, TrustWarning, importance_sampling
from ppx_server.executor import FailurePolicy
from ppx_server.trace import Status, TraceBatch

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMIT = 4.0
OBSERVED = {"y": -0.5}
# mu ~ N(0, 1), x ~ N(mu, 1), y ~ N(x, 1/2): y given mu has the variance 1 + 1/4.
PRECISION = 1.0 + 1 / 1.25
MEAN, STD = OBSERVED["y"] / 1.25 / PRECISION, PRECISION**-0.5
NUM_TRACES = 20_000


def deviation(values: np.ndarray, log_weight: np.ndarray) -> float:
    """By how many standard errors sd / sqrt(ess) the weighted mean is off the exact one."""
    weight = np.exp(log_weight - log_weight.max())
    ess = weight.sum() ** 2 / (weight**2).sum()
    return abs(np.average(values, weights=weight) - MEAN) / (STD / math.sqrt(ess))


def infer(command: tuple[str, ...]) -> Posterior:
    policy = FailurePolicy(retries=0, most=1.0)
    with (
        Simulator(command, num_workers=2, policy=policy) as sim,
        pytest.warns(TrustWarning, match=r"\d+ of 20000 executions failed.*\[seed 1, trace \d+\]"),
    ):
        return importance_sampling(sim, OBSERVED, num_traces=NUM_TRACES, seed=1)


def test_a_simulator_that_dies_far_from_the_data_gives_the_exact_posterior(
    in_cpp: Callable[[str, float], tuple[str, ...]],
) -> None:
    threshold = 3.0
    with Simulator(in_cpp("none", math.inf), num_workers=2) as sim:
        undisturbed = importance_sampling(sim, OBSERVED, num_traces=NUM_TRACES, seed=1)
    posterior = infer(in_cpp("segfault", threshold))
    mu = undisturbed.traces.value[undisturbed.traces.offsets[:-1]]
    failed = np.flatnonzero(mu > threshold)
    assert len(failed) > 5
    assert sorted(posterior.traces.failures) == failed.tolist()
    assert all("SIGSEGV" in reason for reason in posterior.traces.failures.values())
    kept = posterior.traces.status == Status.OK
    np.testing.assert_array_equal(posterior.traces.log_weight[kept], undisturbed.traces.log_weight[kept])
    assert deviation(*estimate(posterior.traces)) < LIMIT
    # The evidence is that of the data and of not failing, of which the prior mass above the threshold is missing.
    exact = stats.norm(0.0, math.sqrt(2.25)).logpdf(OBSERVED["y"])
    assert posterior.log_evidence == pytest.approx(exact, abs=0.05)


def test_a_simulator_that_raises_near_the_data_is_seen_to_bias_the_posterior(
    in_cpp: Callable[[str, float], tuple[str, ...]],
) -> None:
    """To keep those traces only that finish is to infer something else; so failures are counted and reported."""
    posterior = infer(in_cpp("raise", 0.5))
    share = len(posterior.traces.failures) / NUM_TRACES
    assert share == pytest.approx(stats.norm.sf(0.5), abs=0.02)
    assert deviation(*estimate(posterior.traces)) > LIMIT


def estimate(traces: TraceBatch) -> tuple[np.ndarray, np.ndarray]:
    """mu and log weight of the traces that finished."""
    kept = traces.status == Status.OK
    return traces.value[traces.offsets[:-1]][kept], traces.log_weight[kept]

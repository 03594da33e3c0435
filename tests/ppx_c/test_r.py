"""What R has of its own: errors, conditions, and R's generators replaced."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ppx_inference import Simulator
from ppx_server.executor import FailurePolicy
from ppx_server.philox import uniforms
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import Status
from tests.ppx_c.guides import ArrayGuide
from tests.ppx_c.test_faults import controlled

FAULTS = Path(__file__).parent / "programs" / "faults.R"
Build = Callable[[Path], list[str]]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("fails", "in forward(): the detector melted"),
        ("negative", "draw 'negative': Normal: stddev = -1, but it must be finite and > 0"),
        ("words", "the model returned no numbers"),
    ],
)
def test_an_error_of_r_fails_the_trace(in_r: Build, model: str, reason: str) -> None:
    with Simulator([*in_r(FAULTS), model], num_workers=1, policy=FailurePolicy(most=1.0)) as sim:
        traces = sim.prior(3)
    assert (traces.status == Status.FAILED).all()
    assert all(reason in text for text in traces.failures.values()), traces.failures


def test_the_end_of_a_trace_passes_handlers_of_errors_and_runs_on_exit(in_r: Build) -> None:
    with controlled([*in_r(FAULTS), "catches"]) as controller:
        with Simulator(address=controller.address) as sim:
            scripts = ScriptBatch.empty(1, np.arange(50), Otherwise.ASK)
            guided = sim.execute(scripts, {"y": 1.0}, ArrayGuide())
            expected = sim.prior(50, seed=1, observations={"y": 1.0})
        np.testing.assert_allclose(guided.value, expected.value, rtol=1e-9)
        entered, left = re.search(r"entered (\d+) left (\d+)", controller.stop()).groups()  # type: ignore[union-attr]
    # Once for each draw, and once for what comes behind the last one.
    assert int(entered) == int(left) == 50 * 4 + 50


def test_generators_of_r_become_draws(in_r: Build) -> None:
    with Simulator([*in_r(FAULTS), "legacy"], num_workers=1) as sim:
        traces = sim.prior(20, seed=6)
    names = [traces.addresses[i].address for i in traces.address_id[: traces.length[0]]]
    assert names[:4] == ["rnorm(1, 1, 2)", "runif(2, 0, 2)", "runif(2, 0, 2)", "rexp(1, 2)"]
    results = traces.results.data.reshape(20, -1)
    columns = uniforms(6, np.arange(20), 18).T
    expected = [
        stats.norm(1, 2), stats.uniform(0, 2), stats.uniform(0, 2), stats.expon(scale=0.5), stats.gamma(2, scale=3),
        stats.beta(2, 3), stats.poisson(4), stats.binom(10, 0.5), stats.lognorm(1), stats.weibull_min(2, scale=3),
        stats.randint(1, 6),
    ]  # fmt: skip
    for k, distribution in enumerate(expected):
        np.testing.assert_allclose(results[:, k], distribution.ppf(columns[k]), rtol=1e-9)
    assert set(results[:, 11:14].ravel()) == {10.0, 20.0}
    assert (np.sort(results[:, 14:], axis=1) == [1, 2, 3, 4]).all()
    assert len({tuple(row) for row in results[:, 14:]}) > 5

"""What R has of its own: errors, conditions, and R's generators replaced."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from ppx_inference import Simulator
from ppx_server import protocol
from ppx_server.executor import FailurePolicy
from ppx_server.philox import uniforms
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import Status
from tests.ppx_c.guides import ArrayGuide
from tests.ppx_c.test_faults import batch_of_one, controlled

FAULTS = Path(__file__).parent / "programs" / "faults.R"
Build = Callable[[Path], list[str]]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("fails", "in forward(): the detector melted"),
        ("negative", "draw 'negative': Normal: stddev = -1, but it must be finite and > 0"),
        ("words", "the model returned no numbers"),
        ("stubborn", "draw 'negative': Normal: stddev = -1"),
        ("empty", "parameters differ in shape"),
        ("unmeasured", "'unmeasured': the array has no elements"),
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


def test_generators_of_r_do_what_they_do_besides_drawing(in_r: Build) -> None:
    with Simulator([*in_r(FAULTS), "corners"], num_workers=1) as sim:
        traces = sim.prior(3, seed=6)
    names = [traces.addresses[i].address for i in traces.address_id.tolist()]
    assert names[0] == "rnorm(1, c(1, 100))"
    assert names[-1] == "do_call(rnorm, list(1, mu))"
    assert names[:6] * 3 == names


def test_rows_of_probabilities_are_categories_observed(in_r: Build) -> None:
    with Simulator([*in_r(FAULTS), "categories"], num_workers=1) as sim:
        np.testing.assert_allclose(sim.prior(2).log_weight, np.log(0.5 * 0.9))


def test_rows_and_columns_stay_what_they_are(in_r: Build) -> None:
    with Simulator([*in_r(FAULTS), "matrices"], num_workers=1) as sim:
        traces = sim.prior(2, seed=6)
    expected = np.array([10.0, 20, 30, 40, 50, 60]) + ndtri(uniforms(6, [1], 6)[0])
    np.testing.assert_allclose(traces.value[6:], expected, rtol=1e-9)
    np.testing.assert_allclose(traces.results.data[6:], expected, rtol=1e-9)
    np.testing.assert_allclose(traces.tags.data[7:], [*expected, expected[2]], rtol=1e-9)
    tables = (traces.address_id[:1], traces.results.address_id[:1], traces.tags.address_id[:1])
    assert [traces.addresses[int(ids[0])].shape for ids in tables] == [(2, 3)] * 3


@pytest.mark.parametrize("capabilities", [(), protocol.CAPABILITIES])
def test_an_interrupt_ends_serving_at_the_next_draw(in_r: Build, capabilities: tuple[str, ...]) -> None:
    with controlled([*in_r(FAULTS), "slow"]) as controller:
        controller.greet(*capabilities)
        controller.send(batch_of_one() if capabilities else protocol.Run())
        time.sleep(0.2)
        controller.process.send_signal(signal.SIGINT)
        _, said = controller.process.communicate(timeout=20)
    assert controller.process.returncode == 0, said
    assert "entered 1 left 1" in said

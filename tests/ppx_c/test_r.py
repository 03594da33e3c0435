"""What R has of its own: errors, conditions, and R's generators replaced."""

from __future__ import annotations

import re
import signal
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from ppx_inference import Simulator, TrustWarning, importance_sampling
from ppx_server import protocol
from ppx_server.executor import FailurePolicy
from ppx_server.philox import uniforms
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import Status, TraceBatch
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
        with Simulator(address=controller.address, keep_uncontrolled=True) as sim:
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


@pytest.mark.parametrize("batches", [True, False])
def test_a_name_is_that_of_the_number_that_the_model_gets(in_r: Build, batches: bool) -> None:
    with Simulator([*in_r(FAULTS), "named"], num_workers=1, batches=batches) as sim:
        traces = sim.prior(20, seed=3)
    values: dict[str, list[float]] = {}
    for ids, rows in ((traces.address_id, traces.value[:, None]), (traces.tags.address_id, tag_rows(traces))):
        for number, row in zip(ids.tolist(), rows, strict=True):
            values.setdefault(traces.addresses[number].name, []).extend(row)
    unnamed = values.pop("")
    names = {name for name in values if not name.endswith(" got")}
    assert {f"{name} got" for name in names} == values.keys() - names
    for name in names:
        np.testing.assert_array_equal(values[name], values[f"{name} got"], err_msg=name)
    assert set(values["sample(1:6, 1)"]) == {1, 2, 3, 4, 5, 6}
    assert len(unnamed) == 20 * 19
    parts = [traces.addresses[i].address for i in traces.address_id[: traces.length[0]].tolist()]
    assert parts[0] == "sample(1:6, 1)/index"
    assert parts[-1] == 'sample(c("heads", "tails"), 1)/index'


def tag_rows(traces: TraceBatch) -> list[np.ndarray]:
    return np.split(traces.tags.data, traces.tags.data_offsets[1:-1])


def test_numbers_that_are_made_of_draws_are_of_the_distributions_that_they_say(in_r: Build) -> None:
    with Simulator([*in_r(FAULTS), "named"], num_workers=1) as sim:
        traces = sim.prior(400, seed=3)
    numbers: dict[str, list[float]] = {}
    for number, row in zip(traces.tags.address_id.tolist(), tag_rows(traces), strict=True):
        numbers.setdefault(traces.addresses[number].name, []).extend(row)

    def p_value(name: str, distribution: Any, shift: float = 0.0) -> float:
        return float(stats.kstest(np.array(numbers[name]) + shift, distribution.cdf).pvalue)

    cases = {
        "rcauchy(1, 1, 2)": stats.cauchy(1, 2), "rt(1, 3)": stats.t(3), "rf(1, 4, 7)": stats.f(4, 7),
        "rchisq(1, 3) got": stats.chi2(3),
    }  # fmt: skip
    assert all(p_value(name, distribution) > 1e-4 for name, distribution in cases.items())
    assert all(p_value(name, distribution, 0.7) < 1e-4 for name, distribution in cases.items())
    logistic = np.reshape(numbers["rlogis(2, c(0, 10))"], (-1, 2)) - [0, 10]
    assert stats.kstest(logistic.ravel(), stats.logistic.cdf).pvalue > 1e-4
    means = {"rgeom(1, 0_3)": stats.geom(0.3, -1), "rnbinom(1, 3, 0_4)": stats.nbinom(3, 0.4)}
    means["rnbinom(2, 3, 2)"] = stats.nbinom(3, 3 / 5)
    for name, distribution in means.items():
        tolerance = 4 * distribution.std() / np.sqrt(len(numbers[name]))
        assert np.mean(numbers[name]) == pytest.approx(distribution.mean(), abs=tolerance)


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize(("model", "name"), [("forks", "x"), ("forks_by_generator", "norm_rand")])
def test_draws_in_processes_that_r_forks_fail_the_trace(
    in_r: Build, model: str, name: str, batches: bool
) -> None:
    policy = FailurePolicy(most=1.0)
    with Simulator([*in_r(FAULTS), model], num_workers=1, batches=batches, policy=policy) as sim:
        traces = sim.prior(2)
    assert (traces.status == Status.FAILED).all()
    reason = f"statement '{name}' was made in a process that the model forked"
    assert all(reason in text for text in traces.failures.values()), traces.failures


TINY = {
    "DESCRIPTION": "Package: ppxtiny\nVersion: 0.1\nTitle: Draws\nDescription: Draws.\nLicense: MIT\n",
    "NAMESPACE": "importFrom(stats, rnorm, rexp)\nuseDynLib(ppxtiny, draw)\nexport(walk, pick, compiled, noisy)\n",
    "R/draws.R": (
        "walk <- function(n) sum(rnorm(n, 0, 2)) + rexp(1, 3)\n"
        "pick <- function(n) sample(n, 1)\n"
        "compiled <- function() .Call(draw)\n"
        "noisy <- function() rnorm(1)\n"
    ),
    "src/draw.c": (
        "#include <R.h>\n#include <Rinternals.h>\n"
        "SEXP draw(void) { GetRNGstate(); double u = unif_rand(); PutRNGstate(); return ScalarReal(u); }\n"
    ),
}
"""An R package that knows nothing of PPX."""


@pytest.fixture(scope="module")
def package(in_r: Build, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """The command of a model that uses an installed package."""
    folder = tmp_path_factory.mktemp("packages")
    for name, text in TINY.items():
        (folder / "ppxtiny" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "ppxtiny" / name).write_text(text)
    (folder / "library").mkdir()
    install = ["R", "CMD", "INSTALL", "--no-test-load", "--no-docs", f"--library={folder / 'library'}"]
    outcome = subprocess.run([*install, folder / "ppxtiny"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    return lambda model: ["env", f"R_LIBS={folder / 'library'}", *in_r(FAULTS), model]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("package", ["norm_rand"] * 3 + ["unif_rand"] * 4 + ["norm_rand"]),
        ("package_seen", ["rnorm(n, 0, 2)"] * 3 + ["rexp(1, 3)", "unif_rand", "unif_rand", "rnorm(1)"]),
    ],
)
def test_what_an_installed_package_draws_is_controlled(
    package: Callable[[str], list[str]], model: str, names: list[str]
) -> None:
    with Simulator(package(model), num_workers=1) as sim, warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        traces = sim.prior(20, seed=4)
        posterior = importance_sampling(sim, {"y": 1.0}, num_traces=600, seed=2)
    found = [traces.addresses[i].name for i in traces.address_id[: traces.length[0]].tolist()]
    assert [name for name in found if name != "unif_rand"] == [name for name in names if name != "unif_rand"]
    with Simulator(package(model), num_workers=1) as sim:
        np.testing.assert_array_equal(sim.prior(20, seed=4).tags.data, traces.tags.data)
    walks, picks, uniform, mu = np.reshape(traces.tags.data, (20, -1)).T[[0, -3, -2, -1]]
    assert set(picks) <= {1, 2, 3, 4, 5}
    assert len(set(picks)) > 2
    assert len(set(walks)) == len(set(uniform)) == len(set(mu)) == 20
    # mu ~ N(0, 1), measured as 1 with a variance of 1/4.
    assert posterior.ess > 100
    assert abs(posterior["mu"].mean() - 0.8) < 4 * np.sqrt(0.2 / posterior.ess)


def test_a_generator_that_the_model_chooses_is_named(in_r: Build) -> None:
    with Simulator([*in_r(FAULTS), "kind"], num_workers=1, policy=FailurePolicy(most=1.0)) as sim:
        traces = sim.prior(2)
    assert all("the model chose a generator by RNGkind" in text for text in traces.failures.values())
    assert (traces.status == Status.FAILED).all()
    with Simulator([*in_r(FAULTS), "seeds"], num_workers=1) as sim:
        assert len(set(sim.prior(5).results.data)) == 5  # set.seed(1) alone freezes nothing

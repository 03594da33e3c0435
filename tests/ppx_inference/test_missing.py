"""Measurements that are not all there: every engine against exact posteriors, by batches and draw by draw."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppx_inference import (
    NetworkConfig,
    Posterior,
    Proposal,
    Simulator,
    TrainingConfig,
    importance_sampling,
    inference_compilation,
    lightweight_mh,
    quiet,
    random_walk_mh,
    train,
)
from ppx_server.errors import CheckpointError, ObservationError
from ppx_server.observations import ObservationSet
from ppx_server.script import ScriptBatch

MODEL = """
import sys
import numpy as np
import ppx_client as ppx

def measured():
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    ppx.observe(ppx.Normal(np.full(3, mu), 1.0), name="y")
    ppx.observe(ppx.Normal(mu, 0.5), name="z")

def coded():
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    for _ in range(2):
        ppx.observe(ppx.Normal(mu, 1.0), 2.0, name="y")

def events():
    n = ppx.sample(ppx.Poisson(3.0), name="n")
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    for _ in range(n):
        ppx.observe(ppx.Normal(mu, 1.0), name="y")

def bounded():
    a = ppx.sample(ppx.Uniform(0.0, 1.0), name="a")
    ppx.observe(ppx.Uniform(np.full(2, a), 2.0), name="y")

ppx.serve(globals()[sys.argv[1]], name=sys.argv[1])
"""
GIVEN = {"y": [0.1, None, 0.3], "z": 0.5}
MEAN, SD = 2.4 / 7, 1 / math.sqrt(7)  # precisions 1, 1, 1 and 4; prior mean 0


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("missing") / "model.py"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["batches", "draw by draw"])
def measured(script: Path, request: pytest.FixtureRequest) -> Iterator[Simulator]:
    with Simulator([sys.executable, str(script), "measured"], num_workers=1, batches=request.param) as sim:
        yield sim


@pytest.fixture(scope="module")
def batches(script: Path) -> Iterator[Simulator]:
    with Simulator([sys.executable, str(script), "measured"], num_workers=1) as sim:
        yield sim


@pytest.fixture(scope="module")
def proposal(batches: Simulator) -> Proposal:
    config = TrainingConfig(
        network=NetworkConfig(lstm_size=8, head_size=8, observation_size=8), num_validation=64
    )
    return train(batches, ["z"], num_traces=256, seed=9, config=config, device="cpu", progress=quiet)


def simulator(script: Path, name: str, **options: Any) -> Simulator:
    return Simulator([sys.executable, str(script), name], num_workers=1, **options)


def is_posterior(posterior: Posterior, mean: float = MEAN, sd: float = SD) -> bool:
    return abs(posterior["mu"].mean() - mean) < 4 * sd / math.sqrt(posterior.ess)


def log_evidence(values: list[float], variances: list[float]) -> float:
    """Of numbers that measure mu ~ N(0, 1), with these variances."""
    covariance = np.ones((len(values), len(values))) + np.diag(variances)
    y = np.array(values)
    return float(
        -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance).logabsdet)
    )


@pytest.mark.filterwarnings("ignore::ppx_inference.TrustWarning")
@pytest.mark.parametrize("engine", ["importance", "lightweight", "random walk", "compilation"])
def test_what_was_not_measured_contributes_nothing(
    batches: Simulator, proposal: Proposal, engine: str
) -> None:
    options: dict[str, Any] = {"seed": 2, "progress": quiet}
    match engine:
        case "importance":
            found = importance_sampling(batches, GIVEN, num_traces=2000, **options)
        case "compilation":
            found = inference_compilation(batches, GIVEN, proposal=proposal, num_traces=1000, **options)
        case "lightweight":
            found = lightweight_mh(batches, GIVEN, num_traces=2000, **options)
        case _:
            found = random_walk_mh(batches, GIVEN, num_traces=2000, **options)
    assert is_posterior(found)
    assert not is_posterior(found, mean=1.425)  # what is behind a mask
    y = found["y"]  # measured elements, and the posterior predictive of the one that was not
    np.testing.assert_allclose(y.mean()[[0, 2]], [0.1, 0.3])
    predicted = math.sqrt(1 + SD**2)
    assert abs(y.mean()[1] - MEAN) < 4 * predicted / math.sqrt(found.ess)
    assert abs(y.std()[1] - predicted) < 4 * predicted / math.sqrt(2 * found.ess)
    if found.log_evidence is not None and found.log_evidence_std is not None:
        exact = log_evidence([0.1, 0.3, 0.5], [1, 1, 0.25])
        assert abs(found.log_evidence - exact) < 4 * found.log_evidence_std


def test_all_ways_to_say_that_something_was_not_measured(measured: Simulator) -> None:
    masked = np.ma.masked_array([0.1, 9.0, 0.3], mask=[False, True, False])
    alike = [
        [GIVEN, {"y": masked, "z": 0.5}, {"y": np.array([0.1, np.nan, 0.3]), "z": 0.5}],
        [{"z": 0.5}, {"y": None, "z": 0.5}, {("y", 0): None, "z": 0.5}, {"y": [None] * 3, "z": 0.5}],
        [{"y": [0.1, 9.0, 0.3]}, {"y": [0.1, 9.0, 0.3], "z": np.nan}],
        [{}, {"y": None, "z": np.ma.masked}],
    ]
    exact = [(MEAN, SD), (0.4, 1 / math.sqrt(5)), (2.35, 0.5), (0.0, 1.0)]
    for sets, (mean, sd) in zip(alike, exact, strict=True):
        traces = [measured.prior(300, seed=4, observations=given) for given in sets]
        weights = np.exp(traces[0].log_weight)
        mu = traces[0].value
        ess = weights.sum() ** 2 / (weights**2).sum()
        assert abs(weights @ mu / weights.sum() - mean) < 4 * sd / math.sqrt(ess)
        for other in traces[1:]:
            np.testing.assert_array_equal(other.log_weight, traces[0].log_weight)
            np.testing.assert_array_equal(other.observations.data, traces[0].observations.data)


def test_both_ways_of_driving_give_the_same_traces(measured: Simulator, batches: Simulator) -> None:
    for given in (GIVEN, {"z": 0.5}, {"y": [0.1, 0.2, 0.3], "z": None}, {"y": [1.0, 2.0], "z": 0.5}):
        one, other = (sim.prior(20, seed=5, observations=given) for sim in (measured, batches))
        np.testing.assert_allclose(one.log_weight, other.log_weight, rtol=1e-12)
        np.testing.assert_allclose(one.observations.data, other.observations.data, rtol=1e-12)


def test_a_value_of_the_code_counts_unless_it_is_said_not_to(script: Path) -> None:
    for way in (True, False):
        with simulator(script, "coded", batches=way) as sim:
            traces = {k: sim.prior(20, seed=1, observations=given) for k, given in CODED.items()}
        mu = traces["code"].value
        density = {y: -0.5 * (y - mu) ** 2 - 0.5 * np.log(2 * np.pi) for y in (1.0, 2.0)}
        np.testing.assert_allclose(traces["code"].log_likelihood, 2 * density[2.0])
        np.testing.assert_allclose(traces["first given"].log_likelihood, density[1.0] + density[2.0])
        np.testing.assert_allclose(traces["second missing"].log_likelihood, density[1.0])
        np.testing.assert_allclose(traces["missing"].log_likelihood, np.zeros(20))
        assert np.isneginf(traces["empty"].log_likelihood).all()


CODED: dict[str, dict[Any, Any]] = {
    "code": {},
    "first given": {"y": 1.0},
    "second missing": {"y": 1.0, ("y", 1): None},
    "missing": {"y": None},
    "empty": {"y": []},
}


@pytest.mark.filterwarnings("ignore::ppx_inference.TrustWarning")
def test_a_random_number_of_measurements(script: Path) -> None:
    values = [0.1, 0.2, -0.3]
    three = {("y", i): value for i, value in enumerate(values)}
    with simulator(script, "events") as sim:
        posterior = importance_sampling(sim, three, num_traces=4000, seed=1, progress=quiet)
        chains = random_walk_mh(sim, three, num_traces=1000, seed=1, progress=quiet)
        none = importance_sampling(sim, {"y": []}, num_traces=1000, seed=1, progress=quiet)
        partial = importance_sampling(sim, {"y": 0.5}, partial=["y"], num_traces=2000, seed=1, progress=quiet)
        with pytest.raises(
            ObservationError, match="rule out all 1,000 traces: they made fewer visits of 'y'"
        ) as lost:
            importance_sampling(sim, {("y", i): 0.1 for i in range(14)}, num_traces=1000, progress=quiet)
        with pytest.raises(ObservationError, match=r"fewer visits of 'y'.*partial=\['y'\]"):
            random_walk_mh(sim, {("y", i): 0.1 for i in range(14)}, num_traces=4, progress=quiet)
        for engine in (importance_sampling, lightweight_mh):
            with pytest.raises(ObservationError, match=r"in shape \(\), where shape \(3,\).*one by one"):
                engine(sim, {"y": values}, num_traces=100_000, progress=quiet)
    assert len(lost.value.partial) == 1000  # type: ignore[union-attr]
    exact = log_evidence(values, [1, 1, 1]) + math.log(math.exp(-3) * 27 / 6)
    assert posterior.log_evidence == pytest.approx(exact, abs=4 * posterior.log_evidence_std)  # type: ignore[operator]
    for found in (posterior, chains):
        assert found["n"].mean() == pytest.approx(3.0)
        assert is_posterior(found, mean=0.0, sd=0.5)
    assert none["n"].mean() == 0.0
    assert is_posterior(none, mean=0.0, sd=1.0)
    # Traces without an event are not told apart from others then: P(n = 0) is not 0.
    assert partial["n"].probabilities()[0.0] > 0.01
    assert is_posterior(partial, mean=partial["mu"].mean())


def test_results_with_drawn_observations_are_kept_and_replayed(script: Path, tmp_path: Path) -> None:
    with simulator(script, "events") as sim:
        given = ObservationSet({"y": 0.5, ("y", 1): None})
        posterior = Posterior.of_traces(sim.prior(200, seed=3, observations=given))
        again = sim.execute(ScriptBatch.replay(posterior.traces), given)
        np.testing.assert_array_equal(again.log_weight, posterior.traces.log_weight)
        np.testing.assert_array_equal(again.observations.data, posterior.traces.observations.data)
        assert np.isneginf(again.log_weight).any()
        assert np.isfinite(again.log_weight).any()
        posterior.save(tmp_path / "result")
        opened = Posterior.open(tmp_path / "result").traces
        np.testing.assert_array_equal(opened.log_weight, again.log_weight)
        np.testing.assert_array_equal(opened.observations.data, again.observations.data)
        assert opened.addresses.find("y")
        predicted = posterior.predictive(sim, 20, seed=1)
        assert not np.isneginf(predicted.log_likelihood).any()


def test_networks_refuse_what_was_not_measured(batches: Simulator, proposal: Proposal) -> None:
    for given in ({"y": [0.1, 0.2, 0.3]}, {"z": None}, {"z": math.nan}):
        with pytest.raises(CheckpointError, match=r"observation 'z'.*measured"):
            inference_compilation(batches, given, proposal=proposal, num_traces=10, progress=quiet)


def test_by_how_much_the_nearest_trace_misses(script: Path) -> None:
    with simulator(script, "bounded") as sim:
        with pytest.raises(ObservationError) as error:
            lightweight_mh(sim, {"y": [1.5, 5.0]}, num_traces=100, progress=quiet)
        with pytest.warns(
            UserWarning, match=r"the nearest value of its element \[1\] is 1\.\d+, where 5 is given"
        ):
            found = importance_sampling(sim, {"y": [1.5, 5.0]}, num_traces=200, progress=quiet)
        assert found.provenance.remarks
        missing = importance_sampling(sim, {"y": [0.999, None]}, num_traces=2000, seed=1, progress=quiet)
    assert "they give the value of 'y' density zero" in str(error.value)
    assert "where 5 is given" in str(error.value)
    assert missing.ess > 100

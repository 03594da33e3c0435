"""Posterior: looking up quantities, weighted statistics, trust, resampling, prediction, storage."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from ppx_inference import Posterior, Provenance, TrustWarning, importance_sampling, random_walk_mh
from ppx_server.errors import AddressError, SimulatorFailedError, StoreError


def scoped(ppx):
    """A draw in one of two scopes, one in both, an array, a tag, a result, repeated visits."""
    branch = ppx.sample("Bernoulli", 0.5, name="branch")
    with ppx.scope("left" if branch else "right"):
        ppx.sample("Normal", 0.0, 1.0, name="energy")
        ppx.sample("Normal", 0.0, 1.0, name="twice")
    with ppx.scope("other"):
        ppx.sample("Normal", 0.0, 1.0, name="twice")
    for i in range(3):
        ppx.sample("Normal", 100.0 * i, 1.0, name="visit")
    vector = ppx.sample("Normal", np.arange(4.0).reshape(2, 2), 0.1 * np.ones((2, 2)), name="vector")
    ppx.tag(2.0 * branch, "double")
    ppx.tag(vector, "picture")
    ppx.observe("Normal", branch, 1.0, name="y")
    return vector[0]


@pytest.fixture
def scoped_posterior(in_process):
    return importance_sampling(in_process(scoped), {"y": 0.5}, num_traces=400, seed=1)


def weighted(in_process, weights):
    """A posterior of a model whose n-th trace holds the value n, with chosen weights."""

    def model(ppx):
        ppx.sample("Normal", 0.0, 1.0, name="x")

    traces = importance_sampling(in_process(model), {}, num_traces=max(len(weights), 200)).traces
    traces = replace(traces.select(np.arange(len(weights))), value=np.arange(len(weights), dtype=float))
    with np.errstate(divide="ignore"):
        return Posterior(traces, np.log(np.asarray(weights, float)), Provenance("test", 0))


def test_names_addresses_and_visits_are_looked_up(scoped_posterior):
    p = scoped_posterior
    assert p["branch"].present == pytest.approx(1.0)
    assert p["left/energy"].present == pytest.approx(p["branch"].mean())
    assert p["energy"].present == pytest.approx(1.0)
    assert len(p["energy"]) == len(p["left/energy"]) + len(p["right/energy"]) == len(p)
    assert [round(p["visit", i].mean(), -2) for i in range(3)] == [0.0, 100.0, 200.0]
    assert p["double"].probabilities().keys() == {0.0, 2.0}


def test_values_of_a_shared_name_stay_with_their_traces(scoped_posterior):
    p = scoped_posterior
    rows = p.traces.rows([p.traces.addresses.find("left/energy")[0]])
    expected = np.where(rows >= 0, p.traces.value[rows], np.nan)
    energy = p["energy"].values
    assert np.array_equal(energy[rows >= 0], expected[rows >= 0])


def test_arrays_keep_their_shape(scoped_posterior):
    p = scoped_posterior
    assert p["vector"].values.shape == (400, 2, 2)
    assert p["vector"].mean() == pytest.approx(np.arange(4.0).reshape(2, 2), abs=0.05)
    assert p["vector"].quantile([0.1, 0.9]).shape == (2, 2, 2)
    assert np.array_equal(p["picture"].values, p["vector"].values)
    assert np.array_equal(p.result.values, p["vector"].values[:, 0])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("energi", "did you mean 'energy'"),
        ("nothing like it", "there are 'branch'"),
        ("twice", "one trace visits several of them.*full address"),
        (("visit", 3), "no trace visits 'visit' 4 times"),
        ("y", "an observation that was given"),
    ],
)
def test_what_cannot_be_looked_up_is_explained(key, message, scoped_posterior):
    with pytest.raises(AddressError, match=message):
        scoped_posterior[key]


def test_a_simulator_without_result_says_so(in_process):
    with pytest.raises(AddressError, match="returns no result"):
        _ = weighted(in_process, [1.0]).result


def test_weighted_statistics(in_process):
    marginal = weighted(in_process, [1, 2, 1, 0])["x"]
    assert marginal.mean() == pytest.approx(1.0)
    assert marginal.std() == pytest.approx(math.sqrt(0.5))
    assert [marginal.quantile(q) for q in (0.0, 0.25, 0.26, 0.75, 0.76, 1.0)] == [0, 0, 1, 1, 2, 2]
    assert marginal.probabilities() == pytest.approx({0.0: 0.25, 1.0: 0.5, 2.0: 0.25, 3.0: 0.0})
    assert marginal.ess == pytest.approx(1 / (1 / 16 + 1 / 4 + 1 / 16))
    density, edges = marginal.hist(bins=[0, 0.5, 1.5, 3.5])
    assert density * np.diff(edges) == pytest.approx([0.25, 0.5, 0.25])
    with pytest.raises(ValueError, match=r"probability in \[0, 1\]"):
        marginal.quantile(1.5)


def test_expectation_and_evidence(in_process):
    posterior = weighted(in_process, [1, 2, 1, 0])
    assert posterior.expectation(lambda traces: traces.value**2) == pytest.approx((0 + 2 + 4) / 4)
    assert posterior.expectation(lambda traces: np.stack([traces.value, traces.length], 1)) == pytest.approx(
        [1, 1]
    )
    assert posterior.log_evidence == pytest.approx(0.0)
    with pytest.raises(ValueError, match="one value for each of 4"):
        posterior.expectation(lambda traces: 3.0)


def test_traces_that_are_ruled_out_count_for_the_evidence(in_process):
    assert weighted(in_process, [1, 0, 0, 0]).log_evidence == pytest.approx(math.log(0.25))
    nothing = weighted(in_process, [0, 0])
    assert (nothing.log_evidence, nothing.ess) == (-math.inf, 0.0)
    with pytest.raises(ValueError, match="weight zero"):
        nothing.resample(3, seed=0)


@pytest.mark.parametrize(("weight", "what"), [(math.nan, "NaN"), (math.inf, "infinite")])
def test_a_weight_that_is_no_finite_number_names_the_trace(weight, what, in_process):
    with pytest.raises(SimulatorFailedError, match=rf"1 of 3 traces.* is {what};.*\[seed 0, trace 1\]"):
        weighted(in_process, [1.0, weight, 0.0])


def test_resampling_keeps_the_distribution_and_what_is_known_of_its_quality(in_process):
    posterior = weighted(in_process, np.arange(100.0))
    again = posterior.resample(20_000, seed=3)
    assert np.bincount(again["x"].values.astype(int), minlength=100) / 20_000 == pytest.approx(
        posterior.weights, abs=1e-4
    )
    assert again.ess == again["x"].ess == pytest.approx(posterior.ess)
    assert again.log_evidence == posterior.log_evidence
    assert np.array_equal(again.traces.index, posterior.resample(20_000, seed=3).traces.index)


def test_predictive_draws_new_observations_from_posterior_traces(in_process):
    def model(ppx):
        x = ppx.sample("Normal", 0.0, 1.0, name="x")
        ppx.sample("Normal", 0.0, 1.0, name="nuisance", control=False)
        ppx.observe("Normal", x, 0.1, name="y")

    simulator = in_process(model)
    posterior = importance_sampling(simulator, {"y": 1.0}, num_traces=3000, seed=1)
    traces = posterior.predictive(simulator, 1500, seed=2)
    assert set(traces.value[::2]) <= set(posterior.traces.value[::2])
    predicted = Posterior.of_traces(traces)["y"]
    assert predicted.mean() == pytest.approx(1.0, abs=0.03)
    # The posterior's variance, 1 / (1 + 100), and that of the noise.
    assert predicted.std() == pytest.approx(math.sqrt(1 / 101 + 0.01), abs=0.02)
    assert len(set(predicted.values)) == 1500


@pytest.mark.parametrize("engine", [importance_sampling, random_walk_mh])
def test_what_is_saved_is_what_is_opened(engine, in_process, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        posterior = engine(in_process(scoped), {"y": 0.5}, num_traces=400, seed=2**64 - 1)
    posterior.save(tmp_path / "result")
    opened = Posterior.open(tmp_path / "result")
    assert opened.provenance == posterior.provenance
    assert np.array_equal(opened.log_weight, posterior.log_weight)
    assert np.array_equal(opened.traces.value, posterior.traces.value)
    assert sorted(map(repr, opened.summary())) == sorted(map(repr, posterior.summary()))
    assert opened.ess == posterior.ess
    # Decoded: a store numbers addresses in its own way.
    assert repr(opened.table().to_pydict()) == repr(posterior.table().to_pydict())
    again = opened.resample(50, seed=1)
    again.save(tmp_path / "again")
    assert Posterior.open(tmp_path / "again").ess == again.ess
    with pytest.raises(StoreError, match="not empty"):
        posterior.save(tmp_path / "result")
    with pytest.raises(StoreError):
        Posterior.open(tmp_path / "nowhere")


def test_doubtful_results_warn_with_a_remedy(in_process):
    def model(ppx):
        ppx.observe("Normal", ppx.sample("Normal", 0.0, 1.0, name="x"), 0.001, name="y")

    with pytest.warns(TrustWarning, match=r"effective sample size .* run more traces") as caught:
        posterior = importance_sampling(in_process(model), {"y": 2.0}, num_traces=500)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert len(posterior.doubts) == 2
    assert "doubt: Pareto k-hat" in repr(posterior)
    with pytest.warns(TrustWarning, match="run longer"):
        random_walk_mh(in_process(model), {"y": 2.0}, num_traces=100, burn_in=0, step_size=0.5)


def test_good_results_do_not_warn(in_process):
    def model(ppx):
        ppx.observe("Normal", ppx.sample("Normal", 0.0, 1.0, name="x"), 1.0, name="y")

    posterior = random_walk_mh(in_process(model), {"y": 1.0}, num_traces=3000)
    assert posterior.doubts == ()
    assert posterior.ess > 300
    assert posterior.r_hat < 1.02
    assert (posterior.pareto_k, posterior.log_evidence) == (None, None)
    (row,) = posterior.summary()
    assert (row.name, row.present) == ("x", 1.0)
    assert row.mean == pytest.approx(0.5, abs=0.1)
    assert row.q05 < row.q50 < row.q95


def test_whatever_a_key_is_the_error_says_what_it_must_be(scoped_posterior):
    with pytest.raises(AddressError, match="read by the name of a draw or tag"):
        scoped_posterior[0]

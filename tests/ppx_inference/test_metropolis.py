"""Metropolis-Hastings over traces keeps the target invariant, whatever the simulator does with its draws.

Without observations the target is the prior, whose means are known; every model here breaks a wrong sampler.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from arviz_stats.base.array import array_stats

from ppx_inference import TrustWarning, lightweight_mh, metropolis, random_walk_mh
from ppx_inference.lightweight import Lightweight
from ppx_inference.random_walk import RandomWalk
from ppx_server.errors import ObservationError, SimulatorFailedError
from ppx_server.script import ScriptBatch

ENGINES = [lightweight_mh, random_walk_mh]


def moving_support(ppx):
    """b is uniform below a: E[a] = 1/2, E[b] = 1/4."""
    a = ppx.sample("Uniform", 0.0, 1.0, name="a")
    ppx.sample("Uniform", 0.0, a, name="b")


def changing_dimension(ppx):
    """A geometric number of normals, and as many uniforms of another scope."""
    count = 1
    while ppx.sample("Bernoulli", 0.5, name="more"):
        ppx.sample("Normal", 0.0, 1.0, name="x")
        count += 1
    with ppx.scope("tail"):
        for _ in range(count):
            ppx.sample("Uniform", 0.0, 1.0, name="x")
    ppx.tag(float(count), "count")


def uncontrolled_structure(ppx):
    """A draw out of reach decides which draws there are, and in which order."""
    if ppx.sample("Bernoulli", 0.5, name="hidden", control=False):
        ppx.sample("Normal", 0.0, 1.0, name="a")
        ppx.sample("Normal", 0.0, 1.0, name="b")
        ppx.sample("Normal", 0.0, 1.0, name="c")
    else:
        ppx.sample("Normal", 0.0, 1.0, name="b")
        ppx.sample("Normal", 0.0, 1.0, name="a")


def disjoint_structure(ppx):
    """Executions that share no controlled draw; some have none at all."""
    k = int(ppx.sample("Categorical", (0.2, 0.3, 0.5), name="hidden", control=False))
    for i in range(k):
        ppx.sample("Normal", 0.0, 1.0, name=f"x{k}{i}")


def arrays(ppx):
    """Array draws whose parameters depend on each other."""
    a = ppx.sample("Normal", np.zeros(3), np.ones(3), name="a")
    ppx.sample("Poisson", np.exp(a), name="n")
    ppx.sample("Categorical", np.array([[0.5, 0.5], [0.1, 0.9]]), name="k")
    ppx.tag(float(a.sum()), "sum")


# Model, function of the posterior, its exact mean and standard deviation.
CHECKS = [
    (moving_support, lambda p: p["a"].values, 0.5, math.sqrt(1 / 12)),
    (moving_support, lambda p: p["b"].values, 0.25, math.sqrt(1 / 9 - 1 / 16)),
    (changing_dimension, lambda p: p["count"].values, 2.0, math.sqrt(2)),
    (changing_dimension, lambda p: p["tail/x"].values, 0.5, math.sqrt(1 / 12)),
    (uncontrolled_structure, lambda p: p["hidden"].values, 0.5, 0.5),
    (uncontrolled_structure, lambda p: p["a"].values, 0.0, 1.0),
    (disjoint_structure, lambda p: p["hidden"].values, 1.3, math.sqrt(2.3 - 1.69)),
    (arrays, lambda p: p["sum"].values, 0.0, math.sqrt(3)),
    (arrays, lambda p: p["n"].values[:, 1], math.exp(0.5), math.sqrt(math.e**2 - math.e + math.exp(0.5))),
    (arrays, lambda p: p["k"].values[:, 1], 0.9, 0.3),
]


def score(posterior, values, mean, std):
    """Standard errors between the chains' mean and the exact one."""
    ess = float(array_stats.ess(values.reshape(posterior.provenance.num_chains, -1), method="mean"))
    return abs(values.mean() - mean) / (std / math.sqrt(ess))


def run(engine, simulator, observations=None, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        return engine(simulator, observations or {}, **arguments)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("model", dict.fromkeys(c[0] for c in CHECKS))
def test_without_observations_chains_sample_the_prior(engine, model, in_process):
    posterior = run(engine, in_process(model), num_traces=6000, seed=1)
    for function, mean, std in (c[1:] for c in CHECKS if c[0] is model):
        assert score(posterior, function(posterior), mean, std) < 4


@pytest.mark.parametrize("model", [changing_dimension, uncontrolled_structure])
def test_the_check_rejects_chains_that_forget_the_dimension(model, in_process, monkeypatch):
    def forgetful(current, proposed, picked):
        return proposed.log_likelihood - current.log_likelihood

    monkeypatch.setattr(metropolis, "log_acceptance", forgetful)
    posterior = run(lightweight_mh, in_process(model), num_traces=6000, seed=1)
    assert max(score(posterior, f(posterior), mean, std) for m, f, mean, std in CHECKS if m is model) > 4


def test_the_check_rejects_chains_that_make_irreversible_moves(in_process, monkeypatch):
    monkeypatch.setattr(metropolis, "_reversible", lambda current, *_: np.ones(len(current), bool))
    posterior = run(lightweight_mh, in_process(disjoint_structure), num_traces=6000, seed=1)
    function, mean, std = next(c[1:] for c in CHECKS if c[0] is disjoint_structure)
    assert score(posterior, function(posterior), mean, std) > 4


def test_the_check_rejects_chains_that_keep_values_instead_of_coordinates(in_process):
    """What the old stack did: other draws keep their values, and one outside its support counts as inside."""
    simulator, rng = in_process(moving_support), np.random.default_rng(1)
    chains = 8
    current = simulator.execute(ScriptBatch.empty(1, np.arange(chains)), {})
    kept = []
    for step in range(1, 1001):
        picked = rng.integers(2, size=chains) + 2 * np.arange(chains)
        script = ScriptBatch.replay(current)
        value = script.value.copy()
        value[picked] = np.nan
        fresh = rng.standard_normal(2 * chains)
        script = replace(script, value=value, z=fresh, index=np.arange(chains) + step * chains)
        proposed = simulator.execute(script, {})
        new, old = (np.where(np.isneginf(t.log_prob), 0.0, t.log_prob) for t in (proposed, current))
        ratio = (new - old).reshape(chains, 2).sum(1) + old[picked] - new[picked]
        accepted = np.log(rng.random(chains)) < ratio
        merged = current.concatenate([current, proposed])
        current = merged.select(np.where(accepted, np.arange(chains) + chains, np.arange(chains)))
        kept.append(current.value.reshape(chains, 2)[:, 0])
    values = np.stack(kept, axis=1)
    error = math.sqrt(1 / 12) / math.sqrt(float(array_stats.ess(values, method="mean")))
    assert abs(values.mean() - 0.5) / error > 4


@pytest.mark.parametrize("kernel", [Lightweight(), RandomWalk(0.3)])
def test_kernels_leave_the_standard_normal_invariant(kernel):
    rng = np.random.default_rng(3)
    z = rng.standard_normal(200_000)
    ids = np.zeros(len(z), np.int32)
    move, new = kernel.propose(rng, z, ids, np.zeros(len(z), bool))
    for kind in np.unique(move):
        chosen = new[move == kind]
        error = 1 / math.sqrt(len(chosen))
        assert abs(chosen.mean()) < 4 * error
        assert abs((chosen**2).mean() - 1) < 4 * math.sqrt(2) * error


def test_random_walk_takes_small_steps_except_at_categorical_draws():
    kernel = RandomWalk(0.1, resample=0.0, mirror=0.0, redraw=0.0, restart=0.0)
    categorical = np.array([False, True])
    move, z = kernel.propose(
        np.random.default_rng(0), np.array([2.0, 2.0]), np.zeros(2, np.int32), categorical
    )
    assert move.tolist() == [metropolis.Move.WALK, metropolis.Move.RESAMPLE]
    assert abs(z[0] - 2.0) < 0.5


def test_step_sizes_are_learnt_per_address_and_only_during_burn_in(in_process):
    def model(ppx):
        mu = ppx.sample("Normal", 0.0, 1.0, name="narrow")
        ppx.sample("Normal", 0.0, 1.0, name="free")
        ppx.observe("Normal", mu, 0.01, name="y")

    settings = run(
        random_walk_mh, in_process(model), {"y": 0.5}, num_traces=400, burn_in=8000
    ).provenance.settings
    assert settings["step_size"]["narrow"] < 0.06
    assert settings["step_size"]["free"] > 0.5
    fixed = run(random_walk_mh, in_process(model), {"y": 0.5}, num_traces=400, step_size=0.02)
    assert fixed.provenance.settings["step_size"] == {}


def test_impossible_traces_are_never_accepted(in_process):
    def model(ppx):
        k = ppx.sample("Categorical", (0.25, 0.25, 0.25, 0.25), name="k")
        ppx.observe("Uniform", k, k + 2.0, name="y")

    posterior = run(lightweight_mh, in_process(model), {"y": 2.5}, num_traces=2000)
    assert posterior["k"].probabilities() == pytest.approx({1.0: 0.5, 2.0: 0.5}, abs=0.06)


def test_a_model_without_draws_has_its_only_trace_as_posterior(in_process):
    def model(ppx):
        ppx.observe("Normal", 0.0, 1.0, name="y")
        return 3.0

    posterior = lightweight_mh(in_process(model), {"y": 0.1}, num_traces=200)
    assert posterior.result.mean() == pytest.approx(3.0)
    assert posterior.ess == len(posterior)


def test_impossible_observations_are_one_clear_error(in_process):
    def model(ppx):
        ppx.observe("Uniform", ppx.sample("Uniform", 0.0, 1.0, name="a"), 2.0, name="y")

    with pytest.raises(ObservationError, match=r"likelihood zero in all .* widen the observation noise"):
        lightweight_mh(in_process(model), {"y": 5.0}, num_traces=8, num_chains=1)


@pytest.mark.parametrize(("log_prob", "what"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_a_likelihood_that_is_no_finite_number_names_the_trace(log_prob, what, in_process):
    simulator = in_process(moving_support)

    class Broken(in_process):
        def execute(self, scripts, observations, guide=None):
            traces = super().execute(scripts, observations, guide)
            table = traces.observations
            return replace(
                traces, observations=replace(table, log_prob=np.full_like(table.log_prob, log_prob))
            )

    def model(ppx):
        ppx.observe("Normal", 0.0, 1.0, name="y")

    simulator = Broken(model)
    with pytest.raises(SimulatorFailedError, match=rf"{what}.*\[seed 7, trace 0\]"):
        lightweight_mh(simulator, {"y": 1.0}, num_traces=8, seed=7)


def test_chains_of_one_seed_are_the_same_and_of_another_differ(in_process):
    first, again, other = (
        run(random_walk_mh, in_process(changing_dimension), num_traces=400, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.traces.value, again.traces.value)
    assert not np.array_equal(first.traces.length, other.traces.length)

"""Executions that fail: what is inferred is inferred given that the simulator finishes, and the result says so."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from ppx_inference import (
    Posterior,
    TrustWarning,
    importance_sampling,
    lightweight_mh,
    random_walk_mh,
)
from ppx_server.errors import SimulatorFailedError
from ppx_server.trace import Status

ENGINES = [importance_sampling, lightweight_mh, random_walk_mh]


def fragile(ppx):
    """Finishes with probability Phi(x): given that it does, x is skew normal with shape 1 (Azzalini 1985)."""
    x = ppx.sample("Normal", 0.0, 1.0, name="x")
    ppx.observe("Normal", 0.0, 1.0, name="y")
    if ppx.sample("Normal", 0.0, 1.0, name="strain", control=False) > x:
        raise ArithmeticError("it broke")
    ppx.sample("Normal", np.zeros(3), np.ones(3), name="late")
    ppx.tag(2.0 * x, "twice")
    return x


MEAN = 1 / math.sqrt(math.pi)
STD = math.sqrt(1 - 1 / math.pi)
OBSERVED = -0.5 * math.log(2 * math.pi)


def run(engine, simulator, observations=None, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        return engine(simulator, observations or {"y": 0.0}, **arguments)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_posterior_is_that_of_executions_that_finish(engine, in_process):
    x = run(engine, in_process(fragile), num_traces=8000, seed=1)["x"]
    error = STD / math.sqrt(x.ess)
    assert abs(x.mean() - MEAN) < 4 * error
    assert abs(x.mean()) > 4 * error, "the check would not notice if failed executions counted"


def test_failed_traces_count_for_the_evidence_and_for_nothing_else(in_process):
    posterior = run(importance_sampling, in_process(fragile), num_traces=4000, seed=2)
    failed = posterior.traces.status == Status.FAILED
    assert len(posterior) == 4000
    assert posterior.num_failed == failed.sum() == len(posterior.traces.failures)
    assert posterior.num_failed == pytest.approx(2000, abs=4 * math.sqrt(1000))
    # Finishing has probability 1/2 over all.
    assert posterior.log_evidence == pytest.approx(OBSERVED - math.log(2), abs=0.1)
    assert np.isneginf(posterior.log_weight[failed]).all()
    for marginal in (posterior["x"], posterior["late"], posterior["twice"], posterior.result):
        assert not failed[marginal.trace].any()
        assert len(marginal) == 4000 - posterior.num_failed
        assert marginal.present == 1.0
    assert (posterior.resample(500, seed=0).traces.status == Status.OK).all()
    assert not set(posterior.table()["trace"].to_pylist()) & set(np.flatnonzero(failed).tolist())
    assert posterior.expectation(lambda t: np.where(failed, np.nan, t.length)) == pytest.approx(5.0)


@pytest.mark.parametrize("engine", [lightweight_mh, random_walk_mh])
def test_no_failed_trace_is_ever_the_state_of_a_chain(engine, in_process):
    posterior = run(engine, in_process(fragile), num_traces=1000, seed=3)
    assert (posterior.traces.status == Status.OK).all()
    assert not posterior.traces.failures
    assert (posterior.traces.length == 5).all()
    assert 0 < posterior.num_failed < posterior.provenance.num_executions


@pytest.mark.parametrize("engine", ENGINES)
def test_the_result_says_how_many_failed_and_which_was_the_first(engine, in_process):
    with pytest.warns(TrustWarning) as caught:
        posterior = engine(in_process(fragile), {"y": 0.0}, num_traces=1000, seed=4)
    p, first = posterior.provenance, min(posterior.failures)
    assert len(posterior.failures) == 100
    assert f"{p.num_failed} of {p.num_executions} executions failed" in str(caught[0].message)
    assert f"'it broke' [seed 4, trace {first}]" in str(caught[0].message)
    assert "conditional on the simulator finishing" in str(caught[0].message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("engine", ENGINES)
def test_failures_are_saved_with_the_result(engine, in_process, tmp_path):
    posterior = run(engine, in_process(fragile), num_traces=200, seed=5)
    posterior.save(tmp_path / "result")
    opened = Posterior.open(tmp_path / "result")
    assert opened.provenance == posterior.provenance
    assert opened.failures == posterior.failures
    assert opened.resample(20, seed=1).num_failed == posterior.num_failed


def test_failures_of_a_prior_run_are_left_out_too(in_process):
    simulator = in_process(fragile)
    posterior = Posterior.of_traces(run(importance_sampling, simulator, num_traces=1000, seed=6).traces)
    assert posterior.num_failed == len(posterior.traces.failures) > 0
    assert posterior["x"].mean() == pytest.approx(MEAN, abs=4 * STD / math.sqrt(posterior.ess))


def test_a_weight_that_is_undefined_matters_only_where_the_simulator_finished(in_process):
    class Broken(in_process):
        status = Status.FAILED

        def execute(self, scripts, observations, guide=None):
            traces = super().execute(scripts, observations, guide)
            table, undefined = traces.observations, traces.status == self.status
            log_prob = np.where(undefined, np.nan, table.log_prob)  # every trace has one observation
            return replace(traces, observations=replace(table, log_prob=log_prob))

    simulator = Broken(fragile)
    for engine in ENGINES:
        run(engine, simulator, num_traces=200, seed=7)
    simulator.status = Status.OK
    for engine in ENGINES:
        with pytest.raises(SimulatorFailedError, match=r"NaN.*\[seed 7, trace \d+\]"):
            run(engine, simulator, num_traces=200, seed=7)

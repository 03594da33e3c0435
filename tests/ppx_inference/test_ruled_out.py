"""Weights that leave nothing, one trace, or a quantity without any: NaN, or an error that says why."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ppx_inference import Posterior, Provenance, TrustWarning, importance_sampling, plots
from ppx_server.errors import AddressError, RuledOutError


def weighted(in_process, weights):
    """A posterior of a model whose n-th trace holds the value n, with chosen weights."""

    def model(ppx):
        ppx.sample("Normal", 0.0, 1.0, name="x")

    traces = importance_sampling(in_process(model), {}, num_traces=max(len(weights), 200)).traces
    traces = replace(traces.select(np.arange(len(weights))), value=np.arange(len(weights), dtype=float))
    with np.errstate(divide="ignore"):
        return Posterior(traces, np.log(np.asarray(weights, float)), Provenance("test", 0))


class TestRuledOut:
    """An observation that no trace allows: every estimate is NaN or an error that says so."""

    @pytest.fixture
    def nothing(self, in_process):
        def model(ppx):
            x = ppx.sample("Uniform", 0.0, 1.0, name="x")
            ppx.sample("Categorical", np.array([0.5, 0.5]), name="k")
            ppx.sample("Normal", np.zeros(2), np.ones(2), name="pair")
            ppx.observe("Uniform", x, x + 1.0, name="y")
            return x

        with pytest.warns(TrustWarning, match=r"rule out .*'y'"):
            return importance_sampling(in_process(model), {"y": 5.0}, num_traces=50)

    def test_estimates_are_nan(self, nothing):
        x, pair = nothing["x"], nothing["pair"]
        estimates = [
            x.mean(),
            x.std(),
            x.quantile(0.5),
            *x.quantile([0.1, 0.9]),
            *x.hist()[0],
            *x.hist([0, 1])[0],
        ]
        estimates += [*pair.mean(), *pair.std(), *pair.quantile(0.5), nothing.result.mean()]
        estimates += [nothing.expectation(lambda traces: traces.length)]
        estimates += nothing.expectation(lambda traces: np.ones((len(traces), 2))).tolist()
        assert np.isnan(estimates).all()
        assert "nan" in repr(x)
        for row in nothing.summary():
            assert (row.present, row.ess) == (0, 0)
            assert np.isnan(row[1:6]).all()
        assert (nothing.log_evidence, nothing.ess, nothing.log_evidence_std) == (-math.inf, 0, math.inf)
        assert math.isnan(nothing.pareto_k)
        assert (nothing.to_pandas()["weight"] == 0).all()
        assert set(nothing.table()["log_weight"].to_pylist()) == {-math.inf}
        doubt, nearest = nothing.doubts
        assert "'y'" in doubt
        assert "run more" not in doubt
        assert "the nearest value" in nearest

    def test_what_cannot_be_nan_is_an_error(self, nothing):
        for ask in (
            nothing["k"].probabilities,
            lambda: nothing.resample(5, seed=1),
            lambda: nothing.predictive(None, 5, seed=1),
            lambda: plots.marginals(nothing),
            lambda: plots.probabilities({"IS": nothing}, "k"),
        ):
            with pytest.raises(RuledOutError, match="every trace"):
                ask()

    def test_a_quantity_that_only_traces_without_weight_have(self, in_process):
        def model(ppx):
            if ppx.sample("Bernoulli", 0.5, name="branch"):
                ppx.sample("Normal", 0.0, 1.0, name="x")
            ppx.tag(math.nan, "undefined")

        prior = importance_sampling(in_process(model), {}, num_traces=200)
        branch = prior["branch"].values
        posterior = Posterior(prior.traces, np.where(branch == 0, 0.0, -np.inf), prior.provenance)
        assert math.isnan(posterior["x"].mean())
        assert posterior["x"].present == 0
        assert posterior["branch"].mean() == 0
        assert math.isnan(posterior["undefined"].mean())


def test_one_trace_and_none(in_process):
    one = weighted(in_process, [1.0])
    assert (one["x"].mean(), one["x"].std(), one["x"].quantile(0.5), one.ess) == (0, 0, 0, 1)
    assert math.isnan(one.pareto_k)
    assert one.log_evidence == pytest.approx(0.0)
    none = weighted(in_process, [])
    assert (len(none), none.ess, none.log_evidence, none.summary()) == (0, 0, -math.inf, [])
    assert math.isnan(none.pareto_k)
    assert none.doubts
    assert none.to_pandas().empty
    with pytest.raises(RuledOutError):
        none.resample(3, seed=0)
    with pytest.raises(AddressError):
        none["x"]
    chain = Posterior(one.traces, np.zeros(1), Provenance("test", 0, num_chains=1, acceptance_rate=0.5))
    assert (chain.ess, chain["x"].mean()) == (1, 0)
    assert math.isnan(chain.r_hat)
    assert chain.doubts


def test_a_value_that_does_not_count_may_be_undefined(in_process):
    posterior = weighted(in_process, [1, 0])
    traces = replace(posterior.traces, value=np.array([3.0, math.nan]))
    marginal = Posterior(traces, posterior.log_weight, posterior.provenance)["x"]
    assert (marginal.mean(), marginal.std()) == (3.0, 0.0)


def test_chains_that_never_move_have_an_infinite_r_hat(in_process):
    posterior = weighted(in_process, np.ones(40))
    traces = replace(posterior.traces, value=np.repeat(np.arange(4.0), 10))
    stuck = Posterior(traces, np.zeros(40), Provenance("test", 0, num_chains=4, acceptance_rate=0.0))
    assert stuck.r_hat == stuck["x"].r_hat == math.inf
    assert "no chain has moved in x" in stuck.doubts[-1]

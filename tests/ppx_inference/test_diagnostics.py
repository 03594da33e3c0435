"""Diagnostics against cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ppx_inference import diagnostics


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_pareto_k_finds_the_tail_of_pareto_weights(shape):
    # u^-k has a Pareto tail of shape k.
    log_weight = -shape * np.log(np.random.default_rng(1).random(20_000))
    assert diagnostics.pareto_k(log_weight) == pytest.approx(shape, abs=0.15)


def test_pareto_k_of_degenerate_weights():
    rng = np.random.default_rng(0)
    assert diagnostics.pareto_k(np.zeros(100)) == 0.0
    assert diagnostics.pareto_k(np.repeat([0.0, -1.0], 100)) == 0.0
    assert math.isnan(diagnostics.pareto_k(np.zeros(10)))
    assert math.isnan(diagnostics.pareto_k(np.full(100, -np.inf)))
    some = rng.normal(size=1000)
    ruled_out = np.concatenate([some, np.full(500, -np.inf)])
    assert diagnostics.pareto_k(ruled_out) == diagnostics.pareto_k(some)


@pytest.mark.parametrize("spread", [10, 100, 1e4, 1e6])
def test_pareto_k_of_hopeless_weights_is_large(spread):
    assert diagnostics.pareto_k(spread * np.random.default_rng(1).normal(size=1000)) > 2


def test_effective_sample_size_of_weights():
    assert diagnostics.weighted_ess(np.full(10, 0.1)) == pytest.approx(10)
    assert diagnostics.weighted_ess(np.array([1.0, 0.0])) == 1.0
    assert diagnostics.weighted_ess(np.zeros(3)) == 0.0


def test_extreme_log_weights_neither_overflow_nor_vanish():
    log_weight = np.array([-1000.0, -1001.0, -np.inf])
    assert diagnostics.normalised(log_weight) == pytest.approx(
        np.array([1, math.exp(-1), 0]) / (1 + math.exp(-1))
    )
    assert diagnostics.log_mean_exp(log_weight + 2000) == pytest.approx(
        1000 + math.log((1 + math.exp(-1)) / 3)
    )


def test_bulk_ess_of_an_autoregressive_chain():
    rng, rho, chains = np.random.default_rng(2), 0.8, np.empty((4, 5000))
    state = rng.normal(size=4)
    for t in range(chains.shape[1]):
        state = rho * state + math.sqrt(1 - rho**2) * rng.normal(size=4)
        chains[:, t] = state
    exact = chains.size * (1 - rho) / (1 + rho)
    assert diagnostics.bulk_ess(chains) == pytest.approx(exact, rel=0.15)
    assert diagnostics.r_hat(chains) < 1.01


def test_chains_in_different_places_are_found():
    chains = np.random.default_rng(3).normal(size=(4, 500)) + np.array([[0], [0], [0], [3]])
    assert diagnostics.r_hat(chains) > 1.3
    assert any("R-hat" in d for d in diagnostics.chain_doubts({"x": 500.0}, {"x": diagnostics.r_hat(chains)}))


def test_a_quick_look_at_long_chains_is_enough_or_is_followed_by_a_long_one():
    rng = np.random.default_rng(4)
    fast, slow = rng.normal(size=(4, 30_000)), np.cumsum(rng.normal(size=(4, 30_000)), axis=1)
    assert diagnostics.MIN_ESS < diagnostics.quick_ess(fast) < diagnostics.bulk_ess(fast)
    assert diagnostics.quick_ess(slow) == diagnostics.bulk_ess(slow) < diagnostics.MIN_ESS
    assert diagnostics.quick_ess(fast[:, :500]) == diagnostics.bulk_ess(fast[:, :500])
    assert diagnostics.r_hat(fast) < 1.01 < diagnostics.MAX_R_HAT < diagnostics.r_hat(slow)


@pytest.mark.parametrize("values", [np.zeros((4, 100)), np.zeros((2, 3)), np.full((2, 100), np.inf)])
def test_constant_short_or_infinite_chains_have_no_ess(values):
    assert math.isnan(diagnostics.bulk_ess(values))
    assert math.isnan(diagnostics.r_hat(values))


def test_the_doubts_name_the_worst_quantity_and_a_remedy():
    (text,) = diagnostics.chain_doubts({"px": 50.0, "py": 300.0}, {"px": 1.01})
    assert "50.0 of px" in text
    assert "run longer" in text
    assert diagnostics.chain_doubts({"px": 500.0}, {"px": 1.01}) == []
    assert diagnostics.weight_doubts(500.0, 0.3) == []
    assert diagnostics.weight_doubts(500.0, None) == []
    assert len(diagnostics.weight_doubts(math.nan, 0.9)) == 2

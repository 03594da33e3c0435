"""A simulator of the old stack, unchanged, under our controller."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from ppx_inference import Simulator, importance_sampling, lightweight_mh

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pyprob") is None, reason="pyprob is not installed (extra `pyprob`)"
)

EXACT_MEAN, EXACT_SD, EXACT_EVIDENCE = 7.25, 0.91287, -8.2394
OBSERVED = {"y0": [8.0], "y1": [9.0]}  # of shape (1,), as the simulator's parameters are


@pytest.fixture(scope="module")
def legacy():
    with Simulator([sys.executable, str(Path(__file__).with_name("legacy_simulator.py"))]) as sim:
        yield sim


def test_its_prior_traces_are_recorded(legacy: Simulator) -> None:
    traces = legacy.prior(200, seed=1)
    assert legacy.model_name == "old gaussian"
    mu = traces.tags.dense(traces.tags.rows(legacy.addresses.find("mu")), (1,))[:, 0]
    assert abs(mu.mean() - 1.0) < 4 * np.sqrt(5 / 200)
    assert len(np.unique(traces.length)) > 1


@pytest.mark.filterwarnings("ignore::ppx_inference.diagnostics.TrustWarning")
def test_importance_sampling_and_mcmc_find_its_posterior(legacy: Simulator) -> None:
    weighted = importance_sampling(legacy, OBSERVED, num_traces=2500, seed=2)
    assert weighted.log_evidence == pytest.approx(EXACT_EVIDENCE, abs=4 / np.sqrt(weighted.ess))
    chain = lightweight_mh(legacy, OBSERVED, num_traces=2500, seed=3)
    for marginal in (weighted["mu"], chain["mu"]):
        tolerance = 4 * EXACT_SD / np.sqrt(marginal.ess)
        assert abs(float(np.squeeze(marginal.mean())) - EXACT_MEAN) < tolerance
        assert abs(float(np.squeeze(marginal.mean())) - 1.0) > tolerance  # not the prior

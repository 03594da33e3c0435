"""`ppx_client.pyprob`: pyprob models, as they are, under this project's controller."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.stats as st

if importlib.util.find_spec("pyprob") is None:
    pytest.skip("needs the extra `pyprob`", allow_module_level=True)

import pyprob
import torch
from pyprob import distributions as dists

import ppx_client as ppx
from ppx_client import pyprob as bridge
from ppx_inference import Simulator, importance_sampling
from ppx_server.script import ScriptBatch

# A model file as it is written for pyprob. The second measurement comes in as a factor.
MODEL = """
import math
import pyprob
import torch
from pyprob import Model, sample
from pyprob.distributions import *

class Mixed(Model):
    def __init__(self):
        super().__init__(name="mixed")

    def forward(self):
        mu = sample(Normal(1, math.sqrt(5)), name="mu")
        likelihood = Normal(mu, math.sqrt(2))
        pyprob.observe(likelihood, name="y0")
        pyprob.factor(log_prob=likelihood.log_prob(4.0))
        pyprob.factor(log_prob=700.0)
        pyprob.factor(log_prob=-700.0)
        pyprob.tag(2 * mu, name="twice")
        count = sample(Poisson(3.0), address="my_address")
        kind = sample(Categorical([0.2, 0.3, 0.5]), name="kind", control=False)
        field = sample(Normal(torch.zeros(2), 1.0), name="field")
        scaled = sample(Beta(2.0, 3.0, low=-1.0, high=3.0), name="scaled")
        bounded = sample(TruncatedNormal([0.0], [1.0], low=-1.0, high=2.0), name="bounded")
        assert kind.dtype == torch.int64 and field.shape == (2,) and bounded.shape == ()
        assert all(x.dtype == torch.float32 for x in (mu, count, field, scaled, bounded))
        pyprob.observe(Normal(field, 1.0), value=0.5, name="image")
        pyprob.factor(log_prob=-math.inf if kind == 0 else 0.0)
        return {"sum": field.sum(), "pair": torch.stack([count, bounded]), "text": "left out"}
"""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    path = tmp_path_factory.mktemp("pyprob") / "models.py"
    path.write_text(MODEL)
    command = [sys.executable, "-W", "ignore", "-m", "ppx_client.pyprob", f"{path}:Mixed"]
    with Simulator(command, num_workers=1, keep_uncontrolled=True) as simulator:
        yield simulator


def test_exact_posterior(simulator: Simulator) -> None:
    posterior = importance_sampling(simulator, {"y0": 2.5}, num_traces=1200, seed=4)
    precision = 1 / 5 + 2 / 2
    mean, std = (1 / 5 + (2.5 + 4.0) / 2) / precision, precision**-0.5
    assert posterior.ess > 200
    error = 4 * std / posterior.ess**0.5
    assert abs(posterior["mu"].mean() - mean) < error
    assert not abs(posterior["mu"].mean() - (1 / 5 + 2.5 / 2) / (1 / 5 + 1 / 2)) < error  # without the factor
    assert posterior["twice"].mean() == pytest.approx(2 * posterior["mu"].mean(), rel=1e-5)
    # y0, y1 ~ N(1, 5 + 2) with covariance 5; the pixels of the image ~ N(0, 2); the last factor leaves out kind 0.
    evidence = st.multivariate_normal([1, 1], [[7, 5], [5, 7]]).logpdf([2.5, 4.0])
    evidence += 2 * st.norm(0, 2**0.5).logpdf(0.5) + np.log(0.8)
    assert abs(posterior.log_evidence - evidence) < 4 * posterior.log_evidence_std


def test_batches(simulator: Simulator) -> None:
    traces = simulator.prior(60, seed=1, observations={"y0": 2.5})
    again = simulator.execute(ScriptBatch.replay(traces), {"y0": 2.5})
    assert not traces.failures
    assert (simulator.model_name, len(simulator.fingerprint)) == ("mixed", 32)
    np.testing.assert_array_equal(again.value, traces.value)
    np.testing.assert_array_equal(again.log_weight, traces.log_weight)
    assert {
        ("my_address", "", "Poisson", ()),
        ("kind", "kind", "Categorical", ()),
        ("field", "field", "Normal", (2,)),
        ("scaled/beta", "", "Beta", ()),
        ("scaled", "scaled", "", ()),
        ("bounded", "bounded", "TruncatedNormal", ()),
        ("image", "image", "Normal", (2,)),
        ("sum", "sum", "", ()),
        ("pair", "pair", "", (2,)),
    } <= {tuple(address) for address in traces.addresses}
    (kind,) = traces.addresses.find("kind")
    assert (traces.controlled == (traces.address_id != kind)).all()
    # A factor of minus infinity is a weight of 0.
    assert (np.isneginf(traces.log_weight) == (traces.value[traces.rows([kind])] == 0)).all()
    tags = traces.tags
    scaled = tags.dense(tags.rows(traces.addresses.find("scaled")), ())
    assert -1.0 < scaled.min() < 0.0 < scaled.max() < 3.0


class One(pyprob.Model):  # type: ignore[misc]
    """Samples one distribution."""

    def __init__(self, distribution: Any) -> None:
        super().__init__()
        self.distribution = distribution

    def forward(self) -> Any:
        return pyprob.sample(self.distribution)


FAMILIES = [
    dists.Normal([1.0, 2.0], 2.0),
    dists.Uniform(-1.0, [2.0, 3.0]),
    dists.Categorical([0.2, 0.3, 0.5]),
    dists.Categorical(logits=[[0.0, 1.0], [1.0, 0.0]]),
    dists.Poisson(4.0),
    dists.Bernoulli(0.3),
    dists.Beta(2.0, 3.0),
    dists.Beta(2.0, 3.0, low=-1.0, high=2.0),
    dists.Exponential([0.5, 2.0]),
    dists.Gamma(2.0, 3.0),
    dists.LogNormal(0.0, 0.5),
    dists.Binomial(10, [0.3, 0.6]),
    dists.Weibull(2.0, 1.5),
    dists.TruncatedNormal(0.0, 1.0, -1.0, 2.0),
]


@pytest.mark.parametrize("distribution", FAMILIES, ids=repr)
def test_families_are_pyprobs(distribution: Any) -> None:
    ppx.seed(1)
    torch.manual_seed(1)
    forward = bridge.controlled(One(distribution))
    ours = np.array([forward() for _ in range(500)]).reshape(500, -1)
    theirs = [distribution.sample() for _ in range(500)]
    assert len({tuple(x.shape) for x in theirs} | {np.shape(forward())}) == 1
    for x, y in zip(ours.T, np.array([t.numpy() for t in theirs]).reshape(500, -1).T, strict=True):
        assert st.ks_2samp(x, y, method="asymp").pvalue > 1e-4
        assert st.ks_2samp(x + 0.6 * x.std(), y, method="asymp").pvalue < 1e-4


def test_values_keep_within_what_32_bits_hold() -> None:
    assert bridge._tensor(dists.Uniform(0.0, 1.0), 1.0 - 2.0**-53) < 1.0
    assert bridge._tensor(dists.Beta(1.0, 1.0), 1.0 - 2.0**-53) < 1.0
    assert bridge._tensor(dists.Gamma(0.1, 1.0), 1e-300) > 0.0
    assert bridge._tensor(dists.Categorical([0.5, 0.5]), float("nan")).isnan()
    assert (bridge._tensor(dists.Uniform(0.0, [1.0, 2.0]), np.array([1.0 - 2.0**-53, 0.5])) < 1.0).all()


@pytest.mark.parametrize("distribution", [
    dists.Mixture([dists.Normal(0.0, 1.0), dists.Normal(1.0, 1.0)]),
    dists.VonMises(0.0, 1.0),
    dists.Empirical([1.0, 2.0]),
])  # fmt: skip
def test_what_ppx_does_not_know_is_refused(distribution: Any) -> None:
    with pytest.raises(ppx.UncontrolledError, match="not known to PPX; sample a"):
        bridge.controlled(One(distribution))()


def test_factors_of_values_are_refused() -> None:
    class Func(pyprob.Model):  # type: ignore[misc]
        def forward(self) -> None:
            pyprob.factor(log_prob_func=lambda value: 0.0)

    with pytest.raises(ppx.UncontrolledError, match="give log_prob"):
        bridge.controlled(Func())()


def test_pyprob_is_itself_afterwards() -> None:
    before = pyprob.sample, pyprob.observe, pyprob.state.sample
    with pytest.raises(ppx.DistributionError):
        bridge.controlled(One(dists.Normal(float("inf"), 1.0)))()
    assert before == (pyprob.sample, pyprob.observe, pyprob.state.sample)


@pytest.mark.parametrize("text", ["models", "models.py:", "os:getcwd"])
def test_bad_names_of_models(text: str) -> None:
    with pytest.raises(ppx.ServeError, match=r"(write module:Model|no pyprob.Model)"):
        bridge.main([text])

"""Without a controller the simulator draws for itself: the right distribution, reproducibly."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats as st
from scipy.special import ndtri

import ppx_client as ppx
from ppx_client.array_quantiles import quantiles
from ppx_client.quantiles import SCALAR
from ppx_server.philox import normals

NUM_DRAWS = 4000
# P(KS statistic * sqrt(n) > 1.95) = 1e-3 (Kolmogorov distribution); the seed is fixed.
KS_BOUND = 1.95 / NUM_DRAWS**0.5

CONTINUOUS = [
    (ppx.Normal(1.0, 2.0), st.norm(1.0, 2.0)),
    (ppx.Uniform(-1.0, 3.0), st.uniform(-1.0, 4.0)),
    (ppx.Beta(2.0, 0.5), st.beta(2.0, 0.5)),
    (ppx.Exponential(4.0), st.expon(scale=0.25)),
    (ppx.Gamma(2.5, 4.0), st.gamma(2.5, scale=0.25)),
    (ppx.LogNormal(0.5, 0.75), st.lognorm(0.75, scale=np.exp(0.5))),
    (ppx.Weibull(2.0, 1.5), st.weibull_min(1.5, scale=2.0)),
    (ppx.TruncatedNormal(1.0, 2.0, 0.0, 1.5), st.truncnorm(-0.5, 0.25, 1.0, 2.0)),
    (ppx.TruncatedNormal(0.0, 1.0, 9.0, np.inf), st.truncnorm(9.0, np.inf)),
    (ppx.TruncatedNormal(0.0, 1.0, -np.inf, -3.0), st.truncnorm(-np.inf, -3.0)),
]
DISCRETE = [
    (ppx.Categorical([1.0, 0.0, 3.0, 4.0]), st.rv_discrete(values=(range(4), [0.125, 0, 0.375, 0.5]))),
    (ppx.Poisson(3.5), st.poisson(3.5)),
    (ppx.Poisson(0.0), st.poisson(0.0)),
    (ppx.Bernoulli(0.3), st.bernoulli(0.3)),
    (ppx.Binomial(7, 0.4), st.binom(7, 0.4)),
    (ppx.Binomial(7, 1.0), st.binom(7, 1.0)),
]


def name(value: Any) -> str:
    return type(value).__name__ if isinstance(value, ppx.Distribution) else ""


def draws(distribution: ppx.Distribution) -> np.ndarray[Any, Any]:
    ppx.seed(7)
    return np.array([ppx.sample(distribution) for _ in range(NUM_DRAWS)])


def expand(distribution: ppx.Distribution) -> ppx.Distribution:
    params = [np.broadcast_to(p, (NUM_DRAWS, *np.shape(p))) for p in distribution.params]
    return type(distribution)(*params)


@pytest.mark.parametrize(("distribution", "exact"), CONTINUOUS, ids=name)
def test_continuous_draws(distribution: ppx.Distribution, exact: Any) -> None:
    x = draws(distribution)
    assert type(ppx.sample(distribution)) is float
    assert st.kstest(x, exact.cdf).statistic < KS_BOUND
    # The same test rejects draws that are a little too wide.
    center = exact.median()
    assert st.kstest(center + 1.15 * (x - center), exact.cdf).statistic > KS_BOUND


@pytest.mark.parametrize(("distribution", "exact"), DISCRETE, ids=name)
def test_discrete_draws(distribution: ppx.Distribution, exact: Any) -> None:
    x = draws(distribution)
    assert type(ppx.sample(distribution)) is int
    for k in range(12):
        p = exact.pmf(k)
        assert abs((x == k).mean() - p) <= 4 * (p * (1 - p) / NUM_DRAWS) ** 0.5 + 1e-12


@pytest.mark.parametrize(("distribution", "exact"), CONTINUOUS + DISCRETE, ids=name)
def test_array_draws_are_the_scalar_ones(distribution: ppx.Distribution, exact: Any) -> None:
    u = np.random.default_rng(3).random(NUM_DRAWS)
    u[:4] = 2.0**-54, 1e-9, 1 - 1e-9, 1 - 2.0**-53
    z = ndtri(u)
    x = quantiles(expand(distribution), u, z)
    scalar, numbers = SCALAR[distribution.code], zip(u.tolist(), z.tolist(), strict=True)
    one_by_one = [scalar(p, 1.0 - p, c, distribution.vector) for p, c in numbers]
    np.testing.assert_allclose(x, one_by_one, rtol=1e-9)
    if distribution.discrete:
        assert (exact.cdf(x) >= u * (1 - 1e-12)).all()
        assert ((x == 0) | (exact.cdf(x - 1) <= u * (1 + 1e-12))).all()
    else:
        np.testing.assert_allclose(exact.cdf(x), u, rtol=1e-6, atol=1e-10)


def test_arrays() -> None:
    x = ppx.sample(ppx.Normal(np.zeros((2, 3)), 1.0))
    assert x.shape == (2, 3)
    assert x.dtype == np.float64
    k = ppx.sample(ppx.Categorical(np.ones((5, 2))))
    assert k.shape == (5,)
    assert k.dtype == np.int64


def test_observe_without_controller() -> None:
    assert ppx.observe(ppx.Normal(0.0, 1.0), 2.0) == 2.0
    assert type(ppx.observe(ppx.Poisson(1.0), 2)) is int
    ppx.seed(1)
    first = ppx.observe(ppx.Normal(0.0, 1.0))
    ppx.seed(1)
    assert ppx.sample(ppx.Normal(0.0, 1.0)) == first
    ppx.tag(1.0, name="nothing")


def test_draws_are_those_of_philox_on_every_thread() -> None:
    ppx.seed(7)
    expected = normals(7, [0], 606)[0]
    drawn = [ppx.sample(ppx.Normal(0.0, 1.0)) for _ in range(300)]
    drawn += ppx.sample(ppx.Normal(np.zeros(6), 1.0)).tolist()
    drawn += [ppx.sample(ppx.Normal(0.0, 1.0)) for _ in range(300)]
    np.testing.assert_array_equal(drawn, expected)
    # Another thread has numbers of its own, until it is seeded.
    threads: list[float] = []
    for start in (lambda: None, lambda: ppx.seed(7)):
        thread = threading.Thread(target=lambda: (start(), threads.append(ppx.sample(ppx.Normal(0.0, 1.0)))))  # noqa: B023
        thread.start()
        thread.join()
    assert threads[0] not in expected
    assert threads[1] == expected[0]


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, 1 << 64])
def test_bad_seeds(value: Any) -> None:
    with pytest.raises(ppx.PPXError, match="no whole number"):
        ppx.seed(value)


def test_seed_from_the_environment() -> None:
    def run(seed: str) -> subprocess.CompletedProcess[str]:
        script = Path(__file__).parents[2] / "simulators" / "gaussian" / "gaussian.py"
        code = f"import runpy; print(runpy.run_path({str(script)!r})['gaussian']())"
        return subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PPX_SEED": seed}, capture_output=True, text=True
        )

    one, same, other, bad = run("1"), run("1"), run("2"), run("x")
    assert float(one.stdout) == float(same.stdout) != float(other.stdout)
    assert "PPX_SEED = 'x' is no whole number" in bad.stderr

"""The C++ client without a controller: draws by quantiles, seeded."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ppx_server.philox import uniforms

COUNT = 400
# scipy's parameters of the draws in everything.cpp.
EXPECTED: dict[str, Any] = {
    "Normal": stats.norm(0.5, 2.0),
    "Uniform": stats.uniform(-1.0, 3.0),
    "Categorical": stats.rv_discrete(values=([0, 1, 2, 3], [0.2, 0.0, 0.3, 0.5])),
    "Poisson": stats.poisson(4.0),
    "Bernoulli": stats.bernoulli(0.25),
    "Beta": stats.beta(2.0, 3.0),
    "Exponential": stats.expon(scale=0.5),
    "Gamma": stats.gamma(2.5, scale=2.0),
    "LogNormal": stats.lognorm(0.2, scale=np.exp(0.1)),
    "Binomial": stats.binom(10, 0.3),
    "Weibull": stats.weibull_min(2.0, scale=1.5),
    "TruncatedNormal": stats.truncnorm(-0.75, 1.25, loc=0.5, scale=2.0),
    "TruncatedNormal.tail": stats.truncnorm(6.0, np.inf),
    "TruncatedNormal.low": stats.truncnorm(-np.inf, -9.0),
    "TruncatedNormal.far": stats.truncnorm(45.0, 45.01),
}


def run(program: object, *arguments: str, seed: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PPX_SEED"}
    if seed is not None:
        environment["PPX_SEED"] = seed
    return subprocess.run(
        [str(program), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def draws(compiled: Any) -> dict[str, np.ndarray]:
    output = run(compiled("everything"), "local", str(COUNT)).stdout
    rows = [line.split() for line in output.splitlines()]
    return {name: np.array(values, float) for name, *values in rows}


@pytest.mark.parametrize("family", EXPECTED)
def test_draws_are_quantiles_of_the_uniforms_of_the_seed(family: str, draws: dict[str, np.ndarray]) -> None:
    # The same uniforms as in Python (seed 7, trace 0), so every single draw is known.
    expected = EXPECTED[family].ppf(uniforms(7, 0, COUNT)[0])
    np.testing.assert_allclose(draws[family], expected, rtol=1e-9, atol=1e-12)


def test_the_environment_seeds(compiled: Any) -> None:
    program = compiled("everything")
    one, same, other = (run(program, "once", seed=seed).stdout for seed in ("1", "1", "2"))
    assert one == same != other
    assert run(program, "once").stdout != run(program, "once").stdout
    assert one.splitlines()[1] == "3"  # an observation's value in the code


def test_a_seed_that_is_no_number_is_an_error(compiled: Any) -> None:
    outcome = run(compiled("everything"), "once", seed="12x")
    assert outcome.returncode == 2
    assert "PPX_SEED = '12x'" in outcome.stderr

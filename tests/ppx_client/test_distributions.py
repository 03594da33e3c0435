"""Checks of parameters and of what a model passes to the statements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ppx_client as ppx

NAN, INF = float("nan"), float("inf")
BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: ppx.Normal(NAN, 1.0), r"Normal: mean = nan, but it must be finite"),
    (lambda: ppx.Normal(0.0, 0.0), r"Normal: stddev = 0.0, but it must be finite and > 0"),
    (lambda: ppx.Normal(0, -1), r"Normal: stddev = -1.0"),
    (lambda: ppx.Normal([0.0, 1.0], [1.0, NAN]), r"Normal: stddev\[1\] = nan"),
    (lambda: ppx.Normal(np.zeros((2, 3)), [1.0, 2.0]), r"broadcast: mean \(2, 3\), stddev \(2,\)"),
    (lambda: ppx.Normal("a", 1.0), r"Normal: mean = 'a' is no number"),
    (lambda: ppx.Normal(1j, 1.0), r"Normal: mean = 1j is no number"),
    (lambda: ppx.Normal(10**400, 1.0), r"Normal: mean = 10+ is no number"),
    (lambda: ppx.Normal(None, 1.0), r"Normal: mean = nan"),  # type: ignore[arg-type]
    (lambda: ppx.Uniform(1.0, 1.0), r"Uniform: low = 1.0 is not below high = 1.0"),
    (lambda: ppx.Uniform([0.0, 3.0], 2.0), r"low = 3.0 is not below high = 2.0 at \[1\]"),
    (lambda: ppx.Uniform(-1.7e308, 1.7e308), r"distance"),
    (lambda: ppx.Categorical([0.5, -0.5]), r"Categorical: probs\[1\] = -0.5"),
    (lambda: ppx.Categorical([0.5, NAN]), r"Categorical: probs\[1\] = nan"),
    (lambda: ppx.Categorical([0.0, 0.0]), r"all 0"),
    (lambda: ppx.Categorical([[1.0, 0.0], [0.0, 0.0]]), r"all 0"),
    (lambda: ppx.Categorical([]), r"shape \(0,\)"),
    (lambda: ppx.Categorical(0.5), r"shape \(\)"),
    (lambda: ppx.Poisson(-1.0), r"Poisson: rate = -1.0"),
    (lambda: ppx.Bernoulli(1.5), r"Bernoulli: probs = 1.5, but it must be in \[0, 1\]"),
    (lambda: ppx.Binomial(2.5, 0.5), r"total_count = 2.5, but it must be a whole number >= 0"),
    (lambda: ppx.Beta(0.0, 1.0), r"concentration1"),
    (lambda: ppx.Gamma(1.0, INF), r"Gamma: rate = inf"),
    (lambda: ppx.TruncatedNormal(0.0, 1.0, 1.0, -1.0), r"low = 1.0 is not below high = -1.0"),
    (lambda: ppx.TruncatedNormal(0.0, 1.0, NAN, 1.0), r"low = nan"),
]


@pytest.mark.parametrize(("build", "words"), BAD)
def test_bad_parameters(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(ppx.DistributionError, match=words):
        build()


def test_parameters_are_floats_or_arrays_of_one_shape() -> None:
    scalar = ppx.Normal(np.float32(1.0), np.array(2))
    assert scalar.params == (1.0, 2.0)
    assert [type(p) for p in scalar.params] == [float, float]
    assert scalar.shape == ()
    array = ppx.Normal(0, [1, 2])
    assert array.shape == (2,)
    assert [p.tolist() for p in array.params] == [[0.0, 0.0], [1.0, 2.0]]
    assert repr(ppx.Uniform(0, 1)) == "Uniform(low=0.0, high=1.0)"
    assert ppx.Bernoulli(0).params == (0.0,)
    assert ppx.TruncatedNormal(0, 1, -INF, INF).params == (0.0, 1.0, -INF, INF)


def test_distributions_are_frozen_and_keep_their_own_copy() -> None:
    given = np.array([1.0, 2.0])
    normal, categorical = ppx.Normal(given, 1.0), ppx.Categorical(given)
    given[0] = -9.0
    assert normal.params[0][0] == categorical.params[0][0] == 1.0
    with pytest.raises(AttributeError):
        normal.mean = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ppx.sample(3.0), r"3.0 is a float, not a distribution"),  # type: ignore[arg-type]
        (lambda: ppx.tag("text", name="t"), r"the tag t is a str"),
        (lambda: ppx.tag(1.0, name=""), r"name = ''"),
        (lambda: ppx.scope(""), r"scope\(''\)"),
        (lambda: ppx.observe(ppx.Normal(0, 1), NAN, name="y"), r"y \(Normal\) holds NaN"),
        (
            lambda: ppx.observe(ppx.Normal([0, 0], 1), [1.0], name="y"),
            r"shape \(1,\), its distribution \(2,\)",
        ),
        (lambda: ppx.observe(ppx.Normal(0, 1), {}, name="y"), r"at y is a dict"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(ppx.PPXError, match=words):
        call()


def test_empty_arrays_draw_nothing() -> None:
    assert ppx.sample(ppx.Normal(np.zeros(0), 1.0)).shape == (0,)
    assert ppx.sample(ppx.Categorical(np.zeros((0, 3)))).shape == (0,)
    assert ppx.sample(ppx.Poisson(np.zeros(0))).shape == (0,)
    assert ppx.sample(ppx.Binomial(np.zeros((2, 0)), 0.5)).shape == (2, 0)

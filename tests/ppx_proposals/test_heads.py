"""Heads: proposals are normalised, start as the prior, and never weigh more than 1 / defensive."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

from ppx_proposals.config import NetworkConfig
from ppx_proposals.heads import (
    HeadInput,
    Mixture,
    MixtureHead,
    categorical_log_ratio,
    defended,
    density_log_ratio,
    interval_log_ratio,
    log_mass,
)
from ppx_server.distributions import FAMILIES

CONFIG = NetworkConfig(head_size=16)
NOTHING = HeadInput(
    torch.zeros(1, 1), torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
)
# Mixtures are allowed to be anything a network may give: narrow, wide, far out.
STEEP = 8.0


def _input(size: int, *, observations: int = 1) -> HeadInput:
    """Four numbers per draw, in three parts; `torch.manual_seed` decides which."""
    return HeadInput(
        torch.randn(size, 1),
        torch.randn(observations, 2),
        torch.randn(size, 1),
        torch.arange(size) % observations,
    )


def _mixture(seed: int, dtype: torch.dtype = torch.float64):  # type: ignore[no-untyped-def]
    torch.manual_seed(seed)
    head = MixtureHead(4, CONFIG)
    with torch.no_grad():
        head.output.weight.mul_(STEEP)
        return head.mixture(_input(3), dtype)


def _repeat(mixture, n: int):  # type: ignore[no-untyped-def]
    return type(mixture)(*(part[:, :1].expand(-1, n) for part in mixture))


@pytest.mark.parametrize("seed", range(5))
def test_continuous_density_integrates_to_one(seed: int) -> None:
    z = torch.linspace(-15.0, 15.0, 600_001, dtype=torch.float64)
    ratio = defended(density_log_ratio(_repeat(_mixture(seed), len(z)), z), CONFIG.defensive)
    q = torch.exp(ratio - 0.5 * z**2) / math.sqrt(2 * math.pi)
    assert float(torch.trapezoid(q, z)) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("family", "params", "last"),
    [
        ("Poisson", (4.0,), 60),
        ("Poisson", (3e4,), 60_000),
        ("Bernoulli", (0.01,), 1),
        ("Binomial", (20.0, 0.3), 20),
    ],
)
def test_discrete_masses_sum_to_one(seed: int, family: str, params: tuple[float, ...], last: int) -> None:
    k = np.arange(last + 1.0)
    low, high = (torch.from_numpy(end) for end in FAMILIES[family].z_interval(k, params))
    inside = high > low  # beyond, the prior's own mass is zero in double precision
    ratio = interval_log_ratio(_repeat(_mixture(seed), int(inside.sum())), low[inside], high[inside])
    log_p = torch.from_numpy(FAMILIES[family].log_prob(k, params))[inside]
    q = torch.exp(defended(ratio, CONFIG.defensive) + log_p).sum()
    assert float(q) == pytest.approx(1.0, abs=1e-6)


def test_categorical_sums_to_one_and_keeps_impossible_categories_impossible() -> None:
    log_probs = torch.log(torch.tensor([[0.1, 0.0, 0.6, 0.3], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64))
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    total = torch.zeros(2, dtype=torch.float64)
    for c in (0, 2, 3):
        ratio = defended(categorical_log_ratio(log_probs, logits, torch.tensor([c, 0])), CONFIG.defensive)
        total += torch.exp(ratio + log_probs[[0, 1], [c, 0]])
    assert float(total[0]) == pytest.approx(1.0, abs=1e-12)
    assert float(total[1]) / 3 == pytest.approx(1.0, abs=1e-12)


def test_a_layer_in_parts_is_the_layer() -> None:
    torch.manual_seed(0)
    linear, inputs = torch.nn.Linear(4, 3), _input(7, observations=3)
    whole = torch.cat([inputs.state, inputs.observed[inputs.trace], inputs.current], dim=1)
    torch.testing.assert_close(inputs.layer(linear), linear(whole))
    some = torch.tensor([1, 4])
    torch.testing.assert_close(inputs.rows(some).layer(linear), linear(whole)[some])


@pytest.mark.parametrize("seed", range(3))
def test_gradient_of_the_density_is_that_of_autograd(seed: int) -> None:
    torch.manual_seed(seed)
    parts = [torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64) * STEEP]
    parts = [p.requires_grad_() for p in (*parts, torch.rand(4, 6, dtype=torch.float64) + 0.01)]
    z, weight = torch.randn(2, 6, dtype=torch.float64)
    a = (z - parts[1]) / parts[2]
    recorded = torch.logsumexp(parts[0] - parts[2].log() - 0.5 * a * a, dim=0) + 0.5 * z * z
    ratio = density_log_ratio(Mixture(*parts), z)
    torch.testing.assert_close(ratio, recorded)
    for ours, theirs in zip(
        torch.autograd.grad((ratio * weight).sum(), parts),
        torch.autograd.grad((recorded * weight).sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_fresh_mixture_is_nearly_the_prior() -> None:
    head = MixtureHead(4, CONFIG)
    z = torch.linspace(-8.0, 8.0, 16_001, dtype=torch.float64)
    with torch.no_grad():
        ratio = density_log_ratio(_repeat(head.mixture(NOTHING, torch.float64), len(z)), z)
    p = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    divergence = -float(torch.trapezoid(p * ratio, z))
    assert 0.0 <= divergence < 2e-3


def test_ratio_is_bounded_below_by_the_defensive_weight() -> None:
    ratio = defended(torch.tensor([-1e4, -50.0, 0.0, 50.0], dtype=torch.float64), 0.05)
    assert float(ratio.min()) >= math.log(0.05) - 1e-12
    assert float(ratio[2]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (-1.0, 2.0),
        (5.0, 6.0),
        (30.0, 31.0),
        (-31.0, -30.0),
        (7.0, 7.0 + 1e-6),
        (0.3, 0.3 + 1e-9),
        (-1e6, 1.0),
        (37, 1e6),
    ],
)
def test_log_mass_is_exact(a: float, b: float) -> None:
    low, high = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    with mpmath.workdps(500):
        x, y = mpmath.mpf(float(low)), mpmath.mpf(float(high))
        exact = float(mpmath.log((mpmath.erfc(x / mpmath.sqrt(2)) - mpmath.erfc(y / mpmath.sqrt(2))) / 2))
    assert float(log_mass(low, high, high - low)) == pytest.approx(exact, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize(
    "ends", [(-torch.inf, 0.3), (0.3, torch.inf), (-torch.inf, torch.inf), (1.0, 1.0 + 1e-7)]
)
def test_gradients_of_masses_are_finite(ends: tuple[float, float]) -> None:
    torch.manual_seed(3)
    head = MixtureHead(4, CONFIG)
    with torch.no_grad():
        head.output.weight.mul_(100.0)
    mixture = head.mixture(_input(1), torch.float32)
    interval_log_ratio(mixture, torch.tensor([ends[0]]), torch.tensor([ends[1]])).sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in head.parameters() if p.grad is not None)

"""Gradient variance against the horizon, and what is recommended."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ppx_proposals.optim.stability import (
    Action,
    Exponents,
    Growth,
    Verdict,
    gradient_horizon,
    plot_horizon,
    recommend,
)

LN2 = math.log(2.0)


def unrolled(r: float) -> Callable[[Tensor, int, int], Tensor]:
    """The logistic map from a random state that theta moves."""

    def loss(theta: Tensor, horizon: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = 0.2 + 0.6 * torch.rand((), generator=generator, dtype=torch.float64) + theta.sum()
        for _ in range(horizon):
            x = r * x * (1 - x)
        return x

    return loss


def test_variance_of_linear_recurrence_is_exact() -> None:
    """L = a^T theta z: the gradient a^T z has variance a^2T var z, with ES as without."""
    factor, horizons = 1.2, [1, 3, 10, 30]

    def loss(theta: Tensor, horizon: int, seed: int) -> Tensor:
        z = torch.randn((), dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1000))
        x = theta * z
        for _ in range(horizon):
            x = factor * x
        return x.sum()

    study = gradient_horizon(loss, torch.ones(1, dtype=torch.float64), horizons, sigma=0.1, num_seeds=200)
    z = torch.stack(
        [
            torch.randn((), dtype=torch.float64, generator=torch.Generator().manual_seed(s + 1000))
            for s in range(200)
        ]
    )
    np.testing.assert_allclose(
        study.pathwise.variance, float(z.var()) * factor ** (2.0 * np.array(horizons)), rtol=1e-12
    )
    assert study.growth == pytest.approx(math.log(factor), rel=1e-10)
    assert study.growth_error < 1e-10
    # g_ES = a^T z e^2: variance E e^4 - ... = 3 var z around a mean of 0.
    ratio = study.evolution.variance / study.pathwise.variance
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
    assert ratio[0] == pytest.approx(3.0, rel=0.7)


def test_gradients_of_a_chaotic_recurrence_grow_and_those_of_es_do_not() -> None:
    theta = torch.zeros(1, dtype=torch.float64)
    study = gradient_horizon(unrolled(4.0), theta, [2, 5, 10, 15, 20], sigma=0.05, num_seeds=100)
    # |dx_T / dx_0| = 2^T sqrt(x_T (1 - x_T) / (x_0 (1 - x_0))), so the mean square grows by exactly 4 per step.
    assert abs(study.growth - LN2) < max(4 * study.growth_error, 0.02)
    assert study.pathwise.variance[-1] > 1e10 * study.evolution.variance[-1]
    # An ES estimate is at most |e| / (2 sigma), its mean square 1 / (4 sigma^2).
    assert (study.evolution.variance < 1.5 / (4 * 0.05**2)).all()
    advice = recommend(20, study=study)
    assert advice.action is Action.EVOLUTION
    assert "by ES with sigma 0.05" in str(advice)
    # Negative control: the same map where it settles.
    calm = gradient_horizon(unrolled(2.5), theta, [2, 5, 10, 15], sigma=0.05, num_seeds=20)
    assert calm.growth < -0.3
    assert recommend(8, study=calm).action is Action.BACKPROPAGATE
    assert str(calm).count("\n") == 5


def test_gradients_that_overflow_count_as_infinitely_noisy() -> None:
    theta = torch.zeros(1, dtype=torch.float32)

    def loss(theta: Tensor, horizon: int, seed: int) -> Tensor:
        return (theta * 1e30**horizon * (seed + 1)).sum()

    study = gradient_horizon(loss, theta, [1, 2], sigma=0.1, num_seeds=3)
    assert study.pathwise.variance[1] == math.inf
    assert math.isnan(study.growth)
    assert recommend(2, study=study).num_steps == 1
    everywhere = gradient_horizon(
        lambda t, h, s: loss(t, h + 1, s) * s, theta, [1, 2], sigma=1e9, num_seeds=3
    )
    assert np.isinf(everywhere.evolution.variance).all()
    assert recommend(2, study=everywhere).action is Action.EVOLUTION
    with pytest.raises(ValueError, match="must be a scalar"):
        gradient_horizon(lambda t, h, s: t.expand(3) * 1.0, theta, [1], sigma=0.1, num_seeds=2)
    with pytest.raises(ValueError, match="num_seeds is 1"):
        gradient_horizon(loss, theta, [1], sigma=0.1, num_seeds=1)


def test_figure_shows_both() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    study = gradient_horizon(
        unrolled(4.0), torch.zeros(1, dtype=torch.float64), [1, 4], sigma=0.1, num_seeds=4
    )
    axes = plot_horizon(study)
    assert [line.get_label() for line in axes.lines] == ["backpropagation", "ES, sigma = 0.1"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), study.pathwise.variance)
    mpl.pyplot.close("all")


# Recommendations


def _exponents(rate: float, error: float = 1e-3) -> Exponents:
    mean = torch.tensor([rate])
    return Exponents(mean, torch.tensor([error]), mean[None], 100, torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("rate", "horizon", "action", "steps"),
    [
        (0.0, 1000, Action.BACKPROPAGATE, 1000),
        (0.05, 80, Action.BACKPROPAGATE, 80),  # e^4 = 55
        (0.05, 200, Action.TRUNCATE, 92),  # ln 100 / 0.05
        (0.05, 1000, Action.EVOLUTION, 0),  # 92 is less than a quarter of them
        (LN2, 100, Action.EVOLUTION, 0),
        (-0.1, 1000, Action.TRUNCATE, 70),  # ln 1000 / 0.1
        (-0.1, 60, Action.BACKPROPAGATE, 60),
        (-math.inf, 60, Action.TRUNCATE, 1),
        (5.0, 10_000, Action.EVOLUTION, 0),  # exp of it is no float
    ],
)
def test_recommendations(rate: float, horizon: int, action: Action, steps: int) -> None:
    advice = recommend(horizon, exponents=_exponents(rate))
    assert (advice.action, advice.num_steps) == (action, steps)
    head = str(advice).splitlines()[0]
    words = {
        Action.BACKPROPAGATE: f"backpropagate through all {horizon} steps",
        Action.TRUNCATE: f"truncate to about {steps} steps",
        Action.EVOLUTION: "use ES/PES",
    }
    assert head == words[action]
    assert "because" in str(advice)


def test_a_rate_within_its_error_is_no_chaos() -> None:
    assert recommend(1000, exponents=_exponents(0.02, 0.02)).action is Action.BACKPROPAGATE
    assert recommend(1000, exponents=_exponents(0.02, 0.001)).action is Action.EVOLUTION


def test_recommendation_needs_something_to_go_by() -> None:
    with pytest.raises(ValueError, match="no rate"):
        recommend(10)
    with pytest.raises(ValueError, match="horizon is 0"):
        recommend(0, exponents=_exponents(0.1))
    grown = Growth(Verdict.SMOOTH, 0.5, 0.01, 5, 0, 9, 1e-9, "linear")
    assert recommend(100, exponents=grown).action is Action.EVOLUTION

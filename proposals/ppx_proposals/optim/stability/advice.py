"""What to do about it: backpropagate, truncate, or evolution strategies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from ppx_proposals.optim.stability.differences import Growth, Sensitivity, Verdict
from ppx_proposals.optim.stability.exponents import Exponents
from ppx_proposals.optim.stability.horizon import HorizonStudy
from ppx_proposals.optim.stability.sharpness import StepStability

AMPLIFICATION = 100.0
"""Gradients may grow by this from the end of the computation to its beginning. A judgement: at a hundred the first
steps have ten thousand times the variance of the last ones, and nothing but them is learnt."""
VANISHED = 1e-3
"""Parts of the gradient that are this small against the nearest are not worth their memory. A judgement."""
WORTHWHILE = 0.25
"""Truncation that keeps less than this share of the steps hides too much of their effect: evolution strategies are
unbiased. A judgement; Metz et al. 2021 (arXiv 2111.05803) name no number."""
NOISIER = 10.0
"""Backpropagation has lost to evolution strategies where its variance is so many times theirs. A judgement: they see
the loss smoothed, which is worth something only against noise."""
SURE = 2.0
"""A rate counts as above 0 if it is so by this many standard errors."""


class Action(Enum):
    """What to do."""

    BACKPROPAGATE = "backpropagate through all {horizon} steps"
    TRUNCATE = "truncate to about {steps} steps"
    EVOLUTION = "use ES/PES"


@dataclass(frozen=True)
class Recommendation:
    """What to do with a computation of `horizon` steps, and why.

    Attributes:
        action: What.
        horizon: Steps of the whole computation.
        num_steps: Steps to backpropagate through; 0 for evolution strategies.
        reasons: Sentences with the numbers, the deciding one first.
        warnings: What else to see to, such as a learning rate that is too large.
    """

    action: Action
    horizon: int
    num_steps: int
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = self.action.value.format(horizon=self.horizon, steps=self.num_steps)
        lines = [head, *(f"  because {reason}" for reason in self.reasons)]
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])


def recommend(
    horizon: int,
    *,
    exponents: Exponents | Growth | None = None,
    sensitivity: Sensitivity | None = None,
    study: HorizonStudy | None = None,
    stability: StepStability | None = None,
) -> Recommendation:
    """Which gradient to use through a computation of `horizon` steps.

    Without a usable derivative, evolution strategies. Else as many steps as let gradients grow by `AMPLIFICATION` at
    most, and as were measured to have at most `NOISIER` times the variance of evolution strategies; if these are less
    than `WORTHWHILE` of all, evolution strategies. Fewer steps where gradients have fallen to `VANISHED` by then.

    Args:
        horizon: Steps.
        exponents: Of `lyapunov` or `finite_difference_lyapunov`.
        sensitivity: Of `finite_difference_sensitivity`.
        study: Of `gradient_horizon`; without `exponents` its growth is the rate.
        stability: The learning rate against the curvature.

    Raises:
        ValueError: Nothing to go by, or no step.
    """
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}; at least one step is needed")
    warnings = _of_learning_rate(stability)
    for measured in (sensitivity, exponents):
        if isinstance(measured, Sensitivity | Growth) and measured.verdict is not Verdict.SMOOTH:
            return Recommendation(Action.EVOLUTION, horizon, 0, (str(measured),), warnings)
    rate, error = _rate(exponents, study)
    if math.isnan(rate) and study is None:
        raise ValueError("no rate to go by; measure exponents, or gradient_horizon at two horizons or more")
    action, steps, reasons = _choose(horizon, rate, error, study)
    return Recommendation(action, horizon, steps, reasons, warnings)


def _choose(
    horizon: int, rate: float, error: float, study: HorizonStudy | None
) -> tuple[Action, int, tuple[str, ...]]:
    known = "" if math.isnan(error) else f" +- {error:.3g}"
    growth = f"gradients change by {rate:.3g}{known} nats per step"
    change = f"{growth}, a factor of {_power(rate * horizon)} over {horizon} steps"
    steps, reasons = horizon, [] if math.isnan(rate) else [change]
    grows = rate > SURE * (0.0 if math.isnan(error) else error)
    if grows and rate * horizon > math.log(AMPLIFICATION):
        steps = math.floor(math.log(AMPLIFICATION) / rate)
        reasons.append(f"over {steps} steps it stays below {AMPLIFICATION:g}")
    if study is not None:
        reasons.append(_of_variance(study))
        # Not finite is not quiet, even where evolution strategies fare no better.
        quiet = np.isfinite(study.pathwise.variance)
        quiet &= study.pathwise.variance <= NOISIER * study.evolution.variance
        if not quiet[-1]:
            most = int(study.horizons[quiet].max()) if quiet.any() else 0
            reasons.append(
                f"the variance is below {NOISIER:g} times that of ES up to {most} of the steps measured"
            )
            steps = min(steps, most)
    if steps < WORTHWHILE * horizon:
        reasons.append(f"truncation to {steps} steps would hide the effect of most of the {horizon}")
        return Action.EVOLUTION, 0, tuple(reasons)
    if rate < 0.0 and -rate * steps > math.log(1 / VANISHED):
        steps = max(math.ceil(math.log(1 / VANISHED) / -rate), 1)
        vanishes = f"{growth}: those of more than {steps} steps ago are below {VANISHED:g} of the nearest"
        return Action.TRUNCATE, steps, (vanishes, *reasons[1:])
    return Action.BACKPROPAGATE if steps == horizon else Action.TRUNCATE, steps, tuple(reasons)


def _rate(exponents: Exponents | Growth | None, study: HorizonStudy | None) -> tuple[float, float]:
    """Nats per step, and the standard error."""
    if isinstance(exponents, Exponents):
        return exponents.largest, float(exponents.standard_error[0])
    if isinstance(exponents, Growth) and exponents.rate is not None:
        return exponents.rate, exponents.standard_error
    return (math.nan, math.nan) if study is None else (study.growth, study.growth_error)


def _of_variance(study: HorizonStudy) -> str:
    through, without = study.pathwise, study.evolution
    return (
        f"at {study.horizons[-1]} steps the variance of the gradient is {through.variance[-1]:.3g} by backpropagation "
        f"(signal {through.signal[-1]:.3g}) and {without.variance[-1]:.3g} by ES with sigma {study.sigma:g} (signal "
        f"{without.signal[-1]:.3g})"
    )


def _of_learning_rate(stability: StepStability | None) -> tuple[str, ...]:
    if stability is None or stability.stable:
        return ()
    most = stability.threshold / stability.curvature
    return (f"{stability}; a learning rate below {most:.3g} would be",)


def _power(exponent: float) -> str:
    """exp(exponent), which may be larger than any float."""
    return f"{math.exp(exponent):.3g}" if abs(exponent) < 100 else f"10^{exponent / np.log(10.0):.0f}"

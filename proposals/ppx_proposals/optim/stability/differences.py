"""Derivatives of a program that cannot be differentiated, by finite differences with common random numbers.

A black box `f(theta, seed)` runs a program with parameters theta, all its randomness fixed by the seed. Central
differences between runs of one seed are then derivatives,

    d f / d theta ~ (f(theta + h v, seed) - f(theta - h v, seed)) / (2 h),

unless the random numbers are not common after all, or the output jumps. Both are found out, and said in place of a
number: runs are repeated, and the difference is taken at steps h a factor 10 apart, of which two neighbours must agree.
Too large a step leaves the linear regime, too small a one drowns in rounding; the step is where neighbours agree best.

Letters: R runs, S seeds, P parameters, J steps, T times of an output, m numbers in an output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
BlackBox = Callable[[Floats, NDArray[np.int64]], ArrayLike]
"""`f(theta, seed)`, all runs in one call: `(R, P)`, `(R,)` -> `(R, ...)`; NaN for runs that failed."""
TOLERANCE = 0.1
"""Differences at neighbouring steps agree if they are this close, relative to the larger."""
SHARE = 0.9
"""Share of the seeds for which they must."""
KEPT = 0.98
"""The same where growth is measured: to leave out more would select, because those are left out that grow most."""
_STEPS = 10.0 ** -np.arange(1, 12)
"""Relative steps that are tried: from a tenth to where double precision has five digits left."""
_LARGEST = 1e100
"""An output beyond it counts as not finite, so that no square overflows."""
_FEWEST_TIMES = 3
"""Fewest times over which a rate of growth is measured."""


class Verdict(Enum):
    """What finite differences can say of a program."""

    SMOOTH = "smooth"
    """The output follows theta: differences are derivatives."""
    NOISY = "noisy"
    """Two runs with the same theta and seed differ: the random numbers are not common."""
    JUMPS = "jumps"
    """Runs repeat, but the output moves without relation to how far theta was moved."""
    FLAT = "flat"
    """The output does not move at all with small steps: it is discrete, or does not depend on theta."""


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Derivatives of a program's output with respect to its parameters.

    Attributes:
        verdict: Whether there are any.
        jacobian: `(S, ..., P)`, per seed, or None unless the verdict is SMOOTH.
        step: `(P,)` steps that were used; NaN for a parameter for which none was found.
        disagreement: `(P,)` median relative difference between the chosen step and its neighbour.
        reason: The verdict in a sentence.
    """

    verdict: Verdict
    jacobian: Floats | None
    step: Floats
    disagreement: Floats
    reason: str

    def __str__(self) -> str:
        return f"{self.verdict.value}: {self.reason}"


@dataclass(frozen=True)
class Growth:
    """How fast a perturbation of the parameters grows in the output, in nats per time step.

    Attributes:
        verdict: Whether it can be said.
        rate: Mean over seeds, or None unless the verdict is SMOOTH.
        standard_error: Of the rate, from the seeds; NaN if there is one.
        num_seeds: Seeds that were used.
        first, last: Times between which growth was measured.
        step: The step that was used.
        reason: The verdict in a sentence.
    """

    verdict: Verdict
    rate: float | None
    standard_error: float
    num_seeds: int
    first: int
    last: int
    step: float
    reason: str

    def __str__(self) -> str:
        if self.rate is None:
            return f"{self.verdict.value}: {self.reason}"
        return f"growth {self.rate:.4f} +- {self.standard_error:.4f} nats per step; {self.reason}"


def one_at_a_time(f: Callable[[Floats, int], ArrayLike]) -> BlackBox:
    """A black box from a program that makes one run: `(P,)`, seed -> `(...)`."""

    def runs(theta: Floats, seed: NDArray[np.int64]) -> Floats:
        return np.stack([np.asarray(f(t, int(s)), float) for t, s in zip(theta, seed, strict=True)])

    return runs


def finite_difference_sensitivity(
    f: BlackBox, theta: ArrayLike, seeds: ArrayLike, *, scale: ArrayLike | None = None
) -> Sensitivity:
    """d f / d theta of every seed, at the step where differences are most stable, or why there is none.

    It takes 2 S (1 + 11 P) runs, in P + 2 calls. Judged is the output as a whole: ask for parts of very different
    size or kind one by one. Where a program takes branches, this is the derivative within the branch; the mean over
    seeds is then not the derivative of the mean.

    Args:
        f: The program.
        theta: `(P,)`.
        seeds: `(S,)`.
        scale: `(P,)` by how much each parameter varies; by default its own size, or 1 if it is 0.

    Raises:
        ValueError: An output at theta is not finite, or shapes do not fit.
    """
    theta, seeds, scale = _arguments(theta, seeds, scale)
    if not scale.all():
        raise ValueError(f"the scale is {scale}; it must not be 0 for any parameter")
    missing = np.full(len(theta), np.nan)
    if noise := _noise(f, theta, seeds):
        return Sensitivity(Verdict.NOISY, None, missing, missing, noise)
    unit = np.diag(scale)
    columns, verdicts, step, best = [], [], missing.copy(), missing.copy()
    for p in range(len(theta)):
        slopes = _slopes(f, theta, seeds, unit[p])  # (S, J, ...)
        flat = slopes.reshape(*slopes.shape[:2], -1)
        apart = _disagreement(flat)
        moved = (np.abs(flat[:, 1:]).max(-1) > 0) | (np.abs(flat[:, :-1]).max(-1) > 0)
        agree = ((apart < TOLERANCE) & moved).mean(0)
        j = int(np.argmin(np.where(agree >= SHARE, np.median(apart, axis=0), np.inf)))
        if agree[j] >= SHARE:
            verdicts.append(Verdict.SMOOTH)
            best[p], step[p] = np.median(apart, axis=0)[j], scale[p] * _STEPS[j + 1]
            columns.append(slopes[:, j + 1] / scale[p])
        else:
            still = (~moved[:, -1]).mean() >= SHARE
            verdicts.append(Verdict.FLAT if still else Verdict.JUMPS)
            columns.append(np.zeros_like(slopes[:, 0]))
    verdict, reason = _summary(verdicts, step, best)
    jacobian = np.stack(columns, axis=-1) if verdict is Verdict.SMOOTH else None
    return Sensitivity(verdict, jacobian, step, best, reason)


def finite_difference_lyapunov(
    f: BlackBox,
    theta: ArrayLike,
    seeds: ArrayLike,
    *,
    direction: ArrayLike | None = None,
    burn_in: int = 0,
) -> Growth:
    """How fast |d f_t / d theta| grows with t, or why that cannot be said.

    It is the largest Lyapunov exponent if theta is the initial state. For other parameters it is if the exponent is
    above 0; in a stable program such a derivative settles, and the rate is 0. Times are used up to where the
    difference leaves the linear regime in 2 % of the seeds: about 20 / rate steps at best, so take more seeds, not
    more steps. It takes 24 S runs, in 3 calls.

    Args:
        f: The program; its output is a series, `(R, T, ...)`.
        theta: `(P,)`.
        seeds: `(S,)`.
        direction: `(P,)` in which theta is moved, its length the scale; by default all parameters by their own size
            (1 for those that are 0).
        burn_in: Time from which growth is measured.

    Raises:
        ValueError: An output at theta is not finite, the series is too short, or shapes do not fit.
    """
    theta, seeds, along = _arguments(theta, seeds, direction)
    if noise := _noise(f, theta, seeds):
        return _no_growth(Verdict.NOISY, noise)
    slopes = _slopes(f, theta, seeds, along)
    if slopes.ndim < 3 or slopes.shape[2] < burn_in + _FEWEST_TIMES or burn_in < 0:
        raise ValueError(
            f"the output of a run has shape {slopes.shape[2:]}; a series of at least burn_in + {_FEWEST_TIMES} = "
            f"{burn_in + _FEWEST_TIMES} times is needed"
        )
    slopes = slopes.reshape(*slopes.shape[:3], -1)  # (S, J, T, m)
    size = np.linalg.norm(slopes, axis=-1)
    good = _disagreement(slopes) < TOLERANCE
    good[:, :, burn_in:] &= size[:, 1:, burn_in:] > 0
    prefix = np.logical_and.accumulate(good, axis=2).sum(2)  # (S, J - 1) times that are resolved
    reach = np.quantile(prefix, 1 - KEPT, axis=0, method="lower")
    end = int(reach.max())
    # Of the steps that reach as far, the one that does so for most seeds, and then the one in the middle of those.
    kept = np.where(reach == end, (prefix >= end).mean(0), 0.0)
    best = np.flatnonzero(kept == kept.max())
    j = int(best[len(best) // 2])
    if end < burn_in + _FEWEST_TIMES:
        verdict = Verdict.FLAT if (size[:, -1, burn_in:] == 0).all(1).mean() >= SHARE else Verdict.JUMPS
        return _no_growth(verdict, _SENTENCES[verdict])
    # All seeds to the same time: to stop each where it gets too large would select those that grow.
    used = np.log(size[prefix[:, j] >= end, j + 1][:, [burn_in, end - 1]])
    rates = (used[:, 1] - used[:, 0]) / (end - 1 - burn_in)
    error = float(rates.std(ddof=1) / math.sqrt(len(rates))) if len(rates) > 1 else math.nan
    length = slopes.shape[2]
    reason = f"linear up to time {end - 1} of {length - 1}, {len(rates)} of {len(seeds)} seeds"
    return Growth(
        Verdict.SMOOTH, float(rates.mean()), error, len(rates), burn_in, end - 1, float(_STEPS[j + 1]), reason
    )


_SENTENCES = {
    Verdict.JUMPS: "the output moves without relation to how far theta was moved: it jumps, uses random numbers that "
    "depend on theta, amplifies more than double precision holds, or is not finite; there is no usable derivative",
    Verdict.FLAT: "the output does not move with small steps of theta: it is discrete or does not depend on it; the "
    "derivative is 0 almost everywhere, and says nothing of larger steps",
}


def _no_growth(verdict: Verdict, reason: str) -> Growth:
    return Growth(verdict, None, math.nan, 0, 0, 0, math.nan, reason)


def _arguments(
    theta: ArrayLike, seeds: ArrayLike, scale: ArrayLike | None
) -> tuple[Floats, NDArray[np.int64], Floats]:
    theta, seeds = np.asarray(theta, np.float64), np.asarray(seeds, np.int64)
    own = np.where(theta == 0, 1.0, np.abs(theta))
    scale = own if scale is None else np.asarray(scale, np.float64)
    if theta.ndim != 1 or seeds.ndim != 1 or not theta.size or not seeds.size or scale.shape != theta.shape:
        raise ValueError(
            f"theta must be (P,), seeds (S,) and the scale or direction (P,), not {theta.shape}, {seeds.shape} and "
            f"{scale.shape}"
        )
    if not np.isfinite(scale).all() or not scale.any():
        raise ValueError(f"the scale or direction is {scale}; it must be finite and not 0")
    return theta, seeds, scale


def _run(f: BlackBox, theta: Floats, seeds: NDArray[np.int64]) -> Floats:
    output = np.asarray(f(theta, seeds), np.float64)
    if output.ndim == 0 or len(output) != len(theta):
        raise ValueError(
            f"{len(theta)} runs gave an output of shape {output.shape}; its first axis must be that of the runs (see "
            f"one_at_a_time)"
        )
    return output


def _noise(f: BlackBox, theta: Floats, seeds: NDArray[np.int64]) -> str:
    """What is wrong with the random numbers; empty if runs repeat."""
    one, two = (_run(f, np.tile(theta, (len(seeds), 1)), seeds) for _ in range(2))
    broken = ~np.isfinite(one.reshape(len(one), -1)).all(1)
    if broken.any():
        raise ValueError(f"the output is not finite at theta {theta}, seed {seeds[int(np.argmax(broken))]}")
    if np.array_equal(one, two):
        return ""
    apart, spread = float(np.sqrt(np.mean((one - two) ** 2))), float(one.std())
    return (
        f"two runs with the same theta and seed differ by {apart:.2g} (the spread over all runs is {spread:.2g}): the "
        f"seed does not fix the program's random numbers, so differences of runs are noise; seed all its generators"
    )


def _slopes(f: BlackBox, theta: Floats, seeds: NDArray[np.int64], along: Floats) -> Floats:
    """Central differences per unit of `along`, `(S, J, ...)`."""
    moves = np.stack([_STEPS, -_STEPS], axis=-1)[None, :, :, None] * along  # (1, J, 2, P)
    thetas = np.broadcast_to(theta + moves, (len(seeds), len(_STEPS), 2, len(theta)))
    output = _run(f, thetas.reshape(-1, len(theta)), np.repeat(seeds, 2 * len(_STEPS)))
    output = output.reshape(len(seeds), len(_STEPS), 2, *output.shape[1:])
    half = _STEPS.reshape(-1, *[1] * (output.ndim - 3))
    # A large step may leave the program's domain: NaN agrees with nothing, and smaller ones are judged.
    output = np.where(np.abs(output) < _LARGEST, output, np.nan)
    slopes: Floats = (output[:, :, 0] - output[:, :, 1]) / (2 * half)
    return slopes


def _disagreement(slopes: Floats) -> Floats:
    """Distance between neighbouring steps, relative to the larger: `(S, J, ..., m)` -> `(S, J - 1, ...)`."""
    size: Any = np.linalg.norm(slopes, axis=-1)
    apart = np.linalg.norm(slopes[:, 1:] - slopes[:, :-1], axis=-1)
    larger = np.maximum(size[:, 1:], size[:, :-1])
    relative: Floats = np.divide(apart, larger, out=np.zeros_like(apart), where=larger != 0)
    return np.where(np.isfinite(relative), relative, np.inf)


def _summary(verdicts: list[Verdict], step: Floats, best: Floats) -> tuple[Verdict, str]:
    for verdict in (Verdict.JUMPS, Verdict.FLAT):
        which = [p for p, v in enumerate(verdicts) if v is verdict]
        if verdict is Verdict.FLAT and len(which) < len(verdicts):
            continue  # that the output ignores some of the parameters is no harm
        if which:
            return verdict, f"parameters {which}: {_SENTENCES[verdict]}"
    agreed = f"{np.nanmax(best):.2g}"
    return Verdict.SMOOTH, f"steps {np.array2string(step, precision=2)}, neighbours agree to {agreed}"

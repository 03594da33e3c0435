"""Values of standard coordinates: the quantile functions of the families, accurate in both tails.

A draw is given by its lower tail probability p, its upper one q = 1 - p, of which the smaller is exact, and z, its
standard normal quantile. Draws from the prior have p = u and q = 1 - u of a random number u; choices given by their
coordinate have p = Phi(z), q = Phi(-z). Normal and LogNormal have coordinates of any size, the others within +-Z_MAX.
Results are finite and inside the support. SciPy takes long to import, so this module is imported where it is first
needed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import erfc, exp, inf, log, log1p, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import (
    betainc,
    betaincc,
    betainccinv,
    betaincinv,
    gammainc,
    gammaincc,
    gammainccinv,
    gammaincinv,
)

from ppx_client.distributions import Distribution
from ppx_client.truncated import truncated_quantile

Floats = NDArray[np.float64]

Z_MAX = 37.5
"""Largest coordinate of families whose tails are probabilities: Phi(-37.5) = 4.6e-308 is a normal double."""
TINY = float(np.finfo(np.float64).tiny)
HUGE = float(np.finfo(np.float64).max)
BELOW_ONE = 1.0 - 2.0**-53
_LOG_HUGE, _LOG_TINY = log(HUGE), log(TINY)
_ROOT_HALF = sqrt(0.5)


def tails(z: float) -> tuple[float, float]:
    """Lower and upper tail probability of a coordinate, which is kept within the limits."""
    z = -Z_MAX if z < -Z_MAX else Z_MAX if z > Z_MAX else z
    return 0.5 * erfc(-z * _ROOT_HALF), 0.5 * erfc(z * _ROOT_HALF)


def from_z(distribution: Distribution, z: float) -> float:
    """The value of a scalar distribution with a standard coordinate."""
    return SCALAR[distribution.code](*tails(z), z, distribution.vector)


def _normal(p: float, q: float, z: float, params: Sequence[float]) -> float:
    mean, stddev = params
    x = mean + stddev * z
    return x if -inf < x < inf else min(max(x, -HUGE), HUGE)


def _uniform(p: float, q: float, z: float, params: Sequence[float]) -> float:
    low, high = params
    return low + (high - low) * p if p < q else high - (high - low) * q


def _categorical(p: float, q: float, z: float, probs: Sequence[float]) -> float:
    # Tails are compared as quotients: the product of a tiny one with the total may vanish, which 0 would reach.
    below = list(accumulate(probs))
    total, last = below[-1], len(probs) - 1
    if p <= q:
        return float(bisect_left(below, p, 0, last, key=lambda weight: weight / total))
    above = list(accumulate(reversed(probs)))
    return float(last - bisect_right(above, q, 0, last, key=lambda weight: weight / total))


def _bernoulli(p: float, q: float, z: float, params: Sequence[float]) -> float:
    return 1.0 if (1.0 - params[0] < p if p <= q else params[0] > q) else 0.0


def _beta(p: float, q: float, z: float, params: Sequence[float]) -> float:
    a, b = params
    x = float(betaincinv(a, b, p) if p < q else betainccinv(a, b, q))
    if x != x:
        x = 1.0 / (1.0 + b / a)  # the mean, where parameters are too extreme for SciPy
    return min(max(x, TINY), BELOW_ONE)


def _hazard(p: float, q: float) -> float:
    """-log of the upper tail: the quantile of the standard exponential."""
    return -log1p(-p) if p < q else -log(q)


def _exponential(p: float, q: float, z: float, params: Sequence[float]) -> float:
    return min(_hazard(p, q) / params[0], HUGE)


def _gamma(p: float, q: float, z: float, params: Sequence[float]) -> float:
    shape, rate = params
    x = float(gammaincinv(shape, p) if p < q else gammainccinv(shape, q))
    # NaN for a shape too small for SciPy.
    return min(max(x / rate, TINY), HUGE) if x == x else TINY


def _log_normal(p: float, q: float, z: float, params: Sequence[float]) -> float:
    log_x = params[0] + params[1] * z
    return HUGE if log_x >= _LOG_HUGE else TINY if log_x <= _LOG_TINY else exp(log_x)


def _weibull(p: float, q: float, z: float, params: Sequence[float]) -> float:
    log_x = log(params[0]) + log(_hazard(p, q)) / params[1]
    return HUGE if log_x >= _LOG_HUGE else TINY if log_x <= _LOG_TINY else exp(log_x)


def _poisson(p: float, q: float, z: float, params: Sequence[float]) -> float:
    (rate,) = params
    if rate <= FEW and q > FAR:
        return _count_up(p, rate)
    guess = rate + sqrt(rate) * z + (z * z - 1.0) / 6.0
    return _smallest(
        p, q, guess, inf, lambda k: float(gammaincc(k + 1.0, rate)), lambda k: float(gammainc(k + 1.0, rate))
    )


FEW = 32.0
"""Rate of a Poisson, or trials of a Binomial, up to which a quantile is found by adding up probabilities."""
FAR = 1e-6
"""Upper tail beyond which rounding of that sum could show."""


def _count_up(p: float, rate: float) -> float:
    term = total = exp(-rate)
    k = 0.0
    while total < p:
        k += 1.0
        term *= rate / k
        total += term
    return k


def _binomial(p: float, q: float, z: float, params: Sequence[float]) -> float:
    n, prob = params
    if n <= FEW:
        # Whichever of successes and failures are rarer are counted; 1 - prob is exact where they are the failures.
        if prob <= 0.5:
            if q > FAR:
                return _count_successes(p, n, prob, strictly=False)
        elif p > FAR:
            return n - _count_successes(q, n, 1.0 - prob, strictly=True)
    mean = n * prob
    guess = mean + sqrt(mean * (1.0 - prob)) * z + (1.0 - 2.0 * prob) * (z * z - 1.0) / 6.0
    return _smallest(
        p,
        q,
        guess,
        n,
        lambda k: float(betaincc(k + 1.0, n - k, prob)),
        lambda k: float(betainc(k + 1.0, n - k, prob)),
    )


def _count_successes(goal: float, n: float, prob: float, *, strictly: bool) -> float:
    """The smallest k whose F(k) reaches a goal, or exceeds it."""
    failure = 1.0 - prob
    term = 1.0
    for _ in range(int(n)):
        term *= failure
    odds = prob / failure
    total, k = term, 0.0
    while k < n and (total <= goal if strictly else total < goal):
        k += 1.0
        term *= (n - k + 1.0) / k * odds
        total += term
    return k


def _smallest(
    p: float,
    q: float,
    guess: float,
    high: float,
    below: Callable[[float], float],
    above: Callable[[float], float],
) -> float:
    """The smallest k with F(k) >= p, or for p > q with S(k) <= q: by doubling steps from a guess, then bisection.

    Args:
        p: Lower tail.
        q: Upper tail.
        guess: Cornish-Fisher approximation (Abramowitz and Stegun 26.2.49), right to about one count but in the tails.
        high: Largest value.
        below: F(k) for 0 <= k < high.
        above: S(k) likewise.
    """

    def reached(k: float) -> bool:
        return k >= high or (k >= 0.0 and (below(k) >= p if p <= q else above(k) <= q))

    yes = min(max(float(round(guess)), 0.0), high)
    no, step = yes - 1.0, 1.0
    while not reached(yes):
        no, yes, step = yes, min(yes + step, high), 2.0 * step
    step = 1.0
    while reached(no):
        yes, no, step = no, max(no - step, -1.0), 2.0 * step
    while yes - no > 1.0:
        middle = float((yes + no) // 2.0)
        if not no < middle < yes:
            break  # beyond 2^53 not every integer is a double
        yes, no = (middle, no) if reached(middle) else (yes, middle)
    return yes


SCALAR: dict[int, Callable[[float, float, float, Sequence[float]], float]] = {
    1: _normal,
    2: _uniform,
    3: _categorical,
    4: _poisson,
    5: _bernoulli,
    6: _beta,
    7: _exponential,
    8: _gamma,
    9: _log_normal,
    10: _binomial,
    11: _weibull,
    12: truncated_quantile,
}
"""By code of the family: the value of p, q, z and the parameter vector (Categorical: the probabilities)."""

"""Values of many standard coordinates at once: what `quantiles` does for one, in as many NumPy operations for a
thousand elements as for ten.

Letters: N elements. Discrete families take the same steps in the same order as `quantiles`, so the values are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincc, betainccinv, betaincinv, gammainc, gammaincc, gammainccinv, gammaincinv

from ppx_client.distributions import Categorical, Distribution
from ppx_client.quantiles import BELOW_ONE, FAR, FEW, HUGE, TINY, Floats
from ppx_client.truncated import truncated_quantiles

Rows = NDArray[np.int64]


def quantiles(distribution: Distribution, uniform: Floats, z: Floats) -> Floats:
    """Values `(*shape)` of the random numbers of an array's elements, and their coordinates."""
    with np.errstate(all="ignore"):
        values: Floats = ARRAY[distribution.code](uniform, 1.0 - uniform, z, *distribution.params)
    return values


def parameter_matrix(distribution: Distribution) -> Floats:
    """The parameter vectors of the elements of an array distribution, `(elements, parameters)`, in C order."""
    params = distribution.params
    if isinstance(distribution, Categorical):
        rows: Floats = params[0].reshape(-1, params[0].shape[-1])
        return rows
    return np.stack([param.ravel() for param in params], -1)


def _hazard(p: Floats, q: Floats) -> Floats:
    return np.where(p < q, -np.log1p(-np.minimum(p, 0.75)), -np.log(q))


def _by_tail(
    p: Floats, q: Floats, lower: Callable[..., Any], upper: Callable[..., Any], *params: Floats
) -> Floats:
    x: Floats = np.where(p < q, lower(*params, np.minimum(p, 0.5)), upper(*params, np.minimum(q, 0.5)))
    return x


def _beta(p: Floats, q: Floats, z: Floats, a: Floats, b: Floats) -> Floats:
    x = _by_tail(p, q, betaincinv, betainccinv, a, b)
    return np.clip(np.where(np.isnan(x), 1.0 / (1.0 + b / a), x), TINY, BELOW_ONE)


def _gamma(p: Floats, q: Floats, z: Floats, shape: Floats, rate: Floats) -> Floats:
    x = _by_tail(p, q, gammaincinv, gammainccinv, shape)
    return np.where(np.isnan(x), TINY, np.clip(x / rate, TINY, HUGE))


def _weibull(p: Floats, q: Floats, z: Floats, scale: Floats, shape: Floats) -> Floats:
    hazard = _hazard(p, q)
    x = scale * hazard ** (1.0 / shape)
    # The power may be out of range where the value is not.
    return np.where(
        (x > TINY) & (x < HUGE), x, np.clip(np.exp(np.log(scale) + np.log(hazard) / shape), TINY, HUGE)
    )


def _categorical(p: Floats, q: Floats, z: Floats, probs: Floats) -> Floats:
    below = np.cumsum(probs, -1)
    above = np.cumsum(probs[..., ::-1], -1)
    total = below[..., -1:]
    few = below[..., :-1] / total < p[..., None]
    many = above[..., :-1] / total > q[..., None]
    values: Floats = np.where((p <= q)[..., None], few, many).sum(-1).astype(np.float64)
    return values


def _bernoulli(p: Floats, q: Floats, z: Floats, probs: Floats) -> Floats:
    return np.where(p <= q, 1.0 - probs < p, probs > q).astype(np.float64)


def _poisson(p: Floats, q: Floats, z: Floats, rate: Floats) -> Floats:
    shape = p.shape
    p, q, z, rate = (array.ravel() for array in (p, q, z, rate))
    values = np.empty(len(p))
    few = (rate <= FEW) & (q > FAR)
    rows = np.flatnonzero(few)
    if len(rows):
        start = np.array([exp(-one) for one in rate[rows].tolist()])
        values[rows] = _count(start, p[rows], np.full(len(rows), np.inf), lambda k, at: rate[rows[at]] / k)
    rows = np.flatnonzero(~few)
    if len(rows):
        p, q, z, rate = p[rows], q[rows], z[rows], rate[rows]
        guess = rate + np.sqrt(rate) * z + (z * z - 1.0) / 6.0
        values[rows] = _smallest(
            p,
            q,
            guess,
            np.full(len(rows), np.inf),
            lambda k, at: gammaincc(k + 1.0, rate[at]),
            lambda k, at: gammainc(k + 1.0, rate[at]),
        )
    return values.reshape(shape)


def _binomial(p: Floats, q: Floats, z: Floats, n: Floats, prob: Floats) -> Floats:
    shape = p.shape
    p, q, z, n, prob = (array.ravel() for array in (p, q, z, n, prob))
    rare = prob <= 0.5
    few = (n <= FEW) & (np.where(rare, q, p) > FAR)
    if few.all():
        return _count_rarer(p, q, n, prob, rare).reshape(shape)
    values = np.empty(len(p))
    rows = np.flatnonzero(few)
    if len(rows):
        values[rows] = _count_rarer(p[rows], q[rows], n[rows], prob[rows], rare[rows])
    rows = np.flatnonzero(~few)
    p, q, z, n, prob = p[rows], q[rows], z[rows], n[rows], prob[rows]
    mean = n * prob
    guess = mean + np.sqrt(mean * (1.0 - prob)) * z + (1.0 - 2.0 * prob) * (z * z - 1.0) / 6.0
    values[rows] = _smallest(
        p,
        q,
        guess,
        n,
        lambda k, at: betaincc(k + 1.0, n[at] - k, prob[at]),
        lambda k, at: betainc(k + 1.0, n[at] - k, prob[at]),
    )
    return values.reshape(shape)


def _count_rarer(p: Floats, q: Floats, n: Floats, prob: Floats, rare: NDArray[np.bool_]) -> Floats:
    """Binomial numbers of few trials, by counting successes or failures, whichever are rarer."""
    if rare.all():
        odds = prob / (1.0 - prob)
        return _count(_power(1.0 - prob, n), p, n, lambda k, at: (n[at] - k + 1.0) / k * odds[at])
    chance = np.where(rare, prob, 1.0 - prob)
    odds = chance / (1.0 - chance)
    # To exceed q is to reach the next number.
    goal = np.where(rare, p, np.nextafter(q, 2.0))
    found = _count(_power(1.0 - chance, n), goal, n, lambda k, at: (n[at] - k + 1.0) / k * odds[at])
    return np.where(rare, found, n - found)


def _power(base: Floats, exponent: Floats) -> Floats:
    result = np.ones_like(base)
    left = exponent.astype(np.int64)
    while left.any():
        result *= np.where(left & 1, base, 1.0)
        base = base * base
        left >>= 1
    return result


def _count(start: Floats, goal: Floats, high: Floats, factor: Callable[[float, Any], Floats]) -> Floats:
    """The smallest k whose F(k) reaches a goal, or `high`, `(N,)`: by adding up probabilities.

    Args:
        start: F(0).
        goal: What is to be reached.
        high: Largest values.
        factor: The probability of k as a multiple of that of k - 1, for rows.
    """
    values = np.zeros(len(start))
    rows = np.flatnonzero((start < goal) & (high > 0.0))
    term, total, k = start[rows], start[rows], 0.0
    while len(rows):
        k += 1.0
        term = term * factor(k, rows)
        total = total + term
        on = (total < goal[rows]) & (high[rows] > k)
        values[rows] = k
        rows, term, total = rows[on], term[on], total[on]
    return values


def _smallest(
    p: Floats,
    q: Floats,
    guess: Floats,
    high: Floats,
    below: Callable[[Floats, Rows], Floats],
    above: Callable[[Floats, Rows], Floats],
) -> Floats:
    """The smallest k with F(k) >= p, or for p > q with S(k) <= q, `(N,)`; all rows move together."""

    def reached(k: Floats, rows: Rows) -> NDArray[np.bool_]:
        inside = np.clip(k, 0.0, None)
        enough = np.where(p[rows] <= q[rows], below(inside, rows) >= p[rows], above(inside, rows) <= q[rows])
        result: NDArray[np.bool_] = (k >= high[rows]) | ((k >= 0.0) & enough)
        return result

    yes = np.clip(np.round(guess), 0.0, high)
    no, step = yes - 1.0, 1.0
    rows = np.arange(len(p))
    while len(rows := rows[~reached(yes[rows], rows)]):
        no[rows], yes[rows] = yes[rows], np.minimum(yes[rows] + step, high[rows])
        step *= 2.0
    rows, step = np.arange(len(p)), 1.0
    while len(rows := rows[reached(no[rows], rows)]):
        yes[rows], no[rows] = no[rows], np.maximum(no[rows] - step, -1.0)
        step *= 2.0
    rows = np.flatnonzero(yes - no > 1.0)
    while len(rows):
        middle = np.floor(0.5 * (yes[rows] + no[rows]))
        # Beyond 2^53 not every integer is a double.
        between = (middle > no[rows]) & (middle < yes[rows])
        rows, middle = rows[between], middle[between]
        enough = reached(middle, rows)
        yes[rows], no[rows] = np.where(enough, middle, yes[rows]), np.where(enough, no[rows], middle)
        rows = rows[yes[rows] - no[rows] > 1.0]
    return yes


ARRAY: dict[int, Callable[..., Floats]] = {
    1: lambda p, q, z, mean, stddev: np.clip(mean + stddev * z, -HUGE, HUGE),
    2: lambda p, q, z, low, high: np.where(p < q, low + (high - low) * p, high - (high - low) * q),
    3: _categorical,
    4: _poisson,
    5: _bernoulli,
    6: _beta,
    7: lambda p, q, z, rate: np.minimum(_hazard(p, q) / rate, HUGE),
    8: _gamma,
    9: lambda p, q, z, loc, scale: np.clip(np.exp(loc + scale * z), TINY, HUGE),
    10: _binomial,
    11: _weibull,
    12: lambda p, q, z, *params: truncated_quantiles(p, q, *params),
}
"""By code of the family: values of p, q, z and the parameters, all of one shape (Categorical: with a trailing axis)."""

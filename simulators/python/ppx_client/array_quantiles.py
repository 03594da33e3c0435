"""Values of many standard coordinates at once: what `quantiles` does for one, in as many NumPy operations for a
thousand elements as for ten.

Letters: N elements. Discrete families take the same steps in the same order as `quantiles`, so the values are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import exp
from typing import Any

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

from ppx_client.distributions import Categorical, Distribution
from ppx_client.quantiles import BELOW_ONE, FAR, FEW, HUGE, TINY, Floats
from ppx_client.truncated import truncated_quantiles

Rows = NDArray[np.int64]


def quantiles(distribution: Distribution, uniform: Floats, z: Floats) -> Floats:
    """Values `(*shape)` of the random numbers of an array's elements, and their coordinates."""
    if not uniform.size:
        return np.zeros(uniform.shape)
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
    if rate.max() <= FEW and q.min() > FAR:
        return _count_up(p, rate)
    few = (rate <= FEW) & (q > FAR)
    values = np.empty(p.shape)
    if few.any():
        values[few] = _count_up(p[few], rate[few])
    p, q, z, rate = (array[~few] for array in (p, q, z, rate))
    guess = rate + np.sqrt(rate) * z + (z * z - 1.0) / 6.0
    values[~few] = _smallest(
        p,
        q,
        guess,
        np.full(len(rate), np.inf),
        lambda k, at: gammaincc(k + 1.0, rate[at]),
        lambda k, at: gammainc(k + 1.0, rate[at]),
    )
    return values


def _count_up(p: Floats, rate: Floats) -> Floats:
    """Poisson numbers of small rates, by adding up probabilities."""
    # NumPy's exp rounds differently in some places.
    term = np.array([exp(-one) for one in rate.ravel().tolist()]).reshape(rate.shape)
    total, values, k = term, np.zeros(p.shape), 0.0
    while (short := total < p).any():
        k += 1.0
        values += short
        term = term * (rate / k)
        total = total + term
    return values


def _binomial(p: Floats, q: Floats, z: Floats, n: Floats, prob: Floats) -> Floats:
    if n.max() <= FEW and prob.max() <= 0.5 and q.min() > FAR:
        return _count_successes(p, n, prob)
    values = np.empty(p.shape)
    rare = prob <= 0.5
    successes = (n <= FEW) & rare & (q > FAR)
    failures = (n <= FEW) & ~rare & (p > FAR)
    others = ~(successes | failures)
    if successes.any():
        values[successes] = _count_successes(p[successes], n[successes], prob[successes])
    if failures.any():
        # To exceed q is to reach the next number.
        goal, trials = np.nextafter(q[failures], 2.0), n[failures]
        values[failures] = trials - _count_successes(goal, trials, 1.0 - prob[failures])
    if others.any():
        p, q, z, n, prob = (array[others] for array in (p, q, z, n, prob))
        mean = n * prob
        guess = mean + np.sqrt(mean * (1.0 - prob)) * z + (1.0 - 2.0 * prob) * (z * z - 1.0) / 6.0
        values[others] = _smallest(
            p,
            q,
            guess,
            n,
            lambda k, at: betaincc(k + 1.0, n[at] - k, prob[at]),
            lambda k, at: betainc(k + 1.0, n[at] - k, prob[at]),
        )
    return values


def _count_successes(goal: Floats, n: Floats, prob: Floats) -> Floats:
    """Binomial numbers of few trials, by adding up probabilities: the smallest k whose F(k) reaches a goal, or n."""
    most = int(n.max())
    if most == 0:
        return np.zeros(n.shape)
    first = float(prob.flat[0])
    if (prob == first).all():
        reached = _distribution_functions(most, first)[n.astype(np.int64)]
        missed: Floats = np.add.reduce(reached < goal[..., None], -1, np.float64)
        return missed
    shape, n, prob, goal = n.shape, n.ravel(), prob.ravel(), goal.ravel()
    failure = 1.0 - prob
    powers = np.empty((most + 1, len(n)))
    powers[0], powers[1:] = 1.0, failure
    np.multiply.accumulate(powers, 0, out=powers)
    # The probability of k is that of k - 1 times ((n - k + 1) / k) odds, which makes it 0 beyond n.
    k = np.arange(1.0, most + 1.0)[:, None]
    terms = np.empty_like(powers)
    terms[0] = powers[n.astype(np.int64), np.arange(len(n))]
    terms[1:] = (n - k + 1.0) / k * (prob / failure)
    np.multiply.accumulate(terms, 0, out=terms)
    np.add.accumulate(terms, 0, out=terms)
    numbers: Floats = np.minimum(np.count_nonzero(terms < goal, 0), n).reshape(shape)
    return numbers


@lru_cache(64)
def _distribution_functions(most: int, prob: float) -> Floats:
    """F(k) for k < n of Binomials of 0 to `most` trials, `(most + 1, most)`; infinite from n on."""
    table = np.full((most + 1, most), np.inf)
    failure = 1.0 - prob
    odds, start = prob / failure, 1.0
    for n in range(1, most + 1):
        start *= failure
        term = total = start
        for k in range(n):
            if k:
                term *= (n - k + 1.0) / k * odds
                total += term
            table[n, k] = total
    return table


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

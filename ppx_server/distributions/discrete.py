"""Families of integers. Quantiles are the smallest k with F(k) >= u, decided through the smaller tail."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincc, betaln, gammainc, gammaincc, gammaln, xlog1py, xlogy

from ppx_server.distributions.family import (
    Z_MAX,
    Arrays,
    Domain,
    Family,
    Floats,
    Kind,
    Scalars,
    clamp,
    lower_tail,
    z_of_tails,
)
from ppx_server.errors import DistributionError


class Discrete(Family):
    """A family of integers: coordinates are those of probability intervals' middles."""

    kind = Kind.ORDERED

    def z_interval(self, x: ArrayLike, params: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
        """`Phi^-1(F(x - 1)), Phi^-1(F(x))`: the coordinates that give x. Infinite at the support's edges."""
        x = np.asarray(x, np.float64)
        (p0, q0), (p1, q1) = self._both_tails(x - 1.0, params), self._both_tails(x, params)
        return z_of_tails(p0, q0), z_of_tails(p1, q1)

    def _to_z(self, x: Floats, params: Arrays) -> Floats:
        (p0, q0), (p1, q1) = self._both_tails(x - 1.0, params), self._both_tails(x, params)
        return np.clip(z_of_tails(0.5 * (p0 + p1), 0.5 * (q0 + q1)), -Z_MAX, Z_MAX)


class Counts(Discrete):
    """A family of counts 0, 1, ... whose quantile is searched for from a guess."""

    @abstractmethod
    def _moments(self, params: Arrays) -> tuple[Floats, Floats, Floats]:
        """Mean, standard deviation, and skewness times standard deviation."""

    @abstractmethod
    def _scalar_moments(self, params: Scalars) -> tuple[float, float, float]:
        """`_moments` of Python floats."""

    @abstractmethod
    def _scalar_cdf(self, k: float, params: Scalars) -> float:
        """F(k) for 0 <= k < high."""

    @abstractmethod
    def _scalar_sf(self, k: float, params: Scalars) -> float:
        """S(k) for 0 <= k < high."""

    @abstractmethod
    def _scalar_high(self, params: Scalars) -> float:
        """The largest value."""

    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        low, high = self._support(params)
        mean, stddev, skewness = self._moments(params)
        z = np.clip(z_of_tails(p, q), -Z_MAX, Z_MAX)
        guess = np.clip(np.round(_guess(z, mean, stddev, skewness)), low, high)
        p, q, guess, high, *columns = np.broadcast_arrays(p, q, guess, high, *params)
        flat = [c.ravel() for c in columns]
        return _smallest(self, p.ravel(), q.ravel(), guess.ravel(), high.ravel(), flat).reshape(p.shape)

    def from_z_scalar(self, z: float, params: Scalars) -> float:
        z = clamp(z)
        tail = lower_tail(-abs(z))
        high = self._scalar_high(params)
        k = min(max(float(round(_guess(z, *self._scalar_moments(params)))), 0.0), high)
        rising = falling = False
        for _ in range(_WALK):
            if k >= high or (
                self._scalar_cdf(k, params) >= tail if z <= 0.0 else self._scalar_sf(k, params) <= tail
            ):
                if rising or k == 0.0:
                    return k
                falling, k = True, k - 1.0
            elif falling:
                return k + 1.0
            else:
                rising, k = True, k + 1.0
        return float(self.from_z(z, params))


_WALK = 16
"""Unit steps of the scalar search before it hands over to the one by doubling."""


def _guess(z: Any, mean: Any, stddev: Any, skewness: Any) -> Any:
    # Cornish-Fisher (Abramowitz and Stegun 26.2.49), right to about one count except far in the tails.
    return mean + stddev * z + skewness * (z * z - 1.0) / 6.0


def _smallest(family: Counts, p: Floats, q: Floats, guess: Floats, high: Floats, params: Arrays) -> Floats:
    """The smallest k with F(k) >= p, or for p > q with S(k) <= q: by doubling steps from a guess, then bisection.

    All rows move together; the number of rounds is about log2 of the worst guess's error.
    """

    def reached(k: Floats, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        below, above = family._both_tails(k, [c[rows] for c in params])
        answer: NDArray[np.bool_] = np.where(p[rows] <= q[rows], below >= p[rows], above <= q[rows])
        return answer

    yes, no = guess.copy(), guess - 1.0
    step = np.ones_like(guess)
    active = np.flatnonzero(np.isfinite(p) & np.isfinite(guess))
    while len(active):  # until `yes` is high enough
        short = active[~reached(yes[active], active) & (yes[active] < high[active])]
        no[short] = yes[short]
        yes[short] = np.minimum(yes[short] + step[short], high[short])
        step[short] *= 2.0
        active = short
    step[:] = 1.0
    active = np.flatnonzero(np.isfinite(p) & np.isfinite(guess))
    while len(active):  # until `no` is low enough
        over = active[(no[active] >= 0.0) & reached(no[active], active)]
        yes[over] = no[over]
        no[over] = np.maximum(no[over] - step[over], -1.0)
        step[over] *= 2.0
        active = over
    active = np.flatnonzero(yes - no > 1.0)
    while len(active):
        middle = np.floor(0.5 * (yes[active] + no[active]))
        # Beyond 2^53 not every integer is a double: stop where there is none between.
        between = (middle > no[active]) & (middle < yes[active])
        active, middle = active[between], middle[between]
        high_enough = reached(middle, active)
        yes[active] = np.where(high_enough, middle, yes[active])
        no[active] = np.where(high_enough, no[active], middle)
        active = active[yes[active] - no[active] > 1.0]
    return np.where(np.isfinite(p), yes, np.nan)


class Poisson(Counts):
    """Poisson(rate); rate 0 gives 0."""

    name = "Poisson"
    code = 4
    param_names = ("rate",)
    domains = (Domain.NONNEGATIVE,)

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        (rate,) = params
        log_prob: Floats = xlogy(x, rate) - rate - gammaln(x + 1.0)
        return log_prob

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        (rate,) = params
        k = np.floor(x)
        return gammaincc(k + 1.0, rate), gammainc(k + 1.0, rate)

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        shape = params[0].shape
        return np.zeros(shape), np.full(shape, inf)

    def _moments(self, params: Arrays) -> tuple[Floats, Floats, Floats]:
        (rate,) = params
        return rate, np.sqrt(rate), np.ones_like(rate)

    def _scalar_moments(self, params: Scalars) -> tuple[float, float, float]:
        return params[0], sqrt(params[0]), 1.0

    def _scalar_cdf(self, k: float, params: Scalars) -> float:
        return float(gammaincc(k + 1.0, params[0]))

    def _scalar_sf(self, k: float, params: Scalars) -> float:
        return float(gammainc(k + 1.0, params[0]))

    def _scalar_high(self, params: Scalars) -> float:
        return inf

    def _accepts(self, params: Scalars) -> bool:
        return 0.0 <= params[0] < inf


class Binomial(Counts):
    """Binomial(total_count, probs)."""

    name = "Binomial"
    code = 10
    param_names = ("total_count", "probs")
    domains = (Domain.COUNT, Domain.PROBABILITY)

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        n, probs = params
        combinations = -betaln(1.0 + n - x, 1.0 + x) - np.log1p(n)
        log_prob: Floats = combinations + xlogy(x, probs) + xlog1py(n - x, -probs)
        return log_prob

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        n, probs = params
        k = np.minimum(np.floor(x), n - 1.0)  # F(n) = 1 is the caller's
        return betaincc(k + 1.0, n - k, probs), betainc(k + 1.0, n - k, probs)

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        n, probs = np.broadcast_arrays(*params)
        return np.zeros(probs.shape), n

    def _moments(self, params: Arrays) -> tuple[Floats, Floats, Floats]:
        n, probs = params
        mean = n * probs
        return mean, np.sqrt(mean * (1.0 - probs)), 1.0 - 2.0 * probs

    def _scalar_moments(self, params: Scalars) -> tuple[float, float, float]:
        mean = params[0] * params[1]
        return mean, sqrt(mean * (1.0 - params[1])), 1.0 - 2.0 * params[1]

    def _scalar_cdf(self, k: float, params: Scalars) -> float:
        return float(betaincc(k + 1.0, params[0] - k, params[1]))

    def _scalar_sf(self, k: float, params: Scalars) -> float:
        return float(betainc(k + 1.0, params[0] - k, params[1]))

    def _scalar_high(self, params: Scalars) -> float:
        return params[0]

    def _accepts(self, params: Scalars) -> bool:
        n, probs = params
        return 0.0 <= n < inf and n == int(n) and 0.0 <= probs <= 1.0


class Bernoulli(Discrete):
    """Bernoulli(probs): 1 with probability `probs`, else 0."""

    name = "Bernoulli"
    code = 5
    param_names = ("probs",)
    domains = (Domain.PROBABILITY,)

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        (probs,) = params
        return np.where(x > 0.5, np.log(probs), np.log1p(-probs))

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        (probs,) = params
        return 1.0 - probs + 0.0 * x, probs + 0.0 * x  # for 0 <= x < 1

    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        (probs,) = params
        return np.where(p <= q, 1.0 - probs < p, probs > q).astype(np.float64) + 0.0 * p

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        shape = params[0].shape
        return np.zeros(shape), np.ones(shape)

    def from_z_scalar(self, z: float, params: Scalars) -> float:
        z = clamp(z)
        one = 1.0 - params[0] < lower_tail(z) if z <= 0.0 else params[0] > lower_tail(-z)
        return 1.0 if one else 0.0

    def _accepts(self, params: Scalars) -> bool:
        return 0.0 <= params[0] <= 1.0


class Categorical(Discrete):
    """Categorical(probs): an index 0 .. C - 1; probabilities `(..., C)` are normalised by their sum.

    In scalar calls the parameters are the C probabilities themselves.
    """

    name = "Categorical"
    code = 3
    param_names = ("probs",)
    domains = (Domain.NONNEGATIVE,)
    kind = Kind.CATEGORICAL

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        (probs,) = params
        log_prob: Floats = np.log(_pick(probs, x) / probs.sum(-1))
        return log_prob

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        below, above = _cumulative(params[0])
        return _pick(below, x), _pick(above, x)

    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        below, above = _cumulative(params[0])
        p, q = p[..., None], q[..., None]
        # F grows and S falls with the index, so the smallest index that reaches u is the number that do not.
        missed: Floats = np.where(p <= q, below < p, above > q).sum(-1).astype(np.float64)
        return missed

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        *shape, size = params[0].shape
        return np.zeros(shape), np.full(shape, size - 1.0)

    def from_z_scalar(self, z: float, params: Scalars) -> float:
        z = clamp(z)
        below = list(accumulate(params))
        whole, last = below[-1], len(params) - 1
        if z <= 0.0:
            return float(bisect_left(below, lower_tail(z), 0, last, key=lambda weight: weight / whole))
        above = list(accumulate(reversed(params)))
        return float(last - bisect_right(above, lower_tail(-z), 0, last, key=lambda weight: weight / whole))

    def validate(self, params: Sequence[ArrayLike]) -> None:
        if len(params) == 1:
            probs = np.asarray(params[0], np.float64)
            if probs.ndim == 0 or probs.shape[-1] == 0:
                raise DistributionError(
                    f"Categorical: probs of shape {probs.shape} hold no categories; "
                    "give at least one probability along the last axis"
                )
        super().validate(params)

    def validate_scalar(self, params: Scalars) -> None:
        total = sum(params)
        if not (0.0 < total < inf and min(params) >= 0.0):
            self.validate((params,))

    def _accepts(self, params: Scalars) -> bool:
        raise NotImplementedError("Categorical overrides validate_scalar")

    def _validate_jointly(self, params: Arrays) -> None:
        total = params[0].sum(-1)
        self._check((total > 0) & np.isfinite(total), "sum of probs", total, "must be finite and > 0")


def _cumulative(probs: Floats) -> tuple[Floats, Floats]:
    """F and S of every category, along the last axis."""
    below = np.cumsum(probs, -1)
    above = np.cumsum(probs[..., ::-1], -1)[..., ::-1]
    total = below[..., -1:]
    above = np.concatenate([above[..., 1:], np.zeros_like(total)], -1)
    return below / total, above / total


def _pick(columns: Floats, x: Floats) -> Floats:
    """`columns[..., x]`, broadcasting x against the leading axes; indices outside are clipped."""
    index = np.clip(np.nan_to_num(x), 0, columns.shape[-1] - 1).astype(np.int64)
    shape = np.broadcast_shapes(columns.shape[:-1], index.shape)
    columns = np.broadcast_to(columns, (*shape, columns.shape[-1]))
    picked: Floats = np.take_along_axis(columns, np.broadcast_to(index, shape)[..., None], -1)[..., 0]
    return picked

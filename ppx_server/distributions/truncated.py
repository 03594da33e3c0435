"""The normal distribution between two bounds, right however far the bounds are in the tails.

Standardised, the density between a and b is proportional to exp(-t^2 / 2). Reflected so that a + b >= 0, it is largest
at the anchor e = max(a, 0), and all integrals are taken relative to the density there,

    G(u, v) = integral from u to v of exp(-(t^2 - e^2) / 2) dt,

so that no number under- or overflows (Mills' ratio, as `erfcx`, in place of Phi), and every distance to a bound is
formed from the values themselves rather than from their standardised difference. Quantiles start from an approximation
(Normal(0, 1) quantile in log space, or the exponential tail) and take a fixed number of Newton steps.
"""

from __future__ import annotations

from math import inf, pi, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc, erfcx, log_ndtr, ndtri, ndtri_exp

from ppx_server.distributions.family import (
    TINY,
    Arrays,
    Domain,
    Family,
    Floats,
    Scalars,
    clamp,
    lower_tail,
)

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_ROOT_HALF_PI = sqrt(0.5 * pi)
_ROOT_HALF = sqrt(0.5)
_NEWTON_STEPS = 4


class _Frame(NamedTuple):
    """Standardised bounds, reflected so that a + b >= 0.

    Attributes:
        flip: Where reflection took place: low and high changed roles.
        a: Lower bound; -inf only if b is inf.
        b: Upper bound.
        width: b - a.
        anchor: max(a, 0).
        total: G(a, b).
    """

    flip: NDArray[np.bool_]
    a: Floats
    b: Floats
    width: Floats
    anchor: Floats
    total: Floats


def _frame(params: Arrays) -> _Frame:
    mean, stddev, low, high = params
    a, b = (low - mean) / stddev, (high - mean) / stddev
    flip = a + b < 0
    a, b = np.where(flip, -b, a), np.where(flip, -a, b)
    width = (high - low) / stddev
    anchor = np.maximum(a, 0.0)
    return _Frame(flip, a, b, width, anchor, _integral(a, b, a - anchor, width, anchor))


def _integral(u: Floats, v: Floats, offset: Floats, width: Floats, anchor: Floats) -> Floats:
    """G(u, v), where `offset` = u - anchor and `width` = v - u are given to full precision."""
    left = u + v < 0  # only for anchor 0, where the integrand is symmetric
    u, v = np.where(left, -v, u), np.where(left, -u, v)
    offset = np.where(left, u, offset)
    wide = _upper(u, offset, anchor) - _upper(v, offset + width, anchor)
    middle = offset + 0.5 * width
    narrow = width * np.maximum(1.0, np.abs(anchor + middle)) < 1.0
    if not np.any(narrow):
        return wide
    half = np.where(narrow, 0.5 * width, 0.0)[..., None] * _NODES
    centre = np.where(narrow, anchor + middle, 0.0)
    inner = np.exp(-centre[..., None] * half - 0.5 * half**2) @ _WEIGHTS
    peak = np.exp(-0.5 * middle * (middle + 2.0 * anchor))
    return np.where(narrow, peak * inner * 0.5 * width, wide)


def _upper(u: Floats, offset: Floats, anchor: Floats) -> Floats:
    """G(u, inf)."""
    decay = np.exp(-0.5 * offset * (offset + 2.0 * anchor))
    tail = np.where(u > 0, decay * erfcx(np.maximum(u, 0.0) * _ROOT_HALF), erfc(u * _ROOT_HALF))
    return _ROOT_HALF_PI * np.where(np.isposinf(u), 0.0, tail)


class TruncatedNormal(Family):
    """Normal(mean, stddev) between low and high, both included; either may be infinite."""

    name = "TruncatedNormal"
    code = 12
    param_names = ("mean", "stddev", "low", "high")
    domains = (Domain.REAL, Domain.POSITIVE, Domain.EXTENDED, Domain.EXTENDED)

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        frame = _frame(params)
        offset = self._offset(x, params, frame)
        log_prob: Floats = -0.5 * offset * (offset + 2.0 * frame.anchor) - np.log(params[1] * frame.total)
        return log_prob

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        mean, stddev, low, high = params
        frame = _frame(params)
        offset = self._offset(x, params, frame)
        below, above = (x - low) / stddev, (high - x) / stddev
        below, above = np.where(frame.flip, above, below), np.where(frame.flip, below, above)
        xi = np.where(frame.flip, mean - x, x - mean) / stddev
        p = _integral(frame.a, xi, frame.a - frame.anchor, below, frame.anchor) / frame.total
        q = _integral(xi, frame.b, offset, above, frame.anchor) / frame.total
        return np.where(frame.flip, q, p), np.where(frame.flip, p, q)

    @staticmethod
    def _offset(x: Floats, params: Arrays, frame: _Frame) -> Floats:
        """Distance from the anchor, in standard deviations."""
        mean, stddev, low, high = params
        edge = np.where(frame.flip, high, low)
        origin = np.where(frame.anchor > 0, edge, mean)
        return np.where(frame.flip, origin - x, x - origin) / stddev

    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        mean, stddev, low, high = params
        frame = _frame(params)
        p, q = np.where(frame.flip, q, p), np.where(frame.flip, p, q)
        xi = _guess(p, q, frame)
        from_a, from_b = _distances(xi, p, q, frame)
        # Of the ways to write the value, take the one that loses least to rounding: from a bound within one standard
        # deviation (the distance to it is precise, unlike xi), else the one whose terms are smallest.
        to_low, to_high = np.where(frame.flip, from_b, from_a), np.where(frame.flip, from_a, from_b)
        best = mean + np.where(frame.flip, -xi, xi) * stddev
        smallest = np.abs(mean) + np.abs(xi) * stddev
        for bound, distance in ((low, to_low), (high, -to_high)):
            steps = np.abs(distance)
            size = np.where(steps <= 1.0, steps - 1.0, np.abs(bound) + steps * stddev)
            better = size < smallest
            best = np.where(better, bound + distance * stddev, best)
            smallest = np.where(better, size, smallest)
        value: Floats = np.clip(best, low, high)
        return value

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        _, _, low, high = np.broadcast_arrays(*params)
        return low, high

    def from_z_scalar(self, z: float, params: Scalars) -> float:
        mean, stddev, low, high = params
        z = clamp(z)
        a, b = (low - mean) / stddev, (high - mean) / stddev
        if a < 4.0 and b > -4.0 and b - a > 0.5 and abs(z) < 4.0:
            # Bounds and value in the body: plain probabilities do.
            below, above = lower_tail(z), lower_tail(-z)
            if a + b < 0.0:
                xi = float(ndtri(lower_tail(a) * above + lower_tail(b) * below))
            else:
                xi = -float(ndtri(lower_tail(-a) * above + lower_tail(-b) * below))
            return min(max(mean + stddev * xi, low), high)
        return float(self.from_z(z, params))

    def _accepts(self, params: Scalars) -> bool:
        mean, stddev, low, high = params
        return -inf < mean < inf and 0.0 < stddev < inf and low < high and low < inf and high > -inf

    def _validate_jointly(self, params: Arrays) -> None:
        _, _, low, high = np.broadcast_arrays(*params)
        valid = (low < high) & (low < inf) & (high > -inf)
        self._check(valid, "low", low, f"must be < high = {float(high.flat[np.argmin(valid)])!r}")


def _guess(p: Floats, q: Floats, frame: _Frame) -> Floats:
    """Quantile in the reflected frame, up to rounding of a^2."""
    log_p, log_q = np.log(p), np.log(q)
    lower = np.logaddexp(log_ndtr(frame.a) + log_q, log_ndtr(frame.b) + log_p)
    upper = np.logaddexp(log_ndtr(-frame.a) + log_q, log_ndtr(-frame.b) + log_p)
    xi: Floats = np.where(lower < upper, ndtri_exp(lower), -ndtri_exp(upper))
    return xi


def _distances(xi: Floats, p: Floats, q: Floats, frame: _Frame) -> tuple[Floats, Floats]:
    """Distances of the quantile from a and from b, infinite where the bound is."""
    from_a, from_b = _near_bounds(xi, p, q, frame)
    near_a = from_a <= from_b
    t = _refine(np.clip(np.where(near_a, from_a, from_b), TINY, frame.width), near_a, p, q, frame)
    bounded = np.isfinite(t)
    other = frame.width - t
    return (
        np.where(bounded, np.where(near_a, t, other), from_a),
        np.where(bounded, np.where(near_a, other, t), from_b),
    )


def _near_bounds(xi: Floats, p: Floats, q: Floats, frame: _Frame) -> tuple[Floats, Floats]:
    """Distances from a and from b, to a few per cent.

    Close to a bound, the difference of the standardised values is all rounding: there the density is constant, or
    for a far in the tail exponential.
    """
    a, b, anchor = frame.a, frame.b, frame.anchor
    linear_a = p * frame.total * np.exp(0.5 * (a - anchor) * (a + anchor))
    linear_b = q * frame.total * np.exp(0.5 * (b - anchor) * (b + anchor))
    from_a = np.where(linear_a * np.maximum(1.0, np.abs(a)) < 0.05, linear_a, xi - a)
    from_b = np.where(linear_b * np.maximum(1.0, np.abs(b)) < 0.05, linear_b, b - xi)
    # S = q + p exp(-a width - width^2 / 2) = exp(-a t), up to terms of order 1 / a^2.
    beyond = np.exp(-frame.width * (a + 0.5 * frame.width))
    hazard = np.where(p < q, -np.log1p(-p * (1.0 - beyond)), -np.log(q + p * beyond))
    return np.where(a > 100.0, hazard / np.where(a > 100.0, a, 1.0), from_a), from_b


def _refine(t: Floats, near_a: NDArray[np.bool_], p: Floats, q: Floats, frame: _Frame) -> Floats:
    """Newton steps for the distance t to the nearer bound.

    With G the integral over the smaller tail, a step solves log G(log t) = log(tail probability * total), linearised:
    d log G / d log t = +- t * density / G.
    """
    _, a, b, width, anchor, total = frame
    lower = p <= q
    goal = np.log(np.where(lower, p, q) * total)
    for _ in range(_NEWTON_STEPS):
        other = width - t
        to_a, to_b = np.where(near_a, t, other), np.where(near_a, other, t)
        here = np.where(near_a, a + t, b - t)
        offset = np.where(near_a, (a - anchor) + t, (b - anchor) - t)
        below = _integral(a, here, a - anchor, to_a, anchor)
        above = _integral(here, b, offset, to_b, anchor)
        tail = np.where(lower, below, above)
        density = np.exp(-0.5 * offset * (offset + 2.0 * anchor))
        step = (goal - np.log(tail)) * tail / (np.where(lower == near_a, 1.0, -1.0) * t * density)
        t = np.clip(t * np.exp(np.where(np.isfinite(step), np.clip(step, -1.0, 1.0), 0.0)), 0.0, width)
    return t

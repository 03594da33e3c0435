"""The normal distribution between two bounds, right however far the bounds are in the tails.

Standardised, the density between a and b is proportional to exp(-t^2 / 2). Reflected so that a + b >= 0, it is largest
at the anchor e = max(a, 0), and all integrals are taken relative to the density there,

    G(u, v) = integral from u to v of exp(-(t^2 - e^2) / 2) dt,

so that no number under- or overflows (Mills' ratio, as `erfcx`, in place of Phi), and every distance to a bound is
formed from the values themselves rather than from their standardised difference. Quantiles start from an approximation
(Normal(0, 1) quantile in log space, or the exponential tail) and take a fixed number of Newton steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc as scalar_erfc
from math import pi, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc, erfcx, log_ndtr, ndtri, ndtri_exp

Floats = NDArray[np.float64]

_TINY = float(np.finfo(np.float64).tiny)
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


def _frame(mean: Floats, stddev: Floats, low: Floats, high: Floats) -> _Frame:
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


def truncated_log_prob(x: Floats, mean: Floats, stddev: Floats, low: Floats, high: Floats) -> Floats:
    """Log density of values inside the bounds; arrays broadcast."""
    frame = _frame(mean, stddev, low, high)
    edge = np.where(frame.flip, high, low)
    origin = np.where(frame.anchor > 0, edge, mean)
    offset = np.where(frame.flip, origin - x, x - origin) / stddev
    log_prob: Floats = -0.5 * offset * (offset + 2.0 * frame.anchor) - np.log(stddev * frame.total)
    return log_prob


def truncated_quantiles(
    p: Floats, q: Floats, mean: Floats, stddev: Floats, low: Floats, high: Floats
) -> Floats:
    """Values of lower tail p and upper tail q, of which the smaller is exact; arrays broadcast."""
    frame = _frame(mean, stddev, low, high)
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


def truncated_quantile(p: float, q: float, z: float, params: Sequence[float]) -> float:
    """The value of one draw with tails p and q and coordinate z."""
    mean, stddev, low, high = params
    a, b = (low - mean) / stddev, (high - mean) / stddev
    if a < 4.0 and b > -4.0 and b - a > 0.5 and abs(z) < 4.0:
        # Bounds and value in the body: plain probabilities do.
        if a + b < 0.0:
            xi = float(ndtri(_lower_tail(a) * q + _lower_tail(b) * p))
        else:
            xi = -float(ndtri(_lower_tail(-a) * q + _lower_tail(-b) * p))
        return min(max(mean + stddev * xi, low), high)
    with np.errstate(all="ignore"):
        return float(truncated_quantiles(*map(np.asarray, (p, q, mean, stddev, low, high))))


def _lower_tail(z: float) -> float:
    return 0.5 * scalar_erfc(-z * _ROOT_HALF)


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
    t = _refine(np.clip(np.where(near_a, from_a, from_b), _TINY, frame.width), near_a, p, q, frame)
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

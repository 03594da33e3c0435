"""Quantile functions of the families: a uniform number in (0, 1) becomes a draw.

Used where the simulator draws for itself. SciPy is imported at the first draw that needs it, because importing it takes
longer than importing the rest of the client.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ppx_client.distributions import Distribution

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def quantile(distribution: Distribution, uniform: Any) -> Any:
    """The value whose CDF is `uniform`, for discrete families the smallest whose CDF is not below it.

    Args:
        distribution: Of any family.
        uniform: In (0, 1); a float for a scalar distribution, else an array of its shape.

    Returns:
        A float, or a float64 array of the distribution's shape.
    """
    if distribution.shape == () and (fast := _SCALAR.get(distribution.code)) is not None:
        return fast(uniform, *distribution.params)
    x = _ARRAY[distribution.code](np.asarray(uniform), *map(np.asarray, distribution.params))
    return float(x) if distribution.shape == () else np.asarray(x, np.float64)


def _categorical_scalar(u: float, probs: Floats) -> float:
    cumulative = probs.cumsum()
    index = int(cumulative.searchsorted(u * cumulative[-1], side="right"))
    return float(min(index, _last_possible(probs)))


def _last_possible(probs: Floats) -> int:
    """The last category of nonzero probability, which rounding must not overstep."""
    return int(probs.nonzero()[0][-1])


# Families whose quantile is elementary, for scalars.
_SCALAR: dict[int, Callable[..., float]] = {
    2: lambda u, low, high: low + (high - low) * u,
    3: _categorical_scalar,
    5: lambda u, p: 1.0 if u > 1.0 - p else 0.0,
    7: lambda u, rate: -math.log1p(-u) / rate,
    11: lambda u, scale, concentration: scale * (-math.log1p(-u)) ** (1.0 / concentration),
}


def _normal(u: Floats, mean: Floats, stddev: Floats) -> Floats:
    from scipy.special import ndtri

    x: Floats = mean + stddev * ndtri(u)
    return x


def _uniform(u: Floats, low: Floats, high: Floats) -> Floats:
    return low + (high - low) * u


def _categorical(u: Floats, probs: Floats) -> Floats:
    rows = probs.reshape(-1, probs.shape[-1])
    picked = [_categorical_scalar(float(v), row) for v, row in zip(u.reshape(-1), rows, strict=True)]
    return np.array(picked).reshape(u.shape)


def _poisson(u: Floats, rate: Floats) -> Floats:
    from scipy.special import pdtr, pdtrik

    positive = np.where(rate > 0.0, rate, 1.0)
    k = _smallest(u, np.ceil(pdtrik(u, positive)), lambda below: pdtr(below, positive))
    return np.where(rate > 0.0, k, 0.0)


def _smallest(u: Floats, k: Floats, cdf: Callable[[Floats], Floats]) -> Floats:
    """k or k - 1, whichever is the smallest whose CDF reaches u: continuous inverses may round up past a step."""
    below = np.maximum(k - 1.0, 0.0)
    return np.where(cdf(below) >= u, below, k)


def _bernoulli(u: Floats, p: Floats) -> Floats:
    return np.where(u > 1.0 - p, 1.0, 0.0)


def _beta(u: Floats, concentration1: Floats, concentration0: Floats) -> Floats:
    from scipy.special import betaincinv

    x: Floats = betaincinv(concentration1, concentration0, u)
    return x


def _exponential(u: Floats, rate: Floats) -> Floats:
    x: Floats = -np.log1p(-u) / rate
    return x


def _gamma(u: Floats, concentration: Floats, rate: Floats) -> Floats:
    from scipy.special import gammaincinv

    x: Floats = gammaincinv(concentration, u) / rate
    return x


def _log_normal(u: Floats, loc: Floats, scale: Floats) -> Floats:
    x: Floats = np.exp(_normal(u, loc, scale))
    return x


def _binomial(u: Floats, total_count: Floats, probs: Floats) -> Floats:
    from scipy.special import bdtr, bdtrik

    certain = (probs == 0.0) | (probs == 1.0) | (total_count == 0.0)
    count, p = np.where(certain, 1.0, total_count), np.where(certain, 0.5, probs)
    # SciPy's inverse is NaN below the first step. bdtr wants its number of trials as an integer.
    guess = np.nan_to_num(np.ceil(bdtrik(u, count, p)), nan=0.0)
    trials = count.astype(np.int64)
    k = _smallest(u, np.clip(guess, 0.0, count), lambda below: bdtr(below, trials, p))
    return np.where(certain, total_count * probs, k)


def _weibull(u: Floats, scale: Floats, concentration: Floats) -> Floats:
    x: Floats = scale * (-np.log1p(-u)) ** (1.0 / concentration)
    return x


def _truncated_normal(u: Floats, mean: Floats, stddev: Floats, low: Floats, high: Floats) -> Floats:
    from scipy.special import log_ndtr, ndtri_exp

    a, b = (low - mean) / stddev, (high - mean) / stddev
    log_u, log_v = np.log(u), np.log1p(-u)
    # Phi(z) = (1 - u) Phi(a) + u Phi(b), and the same for the survival function; the smaller one keeps its precision.
    log_cdf = np.logaddexp(log_v + log_ndtr(a), log_u + log_ndtr(b))
    log_sf = np.logaddexp(log_v + log_ndtr(-a), log_u + log_ndtr(-b))
    z = np.where(log_cdf < log_sf, ndtri_exp(log_cdf), -ndtri_exp(log_sf))
    x: Floats = np.clip(mean + stddev * z, low, high)
    return x


_ARRAY: dict[int, Callable[..., Floats]] = {
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
    12: _truncated_normal,
}

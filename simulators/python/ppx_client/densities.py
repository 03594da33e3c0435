"""Log densities of the families, for many draws at once. SciPy takes long to import: imported where first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, log, pi

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, gammaln, xlog1py, xlogy

from ppx_client.quantiles import BELOW_ONE, TINY
from ppx_client.truncated import truncated_log_prob

Floats = NDArray[np.float64]

_LOG_SQRT_2PI = 0.5 * log(2.0 * pi)


def log_prob(code: int, x: Floats, params: Sequence[Floats]) -> Floats:
    """Log density (log mass for discrete families).

    Args:
        code: Which family.
        x: Values; they broadcast against the parameters.
        params: In the order of the schema; the probabilities of a Categorical have one more, trailing axis.

    Returns:
        -inf outside the support and for infinities; NaN for NaN.
    """
    density, low, high, discrete = _FAMILIES[code]
    with np.errstate(all="ignore"):
        inside = (x >= low(params)) & (x <= high(params)) & (x < inf) & (x > -inf)
        if discrete:
            inside &= x == np.floor(x)
        # Whatever a density makes of a value outside, it does not matter; indices must exist all the same.
        return np.where(inside | np.isnan(x), density(x, *params), -inf)


def _normal(x: Floats, mean: Floats, stddev: Floats) -> Floats:
    return -0.5 * ((x - mean) / stddev) ** 2 - np.log(stddev) - _LOG_SQRT_2PI


def _uniform(x: Floats, low: Floats, high: Floats) -> Floats:
    return -np.log(high - low) + 0.0 * x


def _categorical(x: Floats, probs: Floats) -> Floats:
    index = np.clip(np.nan_to_num(x), 0, probs.shape[-1] - 1).astype(np.int64)
    probs = np.broadcast_to(probs, (*x.shape, probs.shape[-1]))
    picked = np.take_along_axis(probs, index[..., None], -1)[..., 0]
    result: Floats = np.log(picked / probs.sum(-1)) + 0.0 * x
    return result


def _poisson(x: Floats, rate: Floats) -> Floats:
    result: Floats = xlogy(x, rate) - rate - gammaln(x + 1.0)
    return result


def _bernoulli(x: Floats, probs: Floats) -> Floats:
    return np.where(x > 0.5, np.log(probs), np.log1p(-probs)) + 0.0 * x


def _beta(x: Floats, a: Floats, b: Floats) -> Floats:
    # At an edge where the density is infinite it is that of the nearest normal double.
    near_0 = xlogy(a - 1.0, np.where(a < 1.0, np.maximum(x, TINY), x))
    near_1 = xlog1py(b - 1.0, -np.where(b < 1.0, np.minimum(x, BELOW_ONE), x))
    result: Floats = near_0 + near_1 - betaln(a, b)
    return result


def _exponential(x: Floats, rate: Floats) -> Floats:
    return np.log(rate) - rate * x


def _gamma(x: Floats, shape: Floats, rate: Floats) -> Floats:
    x = np.where(shape < 1.0, np.maximum(x, TINY), x)
    # log rate + (shape - 1) log(rate x) - rate x - log Gamma(shape), without forming rate^shape.
    result: Floats = np.log(rate) + xlogy(shape - 1.0, rate * x) - rate * x - gammaln(shape)
    return result


def _log_normal(x: Floats, loc: Floats, scale: Floats) -> Floats:
    log_x = np.log(x)
    at_zero = np.isneginf(log_x)  # where the density is 0
    normal = -0.5 * ((log_x - loc) / scale) ** 2 - np.log(scale) - _LOG_SQRT_2PI - log_x
    return np.where(at_zero, -inf, normal)


def _binomial(x: Floats, n: Floats, probs: Floats) -> Floats:
    combinations = -betaln(1.0 + n - x, 1.0 + x) - np.log1p(n)
    result: Floats = combinations + xlogy(x, probs) + xlog1py(n - x, -probs)
    return result


def _weibull(x: Floats, scale: Floats, shape: Floats) -> Floats:
    ratio = np.where(shape < 1.0, np.maximum(x, TINY), x) / scale
    result: Floats = np.log(shape / scale) + xlogy(shape - 1.0, ratio) - ratio**shape
    return result


_Bound = Callable[[Sequence[Floats]], Floats | float]


def _constant(value: float) -> _Bound:
    return lambda params: value


_NONE, _ZERO, _ONE, _OPEN = _constant(-inf), _constant(0.0), _constant(1.0), _constant(inf)

_FAMILIES: dict[int, tuple[Callable[..., Floats], _Bound, _Bound, bool]] = {
    1: (_normal, _NONE, _OPEN, False),
    2: (_uniform, lambda params: params[0], lambda params: params[1], False),
    3: (_categorical, _ZERO, lambda params: params[0].shape[-1] - 1.0, True),
    4: (_poisson, _ZERO, _OPEN, True),
    5: (_bernoulli, _ZERO, _ONE, True),
    6: (_beta, _ZERO, _ONE, False),
    7: (_exponential, _ZERO, _OPEN, False),
    8: (_gamma, _ZERO, _OPEN, False),
    9: (_log_normal, _ZERO, _OPEN, False),
    10: (_binomial, _ZERO, lambda params: params[0], True),
    11: (_weibull, _ZERO, _OPEN, False),
    12: (truncated_log_prob, lambda params: params[2], lambda params: params[3], False),
}
"""By code of the family: log density, smallest value, largest value, whether only whole numbers are in the support."""

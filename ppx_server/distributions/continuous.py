"""Continuous families of PPX 1.0, with torch's parametrisation, which the wire format takes over."""

from __future__ import annotations

from math import exp, inf, log, log1p, pi

import numpy as np
from scipy.special import (
    betainc,
    betaincc,
    betainccinv,
    betaincinv,
    betaln,
    gammainc,
    gammaincc,
    gammainccinv,
    gammaincinv,
    gammaln,
    ndtr,
    xlog1py,
    xlogy,
)

from ppx_server.distributions.family import (
    BELOW_ONE,
    HUGE,
    TINY,
    Arrays,
    Domain,
    Family,
    Floats,
    Scalars,
    by_tail,
    clamp,
    lower_tail,
    z_of_tails,
)

LOG_SQRT_2PI = 0.5 * log(2.0 * pi)
_LOG_HUGE, _LOG_TINY = log(HUGE), log(TINY)


def _bounds(low: float, high: float, params: Arrays) -> tuple[Floats, Floats]:
    shape = np.broadcast_shapes(*(p.shape for p in params))
    return np.full(shape, low), np.full(shape, high)


def _cumulative_hazard(z: float) -> float:
    """-log S of a scalar coordinate: the quantile of the standard exponential."""
    return -log(lower_tail(-z)) if z > 0.0 else -log1p(-lower_tail(z))


class Normal(Family):
    """Normal(mean, stddev)."""

    name = "Normal"
    code = 1
    param_names = ("mean", "stddev")
    domains = (Domain.REAL, Domain.POSITIVE)

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        mean, stddev = params
        return -0.5 * ((x - mean) / stddev) ** 2 - np.log(stddev) - LOG_SQRT_2PI

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        z = self._to_z(x, params)
        return ndtr(z), ndtr(-z)

    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        return self._from_z(z_of_tails(p, q), params)

    def _from_z(self, z: Floats, params: Arrays) -> Floats:
        mean, stddev = params
        return mean + stddev * z

    def _to_z(self, x: Floats, params: Arrays) -> Floats:
        mean, stddev = params
        return (x - mean) / stddev

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        return _bounds(-inf, inf, params)

    def from_z_scalar(self, z: float, params: Scalars) -> float:
        return min(max(params[0] + params[1] * z, -HUGE), HUGE)

    def _accepts(self, params: Scalars) -> bool:
        mean, stddev = params
        return -inf < mean < inf and 0.0 < stddev < inf


class Uniform(Family):
    """Uniform(low, high), both ends included."""

    name = "Uniform"
    code = 2
    param_names = ("low", "high")
    domains = (Domain.REAL, Domain.REAL)

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        low, high = params
        return -np.log(high - low) + 0.0 * x

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        low, high = params
        return (x - low) / (high - low), (high - x) / (high - low)

    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        low, high = params
        return np.where(p < q, low + (high - low) * p, high - (high - low) * q)

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        low, high = np.broadcast_arrays(*params)
        return low, high

    def from_z_scalar(self, z: float, params: Scalars) -> float:
        low, high = params
        z = clamp(z)
        if z < 0.0:
            return low + (high - low) * lower_tail(z)
        return high - (high - low) * lower_tail(-z)

    def _accepts(self, params: Scalars) -> bool:
        low, high = params
        return 0.0 < high - low < inf

    def _validate_jointly(self, params: Arrays) -> None:
        low, high = params
        width = high - low
        self._check((width > 0) & np.isfinite(width), "high - low", width, "must be finite and > 0")


class Beta(Family):
    """Beta(concentration1, concentration0): density ~ x^(concentration1 - 1) (1 - x)^(concentration0 - 1)."""

    name = "Beta"
    code = 6
    param_names = ("concentration1", "concentration0")
    domains = (Domain.POSITIVE, Domain.POSITIVE)

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        a, b = params
        near_0 = xlogy(a - 1.0, np.where(a < 1.0, np.maximum(x, TINY), x))
        near_1 = xlog1py(b - 1.0, -np.where(b < 1.0, np.minimum(x, BELOW_ONE), x))
        log_prob: Floats = near_0 + near_1 - betaln(a, b)
        return log_prob

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        a, b = params
        return betainc(a, b, x), betaincc(a, b, x)

    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        a, b = params
        x = by_tail(p, q, params, betaincinv, betainccinv)
        # The mean, where parameters are too extreme for SciPy.
        return np.clip(np.where(np.isnan(x), 1.0 / (1.0 + b / a), x), TINY, BELOW_ONE)

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        return _bounds(0.0, 1.0, params)

    def from_z_scalar(self, z: float, params: Scalars) -> float:
        z = clamp(z)
        a, b = params
        x = float(betaincinv(a, b, lower_tail(z)) if z < 0.0 else betainccinv(a, b, lower_tail(-z)))
        return min(max(1.0 / (1.0 + b / a) if x != x else x, TINY), BELOW_ONE)

    def _accepts(self, params: Scalars) -> bool:
        return 0.0 < params[0] < inf and 0.0 < params[1] < inf


class Exponential(Family):
    """Exponential(rate)."""

    name = "Exponential"
    code = 7
    param_names = ("rate",)
    domains = (Domain.POSITIVE,)

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        (rate,) = params
        return np.log(rate) - rate * x

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        (rate,) = params
        return -np.expm1(-rate * x), np.exp(-rate * x)

    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        (rate,) = params
        return np.where(p < q, -np.log1p(-np.minimum(p, 0.75)), -np.log(q)) / rate

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        return _bounds(0.0, inf, params)

    def from_z_scalar(self, z: float, params: Scalars) -> float:
        return min(_cumulative_hazard(clamp(z)) / params[0], HUGE)

    def _accepts(self, params: Scalars) -> bool:
        return 0.0 < params[0] < inf


class Gamma(Family):
    """Gamma(concentration, rate): mean concentration / rate."""

    name = "Gamma"
    code = 8
    param_names = ("concentration", "rate")
    domains = (Domain.POSITIVE, Domain.POSITIVE)

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        shape, rate = params
        x = np.where(shape < 1.0, np.maximum(x, TINY), x)
        # log rate + (shape - 1) log(rate x) - rate x - log Gamma(shape), without forming rate^shape.
        log_prob: Floats = np.log(rate) + xlogy(shape - 1.0, rate * x) - rate * x - gammaln(shape)
        return log_prob

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        shape, rate = params
        return gammainc(shape, rate * x), gammaincc(shape, rate * x)

    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        shape, rate = params
        x = by_tail(p, q, (shape,), gammaincinv, gammainccinv)
        # NaN for a shape too small for SciPy.
        return np.where(np.isnan(x), TINY, np.clip(x / rate, TINY, HUGE))

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        return _bounds(0.0, inf, params)

    def from_z_scalar(self, z: float, params: Scalars) -> float:
        z = clamp(z)
        shape, rate = params
        x = float(gammaincinv(shape, lower_tail(z)) if z < 0.0 else gammainccinv(shape, lower_tail(-z)))
        return min(max(x / rate, TINY), HUGE) if x == x else TINY

    def _accepts(self, params: Scalars) -> bool:
        return 0.0 < params[0] < inf and 0.0 < params[1] < inf


class LogNormal(Family):
    """LogNormal(loc, scale): exp of Normal(loc, scale)."""

    name = "LogNormal"
    code = 9
    param_names = ("loc", "scale")
    domains = (Domain.REAL, Domain.POSITIVE)

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        loc, scale = params
        log_x = np.log(x)
        return -0.5 * ((log_x - loc) / scale) ** 2 - np.log(scale) - LOG_SQRT_2PI - log_x

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        z = self._to_z(x, params)
        return ndtr(z), ndtr(-z)

    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        return self._from_z(z_of_tails(p, q), params)

    def _from_z(self, z: Floats, params: Arrays) -> Floats:
        loc, scale = params
        return np.clip(np.exp(loc + scale * z), TINY, HUGE)

    def _to_z(self, x: Floats, params: Arrays) -> Floats:
        loc, scale = params
        return (np.log(x) - loc) / scale

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        return _bounds(0.0, inf, params)

    def from_z_scalar(self, z: float, params: Scalars) -> float:
        log_x = params[0] + params[1] * z
        return HUGE if log_x >= _LOG_HUGE else TINY if log_x <= _LOG_TINY else exp(log_x)

    def _accepts(self, params: Scalars) -> bool:
        loc, scale = params
        return -inf < loc < inf and 0.0 < scale < inf


class Weibull(Family):
    """Weibull(scale, concentration): S(x) = exp(-(x / scale)^concentration)."""

    name = "Weibull"
    code = 11
    param_names = ("scale", "concentration")
    domains = (Domain.POSITIVE, Domain.POSITIVE)

    def _log_prob(self, x: Floats, params: Arrays) -> Floats:
        scale, shape = params
        ratio = np.where(shape < 1.0, np.maximum(x, TINY), x) / scale
        log_prob: Floats = np.log(shape / scale) + xlogy(shape - 1.0, ratio) - ratio**shape
        return log_prob

    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        scale, shape = params
        hazard = (x / scale) ** shape
        return -np.expm1(-hazard), np.exp(-hazard)

    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        scale, shape = params
        hazard = np.where(p < q, -np.log1p(-np.minimum(p, 0.75)), -np.log(q))
        x = scale * hazard ** (1.0 / shape)
        # The power may be out of range where the value is not.
        beyond = np.clip(np.exp(np.log(scale) + np.log(hazard) / shape), TINY, HUGE)
        return np.where((x > TINY) & (x < HUGE), x, beyond)

    def _support(self, params: Arrays) -> tuple[Floats, Floats]:
        return _bounds(0.0, inf, params)

    def from_z_scalar(self, z: float, params: Scalars) -> float:
        scale, shape = params
        log_x = log(scale) + log(_cumulative_hazard(clamp(z))) / shape
        if not _LOG_TINY < log_x < _LOG_HUGE:
            return TINY if log_x < 0.0 else HUGE
        return exp(log_x)

    def _accepts(self, params: Scalars) -> bool:
        return 0.0 < params[0] < inf and 0.0 < params[1] < inf

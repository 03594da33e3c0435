"""Distributions that are exact functions of PPX draws.

Every function takes the call that draws, the shape of the result, and parameters that broadcast to it. Where a
quantile function is known there is one draw. Formulas are in the docstrings, with u a Uniform(0, 1), e an
Exponential(1) and z a Normal(0, 1); the methods that reject are those of NumPy.
"""

from __future__ import annotations

from math import acos, cos, floor, log, pi, sqrt
from typing import Any

import numpy as np

from ppx_client.distributions import Beta, Exponential, Gamma, Poisson
from ppx_client.random_draws import BELOW_ONE, Call, Floats, Shape, require


def laplace(call: Call, shape: Shape, loc: Floats, scale: Floats) -> Any:
    """loc + scale log(2u) below the median, loc - scale log(2(1 - u)) above."""
    require(scale >= 0, "laplace: scale must be >= 0")
    u = call.uniform(shape)
    return loc + scale * np.where(u < 0.5, np.log(2.0 * u), -np.log(2.0 * (1.0 - u)))


def logistic(call: Call, shape: Shape, loc: Floats, scale: Floats) -> Any:
    """loc + scale log(u / (1 - u))."""
    require(scale >= 0, "logistic: scale must be >= 0")
    u = call.uniform(shape)
    return loc + scale * (np.log(u) - np.log1p(-u))


def gumbel(call: Call, shape: Shape, loc: Floats, scale: Floats) -> Any:
    """loc - scale log(e)."""
    require(scale >= 0, "gumbel: scale must be >= 0")
    return loc - scale * np.log(call.exponential(shape))


def pareto(call: Call, shape: Shape, a: Floats) -> Any:
    """exp(e / a) - 1."""
    require(a > 0, "pareto: a must be > 0")
    return np.expm1(call.exponential(shape) / a)


def standard_cauchy(call: Call, shape: Shape) -> Any:
    """tan(pi (u - 1/2))."""
    return np.tan(pi * (call.uniform(shape) - 0.5))


def standard_t(call: Call, shape: Shape, df: Floats) -> Any:
    """The quantile function of u."""
    from scipy.special import stdtrit

    require(df > 0, "standard_t: df must be > 0")
    u = call.uniform(shape)
    lower = stdtrit(df, np.minimum(u, 1.0 - u))
    return np.where(u < 0.5, lower, -lower)


def f(call: Call, shape: Shape, dfnum: Floats, dfden: Floats) -> Any:
    """dfden / dfnum b / (1 - b), with b from Beta(dfnum / 2, dfden / 2)."""
    require((dfnum > 0) & (dfden > 0), "f: dfnum and dfden must be > 0")
    b = np.minimum(call.part(Beta(np.broadcast_to(0.5 * dfnum, shape), 0.5 * dfden), "beta"), BELOW_ONE)
    return dfden / dfnum * b / (1.0 - b)


def noncentral_chisquare(call: Call, shape: Shape, df: Floats, nonc: Floats) -> Any:
    """Gamma(df / 2 + k, 1/2), with k from Poisson(nonc / 2)."""
    require((df > 0) & (nonc >= 0), "noncentral_chisquare: df must be > 0 and nonc >= 0")
    k = call.part(Poisson(np.broadcast_to(0.5 * nonc, shape)), "poisson")
    return call.part(Gamma(0.5 * df + k, 0.5), "gamma")


def noncentral_f(call: Call, shape: Shape, dfnum: Floats, dfden: Floats, nonc: Floats) -> Any:
    """The ratio of a noncentral and a central chi-square number, each divided by its degrees of freedom."""
    require(dfden > 0, "noncentral_f: dfden must be > 0")
    numerator = noncentral_chisquare(call, shape, dfnum, nonc) / dfnum
    return numerator / (call.part(Gamma(np.broadcast_to(0.5 * dfden, shape), 0.5), "denominator") / dfden)


def triangular(call: Call, shape: Shape, left: Floats, mode: Floats, right: Floats) -> Any:
    """The quantile function of u."""
    require(
        (left <= mode) & (mode <= right) & (left < right),
        "triangular: left, mode and right must be in this order, and left < right",
    )
    u, base = call.uniform(shape), right - left
    rising = left + np.sqrt(u * (mode - left) * base)
    falling = right - np.sqrt((1.0 - u) * (right - mode) * base)
    return np.where(u * base <= mode - left, rising, falling)


def wald(call: Call, shape: Shape, mean: Floats, scale: Floats) -> Any:
    """One of two roots for z, chosen by u (Michael, Schucany and Haas, The American Statistician 30, 1976)."""
    require((mean > 0) & (scale > 0), "wald: mean and scale must be > 0")
    y = mean * call.normal(shape) ** 2
    smaller = 4.0 * scale * mean / (np.sqrt(y) + np.sqrt(y + 4.0 * scale)) ** 2
    return np.where(call.uniform(shape) * (mean + smaller) <= mean, smaller, mean * mean / smaller)


def vonmises(call: Call, shape: Shape, mu: Floats, kappa: Floats) -> Any:
    """A rejection loop of pairs of u for every number (Best and Fisher, Applied Statistics 28, 1979), and a sign."""
    require(kappa >= 0, "vonmises: kappa must be >= 0")
    angles = [_angle(call, k) for k in np.broadcast_to(kappa, shape).ravel().tolist()]
    turned = np.reshape(np.array(angles), shape) + mu
    return np.remainder(turned + pi, 2.0 * pi) - pi


def _angle(call: Call, kappa: float) -> float:
    if kappa < 1e-8:
        return pi * (2.0 * float(call.uniform(())) - 1.0)
    if kappa > 1e6:  # where its square root times the angle is normal to within 1e-6
        return float(call.normal(())) / sqrt(kappa)
    r = 1.0 + sqrt(1.0 + 4.0 * kappa * kappa)
    rho = (r - sqrt(2.0 * r)) / (2.0 * kappa)
    s = (1.0 + rho * rho) / (2.0 * rho)
    with call.rejection():
        while True:
            u, v = float(call.uniform((), "first")), float(call.uniform((), "second"))
            z = cos(pi * u)
            w = (1.0 + s * z) / (s + z)
            y = kappa * (s - w)
            if y * (2.0 - y) >= v or log(y / v) + 1.0 >= y:
                break
    angle = acos(min(max(w, -1.0), 1.0))
    return angle if float(call.uniform((), "sign")) < 0.5 else -angle


def geometric(call: Call, shape: Shape, p: Floats) -> Any:
    """1 + floor(x), with x from Exponential(-log(1 - p))."""
    require((p > 0) & (p <= 1), "geometric: p must be > 0 and <= 1")
    certain = np.broadcast_to(p == 1.0, shape)
    rate = -np.log1p(-np.where(certain, 0.5, p))
    return np.where(certain, 1, 1 + np.floor(call.part(Exponential(rate), "exponential"))).astype(np.int64)


def negative_binomial(call: Call, shape: Shape, n: Floats, p: Floats) -> Any:
    """Poisson(g), with g from Gamma(n, p / (1 - p))."""
    require((n > 0) & (p > 0) & (p <= 1), "negative_binomial: n must be > 0, and p > 0 and <= 1")
    certain = np.broadcast_to(p == 1.0, shape)
    odds = np.where(certain, 1.0, p / np.where(certain, 1.0, 1.0 - p))
    rate = np.where(certain, 0.0, call.part(Gamma(np.broadcast_to(n, shape), odds), "gamma"))
    return np.asarray(call.part(Poisson(rate), "poisson"))


def logseries(call: Call, shape: Shape, p: Floats) -> Any:
    """A function of two u (Kemp, Applied Statistics 30, 1981, algorithm LK)."""
    require((p >= 0) & (p < 1), "logseries: p must be >= 0 and < 1")
    u, v = call.uniform(shape, "first"), call.uniform(shape, "second")
    q = -np.expm1(v * np.log1p(-p))
    with np.errstate(all="ignore"):
        many = np.floor(1.0 + np.log(u) / np.log(q))
    return np.where((u >= p) | (u >= q), 1, np.where(u <= q * q, many, 2)).astype(np.int64)


def zipf(call: Call, shape: Shape, a: Floats) -> Any:
    """A rejection loop of pairs of u for every number (Devroye 1986, "Non-uniform random variate generation", X.6)."""
    require(a > 1, "zipf: a must be > 1")
    numbers = [_zipf(call, one - 1.0) for one in np.broadcast_to(a, shape).ravel().tolist()]
    return np.reshape(np.array(numbers, np.int64), shape)


def _zipf(call: Call, exponent: float) -> int:
    if exponent > 1023.0:
        return 1
    b = 2.0**exponent
    smallest = (2.0**63 - 1.0) ** -exponent
    with call.rejection():
        while True:
            u, v = float(call.uniform((), "first")), float(call.uniform((), "second"))
            x: int = floor((u * smallest + 1.0 - u) ** (-1.0 / exponent))
            if not 1 <= x < 1 << 63:
                continue
            t = (1.0 + 1.0 / x) ** exponent
            if v * x * (t - 1.0) / (b - 1.0) <= t / b:
                return x


def hypergeometric(call: Call, shape: Shape, good: Floats, bad: Floats, sample: Floats) -> Any:
    """The quantile function of u."""
    legal = (good >= 0) & (bad >= 0) & (sample >= 0) & (sample <= good + bad)
    whole = (good % 1 == 0) & (bad % 1 == 0) & (sample % 1 == 0)
    require(legal & whole, "hypergeometric: whole numbers >= 0 are needed, and nsample at most ngood + nbad")
    u = np.asarray(call.uniform(shape))
    result = np.empty(shape, np.int64)
    params = [np.broadcast_to(one, shape) for one in (good, bad, sample)]
    flat = np.stack([one.ravel() for one in params])
    distinct, which = np.unique(flat, axis=1, return_inverse=True)
    for number, (g, b, n) in enumerate(distinct.T.tolist()):
        rows = np.reshape(which == number, shape)
        result[rows] = _hypergeometric_quantile(u[rows], g, b, n)
    return result


def _hypergeometric_quantile(u: Floats, good: float, bad: float, sample: float) -> Any:
    from scipy.special import betaln

    total = good + bad
    low, high = max(0.0, sample - bad), min(good, sample)
    if total > 1.0:
        # Beyond 40 standard deviations there is nothing that a double could tell from 0.
        mean = sample * good / total
        spread = 40.0 * sqrt(mean * bad / total * (total - sample) / (total - 1.0)) + 40.0
        low, high = max(low, floor(mean - spread)), min(high, floor(mean + spread))
    k = np.arange(low, high + 1.0)
    # Binomial coefficients (n over k) = 1 / ((n + 1) B(n - k + 1, k + 1)), up to a factor without k.
    log_mass = -betaln(good - k + 1.0, k + 1.0) - betaln(bad - sample + k + 1.0, sample - k + 1.0)
    below = np.cumsum(np.exp(log_mass - log_mass.max()))
    return k[np.minimum(np.searchsorted(below, u * below[-1]), len(k) - 1)]

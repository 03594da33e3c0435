"""Distributions of vectors, made of PPX draws."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ppx_client.distributions import Beta, Binomial
from ppx_client.errors import DistributionError
from ppx_client.random_draws import Call, Size, require, result_shape, shape_of
from ppx_client.random_transforms import hypergeometric


def multinomial(call: Call, n: Any, pvals: Any, size: Size) -> Any:
    """The count of each category but the last is Binomial, of what the categories before left."""
    counts, probs = np.asarray(n), np.asarray(pvals, np.float64)
    require((probs >= 0) & (probs <= 1), "multinomial: pvals must be in [0, 1]")
    # As in NumPy the last category has what the others leave, whatever is given for it.
    require(probs[..., :-1].sum(-1) <= 1.0 + 1e-12, "multinomial: the sum of pvals[:-1] must not exceed 1")
    shape = result_shape(size, [counts, probs[..., 0]])
    left = np.broadcast_to(counts, shape)
    mass = np.ones(probs.shape[:-1])
    found = []
    for j in range(probs.shape[-1] - 1):
        with np.errstate(all="ignore"):
            share = np.where(mass > 0.0, np.clip(probs[..., j] / mass, 0.0, 1.0), 0.0)
        found.append(np.asarray(call.part(Binomial(left, share), "binomial")))
        left = left - found[-1]
        mass = mass - probs[..., j]
    return np.stack([*found, left], -1).astype(np.int64)


def dirichlet(call: Call, alpha: Any, size: Size) -> Any:
    """Each component but the last takes a Beta share of what the components before left: one array of Betas."""
    weights = np.asarray(alpha, np.float64)
    if weights.ndim != 1:
        raise DistributionError(f"dirichlet: alpha has shape {weights.shape}; give one number per component")
    require((weights >= 0).all() & (weights > 0).any(), "dirichlet: alpha must be >= 0, and not all 0")
    shape = () if size is None else shape_of(size)
    result = np.zeros((*shape, len(weights)))
    present = weights[weights > 0]
    rest = np.cumsum(present[::-1])[::-1]
    left = np.ones(shape)
    parts = []
    if len(present) > 1:
        first = np.broadcast_to(present[:-1], (*shape, len(present) - 1))
        shares = call.part(Beta(first, rest[1:]), "beta")
        for j in range(len(present) - 1):
            parts.append(left * shares[..., j])
            left = left * (1.0 - shares[..., j])
    result[..., weights > 0] = np.stack([*parts, left], -1)
    return result


def multivariate_normal(
    call: Call, mean: Any, cov: Any, size: Size, check_valid: str, tol: float, method: str
) -> Any:
    """mean + A z, with an array of standard normals z and A A' = cov by the decomposition asked for."""
    if method not in ("svd", "eigh", "cholesky"):
        raise ValueError(f"multivariate_normal: method {method!r} is none of svd, eigh, cholesky")
    if check_valid not in ("warn", "raise", "ignore"):
        raise ValueError(f"multivariate_normal: check_valid {check_valid!r} is none of warn, raise, ignore")
    center, covariance = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    if center.ndim != 1 or covariance.shape != (len(center), len(center)):
        raise DistributionError(
            f"multivariate_normal: mean has shape {center.shape} and cov {covariance.shape}; give (N,) and (N, N)"
        )
    factor, again = _factor(covariance, method)
    if check_valid != "ignore" and not np.allclose(again, covariance, rtol=tol, atol=tol):
        if check_valid == "raise":
            raise DistributionError("multivariate_normal: cov is not symmetric positive-semidefinite")
        warnings.warn(
            "multivariate_normal: cov is not symmetric positive-semidefinite", RuntimeWarning, stacklevel=4
        )
    shape = () if size is None else shape_of(size)
    z = call.normal((*shape, len(center)))
    return center + z @ factor.T


def _factor(covariance: Any, method: str) -> tuple[Any, Any]:
    """A, and what should be the covariance if it is one."""
    if method == "cholesky":
        factor = np.linalg.cholesky(covariance)
        return factor, factor @ factor.T
    if method == "eigh":
        values, vectors = np.linalg.eigh(covariance)
        return vectors * np.sqrt(np.abs(values)), (vectors * np.abs(values)) @ vectors.T
    left, values, right = np.linalg.svd(covariance)
    return left * np.sqrt(values), (right.T * values) @ right


def multivariate_hypergeometric(call: Call, colors: Any, nsample: int, size: Size) -> Any:
    """The count of each color but the last is hypergeometric, of what the colors before left."""
    balls = np.asarray(colors, np.float64)
    if balls.ndim != 1 or len(balls) == 0:
        raise DistributionError(f"multivariate_hypergeometric: colors has shape {balls.shape}; give (N,)")
    if not 0 <= nsample <= balls.sum():
        raise DistributionError(
            f"multivariate_hypergeometric: {nsample} of {balls.sum():.0f} balls; ask for fewer"
        )
    shape = () if size is None else shape_of(size)
    left, others = np.full(shape, float(nsample)), balls.sum()
    found = []
    for count in balls[:-1]:
        others -= count
        found.append(np.asarray(hypergeometric(call, shape, count, np.asarray(others), left)))
        left = left - found[-1]
    return np.stack([*found, left], -1).astype(np.int64)

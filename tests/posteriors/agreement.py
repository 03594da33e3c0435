"""What is known of a posterior, and one statistical check for all that claim to find it.

The check: an estimate of a posterior mean must lie within `LIMIT` standard errors `sd / sqrt(ess)` of the exact value,
where sd is exact and ess that of the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from arviz_stats.base.array import array_stats
from numpy.typing import NDArray

from ppx_inference import Posterior

LIMIT = 4.0
Floats = NDArray[np.float64]


class Check(NamedTuple):
    """A function of the traces whose posterior mean and standard deviation are known."""

    name: str
    values: Callable[[Posterior], Floats]
    mean: float
    std: float


class Exact(NamedTuple):
    """A model, observations, and what is known of the posterior."""

    observations: dict[str, float]
    checks: tuple[Check, ...]
    log_evidence: float


def probability(name: str, event: Callable[[Posterior], NDArray[np.bool_]], p: float) -> Check:
    return Check(name, lambda posterior: event(posterior).astype(float), p, math.sqrt(p * (1 - p)))


def scores(posterior: Posterior, exact: Exact) -> dict[str, float]:
    """How many standard errors each estimate is from the exact value."""
    found = {}
    for check in exact.checks:
        values = check.values(posterior)
        error = abs(float(posterior.weights @ values) - check.mean)
        error_of_one = check.std / math.sqrt(_ess(posterior, values))
        found[check.name] = error / error_of_one if error_of_one > 0 else math.inf * error if error else 0.0
    if posterior.log_evidence is not None:
        found["log evidence"] = abs(posterior.log_evidence - exact.log_evidence) / posterior.log_evidence_std
    return found


def _ess(posterior: Posterior, values: Floats) -> float:
    chains = posterior.provenance.num_chains
    if not chains or np.ptp(values) == 0:
        return posterior.ess
    return float(array_stats.ess(values.reshape(chains, -1), method="mean"))


def too_far_off(posterior: Posterior, exact: Exact) -> dict[str, float]:
    """The estimates that the check rejects, with their scores."""
    return {name: score for name, score in scores(posterior, exact).items() if score > LIMIT}

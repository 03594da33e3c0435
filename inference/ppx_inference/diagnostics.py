"""How far a result can be trusted: effective sample sizes, Pareto k-hat, R-hat, and the warning that says so.

The estimators are those of arviz-stats (Vehtari, Gelman, Simpson, Carpenter and Buerkner 2021 for bulk ESS and R-hat;
Vehtari, Simpson, Gelman, Yao and Gabry 2024 for k-hat), imported at first use because they are slow to import.
Letters: K traces, C chains, T kept states per chain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppx_server.errors import SimulatorFailedError
from ppx_server.trace import Status, TraceBatch

Floats = NDArray[np.float64]

MIN_ESS = 100.0
"""Below this many effective samples the Monte Carlo error of a mean exceeds a tenth of the posterior's sd."""
MAX_PARETO_K = 0.7
"""Above it importance estimates are unreliable at any practical number of traces (Vehtari et al. 2024)."""
MAX_R_HAT = 1.05
"""Above it chains have not mixed. Vehtari et al. 2021 ask for 1.01, which short runs of good chains often exceed."""
_MOST_STATES = 1000
"""States of a chain that R-hat is computed from: it compares chains, which are short if more of their states matter."""
_MIN_TAIL = 25
"""Fewest weights from which arviz-stats makes a tail of five, the least it fits."""
_NO_VARIATION = 1e6
"""R-hat above it is a variance between chains divided by a rounding error: within them there is none."""
_MAX_SPREAD = 600.0
"""Nats; weights of a tail that spreads wider underflow, and arviz-stats 0.8 then reports a small k-hat."""


class TrustWarning(UserWarning):
    """A result is too uncertain to be relied on; the message says why and what to do."""


def normalised(log_weight: Floats) -> Floats:
    """Weights that sum to 1, as `(K,)`; all zero if every log weight is -inf."""
    if len(log_weight) == 0 or np.isneginf(log_weight).all():
        return np.zeros(len(log_weight))
    weights = np.exp(log_weight - log_weight.max())
    return np.asarray(weights / weights.sum())


def log_mean_exp(log_weight: Floats) -> float:
    """log of the mean weight: the importance sampling estimate of the log evidence."""
    top = float(log_weight.max(initial=-np.inf))
    if not math.isfinite(top):
        return top
    return top + math.log(float(np.exp(log_weight - top).mean()))


def weighted_ess(weights: Floats) -> float:
    """Effective sample size of weights that sum to 1, `1 / sum w^2` (Kong 1992); 0 if there is no weight."""
    total = float(weights @ weights)
    return 1.0 / total if total > 0 else 0.0


def pareto_k(log_weight: Floats) -> float:
    """Shape of the generalised Pareto distribution fitted to the largest weights (PSIS k-hat).

    Traces of weight zero do not enter. Weights whose tail is flat (a bounded ratio) give 0.

    Args:
        log_weight: `(K,)`.

    Returns:
        k-hat, infinite if the tail spans more orders of magnitude than a double; NaN with fewer than 25 finite weights.
    """
    finite = log_weight[np.isfinite(log_weight)]
    if len(finite) < _MIN_TAIL:
        return math.nan
    # PSIS fits the size largest weights, and looks at the others only to find these: leave out most of those. Told that
    # r_eff is this, it takes as many of `top` for the tail as it would of all.
    size = math.floor(min(len(finite) / 5, 3 * math.sqrt(len(finite))))
    top = np.sort(np.partition(finite, -6 * size)[-6 * size :] if 6 * size < len(finite) else finite)
    r_eff = 9 * len(top) / (size + 0.5) ** 2 if len(top) < len(finite) else 1.0
    spread = np.ptp(top[-size - 1 :])
    if spread < 1e-10:
        return 0.0
    if spread > _MAX_SPREAD:
        return math.inf
    with np.errstate(all="ignore"):
        try:
            # arviz-stats takes the log likelihood of leave-one-out, which is minus the log weight.
            return float(_estimators().psislw(-top, r_eff=r_eff)[1])
        except ValueError:  # it refuses a tail that is flat after subtraction of its maximum
            return 0.0


def bulk_ess(values: Floats) -> float:
    """Rank-normalised split-chain ("bulk") effective sample size; NaN for constant or very short chains.

    Args:
        values: `(C, T)`.
    """
    if values.shape[1] < 4 or not np.isfinite(values).all() or np.ptp(values) == 0:
        return math.nan
    with np.errstate(all="ignore"):
        return float(_estimators().ess(values, method="bulk"))


def quick_ess(values: Floats) -> float:
    """`bulk_ess`, or a smaller number if that is enough to be trusted, and found sooner.

    Evenly spaced states of a reversible chain know no more of a mean than all of them (Geyer 1992, section 3.6).

    Args:
        values: `(C, T)`.
    """
    if values.shape[1] > _MOST_STATES:
        least = bulk_ess(_spaced(values))
        if least >= MIN_ESS:
            return least
    return bulk_ess(values)


def r_hat(values: Floats) -> float:
    """Rank-normalised split R-hat of evenly spaced states; NaN for very short chains and where all states are the same.

    Infinite if each chain stays where it is, and they are at different places.

    Args:
        values: `(C, T)`; one chain is compared with itself, first half against second.
    """
    if values.shape[1] < 4 or not np.isfinite(values).all() or np.ptp(values) == 0:
        return math.nan
    with np.errstate(all="ignore"):
        found = float(_estimators().rhat(_spaced(values)))
    return math.inf if found > _NO_VARIATION else found


def _spaced(values: Floats) -> Floats:
    """Every so-manyth state of each chain."""
    return values[:, :: math.ceil(values.shape[1] / _MOST_STATES)]


def _estimators() -> Any:
    from arviz_stats.base.array import array_stats

    return array_stats


def is_weight(log_weight: Floats) -> NDArray[np.bool_]:
    """Which log weights are those of a finite weight, -inf (weight zero) among them; NaN and +inf are not."""
    return np.asarray(log_weight < np.inf)


def refuse_undefined(log_weight: Floats, traces: TraceBatch) -> None:
    """Raises if a log weight is NaN or +inf: a density in the simulator is not a number, or infinite.

    That of a trace that failed does not count. One infinite weight would be the whole posterior, whatever the other
    traces say.

    Raises:
        SimulatorFailedError: With the seed and index that reproduce the first such trace.
    """
    bad = ~is_weight(log_weight)
    if bad.any() and traces.status.any():
        bad &= traces.status == Status.OK
    if bad.any():
        first, count = int(np.argmax(bad)), int(np.count_nonzero(bad))
        what = "NaN" if np.isnan(log_weight[first]) else "infinite"
        raise SimulatorFailedError(
            f"the log weight of {count} of {len(traces)} traces is no finite weight, that of the first is {what}; "
            "look for an observe or sample whose parameters make the density undefined or infinite (as that of a Beta "
            "or Gamma with a shape below 1 is at the end of its range), and replay the trace to see it",
            seed=traces.seed,
            index=int(traces.index[first]),
        )


def weight_doubts(ess: float, k_hat: float | None) -> list[str]:
    """Reasons not to trust importance weights, each with its remedy; empty if there is none.

    Args:
        ess: Effective sample size.
        k_hat: Pareto k-hat, None or NaN if unknown.
    """
    found = []
    if not ess >= MIN_ESS:
        remedy = "run more traces, or propose closer to the posterior (train longer; or use random_walk_mh)"
        found.append(f"effective sample size {ess:.1f} is below {MIN_ESS:.0f}: {remedy}")
    if k_hat is not None and k_hat > MAX_PARETO_K:
        remedy = "train the proposal on more traces, or check against random_walk_mh"
        found.append(
            f"Pareto k-hat {k_hat:.2f} is above {MAX_PARETO_K}: a few weights dominate, and error estimates are too "
            f"small; {remedy}"
        )
    return found


def failure_doubt(num_failed: int, num_executions: int, failures: Mapping[int, str], *, seed: int) -> str:
    """What failed executions mean for a result, with the remedy.

    Args:
        num_failed: How many failed, at least one.
        num_executions: Of how many.
        failures: Reasons by trace index.
        seed: Seed of the run.
    """
    index = min(failures, default=None)
    first = "" if index is None else f", the first as {failures[index]!r} [seed {seed}, trace {index}]"
    return (
        f"{num_failed} of {num_executions} executions failed{first}, and the result is conditional on the simulator "
        "finishing; replay that trace to see why, and mend the simulator unless reality cannot go that way"
    )


def chain_doubts(ess: Mapping[str, float], r_hat: Mapping[str, float]) -> list[str]:
    """Reasons not to trust Markov chains, each with its remedy; empty if there is none.

    Args:
        ess: Bulk ESS by quantity.
        r_hat: R-hat by quantity.
    """
    found = []
    if ess and min(ess.values()) < MIN_ESS:
        name = min(ess, key=lambda n: ess[n])
        found.append(
            f"effective sample size {ess[name]:.1f} of {name} is below {MIN_ESS:.0f}: "
            "run longer (num_traces), or use inference_compilation"
        )
    if r_hat and max(r_hat.values()) > MAX_R_HAT:
        name = max(r_hat, key=lambda n: r_hat[n])
        what = (
            f"R-hat {r_hat[name]:.2f} of {name} is above {MAX_R_HAT}: the chains disagree"
            if math.isfinite(r_hat[name])
            else f"no chain has moved in {name} (R-hat is infinite), and they are at different places"
        )
        found.append(
            f"{what}; run longer (num_traces, burn_in), or use inference_compilation, which crosses between modes"
        )
    return found

"""Exact posteriors of the gallery's models, computed without any code of the simulators or of the engines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from ppx_inference import Posterior
from tests.posteriors.agreement import Check, Exact, Floats


def of_linear_gaussian(y: Sequence[float]) -> Exact:
    """What a Kalman smoother finds, by conditioning all states on all measurements at once.

    The states x are one vector of 2 T numbers, x = F x + w, where F moves each state to the next one and w is noise.
    """
    num_steps = len(y)
    stddev = np.array([1.0, 1.0] + [0.3, 0.5] * (num_steps - 1))
    move = np.kron(np.eye(num_steps, k=-1), [[1.0, 1.0], [0.0, 0.9]])
    of_noise = np.linalg.inv(np.eye(2 * num_steps) - move)
    prior = of_noise @ np.diag(stddev**2) @ of_noise.T
    measured = np.kron(np.eye(num_steps), [[1.0, 0.0]])
    of_y = measured @ prior @ measured.T + np.eye(num_steps)
    gain = prior @ measured.T @ np.linalg.inv(of_y)
    mean = gain @ np.asarray(y)
    std = np.sqrt(np.diag(prior - gain @ measured @ prior))
    checks = []
    for i, (m, s) in enumerate(zip(mean, std, strict=True)):
        step, part = divmod(i, 2)

        def values(p: Posterior, step: int = step, part: int = part) -> Floats:
            return p["state", step].values[:, part]

        name = f"{('position', 'velocity')[part]} {step}"
        checks.append(Check(f"mean of {name}", values, m, s))
        # The fourth central moment of a normal distribution is 3 sd^4.
        checks.append(
            Check(f"variance of {name}", lambda p, v=values, m=m: (v(p) - m) ** 2, s**2, math.sqrt(2) * s**2)
        )
    evidence = stats.multivariate_normal(np.zeros(num_steps), of_y).logpdf(y)
    return Exact({f"y{t}": float(value) for t, value in enumerate(y)}, tuple(checks), float(evidence))


def of_ricker(y: Sequence[int]) -> Exact:
    """A filter on a grid of x = log(population size), for each log r of another grid.

    Both are sums over even grids, which are accurate to rounding for integrands as smooth as these.
    """
    log_r = np.linspace(0.0, 4.0, 61)
    x = np.linspace(-14.0, 5.0, 400)
    size = np.exp(x)

    # (r, to, from): density of the next x.
    def arrive(before: Floats) -> Floats:
        moved = log_r[:, None] + before - np.exp(before)
        return stats.norm.pdf(x[:, None], moved[:, None, :], 0.3)

    belief = arrive(np.zeros(1))[:, :, 0]
    step = arrive(x) * (x[1] - x[0])
    for year, count in enumerate(y):
        if year:
            belief = np.einsum("rtf,rf->rt", step, belief)
        belief = belief * stats.poisson.pmf(count, 4.0 * size)
    joint = belief * stats.norm.pdf(log_r, 2.0, 0.5)[:, None]
    evidence = joint.sum() * (x[1] - x[0]) * (log_r[1] - log_r[0])
    of_r, of_size = joint.sum(1) / joint.sum(), joint.sum(0) / joint.sum()
    checks = [
        *_moments("log r", lambda p: p["log_r"].values, log_r, of_r),
        *_moments("last size", lambda p: p.result.values[:, -1], size, of_size),
    ]
    return Exact({f"y{t}": float(count) for t, count in enumerate(y)}, tuple(checks), math.log(evidence))


def of_counting(charge: float) -> Exact:
    """Conjugate: decays seen are Poisson(0.6 activity), so Gamma-Poisson given their number, over which we sum.

    What is not seen is independent of it: Poisson(0.4 activity).
    """
    seen = np.arange(400)
    rate = 1 / 5 + 0.6
    joint = stats.nbinom.pmf(seen, 2, (1 / 5) / rate) * stats.norm.pdf(charge, seen, 1.5)
    weight = joint / joint.sum()
    shape = 2 + seen
    activity = (weight @ (shape / rate), weight @ (shape * (shape + 1) / rate**2))
    # Given the activity a, decays = seen + u with E u = 0.4 a and E u^2 = 0.4 a + 0.16 a^2.
    missed = weight @ (0.4 * shape / rate)
    missed_squared = weight @ (0.4 * shape / rate + 0.16 * shape * (shape + 1) / rate**2)
    decays = (
        weight @ seen + missed,
        weight @ seen**2 + 2 * weight @ (seen * 0.4 * shape / rate) + missed_squared,
    )
    checks = [
        Check("mean of activity", lambda p: p["activity"].values, *_mean_and_std(*activity)),
        Check("mean of decays", lambda p: p["decays"].values, *_mean_and_std(*decays)),
        *_moments("seen", lambda p: p["seen"].values, seen, weight),
    ]
    return Exact({"charge": charge}, tuple(checks), math.log(joint.sum()))


class _Epidemic:
    """The chain of (susceptible, infected), for one rate of infection and several of recovery.

    `belief` is `(R, 29, 31)`: by rate of recovery, number of susceptible, number of infected.
    """

    def __init__(self, infection: float, recovery: Floats) -> None:
        susceptible, infected = np.arange(29)[:, None], np.arange(31)[None, :]
        exists = susceptible + infected <= 30
        self.infecting = np.where(exists, infection * susceptible * infected / 30, 0.0)
        self.recovering = np.where(exists, recovery[:, None, None] * infected, 0.0)
        self.fastest = float((self.infecting + self.recovering).max())
        self.belief = np.zeros((len(recovery), 29, 31))
        self.belief[:, 28, 2] = 1.0

    def week(self) -> None:
        """Uniformisation (Jensen 1953): a Poisson number of steps of a chain in discrete time."""
        most = int(self.fastest + 9 * math.sqrt(self.fastest) + 20)
        chances = stats.poisson.pmf(np.arange(most), self.fastest)
        infecting, recovering = self.infecting / self.fastest, self.recovering / self.fastest
        staying = 1 - infecting - recovering
        now, total = self.belief, chances[0] * self.belief
        for chance in chances[1:]:
            following = now * staying
            following[:, :-1, 1:] += (now * infecting)[:, 1:, :-1]
            following[:, :, :-1] += (now * recovering)[:, :, 1:]
            now = following
            total += chance * now
        self.belief = total

    def observe(self, count: int) -> None:
        self.belief *= stats.poisson.pmf(count, 0.5 * np.arange(31) + 0.5)


def of_sir(y: Sequence[int]) -> Exact:
    """The Markov chain of the epidemic, for a grid of rates.

    Both rates are log-normal: the grid is even in standard coordinates z, and the sum accurate (h = 0.4, while the
    posterior's standard deviations in z are above 0.4).
    """
    z = np.arange(-10, 11) * 0.4
    infection, recovery = 2.5 * np.exp(0.5 * z), np.exp(0.4 * z)
    joint = np.empty((len(z), len(z), 29))  # infection, recovery, susceptible at the end
    for i, rate in enumerate(infection):
        epidemic = _Epidemic(rate, recovery)
        for count in y:
            epidemic.week()
            epidemic.observe(count)
        joint[i] = epidemic.belief.sum(2)
    joint *= 0.16 * (stats.norm.pdf(z)[:, None] * stats.norm.pdf(z))[:, :, None]
    evidence = joint.sum()
    of_rates = joint.sum(2) / evidence
    ratio = infection[:, None] / recovery
    checks = [
        *_moments("infection", lambda p: p["infection"].values, infection, of_rates.sum(1)),
        *_moments("recovery", lambda p: p["recovery"].values, recovery, of_rates.sum(0)),
        *_moments(
            "R0", lambda p: p["infection"].values / p["recovery"].values, ratio.ravel(), of_rates.ravel()
        ),
        *_moments("spared", lambda p: p.result.values, np.arange(29), joint.sum((0, 1)) / evidence),
    ]
    return Exact(
        {f"week{t + 1}": float(count) for t, count in enumerate(y)}, tuple(checks), math.log(evidence)
    )


def _mean_and_std(mean: float, square: float) -> tuple[float, float]:
    return float(mean), math.sqrt(square - mean**2)


def _moments(
    name: str, values: Callable[[Posterior], Floats], points: Floats, chances: Floats
) -> list[Check]:
    """Checks of mean and variance, where the posterior is a sum over points."""
    mean, std = _mean_and_std(chances @ points, chances @ points**2)
    fourth = chances @ (points - mean) ** 4
    return [
        Check(f"mean of {name}", values, mean, std),
        Check(f"variance of {name}", lambda p: (values(p) - mean) ** 2, std**2, math.sqrt(fourth - std**4)),
    ]

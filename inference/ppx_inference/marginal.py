"""The weighted distribution of one quantity of the traces.

Letters: P values, S the shape of a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppx_inference import diagnostics
from ppx_inference.quantities import Quantity
from ppx_server.errors import RuledOutError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Marginal:
    """Weighted values of one quantity, among the traces that have it.

    Attributes:
        name: What it was asked for by.
        values: `(P, *S)` float64.
        weights: `(P,)`, sum to 1.
        present: Weight of the traces that have the quantity, out of 1.
        discrete: The quantity is a draw from a discrete family.
        categorical: It is the number of a category: `probabilities` say more than a mean.
        trace: `(P,)` positions of the traces in the posterior.

    Where no trace that has the quantity has any weight, estimates are NaN.
    """

    name: str
    values: Floats
    weights: Floats
    present: float
    discrete: bool
    categorical: bool
    trace: NDArray[np.int64]
    _chains: tuple[int, int]
    """(C, T): the traces are C chains of T states, one chain after the other; C = 0 for independent traces."""
    _max_ess: float
    """ESS of the sample that the traces were resampled from."""

    @classmethod
    def of(
        cls, quantity: Quantity, weights: Floats, chains: tuple[int, int], max_ess: float = np.inf
    ) -> Marginal:
        """The marginal of a quantity under the traces' weights `(K,)`, which sum to 1."""
        mine = weights[quantity.trace]
        present = float(mine.sum())
        present = 1.0 if present > 1.0 - 1e-12 else present
        mine = mine / mine.sum() if present > 0 else mine
        name, values, trace, discrete, categorical = quantity
        return cls(name, values, mine, present, discrete, categorical, trace, chains, max_ess)

    def mean(self) -> float | Floats:
        """Posterior mean: a float, or an array of shape S."""
        return _plain(self._mean(self.values))

    def std(self) -> float | Floats:
        """Posterior standard deviation: a float, or an array of shape S."""
        return _plain(np.sqrt(self._mean((self.values - self.mean()) ** 2)))

    def quantile(self, q: ArrayLike) -> float | Floats:
        """The smallest values whose cumulative weight reaches q.

        Args:
            q: Probability, or an array of them.

        Returns:
            Shape of q, then S; a float where that is `()`.

        Raises:
            ValueError: q is outside [0, 1].
        """
        q = np.asarray(q, np.float64)
        if not ((q >= 0) & (q <= 1)).all():
            raise ValueError(f"a quantile is asked for at a probability in [0, 1], not {q}")
        if not self.present:
            return _plain(np.full(q.shape + self.values.shape[1:], np.nan))
        flat = self.values.reshape(len(self.values), -1)
        order = np.argsort(flat, axis=0)
        found = np.empty((q.size, flat.shape[1]))
        for j in range(flat.shape[1]):
            cumulative = np.cumsum(self.weights[order[:, j]])
            # A hair below q, so that rounding in the sum does not skip the value that reaches it exactly.
            at = np.searchsorted(cumulative, q.ravel() * cumulative[-1] - 1e-12)
            found[:, j] = flat[order[np.minimum(at, len(flat) - 1), j], j]
        return _plain(found.reshape(q.shape + self.values.shape[1:]))

    def hist(self, bins: int | ArrayLike = 50) -> tuple[Floats, Floats]:
        """A normalised histogram.

        Args:
            bins: Number of bins, or their edges.

        Returns:
            Densities `(B,)` and edges `(B + 1,)`.
        """
        edges = bins if isinstance(bins, int) else np.asarray(bins, np.float64)
        if not self.present:
            edges = np.histogram_bin_edges(self.values, edges)
            return np.full(len(edges) - 1, np.nan), edges
        repeated = np.repeat(self.weights, int(np.prod(self.values.shape[1:], dtype=np.int64)))
        return np.histogram(self.values.ravel(), edges, weights=repeated, density=True)

    def probabilities(self) -> dict[float, float]:
        """Posterior probability of each value that occurs, by increasing value; for discrete scalars.

        Raises:
            ValueError: The values are arrays.
            RuledOutError: There is no weight.
        """
        if self.values.ndim != 1:
            raise ValueError(
                f"{self.name!r} has values of shape {self.values.shape[1:]}; probabilities are of scalars"
            )
        if not self.present:
            raise RuledOutError(
                f"{self.name!r} has no probabilities: the observations rule out every trace that has it (its weight is "
                "zero); the posterior's `doubts` say why"
            )
        values, which = np.unique(self.values, return_inverse=True)
        mass = np.bincount(which, weights=self.weights, minlength=len(values))
        return {float(v): float(p) for v, p in zip(values, mass, strict=True)}

    @cached_property
    def ess(self) -> float:
        """Effective sample size of the mean: of the weights, or of the chains (bulk; the least element of an array)."""
        num_chains, length = self._chains
        if num_chains == 0:
            return min(diagnostics.weighted_ess(self.weights), self._max_ess)
        least = [diagnostics.bulk_ess(c.reshape(num_chains, length)) for c in self._dense_columns()]
        finite = [e for e in least if np.isfinite(e)]
        return min(finite) if finite else float("nan")

    @cached_property
    def r_hat(self) -> float:
        """Split R-hat over the chains (the largest element of an array); NaN for independent traces."""
        num_chains, length = self._chains
        if num_chains == 0:
            return float("nan")
        each = [diagnostics.r_hat(c.reshape(num_chains, length)) for c in self._dense_columns()]
        known = [r for r in each if not np.isnan(r)]
        return max(known) if known else float("nan")

    def _mean(self, values: Floats) -> Floats:
        """Of what has any weight: 0 * NaN is no number."""
        possible = self.weights > 0
        if not possible.any():
            return np.full(values.shape[1:], np.nan)
        return np.asarray(np.tensordot(self.weights[possible], values[possible], 1))

    def _dense_columns(self) -> list[Floats]:
        """One column per element over all states; states without the quantity hold its mean, and say so in another."""
        total = self._chains[0] * self._chains[1]
        columns = []
        for column in self.values.reshape(len(self.values), -1).T:
            dense = np.full(total, column.mean())
            dense[self.trace] = column
            columns.append(dense)
        if len(self.trace) < total:
            columns.append(np.bincount(self.trace, minlength=total).astype(np.float64))
        return columns

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        shape = self.values.shape[1:]
        if shape:
            return (
                f"<Marginal {self.name!r} of shape {shape}, present {self.present:.3g}, ess {self.ess:.0f}>"
            )
        return (
            f"<Marginal {self.name!r}: {self.mean():.4g} +- {self.std():.3g}, present {self.present:.3g}, "
            f"ess {self.ess:.0f}>"
        )


def _plain(x: Floats) -> float | Floats:
    return float(x) if np.ndim(x) == 0 else np.asarray(x)

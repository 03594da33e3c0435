"""What every distribution family can do, and how its values map to standard coordinates.

A value x of a distribution with CDF F has the coordinate `z = Phi^-1(F(x))`, standard normal under the distribution.
Both directions go through the smaller of the two tail probabilities, F(x) or S(x) = 1 - F(x), so that z keeps its
precision far out on either side.

Limits, so that Markov chains and networks never meet an infinity or NaN:

- Normal and LogNormal have exact coordinates of any size. For every other family z is kept within `[-Z_MAX, Z_MAX]`,
  where tail probabilities are still normal doubles; a value on or beyond an edge of the support has the coordinate
  `-Z_MAX` or `Z_MAX`, and NaN has 0. Whatever its coordinate, a value outside the support has log_prob -inf.
- `from_z` returns finite values inside the support. Where the exact quantile underflows or overflows (Gamma with a
  small concentration, LogNormal with a large scale), it returns the nearest normal double.
- log_prob is never +inf or NaN: at an edge where the density is infinite it is that of the nearest normal double.

Letters: parameters and values broadcast against each other; for Categorical the probabilities have one more, trailing
axis of length C.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from math import erfc, sqrt
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from ppx_server.errors import DistributionError

Floats = NDArray[np.float64]
Arrays = Sequence[Floats]
Scalars = tuple[float, ...]

Z_MAX = 37.5
"""Largest coordinate of families whose tails are probabilities: Phi(-37.5) = 4.6e-308 is a normal double."""
TINY = float(np.finfo(np.float64).tiny)
HUGE = float(np.finfo(np.float64).max)
BELOW_ONE = 1.0 - 2.0**-53
_SQRT_HALF = sqrt(0.5)


class Kind(Enum):
    """How a family's values are distributed, hence what a proposal for them looks like."""

    CONTINUOUS = "continuous"
    ORDERED = "ordered"
    """Integers in their natural order: Poisson, Bernoulli, Binomial."""
    CATEGORICAL = "categorical"
    """Indices without an order."""


class Domain(Enum):
    """Where a parameter may lie."""

    REAL = "finite"
    EXTENDED = "a number or infinite"
    POSITIVE = "finite and > 0"
    NONNEGATIVE = "finite and >= 0"
    PROBABILITY = "between 0 and 1"
    COUNT = "an integer >= 0"

    def contains(self, values: Floats) -> NDArray[np.bool_]:
        """Which of the values lie in the domain; NaN lies in none."""
        return _CONTAINS[self](values)


_CONTAINS: dict[Domain, Callable[[Floats], NDArray[np.bool_]]] = {
    Domain.REAL: np.isfinite,
    Domain.EXTENDED: lambda v: ~np.isnan(v),
    Domain.POSITIVE: lambda v: (v > 0) & np.isfinite(v),
    Domain.NONNEGATIVE: lambda v: (v >= 0) & np.isfinite(v),
    Domain.PROBABILITY: lambda v: (v >= 0) & (v <= 1),
    Domain.COUNT: lambda v: (v >= 0) & np.isfinite(v) & (v == np.floor(v)),
}


def z_of_tails(p: Floats, q: Floats) -> Floats:
    """Coordinate of lower tail probability p and upper tail probability q; infinite where one is 0."""
    z: Floats = np.where(p < q, ndtri(np.minimum(p, 0.75)), -ndtri(np.minimum(q, 0.75)))
    return z


def by_tail(
    p: Floats, q: Floats, params: Arrays, lower: Callable[..., Floats], upper: Callable[..., Floats]
) -> Floats:
    """Inverts each element through its smaller tail: `lower(*params, p)` or `upper(*params, q)`."""
    p, q, *arrays = np.broadcast_arrays(p, q, *params)
    use_lower = p <= q
    x = np.empty(p.shape)
    x[use_lower] = lower(*(a[use_lower] for a in arrays), p[use_lower])
    x[~use_lower] = upper(*(a[~use_lower] for a in arrays), q[~use_lower])
    return x


def clamp(z: float) -> float:
    """A scalar coordinate, kept within the limits."""
    return -Z_MAX if z < -Z_MAX else Z_MAX if z > Z_MAX else z


def lower_tail(z: float) -> float:
    """Phi(z) of a scalar, with full relative precision for z < 0."""
    return 0.5 * erfc(-z * _SQRT_HALF)


class Family(ABC):
    """A distribution family. Stateless; parameters come with every call, as a tuple in wire order.

    Attributes:
        name: Name on the wire and in address tables.
        code: Position in the wire format's union, from 1.
        param_names: Parameters in wire order.
        domains: Where each parameter may lie.
        kind: What sort of values it has.
    """

    name: ClassVar[str]
    code: ClassVar[int]
    param_names: ClassVar[tuple[str, ...]]
    domains: ClassVar[tuple[Domain, ...]]
    kind: ClassVar[Kind] = Kind.CONTINUOUS

    def __repr__(self) -> str:
        return f"<family {self.name}({', '.join(self.param_names)})>"

    # What a family defines. Arguments are float64 arrays; values outside the support may give anything.

    @abstractmethod
    def _log_prob(self, x: Floats, params: Arrays) -> Floats: ...

    @abstractmethod
    def _tails(self, x: Floats, params: Arrays) -> tuple[Floats, Floats]:
        """F(x) and S(x) = 1 - F(x), for x inside the support; for integers x >= low - 1."""

    @abstractmethod
    def _inverse(self, p: Floats, q: Floats, params: Arrays) -> Floats:
        """The value with lower tail p and upper tail q = 1 - p, of which the smaller one is exact."""

    @abstractmethod
    def _support(self, params: Arrays) -> tuple[Floats, Floats]: ...

    def _from_z(self, z: Floats, params: Arrays) -> Floats:
        z = np.clip(z, -Z_MAX, Z_MAX)
        return self._inverse(ndtr(z), ndtr(-z), params)

    def _to_z(self, x: Floats, params: Arrays) -> Floats:
        p, q = self._both_tails(x, params)
        return np.clip(z_of_tails(p, q), -Z_MAX, Z_MAX)

    @abstractmethod
    def from_z_scalar(self, z: float, params: Scalars) -> float:
        """`from_z` for one draw, in Python floats."""

    @abstractmethod
    def _accepts(self, params: Scalars) -> bool:
        """Whether scalar parameters are valid; the fast half of `validate_scalar`."""

    # What callers use.

    def support(self, params: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
        """Smallest and largest value, possibly infinite, of the parameters' broadcast shape."""
        low, high = self._support(_arrays(params))
        return low, high

    def contains(self, x: ArrayLike, params: Sequence[ArrayLike]) -> NDArray[np.bool_]:
        """Whether values lie in the support; false for NaN and infinities."""
        x = np.asarray(x, np.float64)
        low, high = self._support(_arrays(params))
        inside: NDArray[np.bool_] = (x >= low) & (x <= high) & np.isfinite(x)
        return inside if self.kind is Kind.CONTINUOUS else inside & (x == np.floor(x))

    def log_prob(self, x: ArrayLike, params: Sequence[ArrayLike]) -> Floats:
        """Log density (log mass for discrete families) of x; -inf outside the support, never NaN or +inf."""
        x = np.asarray(x, np.float64)
        with np.errstate(all="ignore"):
            inside = self.contains(x, params)
            log_prob = np.where(inside, self._log_prob(x, _arrays(params)), -np.inf)
        return np.where(np.isnan(log_prob), -np.inf, log_prob)

    def cdf(self, x: ArrayLike, params: Sequence[ArrayLike]) -> Floats:
        """F(x) = P(X <= x)."""
        return self._both_tails(x, params)[0]

    def sf(self, x: ArrayLike, params: Sequence[ArrayLike]) -> Floats:
        """S(x) = P(X > x), precise where it is small."""
        return self._both_tails(x, params)[1]

    def icdf(self, u: ArrayLike, params: Sequence[ArrayLike]) -> Floats:
        """The smallest x with F(x) >= u; NaN unless 0 <= u <= 1. The support's edges for u = 0 and 1."""
        u = np.asarray(u, np.float64)
        arrays = _arrays(params)
        low, high = self._support(arrays)
        with np.errstate(all="ignore"):
            x = self._inverse(u, 1.0 - u, arrays)
        x = np.where(u == 0, low, np.where(u == 1, high, np.clip(x, low, high)))
        return np.where((u >= 0) & (u <= 1), x, np.nan)

    def from_z(self, z: ArrayLike, params: Sequence[ArrayLike]) -> Floats:
        """The value with a standard coordinate; finite and inside the support for finite z."""
        arrays = _arrays(params)
        low, high = self._support(arrays)
        with np.errstate(all="ignore"):
            x = self._from_z(np.asarray(z, np.float64), arrays)
        return np.clip(x, np.maximum(low, -HUGE), np.minimum(high, HUGE))

    def to_z(self, x: ArrayLike, params: Sequence[ArrayLike]) -> Floats:
        """Standard coordinate of a value; for discrete families that of the middle of its probability interval."""
        x = np.asarray(x, np.float64)
        arrays = _arrays(params)
        low, high = self._support(arrays)
        with np.errstate(all="ignore"):
            z = np.nan_to_num(self._to_z(x, arrays), nan=0.0, posinf=Z_MAX, neginf=-Z_MAX)
        return np.where(x < low, -Z_MAX, np.where(x > high, Z_MAX, z))

    def z_interval(self, x: ArrayLike, params: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
        """Coordinates that give x: for discrete families `Phi^-1(F(x - 1)), Phi^-1(F(x))`, else twice `to_z`.

        The intervals of all values tile the real line, so the outermost ends are infinite.
        """
        z = self.to_z(x, params)
        return z, z

    def sample(
        self, params: Sequence[ArrayLike], rng: np.random.Generator, shape: tuple[int, ...] = ()
    ) -> Floats:
        """Independent values; traces use `from_z` of counter-based normals instead.

        Args:
            params: Parameters, broadcast against `shape`.
            rng: Where randomness comes from.
            shape: Shape of the result, to which the parameters broadcast.
        """
        return self.from_z(rng.standard_normal(shape), params)

    def validate(self, params: Sequence[ArrayLike]) -> None:
        """Checks parameters.

        Raises:
            DistributionError: One is outside its domain, or their number or shapes do not match.
        """
        if len(params) != len(self.param_names):
            raise DistributionError(
                f"{self.name} takes {len(self.param_names)} parameters ({', '.join(self.param_names)}), "
                f"not {len(params)}; pass them in this order"
            )
        arrays = [np.asarray(p, np.float64) for p in params]
        try:
            np.broadcast_shapes(*(a.shape for a in arrays))
        except ValueError:
            shapes = ", ".join(f"{n} {a.shape}" for n, a in zip(self.param_names, arrays, strict=True))
            raise DistributionError(
                f"{self.name}: parameter shapes do not match: {shapes}; make them equal or scalar"
            ) from None
        for name, domain, values in zip(self.param_names, self.domains, arrays, strict=True):
            self._check(domain.contains(values), name, values, f"must be {domain.value}")
        with np.errstate(over="ignore"):
            self._validate_jointly(arrays)

    def validate_scalar(self, params: Scalars) -> None:
        """`validate` for Python floats, without array overhead."""
        if len(params) != len(self.param_names) or not self._accepts(params):
            self.validate(params)

    def _validate_jointly(self, params: Arrays) -> None:  # noqa: B027 (most families have nothing to check)
        """Checks what concerns several parameters at once."""

    def _check(self, valid: NDArray[np.bool_], name: str, values: Floats, demand: str) -> None:
        if np.all(valid):
            return
        where = np.unravel_index(int(np.argmin(valid)), valid.shape)
        element = f" at element {tuple(int(i) for i in where)}" if valid.ndim else ""
        value = float(np.broadcast_to(values, valid.shape)[where])
        raise DistributionError(
            f"{self.name}: {name} = {value!r}{element}, but it {demand}; "
            "correct the parameters the simulator passes to this draw"
        )

    def _both_tails(self, x: ArrayLike, params: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
        x = np.asarray(x, np.float64)
        arrays = _arrays(params)
        low, high = self._support(arrays)
        with np.errstate(all="ignore"):
            p, q = self._tails(np.clip(x, low, high), arrays)
        below, above = x < low, x >= high
        return np.where(below, 0.0, np.where(above, 1.0, p)), np.where(below, 1.0, np.where(above, 0.0, q))


def _arrays(params: Sequence[ArrayLike]) -> Arrays:
    return [np.asarray(p, np.float64) for p in params]

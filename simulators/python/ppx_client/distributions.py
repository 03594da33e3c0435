"""The twelve families of distributions, as a model names them in `sample` and `observe`.

Every distribution is frozen and checked when it is built: parameters are finite, inside their domain, and broadcast
to one common shape. Scalars stay Python floats. Building one costs about a microsecond; a distribution that never
changes can be built once, outside the model's loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, nextafter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ppx_client.errors import DistributionError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Domain(NamedTuple):
    """The values a parameter may take: strictly between two floats, perhaps only whole numbers."""

    above: float
    below: float
    text: str
    whole: bool = False


# Bounds are exclusive, so that one chained comparison tests them and rejects NaN; a closed bound is the next float.
REAL = Domain(-inf, inf, "finite")
BOUND = Domain(-(2.0**1023), 2.0**1023, "finite, as its distance to the other bound")
EXTENDED = Domain(-inf, inf, "a number or an infinity")
POSITIVE = Domain(0.0, inf, "finite and > 0")
NON_NEGATIVE = Domain(nextafter(0.0, -1.0), inf, "finite and >= 0")
UNIT = Domain(nextafter(0.0, -1.0), nextafter(1.0, 2.0), "in [0, 1]")
COUNT = Domain(nextafter(0.0, -1.0), inf, "a whole number >= 0", True)

_BIG = 1 << 1023
"""Python's integers beyond this, and below its negative, may not fit a float."""


class Distribution:
    """A prior of a random choice; build one of the twelve families.

    Attributes:
        shape: Shape of the values; `()` for scalars.
        params: The parameters in the order of the class: all floats, or all float64 arrays of the shape `shape`
            (Categorical: one array with a trailing axis of categories).
        vector: The parameters of a scalar distribution as numbers (Categorical: the probabilities).
        code: Number of the family in the PPX schema.
        discrete: Whether values are whole numbers.
    """

    code: ClassVar[int]
    discrete: ClassVar[bool] = False
    _domains: ClassVar[tuple[Domain, ...]]

    shape: tuple[int, ...]
    params: tuple[Any, ...]
    vector: tuple[float, ...]

    def __post_init__(self) -> None:
        fields = self.__dict__
        params = tuple(fields.values())
        if int in map(type, params):
            params = tuple(
                [float(value) if type(value) is int and -_BIG < value < _BIG else value for value in params]
            )
            fields.update(zip(tuple(fields), params, strict=True))
        for value, domain in zip(params, self._domains, strict=True):
            if type(value) is not float or domain.whole or not domain.above < value < domain.below:
                params, shape = self._normalised(params)
                fields.update(zip(tuple(fields), params, strict=True))
                break
        else:
            shape = ()
        fields["shape"] = shape
        fields["params"] = fields["vector"] = params
        self._check_order()

    def _check_order(self) -> None:
        """Checks a relation between parameters; a family that has one overrides this."""

    def _normalised(self, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        """Parameters as floats, or as arrays of one shape; and that shape."""
        arrays = [self._array(name, value) for name, value in zip(self.__dict__, values, strict=True)]
        for name, array, domain in zip(self.__dict__, arrays, self._domains, strict=True):
            self._check(name, array, domain)
        shapes = {array.shape for array in arrays} - {()}
        try:
            # What NumPy would say, too, but takes a while for.
            shape = shapes.pop() if len(shapes) == 1 else np.broadcast_shapes(*shapes)
        except ValueError:
            found = ", ".join(f"{n} {a.shape}" for n, a in zip(self.__dict__, arrays, strict=True))
            raise DistributionError(
                f"{type(self).__name__}: the parameters' shapes do not broadcast: {found}; "
                "give scalars or equal shapes"
            ) from None
        if shape == ():
            return tuple(array.item() for array in arrays), shape
        return tuple(_filled(array, shape) for array in arrays), shape

    def _array(self, name: str, value: Any) -> NDArray[np.float64]:
        try:
            return np.asarray(value, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise DistributionError(
                f"{type(self).__name__}: {name} = {value!r} is no number or array of numbers"
            ) from None

    def _check(self, name: str, array: NDArray[np.float64], domain: Domain) -> None:
        # NaN is neither above nor below anything, so nor are the extremes of an array that holds it.
        within = (
            domain is not EXTENDED
            and array.size
            and domain.above < array.min()
            and array.max() < domain.below
        )
        if within and (not domain.whole or (np.trunc(array) == array).all()):
            return
        legal = ~np.isnan(array) if domain is EXTENDED else (domain.above < array) & (array < domain.below)
        if domain.whole:
            legal &= np.where(legal, array, 0.0) % 1.0 == 0.0
        if not legal.all():
            where = tuple(int(i) for i in np.argwhere(~legal)[0])
            subscript = f"[{', '.join(map(str, where))}]" if where else ""
            raise DistributionError(
                f"{type(self).__name__}: {name}{subscript} = {float(array[where])!r}, but it must be {domain.text}"
            )

    def _check_bounds(self, low: Any, high: Any) -> None:
        if self.shape == ():
            if low < high:
                return
            where: tuple[int, ...] = ()
        else:
            wrong = np.argwhere(~(low < high))
            if not len(wrong):
                return
            where = tuple(int(i) for i in wrong[0])
            low, high = low[where], high[where]
        subscript = f" at {list(where)}" if where else ""
        raise DistributionError(
            f"{type(self).__name__}: low = {float(low)!r} is not below high = {float(high)!r}{subscript}"
        )


def _filled(array: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A copy of an array, of a shape to which it broadcasts."""
    if array.shape == ():
        return np.full(shape, array.item())
    return np.array(array if array.shape == shape else np.broadcast_to(array, shape), order="C")


@dataclass(frozen=True, eq=False)
class Normal(Distribution):
    """Normal distribution.

    Args:
        mean: Mean, finite.
        stddev: Standard deviation, finite and > 0.
    """

    mean: ArrayLike
    stddev: ArrayLike

    code: ClassVar[int] = 1
    _domains: ClassVar = (REAL, POSITIVE)


@dataclass(frozen=True, eq=False)
class Uniform(Distribution):
    """Uniform distribution between two bounds.

    Args:
        low: Lower bound, finite.
        high: Upper bound, finite and > `low`.
    """

    low: ArrayLike
    high: ArrayLike

    code: ClassVar[int] = 2
    _domains: ClassVar = (BOUND, BOUND)

    def _check_order(self) -> None:
        self._check_bounds(self.low, self.high)


@dataclass(frozen=True, eq=False)
class Categorical(Distribution):
    """Categorical distribution over the indices 0 .. C - 1; values are ints.

    Args:
        probs: Probabilities of the C categories along the last axis, finite and >= 0, not all 0. They are divided by
            their sum.
    """

    probs: ArrayLike

    code: ClassVar[int] = 3
    discrete: ClassVar[bool] = True
    _domains: ClassVar = (NON_NEGATIVE,)

    def __post_init__(self) -> None:
        array = self._array("probs", self.probs).copy()
        if array.ndim == 0 or array.shape[-1] == 0:
            raise DistributionError(
                f"Categorical: probs has shape {array.shape}; give one probability per category"
            )
        sums = array.sum(axis=-1)
        if not ((array >= 0.0).all() and ((sums > 0.0) & (sums < inf)).all()):
            self._check("probs", array, NON_NEGATIVE)
            raise DistributionError("Categorical: probs are all 0, or their sum overflows; scale them")
        vector = tuple(array.tolist()) if array.ndim == 1 else ()
        self.__dict__.update(probs=array, shape=array.shape[:-1], params=(array,), vector=vector)


@dataclass(frozen=True, eq=False)
class Poisson(Distribution):
    """Poisson distribution; values are ints.

    Args:
        rate: Expected count, finite and >= 0.
    """

    rate: ArrayLike

    code: ClassVar[int] = 4
    discrete: ClassVar[bool] = True
    _domains: ClassVar = (NON_NEGATIVE,)


@dataclass(frozen=True, eq=False)
class Bernoulli(Distribution):
    """Bernoulli distribution; values are the ints 0 and 1.

    Args:
        probs: Probability of 1, in [0, 1].
    """

    probs: ArrayLike

    code: ClassVar[int] = 5
    discrete: ClassVar[bool] = True
    _domains: ClassVar = (UNIT,)


@dataclass(frozen=True, eq=False)
class Beta(Distribution):
    """Beta distribution on (0, 1), with density proportional to x^(concentration1 - 1) (1 - x)^(concentration0 - 1).

    Args:
        concentration1: Finite and > 0.
        concentration0: Finite and > 0.
    """

    concentration1: ArrayLike
    concentration0: ArrayLike

    code: ClassVar[int] = 6
    _domains: ClassVar = (POSITIVE, POSITIVE)


@dataclass(frozen=True, eq=False)
class Exponential(Distribution):
    """Exponential distribution.

    Args:
        rate: Inverse of the mean, finite and > 0.
    """

    rate: ArrayLike

    code: ClassVar[int] = 7
    _domains: ClassVar = (POSITIVE,)


@dataclass(frozen=True, eq=False)
class Gamma(Distribution):
    """Gamma distribution, with mean `concentration / rate`.

    Args:
        concentration: Shape, finite and > 0.
        rate: Inverse scale, finite and > 0.
    """

    concentration: ArrayLike
    rate: ArrayLike

    code: ClassVar[int] = 8
    _domains: ClassVar = (POSITIVE, POSITIVE)


@dataclass(frozen=True, eq=False)
class LogNormal(Distribution):
    """Distribution of exp(Z), where Z is normal.

    Args:
        loc: Mean of Z, finite.
        scale: Standard deviation of Z, finite and > 0.
    """

    loc: ArrayLike
    scale: ArrayLike

    code: ClassVar[int] = 9
    _domains: ClassVar = (REAL, POSITIVE)


@dataclass(frozen=True, eq=False)
class Binomial(Distribution):
    """Number of successes in independent trials; values are ints.

    Args:
        total_count: Number of trials, a whole number >= 0.
        probs: Probability of success, in [0, 1].
    """

    total_count: ArrayLike
    probs: ArrayLike

    code: ClassVar[int] = 10
    discrete: ClassVar[bool] = True
    _domains: ClassVar = (COUNT, UNIT)


@dataclass(frozen=True, eq=False)
class Weibull(Distribution):
    """Weibull distribution, with survival function exp(-(x / scale)^concentration).

    Args:
        scale: Finite and > 0.
        concentration: Shape, finite and > 0.
    """

    scale: ArrayLike
    concentration: ArrayLike

    code: ClassVar[int] = 11
    _domains: ClassVar = (POSITIVE, POSITIVE)


@dataclass(frozen=True, eq=False)
class TruncatedNormal(Distribution):
    """Normal distribution conditioned on lying between two bounds; not part of PPX 1.0.

    Args:
        mean: Mean of the normal before truncation, finite.
        stddev: Standard deviation of the normal before truncation, finite and > 0.
        low: Lower bound; `-inf` leaves that side open.
        high: Upper bound, > `low`; `inf` leaves that side open.
    """

    mean: ArrayLike
    stddev: ArrayLike
    low: ArrayLike
    high: ArrayLike

    code: ClassVar[int] = 12
    _domains: ClassVar = (REAL, POSITIVE, EXTENDED, EXTENDED)

    def _check_order(self) -> None:
        self._check_bounds(self.low, self.high)

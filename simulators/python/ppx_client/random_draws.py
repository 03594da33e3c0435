"""How a random number generator with the interface of another one draws through PPX.

A *native* method is one PPX draw, whose value is the number itself, unless its parameters leave no choice for it or for
some elements of an array (a `scale` of 0). Other methods *transform* one or more draws: these
have addresses below that of the call (`model:4:9:forward/uniform`), and if the call has a name, the number is reported
as a tag of that name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from operator import index
from types import FrameType
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from ppx_client import local
from ppx_client.attribution import current, scopes
from ppx_client.distributions import (
    Beta,
    Binomial,
    Distribution,
    Exponential,
    Gamma,
    LogNormal,
    Normal,
    Poisson,
    Uniform,
    Weibull,
)
from ppx_client.errors import DistributionError
from ppx_client.random_sites import place
from ppx_client.traces import Running

Floats = NDArray[np.float64]
Shape = tuple[int, ...]
Size = SupportsIndex | Sequence[SupportsIndex] | None

TINY = sys.float_info.min
BELOW_ONE = 1.0 - 2.0**-53
UNIT = Uniform(0.0, 1.0)
STANDARD_NORMAL = Normal(0.0, 1.0)
STANDARD_EXPONENTIAL = Exponential(1.0)


def repeated(distribution: Distribution, shape: Shape) -> Distribution:
    """A scalar distribution for every element of an array."""
    return _kept(distribution, shape) if prod(shape) <= _LARGEST_KEPT else _repeated(distribution, shape)


def _repeated(distribution: Distribution, shape: Shape) -> Distribution:
    return type(distribution)(*(np.full(shape, param) for param in distribution.params))


_kept = lru_cache(256)(_repeated)
_LARGEST_KEPT = 1024
"""Elements of the arrays that are kept, at most."""


class Rule(NamedTuple):
    """How a native method draws.

    Attributes:
        family: The family.
        convert: Its parameters, of the method's.
        certain: Where the method's parameters leave no choice, and the value there; None if they always leave one.
        harmless: Parameters of the method that stand in there.
    """

    family: type[Distribution]
    convert: Callable[..., tuple[Any, ...]] | None = None
    certain: Callable[..., tuple[Any, Any]] | None = None
    harmless: tuple[float, ...] = ()


NORMAL = Rule(Normal, None, lambda loc, scale: (scale == 0, loc), (0.0, 1.0))
UNIFORM = Rule(Uniform, None, lambda low, high: (low == high, low), (0.0, 1.0))
EXPONENTIAL = Rule(Exponential, lambda scale: (1.0 / scale,), lambda scale: (scale == 0, 0.0), (1.0,))
GAMMA = Rule(
    Gamma,
    lambda shape, scale: (shape, 1.0 / scale),
    lambda shape, scale: ((shape == 0) & (scale >= 0) | (scale == 0) & (shape >= 0), 0.0),
    (1.0, 1.0),
)
BETA = Rule(Beta)
LOG_NORMAL = Rule(LogNormal, None, lambda mean, sigma: (sigma == 0, np.exp(mean)), (0.0, 1.0))
POISSON = Rule(Poisson)
BINOMIAL = Rule(Binomial)
WEIBULL = Rule(Weibull, lambda a: (1.0, a), lambda a: (a == 0, 0.0), (1.0,))
SCALED_WEIBULL = Rule(Weibull)
POWER = Rule(Beta, lambda a: (a, 1.0))
CHI_SQUARE = Rule(Gamma, lambda df: (0.5 * df, 0.5))
RAYLEIGH = Rule(Weibull, lambda scale: (2.0**0.5 * scale, 2.0), lambda scale: (scale == 0, 0.0), (1.0,))


class Call:
    """One call of a method: where its draws get their addresses.

    Without a controller, draws are those of `ppx_client.local`.
    """

    __slots__ = ("_address", "_control", "_is_draw", "_name", "_trace")

    def __init__(self, trace: Running | None, address: str, name: str, control: bool) -> None:
        self._trace = trace
        self._address, self._name = address, name
        self._control = control
        self._is_draw = False

    def value(self, distribution: Distribution) -> Any:
        """The draw whose value is the number itself."""
        if 0 in distribution.shape:
            return np.empty(distribution.shape, np.int64 if distribution.discrete else np.float64)
        if self._trace is None:
            return local.draw(distribution)
        self._is_draw = True
        return self._trace.sample(distribution, self._address, self._name, self._control)

    def part(self, distribution: Distribution, part: str) -> Any:
        """A draw that the number is made of."""
        return Call(self._trace, f"{self._address}/{part}", "", self._control).value(distribution)

    def uniform(self, shape: Shape, part: str = "uniform") -> Any:
        """Numbers strictly between 0 and 1, `shape`."""
        if shape == ():
            return min(max(self.part(UNIT, part), TINY), BELOW_ONE)
        return np.clip(self.part(repeated(UNIT, shape), part), TINY, BELOW_ONE)

    def exponential(self, shape: Shape) -> Any:
        """Standard exponential numbers, `shape`."""
        if shape == ():
            return max(self.part(STANDARD_EXPONENTIAL, "exponential"), TINY)
        return np.maximum(self.part(repeated(STANDARD_EXPONENTIAL, shape), "exponential"), TINY)

    def normal(self, shape: Shape) -> Any:
        """Standard normal numbers, `shape`."""
        return self.part(repeated(STANDARD_NORMAL, shape), "normal")

    @contextmanager
    def rejection(self) -> Iterator[None]:
        """Marks a loop that draws until something is accepted."""
        trace = self._trace
        if trace is None:
            yield
            return
        loop = trace.begin_rejection(self._address, "")
        try:
            yield
        finally:
            trace.end_rejection(self._address, "", loop)

    def deliver(self, value: Any) -> Any:
        """The number that was asked for; if it is not a draw itself and the call has a name, it is tagged."""
        if self._trace is None or not self._name or self._is_draw or not isinstance(value, _NUMBERS):
            return value
        array = np.asarray(value)
        if array.size and array.dtype.kind in "biuf":
            numbers = np.array(array, np.float64, order="C")
            self._trace.tag(numbers if numbers.ndim else float(numbers), self._address, self._name)
        return value


_NUMBERS = (np.ndarray, np.generic, float, int)


class Draws:
    """The source of a generator's numbers.

    Args:
        control: Whether inference may choose them.
        name: Name of all draws; by default each has the name and address of its place in the model.

    Attributes:
        num_calls: How often numbers were asked for: the state of a generator that has none.
    """

    __slots__ = ("control", "name", "num_calls")

    def __init__(self, control: bool, name: str = "") -> None:
        self.control = control
        self.name = name
        self.num_calls = 0

    def call(self, frame: FrameType) -> Call:
        """The call that a frame is executing."""
        trace = current()
        self.num_calls += 1
        if trace is None:
            return Call(None, "", "", True)
        if self.name:
            return Call(trace, scopes() + self.name, self.name, self.control)
        site, name = place(frame)
        return Call(trace, scopes() + site, name, self.control)

    def native(self, rule: Rule, params: tuple[Any, ...], size: Size, frame: FrameType) -> Any:
        """A number or an array of numbers of a family.

        Raises:
            DistributionError: Parameters are outside their domain.
            ValueError: `size` does not fit the shapes of the parameters.
        """
        distribution = None if size is not None else _scalar(rule, params)
        trace = current()
        if distribution is not None and trace is not None:
            if self.name:
                return trace.sample(distribution, scopes() + self.name, self.name, self.control)
            site, name = place(frame)
            return trace.sample(distribution, scopes() + site, name, self.control)
        call = self.call(frame)
        if distribution is not None:
            return call.value(distribution)
        return scalar_or_array(_native_array(rule, params, size, call), size)

    def transformed(
        self, function: Callable[..., Any], params: tuple[Any, ...], size: Size, frame: FrameType
    ) -> Any:
        """A number or an array of numbers that a function makes of draws.

        Args:
            function: Takes the call, the shape, and the parameters: numbers, or arrays that broadcast to the shape.
            params: The parameters.
            size: Shape of the result, None for that of the parameters.
            frame: Where the call is made.
        """
        call = self.call(frame)
        # Plain numbers are computed with in half the time of arrays without axes.
        arrays: Any = _floats(params) if size is None else None
        shape: Shape = ()
        if arrays is None:
            arrays = [np.asarray(param, np.float64) for param in params]
            shape = result_shape(size, arrays)
        value = function(call, shape, *arrays)
        return scalar_or_array(call.deliver(np.asarray(value)), size)


_KEPT_SCALARS = 1024
_scalars: dict[tuple[int, tuple[Any, ...]], Distribution] = {}
"""Scalar distributions by rule and parameters: programs draw from the same ones again and again."""


def _scalar(rule: Rule, params: tuple[Any, ...]) -> Distribution | None:
    """The distribution of a number, None if a parameter is an array, or if the parameters leave no choice.

    Raises:
        DistributionError: Parameters are outside their domain.
    """
    key = id(rule), params
    try:
        found = _scalars.get(key)
    except TypeError:  # an array, which has no hash
        found = None
    if found is not None:
        return found
    numbers = _floats(params)
    if numbers is None:
        return None
    try:
        made = rule.family(*(numbers if rule.convert is None else rule.convert(*numbers)))
    except (DistributionError, ZeroDivisionError):
        if rule.certain is None:
            raise
        return None
    if len(_scalars) >= _KEPT_SCALARS:
        _scalars.clear()
    _scalars[key] = made
    return made


def _floats(params: tuple[Any, ...]) -> list[float] | None:
    """Parameters that are all numbers, None if one is an array."""
    numbers = []
    for param in params:
        if type(param) is np.ndarray:
            return None
        if type(param) is not float:
            if not isinstance(param, float | int | np.number):
                return None
            param = float(param)
        numbers.append(param)
    return numbers


def _native_array(rule: Rule, params: tuple[Any, ...], size: Size, call: Call) -> Any:
    arrays = [np.asarray(param, np.float64) for param in params]
    if size is not None:
        arrays[0] = np.broadcast_to(arrays[0], result_shape(size, arrays))
    if rule.certain is None:
        return call.value(_of(rule, arrays))
    fixed, value = rule.certain(*arrays)
    if not np.any(fixed):
        return call.value(_of(rule, arrays))
    shape = result_shape(size, arrays)
    values = np.array(np.broadcast_to(value, shape), np.float64)
    if np.all(fixed):
        return call.deliver(values)
    stand_in = [np.where(fixed, one, array) for one, array in zip(rule.harmless, arrays, strict=True)]
    # What stands in must not be found in results as the number.
    drawn = call.part(_of(rule, stand_in), rule.family.__name__.lower())
    return call.deliver(np.where(fixed, values, drawn))


def _of(rule: Rule, arrays: Sequence[Floats]) -> Distribution:
    if rule.convert is None:
        return rule.family(*arrays)
    with np.errstate(all="ignore"):
        return rule.family(*rule.convert(*arrays))


def result_shape(size: Size, arrays: Sequence[NDArray[Any]]) -> Shape:
    """Shape of a result: `size`, or else what the parameters broadcast to.

    Raises:
        ValueError: The parameters do not broadcast to `size`.
    """
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    if size is None:
        return shape
    wanted = shape_of(size)
    try:
        if np.broadcast_shapes(wanted, shape) == wanted:
            return wanted
    except ValueError:
        pass
    raise ValueError(
        f"size = {wanted} does not fit parameters of shape {shape}; leave it out, or extend it in front"
    )


def shape_of(size: SupportsIndex | Sequence[SupportsIndex]) -> Shape:
    """A `size` as a shape."""
    sizes: Any = (size,) if isinstance(size, int | np.integer) else size
    return tuple(map(index, sizes))


def scalar_or_array(value: Any, size: Size) -> Any:
    """What NumPy returns: without a `size` and with scalar parameters a Python number."""
    if isinstance(value, np.ndarray) and value.ndim == 0 and size is None:
        return value.item()
    return value if size is None else np.asarray(value)


def size_of(size: Size, out: Any) -> Size:
    """The shape of an array that is to be filled.

    Raises:
        ValueError: `size` is another one.
    """
    if out is None:
        return size
    shape: tuple[int, ...] = out.shape
    if size is not None and shape_of(size) != shape:
        raise ValueError(f"out has shape {shape}, but size is {size}; leave size out")
    return shape


def cast(value: Any, size: Size, dtype: Any, out: Any, *, below_one: bool = False) -> Any:
    """A number as the type that is asked for, or in the array that is to be filled."""
    kind = np.dtype(dtype)
    if kind not in (np.float64, np.float32):
        raise TypeError(f"dtype {kind} is neither float64 nor float32")
    if out is not None and out.dtype != kind:
        raise TypeError(f"out has dtype {out.dtype}, but dtype is {kind}; make them equal")
    if out is None and kind == np.float64 and not below_one:
        return value
    numbers = np.asarray(value, kind)
    if below_one:
        numbers = np.asarray(np.minimum(numbers, kind.type(1.0) - np.finfo(kind).epsneg))
    if out is None:
        return numbers if size is not None or numbers.ndim else float(numbers)
    out[...] = numbers
    return out


def require(legal: Any, reason: str) -> None:
    """Raises DistributionError if a condition on parameters does not hold everywhere."""
    if legal is not True and not np.all(legal):
        raise DistributionError(reason)

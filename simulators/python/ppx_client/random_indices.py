"""Whole numbers, choices and orders, made of PPX draws.

Among at most `FEW` outcomes one is chosen by a Categorical: its outcomes have no order, so a proposal network has an
output for each. Among more it is found by a Uniform: probabilities for each of a thousand outcomes would have to travel
with every draw, and of so many the order mostly matters.
"""

from __future__ import annotations

import functools
import operator
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppx_client.distributions import Categorical
from ppx_client.errors import DistributionError
from ppx_client.random_draws import Call, Floats, Shape, Size, require, result_shape, shape_of

FEW = 64
"""Most outcomes of a Categorical."""
_MANY = 1 << 20
"""Most probabilities of an array of Categoricals, all together; beyond them it is made of Uniforms."""
_ONE_UNIFORM = 1 << 32
"""Most outcomes that one Uniform decides: its 52 bits then leave an error of 2^-20 in their probabilities; more are
decided by as many words of 32 bits as leave one of 2^-32."""


@lru_cache(256)
def _even(outcomes: int) -> Categorical:
    return Categorical((1.0 / outcomes,) * outcomes)


def index(call: Call, outcomes: int, shape: Shape, *, whole: bool) -> Any:
    """Numbers from 0 to `outcomes` - 1, all equally likely, `shape`.

    Args:
        call: What draws.
        outcomes: How many outcomes there are.
        shape: Shape of the result.
        whole: Whether the index is the number that is asked for, rather than a part of it.
    """
    if outcomes == 1 or 0 in shape:
        return np.zeros(shape, np.int64)
    if shape == () and FEW < outcomes <= _ONE_UNIFORM:
        return min(int(call.uniform(()) * outcomes), outcomes - 1)
    if outcomes > FEW or prod(shape) * outcomes > _MANY:
        return _scaled(call, np.asarray(outcomes), shape)
    even = _even(outcomes)
    distribution = even if shape == () else Categorical(np.broadcast_to(even.probs, (*shape, outcomes)))
    return call.value(distribution) if whole else call.part(distribution, "index")


def _scaled(call: Call, outcomes: NDArray[Any], shape: Shape) -> Any:
    """Numbers from 0 to `outcomes` - 1, which broadcasts to the shape, by Uniforms."""
    if outcomes.size == 0 or outcomes.max() <= _ONE_UNIFORM:
        wide = outcomes.astype(np.float64)
        return np.minimum(np.floor(call.uniform(shape) * wide), wide - 1.0).astype(np.int64)
    count = -(-int(outcomes.max()).bit_length() // 32) + 1
    words = np.floor(call.uniform((*shape, count), "words") * 2.0**32).astype(np.uint64).astype(object)
    number = functools.reduce(lambda high, low: high << 32 | low, np.moveaxis(words, -1, 0))
    # As floor(n u), with a u of that many words.
    return (number * outcomes.astype(object)) >> 32 * count


def integers(call: Call, low: Any, high: Any, size: Size, dtype: Any, endpoint: bool) -> Any:
    """Whole numbers from `low` to `high`."""
    if high is None:
        low, high = 0, low
    if size is None and dtype is np.int64 and type(low) is int and type(high) is int:
        count = high - low + endpoint
        if 1 < count <= _ONE_UNIFORM and abs(low) < 1 << 62:
            return np.int64(low + index(call, count, (), whole=low == 0))
    first, outcomes = _ranges(low, high, endpoint)
    _check_dtype(first, outcomes, np.dtype(dtype))
    shape = result_shape(size, [first, outcomes])
    one = outcomes.ravel()[0] if outcomes.size else 1
    if one <= FEW and (outcomes == one).all():
        offset = index(call, int(one), shape, whole=not first.any())
    else:
        offset = _scaled(call, outcomes, shape)
    values = np.asarray(first + offset).astype(dtype)
    if size is not None or shape:
        return values
    return values.item() if dtype in (int, bool) else values[()]


def _ranges(low: Any, high: Any, endpoint: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """First outcomes and how many there are, as Python's integers, which do not overflow."""
    bounds = []
    for name, bound in (("low", low), ("high", high)):
        try:
            # NumPy cuts off what is behind the point, too: integers(1e6) is often written.
            bounds.append(np.array([int(one) for one in np.ravel(bound)], object).reshape(np.shape(bound)))
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"integers: {name} = {bound!r} is no number or array of numbers") from None
    first, last = np.asarray(bounds[0]), np.asarray(bounds[1])
    outcomes = np.asarray(last - first + (1 if endpoint else 0), object)
    if not (outcomes > 0).all():
        raise DistributionError(f"integers: low = {low} is not below high = {high}")
    return first, outcomes


def _check_dtype(first: NDArray[Any], outcomes: NDArray[Any], dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iub":
        raise TypeError(f"integers: dtype {dtype} is no type of whole numbers")
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not ((first >= least) & (first + outcomes - 1 <= most)).all():
        raise DistributionError(f"integers: low or high is beyond what {dtype} can hold")


def choice(call: Call, a: Any, size: Size, replace: bool, p: Any, axis: int) -> Any:
    """Elements of `a`, or numbers below it."""
    items: NDArray[Any] | None = None if isinstance(a, int | np.integer) else np.asarray(a)
    if items is not None and items.ndim == 0:
        a, items = operator.index(items.item()), None
    count = int(a) if items is None else items.shape[axis]
    shape = () if size is None else shape_of(size)
    if count <= 0 and prod(shape):
        raise DistributionError(f"choice: there is nothing to choose from in {a!r}")
    probs = None if p is None else _probabilities(p, count)
    if replace or shape == ():
        whole = items is None
        rows = (
            index(call, count, shape, whole=whole)
            if probs is None
            else _weighted(call, probs, shape, whole=whole)
        )
    else:
        rows = _without_replacement(call, count, probs, shape)
    if items is None:
        return int(rows) if size is None else np.asarray(rows)
    if size is None:
        taken = np.take(items, int(rows), axis)
        return taken if items.ndim > 1 else items[int(rows)]
    return np.take(items, np.asarray(rows), axis)


def _probabilities(p: Any, count: int) -> Floats:
    given = np.asarray(p)
    probs = given.astype(np.float64)
    if probs.shape != (count,):
        raise DistributionError(
            f"choice: p has shape {probs.shape}, but there are {count} elements to choose from"
        )
    require((probs >= 0) & (probs <= 1), "choice: the probabilities p must be in [0, 1]")
    tolerance = np.finfo(given.dtype).eps ** 0.5 if given.dtype.kind == "f" else 0.0  # NumPy's
    if abs(probs.sum() - 1.0) > max(tolerance, 1e-6):
        raise DistributionError(
            f"choice: the probabilities p sum to {probs.sum()}, not 1; divide them by their sum"
        )
    return probs


def _weighted(call: Call, probs: Floats, shape: Shape, *, whole: bool) -> Any:
    """Indices with given probabilities, `shape`."""
    count = len(probs)
    if count <= FEW and prod(shape) * count <= _MANY:
        distribution = Categorical(np.broadcast_to(probs, (*shape, count)))
        return call.value(distribution) if whole else call.part(distribution, "index")
    below = np.cumsum(probs)
    rows = np.searchsorted(below, call.uniform(shape) * below[-1], "right")
    return np.minimum(rows, np.flatnonzero(probs)[-1])


def _without_replacement(call: Call, count: int, probs: Floats | None, shape: Shape) -> Any:
    """Different indices, `shape`, in the order in which they are drawn."""
    wanted = prod(shape)
    possible = count if probs is None else np.count_nonzero(probs)
    if wanted > possible:
        raise DistributionError(
            f"choice: {wanted} different elements of {possible}; ask for fewer, or replace=True"
        )
    if probs is None:
        return order(call, count, wanted).reshape(shape)
    left, chosen = probs.copy(), []
    for u in np.atleast_1d(call.uniform((wanted,))).tolist():
        below = np.cumsum(left)
        row = int(np.searchsorted(below, u * below[-1], "right"))
        row = min(row, int(np.flatnonzero(left)[-1]))
        chosen.append(row)
        left[row] = 0.0
    return np.array(chosen, np.int64).reshape(shape)


def order(call: Call, count: int, wanted: int | None = None) -> Any:
    """The first `wanted` of 0 to `count` - 1 in random order (Fisher and Yates), by one array of Uniforms.

    The effort is that of `wanted`, however large the count.
    """
    return orders(call, 1, count, wanted)[0]


def orders(call: Call, rows: int, count: int, wanted: int | None = None) -> Any:
    """Independent orders, `(rows, wanted)`."""
    wanted = count if wanted is None else wanted
    # The last of all has no choice left.
    steps = max(min(wanted, count - 1), 0)
    numbers = np.zeros((rows, 0)) if steps == 0 else call.uniform((steps,) if rows == 1 else (rows, steps))
    result = []
    for uniforms in np.reshape(numbers, (rows, steps)).tolist():
        moved: dict[int, int] = {}  # what is at a place, if it is not the number of the place
        chosen = []
        for i, u in enumerate(uniforms):
            j = i + int(u * (count - i))
            chosen.append(moved.get(j, j))
            moved[j] = moved.get(i, i)
        if wanted > steps:
            chosen.append(moved.get(steps, steps))
        result.append(chosen)
    return np.array(result, np.int64).reshape(rows, wanted)


def permutation(call: Call, x: Any, axis: int) -> Any:
    """The elements of `x`, or the numbers below it, in random order."""
    if isinstance(x, int | np.integer):
        return order(call, int(x))
    items = np.asarray(x)
    return np.take(items, order(call, items.shape[axis]), axis)


def permuted(call: Call, x: Any, axis: int | None, out: Any) -> Any:
    """The elements along an axis in random order, another one for each slice."""
    items = np.asarray(x)
    result = np.array(items) if out is None else out
    if out is not None and out.shape != items.shape:
        raise ValueError(f"permuted: out has shape {out.shape}, but x has shape {items.shape}")
    if axis is None:
        result[...] = items.ravel()[order(call, items.size)].reshape(items.shape)
        return result
    slices = np.moveaxis(items, axis, -1)
    count = slices.shape[-1]
    rows = slices.size // count if count else 0
    places = orders(call, rows, count).reshape(slices.shape)
    result[...] = np.moveaxis(np.take_along_axis(slices, places, -1), -1, axis)
    return result


def shuffle(call: Call, x: Any, axis: int) -> None:
    """Puts a sequence or an array into random order."""
    if isinstance(x, np.ndarray):
        x[...] = np.take(x, order(call, x.shape[axis]), axis)
        return
    if axis != 0:
        raise NotImplementedError("shuffle: an axis is only possible for arrays")
    places = order(call, len(x)).tolist()
    # Item by item: a sequence need not take a slice.
    for i, item in enumerate([x[j] for j in places]):
        x[i] = item

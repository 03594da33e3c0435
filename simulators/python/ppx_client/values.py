"""Values on their way between the model and the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppx_client.errors import TensorError

if TYPE_CHECKING:
    from ppx_client.buffers import Tensor
    from ppx_client.distributions import Distribution


def to_python(distribution: Distribution, value: Tensor) -> Any:
    """A value as the model gets it: float or float64 array, of discrete families int or int64 array.

    Values that are no whole numbers (NaN where a PPX 1.0 controller keeps an observation) stay floats.
    """
    if not distribution.discrete:
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return value.astype(np.int64) if (value % 1.0 == 0.0).all() else value


def to_tensor(value: Any, what: str, remedy: str) -> Tensor:
    """A number or an array of numbers as a tensor.

    Args:
        value: What the model gave.
        what: What it is, for the error.
        remedy: What to do instead, for the error.

    Raises:
        TensorError: It is neither, or elements of it are masked.
    """
    if type(value) is float:
        return value
    if isinstance(value, tuple | dict | set | str | bytes) or value is None:
        raise TensorError(
            f"{what} is a {type(value).__name__}, not a number or an array of numbers; {remedy}"
        )
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TensorError(f"{what} has masked elements, and PPX would see what is behind the mask; {remedy}")
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biuf":
            raise TypeError
        array = np.ascontiguousarray(given, np.float64).reshape(given.shape)
    except (TypeError, ValueError, OverflowError):
        raise TensorError(
            f"{what} is a {type(value).__name__}, not a number or an array of numbers; {remedy}"
        ) from None
    return float(array) if array.ndim == 0 else array

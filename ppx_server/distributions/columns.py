"""Densities and coordinates of draws of mixed families: one pass per family, no Python per draw.

Letters: N draws, P distinct parameter vectors, A addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppx_server.distributions.family import Family, Floats
from ppx_server.distributions.table import FAMILIES, FAMILY_BY_CODE
from ppx_server.errors import DistributionError

if TYPE_CHECKING:
    from ppx_server.address import Address
    from ppx_server.trace import Params

_CHUNK = 1 << 15
"""Rows per pass: bounds the memory that the parameters of categorical draws take."""


def family_codes(addresses: Iterable[Address]) -> NDArray[np.uint8]:
    """Family code of every entry of an address table, as `(A,)`; 0 for tags and results."""
    return np.array([FAMILIES[a.family].code if a.family else 0 for a in addresses], np.uint8)


def log_prob_columns(value: ArrayLike, family: ArrayLike, params: Params, params_id: ArrayLike) -> Floats:
    """Log density (mass) of draws under their priors.

    Args:
        value: `(N,)` values.
        family: `(N,)` family codes, or one for all.
        params: P parameter vectors.
        params_id: `(N,)` rows of `params`.

    Returns:
        `(N,)`; -inf outside the support.

    Raises:
        DistributionError: A code is no family's, or a vector does not have the family's number of parameters.
    """
    return _columns(lambda f, x, p: f.log_prob(x, p), value, family, params, params_id)


def to_z_columns(value: ArrayLike, family: ArrayLike, params: Params, params_id: ArrayLike) -> Floats:
    """Standard coordinates of values; arguments as for `log_prob_columns`."""
    return _columns(lambda f, x, p: f.to_z(x, p), value, family, params, params_id)


def from_z_columns(z: ArrayLike, family: ArrayLike, params: Params, params_id: ArrayLike) -> Floats:
    """Values of standard coordinates `(N,)`; arguments as for `log_prob_columns`."""
    return _columns(lambda f, x, p: f.from_z(x, p), z, family, params, params_id)


def z_interval_columns(
    value: ArrayLike, family: ArrayLike, params: Params, params_id: ArrayLike
) -> tuple[Floats, Floats]:
    """Ends `(N,)`, `(N,)` of the coordinate intervals that give the values; arguments as for `log_prob_columns`."""
    low = _columns(lambda f, x, p: f.z_interval(x, p)[0], value, family, params, params_id)
    return low, _columns(lambda f, x, p: f.z_interval(x, p)[1], value, family, params, params_id)


def _columns(
    evaluate: Callable[[Family, Floats, tuple[Floats, ...]], Floats],
    x: ArrayLike,
    family: ArrayLike,
    params: Params,
    params_id: ArrayLike,
) -> Floats:
    x = np.asarray(x, np.float64)
    params_id = np.asarray(params_id, np.int64)
    codes = np.broadcast_to(np.asarray(family), x.shape)
    result = np.empty(x.shape)
    for group, size, rows in _groups(codes, np.diff(params.offsets)[params_id]):
        if group.name != "Categorical" and size != len(group.param_names):
            raise DistributionError(
                f"{group.name} takes {len(group.param_names)} parameters ({', '.join(group.param_names)}), "
                f"but the draw in row {rows[0]} has {size}; one number per parameter and scalar draw is needed"
            )
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            matrix = params.matrix(params_id[part])
            columns = (matrix,) if group.name == "Categorical" else tuple(matrix.T)
            result[part] = evaluate(group, x[part], columns)
    return result


def _groups(
    codes: NDArray[np.uint8], sizes: NDArray[np.int64]
) -> Iterator[tuple[Family, int, NDArray[np.int64]]]:
    """Rows of each family and number of parameters."""
    for code in np.flatnonzero(np.bincount(codes.astype(np.int64), minlength=1)):
        group = FAMILY_BY_CODE.get(int(code))
        if group is None:
            raise DistributionError(f"family code {code} is none of 1 to {len(FAMILY_BY_CODE)}")
        rows = np.flatnonzero(codes == code)
        own = sizes[rows]
        if (own == own[0]).all():
            yield group, int(own[0]), rows
            continue
        for size in np.unique(own):
            yield group, int(size), rows[own == size]

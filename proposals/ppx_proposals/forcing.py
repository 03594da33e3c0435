"""Draws that scripts force, the same ones in every execution; everything else is drawn.

Letters: K executions, D forced draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_server.errors import AddressError
from ppx_server.script import ScriptBatch
from ppx_server.trace import Floats, TraceBatch

Name = str | tuple[str, int]
"""A name, or (name, visit) for repeated visits."""


def name_and_visit(name: Name) -> tuple[str, int]:
    """A name alone is its first visit."""
    return (name, 0) if isinstance(name, str) else name


class ForcedDraws(NamedTuple):
    """Scalar draws, one of each address and visit.

    Attributes:
        address_id: `(D,)`.
        visit: `(D,)`.
    """

    address_id: NDArray[np.int32]
    visit: NDArray[np.int32]

    @classmethod
    def of(cls, traces: TraceBatch, names: Sequence[Name]) -> ForcedDraws:
        """Looks draws up in traces of the prior.

        Raises:
            AddressError: None of the traces makes a draw, it is ambiguous, or scripts cannot force it.
            ValueError: There is no name, or two names are one draw.
        """
        if not names or isinstance(names, str):
            raise ValueError(f"give a list of names of draws, not {names!r}")
        found = [_found(traces, *name_and_visit(name)) for name in names]
        if len(set(found)) < len(found):
            raise ValueError(f"{names!r} names a draw twice; name each once")
        address_id, visit = np.array(found, np.int32).T
        return cls(address_id, visit)

    def by_value(self, value: Floats, index: NDArray[np.int64], *, seed: int) -> ScriptBatch:
        """Scripts that force values `(K, D)`, with trace indices `(K,)`."""
        return self._scripts(value, np.full_like(value, np.nan), index, seed=seed)

    def by_z(self, z: Floats, index: NDArray[np.int64], *, seed: int) -> ScriptBatch:
        """Scripts that force standard coordinates `(K, D)`, with trace indices `(K,)`."""
        return self._scripts(np.full_like(z, np.nan), z, index, seed=seed)

    def _scripts(self, value: Floats, z: Floats, index: NDArray[np.int64], *, seed: int) -> ScriptBatch:
        count, size = value.shape
        if size != len(self.address_id):
            raise ValueError(
                f"there are {size} numbers for {len(self.address_id)} forced draws; give one for each"
            )
        return ScriptBatch(
            seed=seed,
            index=np.asarray(index, np.int64),
            offsets=np.arange(count + 1, dtype=np.int64) * size,
            address_id=np.tile(self.address_id, count),
            instance=np.tile(self.visit, count),
            value=np.ascontiguousarray(value, np.float64).ravel(),
            z=np.ascontiguousarray(z, np.float64).ravel(),
        )


def _found(traces: TraceBatch, name: str, visit: int) -> tuple[int, int]:
    """Id and visit of a draw."""
    addresses = traces.addresses
    made = [i for i in addresses.find(name) if (traces.rows([i], visit) >= 0).any()]
    if len(made) != 1:
        drawn = sorted(
            {addresses[int(i)].name or addresses[int(i)].address for i in np.unique(traces.address_id)}
        )
        raise AddressError(
            f"visit {visit} of {name!r} is {len(made)} draws of the prior (traces looked at: {len(traces)}); they make "
            f"the draws {', '.join(map(repr, drawn))}, and perhaps others that are left to the prior (control=False) "
            "and cannot be forced: name one of them, or give its full address"
        )
    rows = traces.rows(made, visit)
    if addresses[made[0]].shape != () or not traces.controlled[rows[rows >= 0]].all():
        raise AddressError(f"{name!r} cannot be forced: it is an array, or drawn with control=False")
    return made[0], visit

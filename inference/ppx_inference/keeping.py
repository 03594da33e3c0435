"""What engines keep of traces: all of them, or the draws and tags that somebody will look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ppx_inference.metropolis import compact
from ppx_server.address import AddressTable
from ppx_server.trace import TraceBatch
from ppx_server.uncontrolled import Uncontrolled

Kept = str | Sequence[str]
"""`"all"`, `"named"` (draws that have a name; all tags), or patterns of names and addresses of draws and tags."""

ALL = "all"
_NAMED = "named"


class Keeper:
    """Takes from traces what is to be kept. Weights, results and densities of observations always are.

    Args:
        keep: See `Kept`; patterns are those of `Simulator(uncontrolled=...)`.

    Raises:
        ValueError: It is something else.
    """

    def __init__(self, keep: Kept) -> None:
        if isinstance(keep, str) and keep not in (ALL, _NAMED):
            raise ValueError(
                f"keep is {keep!r}; give 'all', 'named', or a list of names, such as keep=[{keep!r}]"
            )
        self.said: str | list[str] = keep if isinstance(keep, str) else list(keep)
        self._patterns = Uncontrolled(() if isinstance(keep, str) else tuple(keep))
        self._addresses: AddressTable | None = None
        self._wanted: NDArray[np.bool_] = np.zeros(0, np.bool_)

    @property
    def keeps_all(self) -> bool:
        """Whether traces stay as they are."""
        return self.said == ALL

    def kept(self, traces: TraceBatch) -> TraceBatch:
        """The traces with what is to be kept of them."""
        if self.keeps_all:
            return traces
        wanted = self._look(traces.addresses)
        left = compact(traces.of_rows(np.flatnonzero(wanted[traces.address_id])))
        if self.said == _NAMED:
            return left
        return left.with_tags(np.flatnonzero(wanted[traces.tags.address_id]))

    def _look(self, addresses: AddressTable) -> NDArray[np.bool_]:
        """`(A,)`, which addresses are wanted; each is looked at once."""
        if self._addresses is not addresses:
            self._addresses, self._wanted = addresses, np.zeros(0, np.bool_)
        new = [addresses[i] for i in range(len(self._wanted), len(addresses))]
        if new:
            is_named = self.said == _NAMED
            wanted = [bool(a.name) if is_named else self._patterns.matches(a.address, a.name) for a in new]
            self._wanted = np.concatenate([self._wanted, np.array(wanted, np.bool_)])
        return self._wanted

"""The traces of a shard that is not full yet, and when it is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ppx_server.store import canonical
from ppx_server.trace import Floats, Ints, TraceBatch

SHARD_TRACES = 65_536
SHARD_BYTES = 32 << 20
"""A shard ends with the trace that reaches either of these. Sizes are those of `canonical.sizes`, which depend on the
traces only, so that shards end at the same traces however these arrive."""


class Buffer:
    """Traces waiting for their shard to be full.

    Args:
        number: Number of the shard.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.num_traces = 0
        self._num_bytes = 0
        self._parts: list[tuple[TraceBatch, Mapping[str, Floats]]] = []

    @property
    def full(self) -> bool:
        """Whether the shard ends here."""
        return self.num_traces >= SHARD_TRACES or self._num_bytes >= SHARD_BYTES

    @property
    def next_index(self) -> int:
        """One more than the last trace index; 0 if there is none."""
        return int(self._parts[-1][0].index[-1]) + 1 if self._parts else 0

    def add(self, batch: TraceBatch, extra: Mapping[str, Floats], sizes: Ints) -> int:
        """Takes traces until the shard is full; says how many.

        Args:
            batch: K traces, in the numbers of the store's address table.
            extra: Further columns, `(K,)` each.
            sizes: `(K,)`, see `canonical.sizes`.
        """
        total = self._num_bytes + np.cumsum(sizes)
        count = int(np.searchsorted(total, SHARD_BYTES, side="left")) + 1
        count = min(count, len(batch), SHARD_TRACES - self.num_traces)
        chosen = np.arange(count)
        taken = batch if count == len(batch) else canonical.compact(batch.select(chosen))
        self._parts.append((taken, {name: values[chosen] for name, values in extra.items()}))
        self.num_traces += count
        self._num_bytes = int(total[count - 1])
        return count

    def merged(self) -> tuple[TraceBatch, dict[str, Floats]]:
        """All its traces, their parameters interned, and the further columns."""
        batches, extras = zip(*self._parts, strict=True)
        extra = {name: np.concatenate([e[name] for e in extras]) for name in extras[0]}
        return canonical.interned(TraceBatch.concatenate(batches)), extra

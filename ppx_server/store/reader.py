"""Shards read back: checked, mapped into memory, whole or trace by trace."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppx_server.address import AddressTable
from ppx_server.errors import StoreError
from ppx_server.store.canonical import compact
from ppx_server.store.manifest import Shard, check_intact
from ppx_server.store.shard import Mapped, from_record_batch, read_record_batch, widened
from ppx_server.trace import Floats, Ids, Ints, LoopTable, Params, Status, TensorTable, TraceBatch

_MAX_MAPPED = 64
"""Shards that are mapped at the same time; each keeps a file open."""


class ShardReader:
    """Reads the shards of one store.

    Args:
        path: The store's directory.
        addresses: Its address table.
    """

    def __init__(self, path: Path, addresses: AddressTable) -> None:
        self._path = path
        self._addresses = addresses
        self._intact: set[str] = set()
        self._mapped: OrderedDict[str, Mapped] = OrderedDict()

    def load(self, shard: Shard, seed: int) -> Mapped:
        """A shard, whose checksum is compared when it is read for the first time.

        Raises:
            StoreError: It is damaged.
        """
        if (mapped := self._mapped.get(shard.file)) is not None:
            self._mapped.move_to_end(shard.file)
            return mapped
        path = self._path / shard.file
        try:
            if shard.file not in self._intact:
                check_intact(path, shard)
            record = read_record_batch(path)
            mapped = from_record_batch(record, self._addresses, seed, num_traces=shard.num_traces)
            _compare(mapped.traces, shard)
        except (StoreError, OSError) as error:
            raise StoreError(
                f"cannot read {path} (traces {shard.first} to {shard.first + shard.num_traces - 1}): {error}; "
                "restore the file from a copy, or repeat the run into a new store"
            ) from error
        self._intact.add(shard.file)
        self._mapped[shard.file] = mapped
        if len(self._mapped) > _MAX_MAPPED:
            self._mapped.popitem(last=False)
        return mapped

    def select(self, shards: Sequence[Shard], seed: int, positions: Ints) -> TraceBatch:
        """Traces at `(R,)` positions in the store, R > 0, in the given order; their pages alone are read.

        Raises:
            StoreError: A shard is damaged.
            IndexError: A position is beyond the shards.
        """
        size = sum(s.num_traces for s in shards)
        if positions.min() < 0 or positions.max() >= size:
            raise IndexError(f"the store holds traces at positions 0 to {size - 1}")
        numbers = np.searchsorted([s.first for s in shards], positions, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        parts = []
        for number in np.unique(numbers).tolist():
            rows = positions[order][numbers[order] == number] - shards[number].first
            parts.append(widened(compact(self.load(shards[number], seed).traces.select(rows))))
        return TraceBatch.concatenate(parts).select(np.argsort(order, kind="stable"))


def _compare(traces: TraceBatch, shard: Shard) -> None:
    """Raises StoreError if traces are not those that the manifest tells of."""
    found = (int((traces.status == Status.FAILED).sum()), int(traces.index.min()), int(traces.index.max()))
    if found != (shard.num_failed, shard.min_index, shard.max_index):
        raise StoreError(
            f"it holds something else than the manifest says: {found[0]} failed traces, "
            f"indices {found[1]} to {found[2]}"
        )


def no_traces(addresses: AddressTable, seed: int) -> TraceBatch:
    """A batch without traces."""
    ids: Ids = np.empty(0, np.int32)
    flags = np.empty(0, np.uint8)
    none: Floats = np.empty(0)
    offsets = np.zeros(1, np.int64)
    table = TensorTable.empty(0)
    return TraceBatch(
        addresses=addresses,
        seed=seed,
        index=np.empty(0, np.int64),
        status=flags,
        offsets=offsets,
        address_id=ids,
        instance=ids,
        params_id=ids,
        params=Params(none, offsets),
        value=none,
        z=none,
        log_prob=none,
        log_q=none,
        flags=flags,
        observations=table,
        tags=table,
        results=table,
        loops=LoopTable.empty(0),
    )

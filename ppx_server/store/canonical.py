"""Traces in the one form that depends on nothing but the traces.

Which batches a run came in, and from which simulators, shows in the numbering of addresses and in which parameter
vectors are shared. Here both are made functions of the traces and their order, so that a store has the same bytes
however it was filled.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ppx_server.address import AddressTable
from ppx_server.trace import Ids, Ints, Params, TraceBatch, gather, segment_sum

_TRACE_BYTES, _DRAW_BYTES, _ROW_BYTES, _LOOP_BYTES, _NUMBER_BYTES = 64, 48, 32, 16, 8


def sizes(batch: TraceBatch) -> Ints:
    """What each trace counts for when a shard is filled, `(K,)` bytes: about its size in memory."""
    vectors = np.diff(batch.params.offsets)[batch.params_id]
    total = segment_sum(_DRAW_BYTES + _NUMBER_BYTES * vectors, batch.offsets)
    for table in (batch.observations, batch.tags, batch.results):
        rows = _ROW_BYTES + _NUMBER_BYTES * np.diff(table.data_offsets)
        total = total + segment_sum(rows, table.offsets)
    total = total + _TRACE_BYTES + _LOOP_BYTES * np.diff(batch.loops.offsets)
    if batch.failures:
        total = total + [len(batch.failures.get(i, "").encode()) for i in batch.index.tolist()]
    return np.asarray(total, np.int64)


def renumbered(batch: TraceBatch, addresses: AddressTable) -> TraceBatch:
    """The batch in the numbers of another table, which gets what is new in the order in which the traces visit it.

    Within a trace draws count before observations, these before tags, results and rejection loops.

    Args:
        batch: K traces.
        addresses: The table; addresses that no trace of the batch visits are not added.
    """
    remap = np.full(len(batch.addresses), -1, np.int32)
    for address_id in _in_order_of_visit(batch):
        remap[address_id] = addresses.intern(batch.addresses[address_id])
    return replace(
        batch,
        addresses=addresses,
        address_id=remap[batch.address_id],
        observations=replace(batch.observations, address_id=remap[batch.observations.address_id]),
        tags=replace(batch.tags, address_id=remap[batch.tags.address_id]),
        results=replace(batch.results, address_id=remap[batch.results.address_id]),
        loops=replace(batch.loops, address_id=remap[batch.loops.address_id]),
    )


def num_addresses(batch: TraceBatch) -> int:
    """How many entries of the address table the traces need, counted from its first."""
    return max((1 + int(ids.max()) for _, ids in _columns(batch) if len(ids)), default=0)


def interned(batch: TraceBatch) -> TraceBatch:
    """The batch with a parameter vector of its own for every draw that has others than the draw before it.

    "Before it" means the row before it with the same address, of this or an earlier trace of the batch. Vectors are
    numbered by address, then in the order of the draws.
    """
    params = batch.params
    # 16-bit keys are sorted in linear time.
    narrow = len(batch.addresses) <= np.iinfo(np.uint16).max
    order = np.argsort(batch.address_id.astype(np.uint16) if narrow else batch.address_id, kind="stable")
    address_id, params_id = batch.address_id[order], batch.params_id[order].astype(np.int64)
    new = np.ones(len(order), np.bool_)
    new[1:] = address_id[1:] != address_id[:-1]
    doubtful = np.flatnonzero(~new[1:] & (params_id[1:] != params_id[:-1])) + 1
    new[doubtful] = ~_equal(params, params_id[doubtful - 1], params_id[doubtful])
    renamed = np.empty(len(order), np.int32)
    renamed[order] = np.cumsum(new) - 1
    positions, offsets = gather(params.offsets, params_id[new])
    return replace(batch, params_id=renamed, params=Params(params.data[positions], offsets))


def compact(batch: TraceBatch) -> TraceBatch:
    """The batch without the parameter vectors and failures that none of its traces has."""
    used, params_id = np.unique(batch.params_id, return_inverse=True)
    positions, offsets = gather(batch.params.offsets, used)
    params = Params(batch.params.data[positions], offsets)
    failures = {i: batch.failures[i] for i in batch.index.tolist() if i in batch.failures}
    return replace(batch, params_id=params_id.astype(np.int32), params=params, failures=failures)


def _columns(batch: TraceBatch) -> list[tuple[Ints, Ids]]:
    """Offsets and address ids of everything that has an address."""
    tables = (batch, batch.observations, batch.tags, batch.results, batch.loops)
    return [(table.offsets, table.address_id) for table in tables]


def _in_order_of_visit(batch: TraceBatch) -> list[int]:
    """The address ids that occur, by first visit."""
    visits = []
    for number, (offsets, ids) in enumerate(_columns(batch)):
        first = np.full(len(batch.addresses), -1, np.int64)
        first[ids[::-1]] = np.arange(len(ids))[
            ::-1
        ]  # in reverse, so that the first row is the one that stays
        present = np.flatnonzero(first >= 0)
        rows = first[present]
        traces = np.searchsorted(offsets, rows, side="right") - 1
        visits.append(np.stack([present, rows, np.full_like(rows, number), traces]))
    keys = np.concatenate(visits, axis=1)
    ids = keys[0, np.lexsort(keys[1:])].tolist()
    return list(dict.fromkeys(ids))


def _equal(params: Params, first: Ints, second: Ints) -> NDArray[np.bool_]:
    """Which pairs of vectors are the same, bit by bit."""
    lengths = np.diff(params.offsets)
    same: NDArray[np.bool_] = lengths[first] == lengths[second]
    bits = np.ascontiguousarray(params.data).view(np.int64)
    ours, offsets = gather(params.offsets, first[same])
    theirs, _ = gather(params.offsets, second[same])
    differing = segment_sum((bits[ours] != bits[theirs]).astype(np.float64), offsets)
    same[same] = differing == 0
    return same

"""What must hold between the columns of a batch, whoever wrote them: checked before sending and after receiving.

Letters as in schema/ppx.fbs: K scripts or executions, C forced choices, N draws, P parameter vectors, M rows of a
tensor table, R rejection loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

import numpy as np
from numpy.typing import NDArray

from ppx_server.protocol.events import (
    BatchResult,
    Bytes,
    Failure,
    Ids,
    LoopColumns,
    Observation,
    RunBatch,
    TensorColumns,
    WireAddress,
)
from ppx_server.protocol.wire import MAX_BYTES

_FAILED = 1
_STATUSES = 3
_FLAGS = 1 | 2 | 8
_IDS = 2**31
_DRAWS = 2**33
"""Random numbers of a stream, and so draws of a trace."""


class ColumnsError(ValueError):
    """Columns that do not fit together, and where."""


def check_run_batch(event: RunBatch) -> None:
    """Checks what the docstring of `RunBatch` promises."""
    rows = len(event.address)
    _check_length(event.instance, rows, "instance")
    _check_length(event.value, rows, "value")
    _check_length(event.z, rows, "z")
    _check_offsets(event.offsets, len(event.index), rows, "offsets")
    _check_ids(event.address, _IDS, "address")
    _check_ids(event.instance, _IDS, "instance")
    _check_addresses(event.first_address, event.addresses)
    if event.observations:
        if event.observations_id == 0:
            raise ColumnsError("observations have the number 0, which stands for none")
        if len({(o.name, o.visit) for o in event.observations}) < len(event.observations):
            raise ColumnsError("observations give a (name, visit) twice")
        for observation in event.observations:
            _check_observation(observation)


def check_batch_result(event: BatchResult) -> None:
    """Checks what the docstring of `BatchResult` promises."""
    count, rows, vectors = len(event.status), len(event.address), len(event.params_offsets) - 1
    _check_length(event.instance, rows, "instance")
    _check_length(event.params, rows, "params")
    _check_length(event.value, rows, "value")
    _check_length(event.z, rows, "z")
    _check_length(event.log_prob, rows, "log_prob")
    _check_length(event.flags, rows, "flags")
    _check_offsets(event.offsets, count, rows, "offsets")
    _check_offsets(event.params_offsets, vectors, len(event.params_data), "params_offsets")
    _check_ids(event.address, _IDS, "address")
    _check_ids(event.instance, _IDS, "instance")
    _check_ids(event.params, vectors, "params")
    if count and np.maximum.reduce(event.status) >= _STATUSES:
        raise ColumnsError(f"status has {event.status.max()}; it is 0, 1 or 2")
    if rows and np.bitwise_or.reduce(event.flags) & ~np.uint8(_FLAGS):
        raise ColumnsError(f"flags have bits other than those of {_FLAGS}")
    if not 0 <= event.seconds < inf:
        raise ColumnsError(f"seconds is {event.seconds}")
    _check_tensors(event.observations, count, "observations")
    _check_length(event.observations.log_prob, len(event.observations.address), "observations.log_prob")
    for name, table in (("tags", event.tags), ("results", event.results)):
        _check_tensors(table, count, name)
        _check_length(table.log_prob, 0, f"{name}.log_prob")
    ends = event.results.offsets
    if len(event.results.address) and np.count_nonzero(ends[1:] - ends[:-1] > 1):
        raise ColumnsError("results have more than one row for a trace")
    _check_loops(event.loops, event.offsets)
    if len(event.ordinal):
        _check_ordinals(event.ordinal, event.offsets)
    _check_failures(event.failures, event.status)
    _check_addresses(event.first_address, event.addresses)


def _check_observation(observation: Observation) -> None:
    _, visit, value, missing = observation
    size = np.size(value)
    if missing is not None:
        if len(missing) != max(size, 1):
            raise ColumnsError(f"missing has {len(missing)} elements for an observation of {size}")
        if np.maximum.reduce(missing) > 1 or not (size or missing[0]):
            raise ColumnsError("missing has something else than 0 and 1, or 0 for nothing")
    if visit < (-1 if missing is not None and size == 0 else 0):
        raise ColumnsError("observations have a negative visit")


def _check_length(column: NDArray[np.generic], rows: int, what: str) -> None:
    if len(column) != rows:
        raise ColumnsError(f"column {what} has {len(column)} elements instead of {rows}")


def _check_offsets(offsets: Ids, count: int, rows: int, what: str) -> None:
    if len(offsets) != count + 1:
        raise ColumnsError(f"column {what} has {len(offsets)} elements instead of {count + 1}")
    if offsets[0] != 0 or offsets[-1] != rows:
        raise ColumnsError(
            f"column {what} goes from {offsets[0]} to {offsets[-1]} instead of from 0 to {rows}"
        )
    if np.count_nonzero(offsets[1:] < offsets[:-1]):
        raise ColumnsError(f"column {what} decreases")


def _check_ids(ids: Ids, limit: int, what: str) -> None:
    # as unsigned numbers, the negative ones are the largest
    if len(ids) and np.maximum.reduce(ids.view(np.uint32)) >= limit:
        wrong = ids[ids.view(np.uint32) >= limit][0]
        raise ColumnsError(f"column {what} has {wrong}; its numbers go from 0 to {limit - 1}")


def _check_tensors(table: TensorColumns, count: int, what: str) -> None:
    rows = len(table.address)
    _check_length(table.instance, rows, f"{what}.instance")
    _check_offsets(table.offsets, count, rows, f"{what}.offsets")
    _check_offsets(table.data_offsets, rows, len(table.data), f"{what}.data_offsets")
    _check_ids(table.address, _IDS, f"{what}.address")
    _check_ids(table.instance, _IDS, f"{what}.instance")


def _check_loops(loops: LoopColumns, offsets: Ids) -> None:
    rows = len(loops.address)
    _check_length(loops.begin, rows, "loops.begin")
    _check_length(loops.end, rows, "loops.end")
    _check_offsets(loops.offsets, len(offsets) - 1, rows, "loops.offsets")
    _check_ids(loops.address, _IDS, "loops.address")
    if not rows:
        return
    trace = np.repeat(np.arange(len(offsets) - 1), np.diff(loops.offsets))
    draws = np.diff(offsets)[trace]
    if ((loops.begin < 0) | (loops.begin > loops.end) | (loops.end > draws)).any():
        raise ColumnsError("a rejection loop lies outside its trace")
    if ((loops.begin[1:] < loops.begin[:-1]) & (trace[1:] == trace[:-1])).any():
        raise ColumnsError("rejection loops are not in the order in which they began")


def _check_ordinals(ordinal: NDArray[np.uint64], offsets: Ids) -> None:
    _check_length(ordinal, int(offsets[-1]), "ordinal")
    grows = ordinal[1:] > ordinal[:-1]
    starts = offsets[1:-1]
    grows[starts[(starts > 0) & (starts < len(ordinal))] - 1] = True
    if not grows.all() or np.maximum.reduce(ordinal) > _DRAWS:
        raise ColumnsError(f"column ordinal does not increase within each trace, or is beyond {_DRAWS}")


def _check_failures(failures: Sequence[Failure], status: Bytes) -> None:
    failed = np.flatnonzero(status == _FAILED) if len(status) else ()
    if len(failures) != len(failed) or sorted(failure.trace for failure in failures) != list(failed):
        raise ColumnsError(
            f"failures are not those of the {len(failed)} traces of status {_FAILED}, one for each"
        )


def _check_addresses(first: int, addresses: Sequence[WireAddress]) -> None:
    if first < 0 or first + len(addresses) > _IDS:
        raise ColumnsError(f"addresses are numbered from {first}; numbers go from 0 to {_IDS - 1}")
    for address in addresses:
        if address.shape and (min(address.shape) < 0 or 8 * prod(address.shape) > MAX_BYTES):
            raise ColumnsError(f"address {address.address[:200]!r} has an impossible shape {address.shape}")

"""Reads batches: their columns are views of the message, checked as a whole."""

from __future__ import annotations

import numpy as np

from ppx_server.protocol.columns import check_batch_result, check_run_batch
from ppx_server.protocol.events import (
    BatchResult,
    Failure,
    FailureKind,
    Floats,
    Ids,
    LoopColumns,
    Observation,
    RunBatch,
    TensorColumns,
    WireAddress,
)
from ppx_server.protocol.reader import (
    F64,
    U32,
    Buffer,
    MalformedError,
    Room,
    column,
    entries,
    integer,
    quote,
    shape,
    string,
    tables,
    unsigned,
    value,
)
from ppx_server.protocol.wire import FAMILY_NAMES

_ENTRY_BYTES = 8  # of a table in a vector, at least: the reference and the table itself


def _no_segments(count: int) -> Ids:
    none = np.zeros(count + 1, np.int32)
    none.flags.writeable = False
    return none


_NO_VECTORS = _no_segments(0)
_NO_IDS: Ids = np.frombuffer(b"", np.int32)
_NO_FLOATS: Floats = np.frombuffer(b"", np.float64)


def run_batch(data: Buffer, table: int) -> RunBatch:
    """Reads a RunBatch."""
    (
        batch,
        seed,
        index,
        ask,
        offsets,
        address,
        instance,
        given,
        z,
        first_address,
        addresses,
        observations_id,
        observations,
    ) = entries(data, table, 13)
    indices = column(data, table, index, "<u8")
    event = RunBatch(
        unsigned(data, table, batch),
        unsigned(data, table, seed),
        indices,
        bool(ask and data[table + ask]),
        _offsets(data, table, offsets, _no_segments(len(indices))),
        column(data, table, address, "<i4"),
        column(data, table, instance, "<i4"),
        column(data, table, given, "<f8"),
        column(data, table, z, "<f8"),
        integer(data, table, first_address),
        _addresses(data, table, addresses) if addresses else (),
        unsigned(data, table, observations_id),
        _observations(data, table, observations) if observations else None,
    )
    check_run_batch(event)
    return event


def batch_result(data: Buffer, table: int) -> BatchResult:
    """Reads a BatchResult."""
    found = entries(data, table, 21)
    statuses = column(data, table, found[2], "|u1")
    none = _no_segments(len(statuses))
    event = BatchResult(
        unsigned(data, table, found[0]),
        F64(data, table + found[1])[0] if found[1] else 0.0,
        statuses,
        _offsets(data, table, found[3], none),
        column(data, table, found[4], "<i4"),
        column(data, table, found[5], "<i4"),
        column(data, table, found[6], "<i4"),
        column(data, table, found[7], "<f8"),
        column(data, table, found[8], "<f8"),
        column(data, table, found[9], "<f8"),
        column(data, table, found[10], "|u1"),
        _offsets(data, table, found[11], _NO_VECTORS),
        column(data, table, found[12], "<f8"),
        _tensor_columns(data, table, found[13], none),
        _tensor_columns(data, table, found[14], none),
        _tensor_columns(data, table, found[15], none),
        _loop_columns(data, table, found[16], none),
        _failures(data, table, found[17]) if found[17] else (),
        integer(data, table, found[18]),
        _addresses(data, table, found[19]) if found[19] else (),
        column(data, table, found[20], "<u8"),
    )
    check_batch_result(event)
    return event


def _offsets(data: Buffer, table: int, entry: int, none: Ids) -> Ids:
    """Offsets; absent or empty, those of empty segments."""
    found: Ids = column(data, table, entry, "<i4")
    return found if len(found) else none


def _tensor_columns(data: Buffer, table: int, entry: int, none: Ids) -> TensorColumns:
    if not entry:
        return TensorColumns(none, _NO_IDS, _NO_IDS, _NO_VECTORS, _NO_FLOATS, _NO_FLOATS)
    columns = table + entry
    columns += U32(data, columns)[0]
    offsets, address, instance, data_offsets, elements, log_prob = entries(data, columns, 6)
    addresses: Ids = column(data, columns, address, "<i4")
    return TensorColumns(
        _offsets(data, columns, offsets, none),
        addresses,
        column(data, columns, instance, "<i4"),
        _data_offsets(data, columns, data_offsets, len(addresses)),
        column(data, columns, elements, "<f8"),
        column(data, columns, log_prob, "<f8"),
    )


def _data_offsets(data: Buffer, table: int, entry: int, rows: int) -> Ids:
    found: Ids = column(data, table, entry, "<i4")
    return found if len(found) else _no_segments(rows)


def _loop_columns(data: Buffer, table: int, entry: int, none: Ids) -> LoopColumns:
    if not entry:
        return LoopColumns(none, _NO_IDS, _NO_IDS, _NO_IDS)
    columns = table + entry
    columns += U32(data, columns)[0]
    offsets, address, begin, end = entries(data, columns, 4)
    return LoopColumns(
        _offsets(data, columns, offsets, none),
        column(data, columns, address, "<i4"),
        column(data, columns, begin, "<i4"),
        column(data, columns, end, "<i4"),
    )


def _addresses(data: Buffer, table: int, entry: int) -> tuple[WireAddress, ...]:
    room, found = Room(len(data), "addresses"), []
    for place in tables(data, table, entry, "addresses"):
        address, name, family, axes = entries(data, place, 4)
        full = string(data, place, address, "an address")
        code = data[place + family] if family else 0
        if code > len(FAMILY_NAMES):
            raise MalformedError(
                f"unknown distribution code {code} at address {quote(full)}; "
                f"this side knows 1 to {len(FAMILY_NAMES)}"
            )
        found.append(
            WireAddress(
                full,
                string(data, place, name, "the name of an address"),
                FAMILY_NAMES[code - 1] if code else "",
                shape(data, place, axes, f"address {quote(full)}"),
            )
        )
        room.take(_ENTRY_BYTES + len(full) + len(found[-1].name) + 4 * len(found[-1].shape))
    return tuple(found)


def _observations(data: Buffer, table: int, entry: int) -> tuple[Observation, ...]:
    room, found = Room(len(data), "observations"), []
    for place in tables(data, table, entry, "observations"):
        name, visit, given, missing = entries(data, place, 4)
        label = string(data, place, name, "the name of an observation")
        tensor = value(data, place, given, f"the observation {quote(label)}")
        mask = column(data, place, missing, "|u1") if missing else None
        found.append(Observation(label, integer(data, place, visit), tensor, mask))
        masked = 0 if mask is None else len(mask)
        room.take(_ENTRY_BYTES + len(label) + 8 * np.size(tensor) + 4 * np.ndim(tensor) + masked)
    return tuple(found)


def _failures(data: Buffer, table: int, entry: int) -> tuple[Failure, ...]:
    room, found = Room(len(data), "failures"), []
    for place in tables(data, table, entry, "failures"):
        trace, kind, message = entries(data, place, 3)
        code = data[place + kind] if kind else 0
        if code >= len(FailureKind):
            raise MalformedError(
                f"unknown kind of failure {code}; this side knows 0 to {len(FailureKind) - 1}"
            )
        text = string(data, place, message, "the message of a failure")
        found.append(Failure(integer(data, place, trace), FailureKind(code), text))
        room.take(_ENTRY_BYTES + len(text))
    return tuple(found)

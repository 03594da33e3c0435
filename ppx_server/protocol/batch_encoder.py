"""Writes batches: each column is copied once."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppx_server.errors import LocalProtocolError
from ppx_server.protocol.capabilities import check_family, check_missing
from ppx_server.protocol.columns import ColumnsError, check_batch_result, check_run_batch
from ppx_server.protocol.events import (
    BatchResult,
    Failure,
    LoopColumns,
    Observation,
    RunBatch,
    TensorColumns,
    WireAddress,
)
from ppx_server.protocol.layout import (
    Field,
    Integers,
    Octets,
    Table,
    Tables,
    TensorOf,
    Word,
    doubles,
    head,
    vectors,
)
from ppx_server.protocol.skeleton import TABLES, Fields, Filling, Skeleton
from ppx_server.protocol.wire import FAMILY_CODES, MESSAGE_CODES

_TENSOR_COLUMNS: Fields = ("[int]", "[int]", "[int]", "[int]", "[double]", "[double]")
_LOOP_COLUMNS: Fields = ("[int]", "[int]", "[int]", "[int]")
_RUN_BATCH = Skeleton(
    MESSAGE_CODES[RunBatch],
    (
        "ulong",  # batch
        "ulong",  # seed
        "[ulong]",  # index
        "bool",  # ask
        "[int]",  # offsets
        "[int]",  # address
        "[int]",  # instance
        "[double]",  # value
        "[double]",  # z
        "int",  # first_address
        TABLES,  # addresses
        "ulong",  # observations_id
        TABLES,  # observations
    ),
)
_BATCH_RESULT_FIELDS: Fields = (
    "ulong",  # batch
    "double",  # seconds
    "[ubyte]",  # status
    "[int]",  # offsets
    "[int]",  # address
    "[int]",  # instance
    "[int]",  # params
    "[double]",  # value
    "[double]",  # z
    "[double]",  # log_prob
    "[ubyte]",  # flags
    "[int]",  # params_offsets
    "[double]",  # params_data
    _TENSOR_COLUMNS,  # observations
    _TENSOR_COLUMNS,  # tags
    _TENSOR_COLUMNS,  # results
    _LOOP_COLUMNS,  # loops
    TABLES,  # failures
    "int",  # first_address
    TABLES,  # addresses
    "[ulong]",  # ordinal
)
_BATCH_RESULT = Skeleton(MESSAGE_CODES[BatchResult], _BATCH_RESULT_FIELDS)
_ALL_HAVE_ROWS = Skeleton(MESSAGE_CODES[BatchResult], _BATCH_RESULT_FIELDS[:-1])
_BYTES, _INTS, _LONGS, _DOUBLES = map(np.dtype, ("|u1", "<i4", "<u8", "<f8"))


def run_batch(event: RunBatch, peer_capabilities: Collection[str]) -> bytes:
    """Writes a RunBatch."""
    event = event._replace(
        index=_column(event.index, _LONGS, "index"),
        offsets=_column(event.offsets, _INTS, "offsets"),
        address=_column(event.address, _INTS, "address"),
        instance=_column(event.instance, _INTS, "instance"),
        value=_column(event.value, _DOUBLES, "value"),
        z=_column(event.z, _DOUBLES, "z"),
    )
    try:
        check_run_batch(event)
    except ColumnsError as error:
        raise LocalProtocolError(f"a RunBatch cannot be sent: {error}") from error
    (
        batch,
        seed,
        index,
        ask,
        offsets,
        address,
        instance,
        value,
        z,
        first,
        addresses,
        number,
        observations,
    ) = event
    return _fill(
        _RUN_BATCH,
        "RunBatch",
        [
            batch,
            seed,
            _present(index),
            ask,
            offsets if len(address) else None,
            _present(address),
            _present(instance),
            _present(value),
            _present(z),
            first,
            _addresses(addresses, peer_capabilities),
            number,
            None if observations is None else _observations(observations, peer_capabilities),
        ],
    )


def batch_result(event: BatchResult, peer_capabilities: Collection[str]) -> bytes:
    """Writes a BatchResult."""
    event = event._replace(
        status=_column(event.status, _BYTES, "status"),
        offsets=_column(event.offsets, _INTS, "offsets"),
        address=_column(event.address, _INTS, "address"),
        instance=_column(event.instance, _INTS, "instance"),
        params=_column(event.params, _INTS, "params"),
        value=_column(event.value, _DOUBLES, "value"),
        z=_column(event.z, _DOUBLES, "z"),
        log_prob=_column(event.log_prob, _DOUBLES, "log_prob"),
        flags=_column(event.flags, _BYTES, "flags"),
        params_offsets=_column(event.params_offsets, _INTS, "params_offsets"),
        params_data=_column(event.params_data, _DOUBLES, "params_data"),
        observations=_tensor_columns(event.observations, "observations"),
        tags=_tensor_columns(event.tags, "tags"),
        results=_tensor_columns(event.results, "results"),
        ordinal=_column(event.ordinal, _LONGS, "ordinal"),
        loops=LoopColumns(*(_column(c, _INTS, f"loops.{n}") for n, c in event.loops._asdict().items())),
    )
    try:
        check_batch_result(event)
    except ColumnsError as error:
        raise LocalProtocolError(f"a BatchResult cannot be sent: {error}") from error
    rows = len(event.address)
    left_out = len(event.ordinal) > 0
    return _fill(
        _BATCH_RESULT if left_out else _ALL_HAVE_ROWS,
        "BatchResult",
        [
            event.batch,
            event.seconds,
            _present(event.status),
            event.offsets if rows else None,
            _present(event.address),
            _present(event.instance),
            _present(event.params),
            _present(event.value),
            _present(event.z),
            _present(event.log_prob),
            _present(event.flags),
            event.params_offsets if len(event.params_offsets) > 1 else None,
            _present(event.params_data),
            *_tensor_fillings(event.observations),
            *_tensor_fillings(event.tags),
            *_tensor_fillings(event.results),
            event.loops.offsets if len(event.loops.address) else None,
            *map(_present, event.loops[1:]),
            _failures(event.failures),
            event.first_address,
            _addresses(event.addresses, peer_capabilities),
            *([event.ordinal] if left_out else []),
        ],
    )


def _fill(skeleton: Skeleton, kind: str, fillings: list[Filling]) -> bytes:
    try:
        return skeleton.fill(fillings)
    except struct.error as error:
        raise LocalProtocolError(
            f"a {kind} cannot be sent: a number does not fit its field: {error}"
        ) from error


def _column(column: NDArray[Any], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    """The column as a contiguous vector of the wire's type, with the same numbers."""
    given = np.asarray(column)
    if given.ndim != 1:
        raise LocalProtocolError(f"column {what} has {given.ndim} axes; a column has one")
    if given.dtype == dtype:
        return np.ascontiguousarray(given)
    if not given.size:
        return np.empty(0, dtype)
    if given.dtype.kind in "biuf":
        with np.errstate(invalid="ignore"):
            converted = given.astype(dtype)
        if np.array_equal(converted, given, equal_nan=True):
            return converted
    raise LocalProtocolError(f"column {what} of type {given.dtype} has values that {dtype} cannot hold")


def _tensor_columns(table: TensorColumns, what: str) -> TensorColumns:
    offsets, address, instance, data_offsets, elements, log_prob = table
    return TensorColumns(
        _column(offsets, _INTS, f"{what}.offsets"),
        _column(address, _INTS, f"{what}.address"),
        _column(instance, _INTS, f"{what}.instance"),
        _column(data_offsets, _INTS, f"{what}.data_offsets"),
        _column(elements, _DOUBLES, f"{what}.data"),
        _column(log_prob, _DOUBLES, f"{what}.log_prob"),
    )


def _tensor_fillings(table: TensorColumns) -> list[Filling]:
    rows = len(table.address)
    return [
        table.offsets if rows else None,
        _present(table.address),
        _present(table.instance),
        table.data_offsets if rows else None,
        _present(table.data),
        _present(table.log_prob),
    ]


def _present(column: NDArray[Any]) -> NDArray[Any] | None:
    """Empty columns are left out."""
    return column if len(column) else None


def _addresses(addresses: Sequence[WireAddress], peer_capabilities: Collection[str]) -> bytes | None:
    if not addresses:
        return None
    rows = []
    for address, name, family, shape in addresses:
        if family:
            check_family(family, address, peer_capabilities)
        rows.append(Table((address, name, FAMILY_CODES[family] if family else 0, Integers(shape))))
    return head(Tables(tuple(rows)))


def _observations(observations: Sequence[Observation], peer_capabilities: Collection[str]) -> bytes:
    arrays, rows = [], []
    for name, visit, value, missing in observations:
        arrays.append(doubles(value, f"the observation {name!r}"))
        fields: tuple[Field, ...] = (name, Word(visit), TensorOf(arrays[-1].shape))
        if missing is not None:
            check_missing(name, peer_capabilities)
            fields += (Octets(_column(missing, _BYTES, "missing").tobytes()),)
        rows.append(Table(fields))
    return b"".join([head(Tables(tuple(rows))), *vectors(arrays)])


def _failures(failures: Sequence[Failure]) -> bytes | None:
    if not failures:
        return None
    return head(Tables(tuple(Table((Word(trace), int(kind), message)) for trace, kind, message in failures)))

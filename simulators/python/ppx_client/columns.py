"""The messages of batches: scripts come in columns, traces leave in columns.

Letters as in the schema: K scripts, C forced choices; N draws, P parameter vectors, M rows of a table of tensors.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppx_client import wire
from ppx_client.buffers import Column, Inline, MalformedError, Reader, Table
from ppx_client.wire import Body

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ppx_client.buffers import Tensor

_U64, _F64, _I32 = Struct("<Q"), Struct("<d"), Struct("<i")

COMPLETE, FAILED, PENDING = 0, 1, 2
"""How a trace ended."""
CONTROLLED, FORCED, NOT_CHOSEN = 1, 2, 8
"""Flags of a draw."""
MODEL, OBSERVATION, CHOICE, DENSITY = 0, 1, 2, 3
"""Why a trace failed."""


class Address(NamedTuple):
    """What a number in columns stands for.

    Attributes:
        address: Enclosing scopes, then the name or the call site.
        name: The name, empty if there is none.
        family: Code of the family, 0 for tags, results and rejection loops.
        shape: Of the value.
    """

    address: str
    name: str
    family: int
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class RunBatch:
    """A RunBatch message; fields as in the schema.

    Attributes:
        observations: The values by name and visit, None where the set last sent is meant.
    """

    batch: int
    seed: int
    index: NDArray[np.uint64]
    ask: bool
    offsets: NDArray[np.int32]
    address: NDArray[np.int32]
    instance: NDArray[np.int32]
    value: NDArray[np.float64]
    z: NDArray[np.float64]
    first_address: int
    addresses: list[Address]
    observations_id: int
    observations: dict[tuple[str, int], Tensor] | None


def decode_run_batch(data: bytes) -> RunBatch:
    """Reads a RunBatch message.

    Raises:
        MalformedError: It is none, or its columns' lengths disagree.
    """
    reader = Reader(data)
    table = reader.child(reader.reference(0), 1)
    index = reader.column(table, 2, "<u8")
    offsets = reader.column(table, 4, "<i4")
    if not len(offsets):
        offsets = np.zeros(len(index) + 1, np.int32)
    address, instance = reader.column(table, 5, "<i4"), reader.column(table, 6, "<i4")
    value, z = reader.column(table, 7, "<f8"), reader.column(table, 8, "<f8")
    _check_offsets(offsets, len(index), (address, instance, value, z))
    return RunBatch(
        reader.number(table, 0, "<u8"),
        reader.number(table, 1, "<u8"),
        index,
        bool(reader.byte(table, 3)),
        offsets,
        address,
        instance,
        value,
        z,
        reader.number(table, 9, "<i4"),
        [_address(reader, entry) for entry in reader.children(table, 10) or []],
        reader.number(table, 11, "<u8"),
        _observations(reader, reader.children(table, 12)),
    )


def _check_offsets(offsets: NDArray[np.int32], num_scripts: int, columns: Sequence[NDArray[Any]]) -> None:
    lengths = {len(column) for column in columns}
    if len(offsets) != num_scripts + 1 or offsets[0] != 0 or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise MalformedError(f"{len(offsets)} offsets of {num_scripts} scripts that do not grow from 0")
    if lengths != {int(offsets[-1])}:
        raise MalformedError(f"columns of {sorted(lengths)} choices where offsets end at {offsets[-1]}")


def _address(reader: Reader, table: int) -> Address:
    texts = reader.string(reader.child(table, 0)), reader.string(reader.child(table, 1))
    return Address(*texts, reader.byte(table, 2), reader.shape(table, 3))


def _observations(reader: Reader, tables: list[int] | None) -> dict[tuple[str, int], Tensor] | None:
    if tables is None:
        return None
    found: dict[tuple[str, int], Tensor] = {}
    for table in tables:
        value, _ = reader.tensor(table, 2)
        key = reader.string(reader.child(table, 0)), reader.number(table, 1, "<i4")
        if value is not None:
            # A copy: the set outlives the message.
            found[key] = value if isinstance(value, float) else value.copy()
    return found


def _ints() -> array[int]:
    return array("i")


def _doubles() -> array[float]:
    return array("d")


@dataclass
class TensorColumns:
    """Tensors that traces carry: columns as in the schema."""

    offsets: array[int] = field(default_factory=lambda: array("i", [0]))
    address: array[int] = field(default_factory=_ints)
    instance: array[int] = field(default_factory=_ints)
    data_offsets: array[int] = field(default_factory=lambda: array("i", [0]))
    data: array[float] = field(default_factory=_doubles)
    log_prob: array[float] = field(default_factory=_doubles)

    def add(self, address: int, instance: int, value: Tensor | None) -> None:
        """Adds a row; without a value it is an observation that was given."""
        self.address.append(address)
        self.instance.append(instance)
        if isinstance(value, float):
            self.data.append(value)
        elif value is not None:
            self.data.frombytes(np.ascontiguousarray(value, np.float64).tobytes())
        self.data_offsets.append(len(self.data))


@dataclass
class LoopColumns:
    """Rejection loops; draws are counted from the trace's first one."""

    offsets: array[int] = field(default_factory=lambda: array("i", [0]))
    address: array[int] = field(default_factory=_ints)
    begin: array[int] = field(default_factory=_ints)
    end: array[int] = field(default_factory=_ints)


@dataclass
class BatchResult:
    """What K executions did; fields as in the schema."""

    batch: int
    seconds: float = 0.0
    status: bytearray = field(default_factory=bytearray)
    offsets: array[int] = field(default_factory=lambda: array("i", [0]))
    address: array[int] = field(default_factory=_ints)
    instance: array[int] = field(default_factory=_ints)
    params: array[int] = field(default_factory=_ints)
    value: array[float] = field(default_factory=_doubles)
    z: array[float] = field(default_factory=_doubles)
    log_prob: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    flags: bytearray = field(default_factory=bytearray)
    params_offsets: array[int] = field(default_factory=lambda: array("i", [0]))
    params_data: array[float] = field(default_factory=_doubles)
    observations: TensorColumns = field(default_factory=TensorColumns)
    tags: TensorColumns = field(default_factory=TensorColumns)
    results: TensorColumns = field(default_factory=TensorColumns)
    loops: LoopColumns = field(default_factory=LoopColumns)
    failures: list[tuple[int, int, str]] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """About the length of the message, addresses left out."""
        tensors = (self.observations, self.tags, self.results)
        rows = sum(20 * len(t.address) + 8 * len(t.data) for t in tensors)
        params = 8 * len(self.params_data) + 4 * len(self.params_offsets)
        return 37 * len(self.address) + params + rows + 12 * len(self.loops.address) + 24 * len(self.status)


def encode_batch_result(result: BatchResult, first_address: int, addresses: Sequence[Address]) -> bytearray:
    """A BatchResult message.

    Args:
        result: What happened.
        first_address: Number of the first of the addresses.
        addresses: What the controller was not told before.
    """
    failures = [
        Table((Inline(_I32.pack(trace)), kind, _shortened(reason))) for trace, kind, reason in result.failures
    ]
    return wire.long_message(
        Body.BATCH_RESULT,
        Inline(_U64.pack(result.batch)),
        Inline(_F64.pack(result.seconds)),
        Column(bytes(result.status), 1),
        _column(result.offsets),
        _column(result.address),
        _column(result.instance),
        _column(result.params),
        _column(result.value),
        _column(result.z),
        _column(result.log_prob),
        Column(bytes(result.flags), 1),
        _column(result.params_offsets),
        _column(result.params_data),
        _tensor_columns(result.observations),
        _tensor_columns(result.tags),
        _tensor_columns(result.results),
        _loop_columns(result.loops),
        failures or None,
        Inline(_I32.pack(first_address)),
        [_address_table(address) for address in addresses] or None,
    )


def _column(numbers: array[Any] | NDArray[np.float64]) -> Column | None:
    return Column(numbers.tobytes(), numbers.itemsize) if len(numbers) else None


def _tensor_columns(columns: TensorColumns) -> Table:
    rows = _column(columns.address), _column(columns.instance), _column(columns.data_offsets)
    return Table((_column(columns.offsets), *rows, _column(columns.data), _column(columns.log_prob)))


def _loop_columns(columns: LoopColumns) -> Table:
    return Table(_column(c) for c in (columns.offsets, columns.address, columns.begin, columns.end))


def _address_table(address: Address) -> Table:
    shape = Column(array("i", address.shape).tobytes(), 4)
    return Table((address.address, address.name, address.family, shape))


_MAX_REASON = 4000


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]} ..."

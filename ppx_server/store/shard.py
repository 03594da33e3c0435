"""Traces as Arrow record batches: one row per trace, draws and tensors as nested lists.

Any Arrow reader shows a shard as a table:

    index, status, failure, draws: [{address_id, instance, value, z, log_prob, log_q, flags, params}],
    observations, tags, results: [{address_id, instance, log_prob, data: [...]}], loops: [{address_id, begin, end}],
    extra.NAME

Only what says something is there. Integers are as narrow as their largest value allows, lists of one length have no
offsets, `params` is dictionary-encoded, and columns that are the same in every row, repeat another column, or are
empty are left out. The schema's metadata hold a JSON object under the key "ppx" for what is left out:

    num_traces, first_index (if indices are consecutive), constants: {column: its value in every row},
    copies: {column: the column that it repeats}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppx_server.address import AddressTable
from ppx_server.errors import StoreError
from ppx_server.text import paragraph
from ppx_server.trace import Floats, Ints, LoopTable, Params, TensorTable, TraceBatch

_KEY = b"ppx"
_WIDTHS = (np.uint8, np.uint16, np.int32, np.int64)
_DRAWS: dict[str, type[np.generic]] = {
    "address_id": np.int32,
    "instance": np.int32,
    "value": np.float64,
    "z": np.float64,
    "log_prob": np.float64,
    "log_q": np.float64,
    "flags": np.uint8,
}
_TENSORS: dict[str, type[np.generic]] = {"address_id": np.int32, "instance": np.int32, "log_prob": np.float64}
_LOOPS: dict[str, type[np.generic]] = {"address_id": np.int32, "begin": np.int32, "end": np.int32}
_MAX_OFFSET = np.iinfo(np.int32).max
_MAX_INDEX = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Mapped:
    """A shard in memory that belongs to its file.

    Attributes:
        traces: Its traces; integer columns are as narrow as in the file. See `widened`.
        extra: Further columns, `(K,)` each.
    """

    traces: TraceBatch
    extra: Mapping[str, Floats]


def widened(batch: TraceBatch) -> TraceBatch:
    """The batch with columns of the types that `TraceBatch` promises."""
    columns: dict[str, Any] = {name: _as(getattr(batch, name), kind) for name, kind in _DRAWS.items()}
    if batch.log_q is batch.log_prob:
        columns["log_q"] = columns["log_prob"]
    return replace(
        batch,
        **columns,
        index=_as(batch.index, np.int64),
        status=_as(batch.status, np.uint8),
        offsets=_as(batch.offsets, np.int64),
        params_id=_as(batch.params_id, np.int32),
        params=Params(batch.params.data, _as(batch.params.offsets, np.int64)),
        observations=_wide_tensors(batch.observations),
        tags=_wide_tensors(batch.tags),
        results=_wide_tensors(batch.results),
        loops=LoopTable(
            _as(batch.loops.offsets, np.int64), *(_as(getattr(batch.loops, n), k) for n, k in _LOOPS.items())
        ),
    )


def to_record_batch(batch: TraceBatch, extra: Mapping[str, Floats]) -> pa.RecordBatch:
    """A record batch of K rows.

    Args:
        batch: K traces, their parameters interned.
        extra: Further columns, `(K,)` each.
    """
    packer = _Packer(len(batch))
    packer.add_index(batch.index)
    packer.add("status", batch.status)
    if any(i in batch.failures for i in batch.index.tolist()):
        packer.columns["failure"] = pa.array(
            [batch.failures.get(i) for i in batch.index.tolist()], pa.string()
        )
    packer.add_draws(batch)
    for name in ("observations", "tags", "results"):
        packer.add_tensors(name, getattr(batch, name))
    packer.add_loops(batch.loops)
    for name, values in extra.items():
        packer.add(f"extra.{name}", values)
    return packer.record_batch()


def from_record_batch(
    record: pa.RecordBatch, addresses: AddressTable, seed: int, *, num_traces: int
) -> Mapped:
    """The inverse of `to_record_batch`: views of the record batch's memory, read-only.

    Nothing is allocated by a number that the file merely states: lengths are those of columns that are there.

    Args:
        record: Of a file.
        addresses: The store's table.
        seed: Of the traces.
        num_traces: How many it must hold.

    Raises:
        StoreError: The record batch is not one of ours, or inconsistent in itself.
    """
    try:
        record.validate(full=True)
        unpacker = _Unpacker(record, num_traces)
        mapped = Mapped(unpacker.traces(addresses, seed), unpacker.extra())
        _check_addresses(mapped.traces)
    except (pa.ArrowException, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StoreError(f"it is no shard of traces: {error!r}") from error
    return mapped


def _check_addresses(traces: TraceBatch) -> None:
    """Raises ValueError if a row refers to no address."""
    for table in (traces, traces.observations, traces.tags, traces.results, traces.loops):
        ids = table.address_id
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(traces.addresses):
            raise ValueError(f"it refers to addresses beyond the {len(traces.addresses)} of the store")


def write_record_batch(record: pa.RecordBatch, path: Path) -> None:
    """Writes an Arrow IPC file."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, record.schema) as writer:
        writer.write_batch(record)


def read_record_batch(path: Path) -> pa.RecordBatch:
    """Maps an Arrow IPC file into memory.

    Raises:
        StoreError: It is no such file or does not hold exactly one record batch.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.num_record_batches != 1:
            raise StoreError(f"it holds {reader.num_record_batches} record batches instead of one")
        return reader.get_batch(0)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"it is no readable Arrow file: {error}") from error


class _Packer:
    """Columns of a record batch in the making, and what was left out of it."""

    def __init__(self, num_traces: int) -> None:
        self.columns: dict[str, pa.Array] = {}
        self._constants: dict[str, int | float] = {}
        self._about: dict[str, Any] = {"num_traces": num_traces, "constants": self._constants, "copies": {}}

    def add_index(self, index: Ints) -> None:
        if len(index) and (index == index[0] + np.arange(len(index))).all():
            self._about["first_index"] = int(index[0])
        else:
            self.columns["index"] = _packed(index)

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Adds a column with one number per trace."""
        if _constant(values):
            self._constants[name] = values[0].item()
        else:
            self.columns[name] = _packed(values)

    def add_draws(self, batch: TraceBatch) -> None:
        if not len(batch.value):
            return
        columns = {name: getattr(batch, name) for name in _DRAWS}
        if _same_bits(batch.log_q, batch.log_prob):
            self._about["copies"]["draws.log_q"] = "log_prob"
            del columns["log_q"]
        vectors = _lists(batch.params.offsets, _packed(batch.params.data))
        params = pa.DictionaryArray.from_arrays(_packed(batch.params_id), vectors)
        self._add_rows("draws", batch.offsets, columns, {"params": params})

    def add_tensors(self, name: str, table: TensorTable) -> None:
        if not len(table.address_id):
            return
        nested = {"data": _lists(table.data_offsets, _packed(table.data))} if len(table.data) else {}
        self._add_rows(name, table.offsets, {n: getattr(table, n) for n in _TENSORS}, nested)

    def add_loops(self, table: LoopTable) -> None:
        if len(table.address_id):
            self._add_rows("loops", table.offsets, {n: getattr(table, n) for n in _LOOPS}, {})

    def record_batch(self) -> pa.RecordBatch:
        about = json.dumps(self._about, sort_keys=True)
        record = pa.RecordBatch.from_arrays(list(self.columns.values()), list(self.columns))
        return record.replace_schema_metadata({_KEY: about.encode("ascii")})

    def _add_rows(
        self, name: str, offsets: Ints, columns: Mapping[str, NDArray[Any]], nested: Mapping[str, pa.Array]
    ) -> None:
        fields = {}
        for field, values in columns.items():
            if field != "address_id" and _constant(values):  # a struct needs a field that says how long it is
                self._constants[f"{name}.{field}"] = values[0].item()
            else:
                fields[field] = _packed(values)
        fields |= nested
        rows = pa.StructArray.from_arrays(list(fields.values()), list(fields))
        self.columns[name] = _lists(offsets, rows)


class _Unpacker:
    """Reads what `_Packer` wrote; whatever error it meets, the record batch is none of ours."""

    def __init__(self, record: pa.RecordBatch, num_traces: int) -> None:
        about = json.loads(record.schema.metadata[_KEY])
        self._record = record
        self._names = frozenset(record.schema.names)
        self._first_index: int | None = about.get("first_index")
        self._constants: dict[str, int | float] = about["constants"]
        self._copies: dict[str, str] = about["copies"]
        self._num_traces = num_traces
        if type(about["num_traces"]) is not int or about["num_traces"] != num_traces:
            raise ValueError(f"it holds {about['num_traces']!r} traces instead of {num_traces}")
        if self._names and record.num_rows != num_traces:
            raise ValueError(f"{record.num_rows} rows for {num_traces} traces")
        for name, number in self._constants.items():
            if type(number) not in (int, float):
                raise ValueError(f"{name} is {number!r} in every row")

    def traces(self, addresses: AddressTable, seed: int) -> TraceBatch:
        index = self._index()
        offsets, num_draws, draws = self._rows("draws")
        columns: dict[str, Any] = {
            name: self._column("draws", name, kind, num_draws, draws)
            for name, kind in _DRAWS.items()
            if f"draws.{name}" not in self._copies
        }
        if "draws.log_q" in self._copies:
            columns["log_q"] = columns[self._copies["draws.log_q"]]
        params_id, params = self._params(draws)
        return TraceBatch(
            addresses=addresses,
            seed=seed,
            index=index,
            status=self._number("status", np.uint8),
            offsets=offsets,
            params_id=params_id,
            params=params,
            **columns,
            observations=self._tensors("observations"),
            tags=self._tensors("tags"),
            results=self._tensors("results"),
            loops=self._loops(),
            failures=self._failures(index),
        )

    def extra(self) -> dict[str, Floats]:
        names = sorted(n for n in {*self._names, *self._constants} if n.startswith("extra."))
        return {name.removeprefix("extra."): self._number(name, np.float64) for name in names}

    def _index(self) -> Ints:
        if self._first_index is None:
            return _numpy(self._record.column("index"), np.int64)
        if type(self._first_index) is not int or not 0 <= self._first_index <= _MAX_INDEX - self._num_traces:
            raise ValueError(f"its first index is {self._first_index!r}")
        return self._first_index + np.arange(self._num_traces)

    def _number(self, name: str, kind: type[np.generic]) -> NDArray[Any]:
        if name in self._names:
            return _numpy(self._record.column(name), kind)
        return _constant_column(self._constants.get(name, 0), kind, self._num_traces)

    def _failures(self, index: Ints) -> dict[int, str]:
        if "failure" not in self._names:
            return {}
        texts = self._record.column("failure")
        return {
            int(index[k]): paragraph(texts[int(k)].as_py())
            for k in np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
        }

    def _rows(self, name: str) -> tuple[Ints, int, pa.StructArray | None]:
        """Offsets of a nested column, its number of rows, and the rows."""
        if name not in self._names:
            return np.zeros(self._num_traces + 1, np.int64), 0, None
        offsets, rows = _segments(self._record.column(name))
        return offsets, len(rows), rows

    def _column(
        self, name: str, field: str, kind: type[np.generic], size: int, rows: pa.StructArray | None
    ) -> NDArray[Any]:
        if rows is None:
            return np.empty(0, kind)
        constant = self._constants.get(f"{name}.{field}")
        if constant is not None and field != "address_id":  # the column that says how many rows there are
            return _constant_column(constant, kind, size)
        return _numpy(rows.field(field), kind)

    def _params(self, draws: pa.StructArray | None) -> tuple[NDArray[Any], Params]:
        if draws is None:
            return np.empty(0, np.int32), Params(np.empty(0), np.zeros(1, np.int64))
        params = draws.field("params")
        offsets, data = _segments(params.dictionary)
        return _numpy(params.indices, np.int32), Params(_numpy(data, np.float64), offsets)

    def _tensors(self, name: str) -> TensorTable:
        offsets, size, rows = self._rows(name)
        columns = {n: self._column(name, n, kind, size, rows) for n, kind in _TENSORS.items()}
        data_offsets, data = np.zeros(size + 1, np.int64), np.empty(0)
        if rows is not None and rows.type.get_field_index("data") >= 0:
            data_offsets, values = _segments(rows.field("data"))
            data = _numpy(values, np.float64)
        return TensorTable(offsets=offsets, data=data, data_offsets=data_offsets, **columns)

    def _loops(self) -> LoopTable:
        offsets, size, rows = self._rows("loops")
        return LoopTable(offsets, *(self._column("loops", n, k, size, rows) for n, k in _LOOPS.items()))


def _wide_tensors(table: TensorTable) -> TensorTable:
    columns: dict[str, Any] = {name: _as(getattr(table, name), kind) for name, kind in _TENSORS.items()}
    return replace(
        table, **columns, offsets=_as(table.offsets, np.int64), data_offsets=_as(table.data_offsets, np.int64)
    )


def _as(values: NDArray[Any], kind: type[np.generic]) -> NDArray[Any]:
    return np.ascontiguousarray(values, kind)


def _packed(values: NDArray[Any]) -> pa.Array:
    """A column of numbers, integers as narrow as they fit."""
    if values.dtype.kind == "f" or not len(values):
        return pa.array(np.ascontiguousarray(values))
    low, high = int(values.min()), int(values.max())
    kind = next(k for k in _WIDTHS if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    return pa.array(np.ascontiguousarray(values, kind))


def _constant(values: NDArray[Any]) -> bool:
    return len(values) > 0 and _same_bits(values, np.broadcast_to(values[:1], values.shape))


def _same_bits(first: NDArray[Any], second: NDArray[Any]) -> bool:
    if first is second:
        return True
    if first.dtype.kind == "f":
        first, second = (np.asarray(x, np.float64).view(np.int64) for x in (first, second))
    return bool((first == second).all())


def _constant_column(value: float, kind: type[np.generic], size: int) -> NDArray[Any]:
    if np.dtype(kind).kind != "f" and (type(value) is not int or value < 0):
        raise ValueError(f"{value!r} is no number of something")
    return np.broadcast_to(np.array(value, kind), size)


def _lists(offsets: Ints, values: pa.Array) -> pa.Array:
    """Lists of rows; without offsets if they all have one length."""
    counts = np.diff(offsets)
    if len(counts) and counts[0] > 0 and (counts == counts[0]).all():
        return pa.FixedSizeListArray.from_arrays(values, int(counts[0]))
    if offsets[-1] <= _MAX_OFFSET:
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
    return pa.LargeListArray.from_arrays(pa.array(np.ascontiguousarray(offsets, np.int64)), values)


def _segments(lists: pa.Array) -> tuple[Ints, pa.Array]:
    """The inverse of `_lists`."""
    if pa.types.is_fixed_size_list(lists.type):
        return np.arange(len(lists) + 1) * lists.type.list_size, lists.values
    return _numpy(lists.offsets, np.int64).astype(np.int64), lists.values


def _numpy(column: pa.Array, kind: type[np.generic]) -> NDArray[Any]:
    """A view of a column, which may be narrower than `kind`; whole numbers of ours are never negative."""
    if column.null_count:
        raise ValueError("a column has gaps")
    wanted = np.dtype(kind)
    if len(column) == 0:
        return np.empty(0, wanted)
    values: NDArray[Any] = column.to_numpy(zero_copy_only=True)
    if values.dtype.kind not in ("f" if wanted.kind == "f" else "iu"):
        raise ValueError(f"a column of {wanted} holds {values.dtype}")
    if values.dtype.kind == "i" and int(values.min()) < 0:
        raise ValueError("a column holds a negative number")
    if values.dtype.itemsize > wanted.itemsize and int(values.max()) > np.iinfo(wanted).max:
        raise ValueError(f"a column of {wanted} holds {values.max()}")
    return values

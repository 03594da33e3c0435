"""Traces as Arrow record batches: one row per trace, draws and tensors as nested lists.

The layout is that of `TraceBatch` itself (Arrow lists are values and offsets), so that a shard mapped into memory is a
`TraceBatch` without a copy. Any Arrow reader shows it as a table:

    index, status, failure, draws: [{address_id, instance, value, z, log_prob, log_q, flags, params}],
    observations, tags, results: [{address_id, instance, log_prob, data: [...]}], extra: {name: number}

`params` is dictionary-encoded: the P distinct parameter vectors are stored once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppx_server.address import AddressTable
from ppx_server.errors import StoreError
from ppx_server.trace import Floats, Ids, Ints, LoopTable, Params, TensorTable, TraceBatch

_VECTOR = pa.large_list(pa.float64())
_TENSORS = pa.large_list(
    pa.struct(
        [("address_id", pa.int32()), ("instance", pa.int32()), ("log_prob", pa.float64()), ("data", _VECTOR)]
    )
)
_DRAWS = pa.large_list(
    pa.struct(
        [
            ("address_id", pa.int32()),
            ("instance", pa.int32()),
            ("value", pa.float64()),
            ("z", pa.float64()),
            ("log_prob", pa.float64()),
            ("log_q", pa.float64()),
            ("flags", pa.uint8()),
            ("params", pa.dictionary(pa.int32(), _VECTOR)),
        ]
    )
)
_COLUMNS = [
    ("index", pa.int64()),
    ("status", pa.uint8()),
    ("failure", pa.string()),
    ("draws", _DRAWS),
    ("observations", _TENSORS),
    ("tags", _TENSORS),
    ("results", _TENSORS),
]


def to_record_batch(batch: TraceBatch, remap: Ids, extra: Mapping[str, Floats]) -> pa.RecordBatch:
    """A record batch of K rows.

    Args:
        batch: K traces.
        remap: Id to write for each id of `batch.addresses`.
        extra: Further columns, `(K,)` each.
    """
    params = pa.DictionaryArray.from_arrays(
        _array(batch.params_id, np.int32), _lists(batch.params.offsets, _array(batch.params.data, np.float64))
    )
    draws = pa.StructArray.from_arrays(
        [
            _array(remap[batch.address_id], np.int32),
            _array(batch.instance, np.int32),
            *(_array(column, np.float64) for column in (batch.value, batch.z, batch.log_prob, batch.log_q)),
            _array(batch.flags, np.uint8),
            params,
        ],
        names=[f.name for f in _DRAWS.value_type],
    )
    extra_names = list(extra)
    return pa.RecordBatch.from_arrays(
        [
            _array(batch.index, np.int64),
            _array(batch.status, np.uint8),
            pa.array([batch.failures.get(int(i)) for i in batch.index], pa.string())
            if batch.failures
            else pa.nulls(len(batch), pa.string()),
            _lists(batch.offsets, draws),
            *(_tensors(t, remap) for t in (batch.observations, batch.tags, batch.results)),
            pa.StructArray.from_arrays([_array(extra[n], np.float64) for n in extra_names], extra_names)
            if extra_names
            else pa.nulls(len(batch)),
        ],
        names=[*(name for name, _ in _COLUMNS), "extra"],
    )


def from_record_batch(
    record: pa.RecordBatch, addresses: AddressTable, seed: int
) -> tuple[TraceBatch, dict[str, Floats]]:
    """The inverse of `to_record_batch`: views of the record batch's memory, read-only.

    Raises:
        StoreError: The record batch is not one of ours, or inconsistent in itself.
    """
    schema = record.schema
    if schema.names != [*(name for name, _ in _COLUMNS), "extra"] or any(
        schema.field(name).type != kind for name, kind in _COLUMNS
    ):
        raise StoreError("it has other columns than a shard of traces")
    try:
        record.validate(full=True)
    except pa.ArrowInvalid as error:
        raise StoreError(f"its columns are inconsistent: {error}") from error
    lists = record.column("draws")
    draws = lists.values
    params = draws.field("params")
    index, failure = _numpy(record.column("index")), record.column("failure")
    failures = {
        int(index[k]): failure[int(k)].as_py()
        for k in np.flatnonzero(failure.is_valid().to_numpy(zero_copy_only=False))
    }
    batch = TraceBatch(
        addresses=addresses,
        seed=seed,
        index=index,
        status=_numpy(record.column("status")),
        offsets=_numpy(lists.offsets),
        address_id=_address_ids(draws, addresses),
        params_id=_numpy(params.indices),
        params=Params(_numpy(params.dictionary.values), _numpy(params.dictionary.offsets)),
        instance=_numpy(draws.field("instance")),
        value=_numpy(draws.field("value")),
        z=_numpy(draws.field("z")),
        log_prob=_numpy(draws.field("log_prob")),
        log_q=_numpy(draws.field("log_q")),
        flags=_numpy(draws.field("flags")),
        observations=_table(record.column("observations"), addresses),
        tags=_table(record.column("tags"), addresses),
        results=_table(record.column("results"), addresses),
        loops=LoopTable.empty(len(record)),
        failures=failures,
    )
    extra = record.column("extra")
    columns = (
        {} if pa.types.is_null(extra.type) else {f.name: _numpy(extra.field(f.name)) for f in extra.type}
    )
    return batch, columns


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


def _tensors(table: TensorTable, remap: Ids) -> pa.LargeListArray:
    rows = pa.StructArray.from_arrays(
        [
            _array(remap[table.address_id], np.int32),
            _array(table.instance, np.int32),
            _array(table.log_prob, np.float64),
            _lists(table.data_offsets, _array(table.data, np.float64)),
        ],
        names=[f.name for f in _TENSORS.value_type],
    )
    return _lists(table.offsets, rows)


def _table(lists: pa.LargeListArray, addresses: AddressTable) -> TensorTable:
    rows = lists.values
    data = rows.field("data")
    return TensorTable(
        offsets=_numpy(lists.offsets),
        address_id=_address_ids(rows, addresses),
        instance=_numpy(rows.field("instance")),
        data=_numpy(data.values),
        data_offsets=_numpy(data.offsets),
        log_prob=_numpy(rows.field("log_prob")),
    )


def _address_ids(rows: pa.StructArray, addresses: AddressTable) -> Ids:
    ids: Ids = _numpy(rows.field("address_id"))
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(addresses):
        raise StoreError(f"it refers to addresses beyond the {len(addresses)} of the store")
    return ids


def _array(values: NDArray[Any], dtype: type[np.generic]) -> pa.Array:
    return pa.array(np.ascontiguousarray(values, dtype))


def _lists(offsets: Ints, values: pa.Array) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(_array(offsets, np.int64), values)


def _numpy(column: pa.Array) -> NDArray[Any]:
    if column.null_count:
        raise StoreError("a column has gaps")
    if len(column) == 0:
        return np.empty(0, column.type.to_pandas_dtype())
    values: NDArray[Any] = column.to_numpy(zero_copy_only=True)
    return values

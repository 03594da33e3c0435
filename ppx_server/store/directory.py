"""The trace store: traces on disk, appended in shards, read back without copying.

A store is a directory:

    manifest.json         what the store holds: format version, model, seed, metadata, address table, list of shards
    shard-000000.arrow    traces, as Arrow IPC files (see `ppx_server.store.shard`), never changed once written
    .lock                 held by the process that appends

A shard is written under a temporary name, flushed to disk and renamed, and only then does a new manifest, written in
the same way, mention it. Whenever the writer is killed, the store is that of the last complete `append`. Leftover
temporary files are ignored, and removed by the next writer. Nothing here is ever unpickled.

Room for what comes later: unknown keys of the manifest are kept, a shard's manifest entry gives the range of
its trace indices, and the version changes only if old readers would misread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from ppx_server.address import AddressTable
from ppx_server.errors import StoreError
from ppx_server.store.manifest import (
    FORMAT,
    LOCK,
    MANIFEST,
    PARTIAL,
    VERSION,
    Shard,
    acquire,
    check_intact,
    checksum,
    manifest_checksum,
    read_manifest,
    settle,
)
from ppx_server.store.shard import from_record_batch, read_record_batch, to_record_batch, write_record_batch
from ppx_server.trace import Floats, Ids, LoopTable, Params, TensorTable, TraceBatch


class TraceStore:
    """Traces of one model and seed on disk; made by `TraceStore.create` or `TraceStore.open`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "traces"
        >>> with TraceStore.create(path, model_name="gaussian", metadata={"engine": "prior"}) as store:
        ...     len(store)
        0
        >>> TraceStore.open(path).metadata
        {'engine': 'prior'}
    """

    def __init__(self, path: Path, manifest: dict[str, Any], lock: IO[str] | None) -> None:
        self._path = path
        self._manifest = manifest
        self._lock = lock
        self._shards = [Shard.from_json(entry) for entry in manifest["shards"]]
        self._addresses = AddressTable.from_json(manifest["addresses"])
        self._intact: set[int] = set()

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, model_name: str = "", metadata: Mapping[str, Any] | None = None
    ) -> Self:
        """Makes a new store and opens it for appending.

        Args:
            path: Directory, which must not exist or be empty.
            model_name: Name of the model whose traces it will hold.
            metadata: Anything that JSON can say.

        Raises:
            StoreError: The directory holds something, cannot be written, or `metadata` is not JSON.
        """
        directory = Path(path)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            taken = (directory / MANIFEST).exists() or any(
                p.name != LOCK and not p.name.endswith(PARTIAL) for p in directory.iterdir()
            )
        except OSError as error:
            raise StoreError(
                f"cannot make a trace store at {directory}: {error}; choose another path"
            ) from error
        if taken:
            raise StoreError(
                f"cannot make a trace store at {directory}: the directory is not empty; "
                "choose another path, or append with TraceStore.open(path, mode='append')"
            )
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "model_name": model_name,
            "seed": None,
            "metadata": dict(metadata or {}),
            "extra": [],
            "addresses": [],
            "shards": [],
        }
        store = cls(directory, manifest, acquire(directory))
        try:
            store._write_manifest(manifest)
        except StoreError:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, mode: Literal["read", "append"] = "read") -> Self:
        """Opens a store.

        Args:
            path: The store's directory.
            mode: "read", any number of processes at a time, or "append", one at a time.

        Raises:
            StoreError: There is no store, it is damaged or of a newer format, or another process appends to it.
        """
        directory = Path(path)
        manifest = read_manifest(directory)
        if mode == "read":
            return cls(directory, manifest, None)
        lock = acquire(directory)
        # Again, under the lock: another writer may have finished in between.
        store = cls(directory, read_manifest(directory), lock)
        for leftover in directory.glob(f"*{PARTIAL}"):
            leftover.unlink(missing_ok=True)
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes append. Batches already read stay valid."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __len__(self) -> int:
        """Number of traces."""
        return sum(s.num_traces for s in self._shards)

    def __repr__(self) -> str:
        return f"<TraceStore {self._path}: {len(self)} traces of {self.model_name!r} in {len(self._shards)} shards>"

    @property
    def path(self) -> Path:
        """The store's directory."""
        return self._path

    @property
    def model_name(self) -> str:
        """Name of the model whose traces these are."""
        return str(self._manifest["model_name"])

    @property
    def seed(self) -> int | None:
        """Seed of the traces; None before the first."""
        seed: int | None = self._manifest["seed"]
        return seed

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata, a copy; `write_metadata` changes them."""
        copy: dict[str, Any] = json.loads(json.dumps(self._manifest["metadata"]))
        return copy

    @property
    def addresses(self) -> AddressTable:
        """The address table that the store's batches share."""
        return self._addresses

    @property
    def shards(self) -> tuple[Shard, ...]:
        """What the manifest says about each shard."""
        return tuple(self._shards)

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replaces the metadata.

        Raises:
            StoreError: The store is not open for appending, or `metadata` is not JSON.
        """
        self._demand_writable()
        self._write_manifest({**self._manifest, "metadata": dict(metadata)})

    def append(self, batch: TraceBatch, *, extra: Mapping[str, ArrayLike] | None = None) -> None:
        """Adds traces as one shard; when it returns, they are on disk.

        Args:
            batch: K traces, of the same seed as those already there. Reasons of failures are kept for its own traces.
            extra: Further float columns `(K,)`, such as log weights; the same names in every shard.

        Raises:
            StoreError: The store is not open for appending, the disk is full, or the batch does not fit the store.
        """
        self._demand_writable()
        columns = {name: np.asarray(values, np.float64) for name, values in (extra or {}).items()}
        self._check_fits(batch, columns)
        remap = np.array([self._addresses.intern(a) for a in batch.addresses], np.int32)
        record = to_record_batch(batch, remap, columns)
        file = f"shard-{len(self._shards):06d}.arrow"
        partial = self._path / f"{file}{PARTIAL}"
        try:
            write_record_batch(record, partial)
            num_bytes, crc32 = partial.stat().st_size, checksum(partial)
            settle(partial, self._path / file)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StoreError(
                f"cannot write {self._path / file}: {error}; the {len(self)} traces already in the store are safe"
            ) from error
        index = (int(batch.index.min()), int(batch.index.max())) if len(batch) else (-1, -1)
        shard = Shard(file, len(self), len(batch), *index, num_bytes, crc32)
        self._write_manifest(
            {
                **self._manifest,
                "seed": batch.seed,
                "extra": list(columns),
                "addresses": self._addresses.to_json(),
                "shards": [*self._manifest["shards"], shard._asdict()],
            }
        )
        self._shards.append(shard)

    def shard(self, number: int) -> TraceBatch:
        """Traces of one shard, mapped into memory, read-only.

        Raises:
            StoreError: The shard is damaged.
            IndexError: There is no such shard.
        """
        return self._load(number)[0]

    def shard_extra(self, number: int) -> dict[str, Floats]:
        """Extra columns of one shard, `(K,)` each; errors as for `shard`."""
        return self._load(number)[1]

    def __iter__(self) -> Iterator[TraceBatch]:
        """The shards, one at a time: memory stays flat however large the store."""
        for number in range(len(self._shards)):
            yield self.shard(number)

    def read(self) -> TraceBatch:
        """All traces: mapped into memory if there is one shard, copied together if there are more."""
        if not self._shards:
            return _no_traces(self._addresses, self.seed or 0)
        return TraceBatch.concatenate(list(self))

    def read_extra(self) -> dict[str, Floats]:
        """Extra columns of all traces, `(len(self),)` each."""
        parts = [self.shard_extra(number) for number in range(len(self._shards))]
        return {name: np.concatenate([p[name] for p in parts]) for name in self._manifest["extra"]}

    def _load(self, number: int) -> tuple[TraceBatch, dict[str, Floats]]:
        shard = self._shards[number]
        path = self._path / shard.file
        try:
            if number not in self._intact:
                check_intact(path, shard)
            batch, extra = from_record_batch(read_record_batch(path), self._addresses, self.seed or 0)
            if len(batch) != shard.num_traces or sorted(extra) != sorted(self._manifest["extra"]):
                raise StoreError("it holds something else than the manifest says")
        except (StoreError, OSError) as error:
            raise StoreError(
                f"cannot read {path} (traces {shard.first} to {shard.first + shard.num_traces - 1}): {error}; "
                "restore the file from a copy, or repeat the run into a new store"
            ) from error
        self._intact.add(number)
        return batch, extra

    def _demand_writable(self) -> None:
        if self._lock is None:
            raise StoreError(
                f"the trace store at {self._path} is not open for appending; "
                "open it with TraceStore.open(path, mode='append')"
            )

    def _check_fits(self, batch: TraceBatch, columns: Mapping[str, Floats]) -> None:
        where = f"cannot append to the trace store at {self._path}: "
        if self._shards and batch.seed != self.seed:
            raise StoreError(
                f"{where}it holds traces of seed {self.seed}, the batch is of seed {batch.seed}; "
                "use one store per seed"
            )
        if self._shards and sorted(columns) != sorted(self._manifest["extra"]):
            raise StoreError(
                f"{where}its extra columns are {self._manifest['extra']}, not {list(columns)}; "
                "give the same columns with every batch"
            )
        for name, values in columns.items():
            if values.shape != (len(batch),):
                raise StoreError(
                    f"{where}extra column {name!r} has shape {values.shape}; "
                    f"give one number for each of the {len(batch)} traces"
                )

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        partial = self._path / f"{MANIFEST}{PARTIAL}"
        try:
            text = json.dumps({**manifest, "crc32": manifest_checksum(manifest)}, indent=1)
            partial.write_text(text, encoding="ascii")
            settle(partial, self._path / MANIFEST)
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"cannot write the metadata of the trace store at {self._path}: {error}; "
                "use strings, numbers, booleans, None, lists and dicts with string keys"
            ) from error
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StoreError(
                f"cannot write {self._path / MANIFEST}: {error}; the traces already in the store are safe"
            ) from error
        self._manifest = json.loads(text)
        del self._manifest["crc32"]


def _no_traces(addresses: AddressTable, seed: int) -> TraceBatch:
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

"""`TraceStore`: a directory of shards, its manifest, and the writer's buffer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from ppx_server.address import AddressTable
from ppx_server.errors import StoreError
from ppx_server.interrupts import uninterrupted
from ppx_server.store import canonical
from ppx_server.store.buffer import Buffer
from ppx_server.store.manifest import (
    FORMAT,
    LOCK,
    MANIFEST,
    VERSION,
    Shard,
    acquire,
    clear,
    lacking,
    make_directory,
    missing,
    read_manifest,
    remove_leftovers,
    write_manifest,
)
from ppx_server.store.reader import ShardReader, no_traces
from ppx_server.store.shard import widened
from ppx_server.store.writer import check_fits, write_shard
from ppx_server.text import plain
from ppx_server.trace import Floats, TraceBatch


class TraceStore:
    """Traces of one model and seed on disk; made by `TraceStore.create`, `TraceStore.resume` or `TraceStore.open`.

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
        self._shards = _shards(manifest)
        self._addresses = AddressTable.from_json(manifest["addresses"])
        self._reader = ShardReader(path, self._addresses)
        self._buffer = Buffer(self._num_complete)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        model_name: str = "",
        fingerprint: str = "",
        metadata: Mapping[str, Any] | None = None,
        total: int | None = None,
    ) -> Self:
        """Makes a new store and opens it for appending.

        A store that is made to hold a `total` is a part until it does (see `num_missing`). What is left of one whose
        writer was killed gives way to a new store.

        Args:
            path: Directory, which must not exist or be empty.
            model_name: Name of the model whose traces it will hold.
            fingerprint: What changes whenever the model does, if it is known.
            metadata: Anything that JSON can say.
            total: Number of traces it will hold; None if that is open.

        Raises:
            StoreError: The directory holds something, cannot be written, or `metadata` is not JSON.
        """
        about = {"model_name": model_name, "fingerprint": fingerprint, "metadata": dict(metadata or {})}
        expected = {} if total is None else {"total": total}
        return cls._create(Path(path), {**about, **expected, "run": False, "seed": None})

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        model_name: str,
        fingerprint: str,
        seed: int,
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Opens the store of a run for appending, where the run ends (see `next_index`); makes it if there is none.

        The store of a run takes traces in the order of their indices, from 0 and without gaps.

        Args:
            path: Directory, which must be the store of the same run, not exist or be empty.
            model_name: Name of the model.
            fingerprint: What changes whenever the model does, or nothing if it is not known.
            seed: Seed of the run.
            metadata: Anything that JSON can say, for a new store.

        Raises:
            StoreError: The store is that of another run, damaged or in use, or cannot be made.
        """
        directory = Path(path)
        about = {"model_name": model_name, "fingerprint": fingerprint, "seed": seed}
        if not (directory / MANIFEST).exists() or missing(directory):
            return cls._create(directory, {**about, "run": True, "metadata": dict(metadata or {})})
        store = cls.open(directory, mode="append")
        differing = [
            f"{name.replace('_', ' ')} is {store._manifest[name]!r} there and {wanted!r} here"
            for name, wanted in {**about, "run": True}.items()
            if store._manifest[name] != wanted
        ]
        if not store._manifest["run"]:
            differing = ["it does not hold a run from its first trace on"]
        if differing:
            store.close()
            raise StoreError(
                f"cannot go on with the trace store at {directory}: {'; '.join(differing)}; "
                "go on with the same simulator and seed, or write into a new store"
            )
        return store

    @classmethod
    def _create(cls, directory: Path, about: Mapping[str, Any]) -> Self:
        make_directory(directory)
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            **about,
            "extra": [],
            "addresses": [],
            "shards": [],
        }
        lock = acquire(directory)
        clear(directory)
        store = cls(directory, manifest, lock)
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
            StoreError: There is no store, it is damaged or of another format, or another process appends to it.
        """
        directory = Path(path)
        manifest = read_manifest(directory)
        if mode == "read":
            return cls(directory, manifest, None)
        lock = acquire(directory)
        try:
            # Again, under the lock: another writer may have finished in between.
            store = cls(directory, read_manifest(directory), lock)
            remove_leftovers(directory, store._shards)
            store._refill()
        except BaseException:
            lock.close()
            raise
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flushes what was appended and lets other processes append. Batches already read stay valid.

        Raises:
            StoreError: The disk is full.
        """
        if self._lock is None:
            return
        try:
            self.flush()
        finally:
            self._lock.close()
            self._lock = None

    @uninterrupted()
    def discard(self) -> None:
        """Removes a store that is being made, with its directory if nothing else is in it; a closed one stays."""
        if self._lock is None:
            return
        clear(self._path)
        (self._path / LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            self._path.rmdir()
        self._lock.close()
        self._lock = None

    def __len__(self) -> int:
        """Number of traces that are on disk."""
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
        return plain(self._manifest["model_name"])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model, empty if it is not known."""
        return str(self._manifest["fingerprint"])

    @property
    def seed(self) -> int | None:
        """Seed of the traces; None if there is none yet."""
        seed: int | None = self._manifest["seed"]
        return seed

    @property
    def next_index(self) -> int:
        """One more than the index of the last trace appended: where a run goes on."""
        return self._buffer.next_index or (self._shards[-1].max_index + 1 if self._shards else 0)

    @property
    def num_missing(self) -> int:
        """How many of the traces that the store was made to hold are not on disk; 0 if their number was left open."""
        return lacking(self._manifest)

    @property
    def num_failed(self) -> int:
        """Number of traces on disk that failed."""
        return sum(s.num_failed for s in self._shards)

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
        return self._shards

    # Writing

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replaces the metadata.

        Raises:
            StoreError: The store is not open for appending, or `metadata` is not JSON.
        """
        self._demand_writable()
        self._write_manifest({**self._manifest, "metadata": dict(metadata)})

    def append(self, batch: TraceBatch, *, extra: Mapping[str, ArrayLike] | None = None) -> None:
        """Adds traces. Those of full shards are on disk when it returns, the others after `flush` or `close`.

        Args:
            batch: K traces, of the same seed as those already there. Reasons of failures are kept for its own traces.
            extra: Further float columns `(K,)`, such as log weights; the same names in every batch.

        Raises:
            StoreError: The store is not open for appending, the disk is full, or the batch does not fit the store.
        """
        self._demand_writable()
        columns = {name: np.asarray(values, np.float64) for name, values in (extra or {}).items()}
        check_fits(self._path, self._manifest, self.next_index, batch, columns)
        self._manifest = {**self._manifest, "seed": batch.seed, "extra": list(columns)}
        self._take(canonical.renumbered(batch, self._addresses), columns)

    def flush(self) -> None:
        """Writes what was appended to disk.

        Raises:
            StoreError: The store is not open for appending, or the disk is full.
        """
        self._demand_writable()
        buffer, tail = self._buffer, self._shards[self._num_complete :]
        if buffer.number < self._num_complete:  # an interruption came just after it was written
            self._buffer = Buffer(self._num_complete)
        elif not buffer.num_traces:
            self._write_manifest(self._manifest)
        elif buffer.full or not tail or tail[0].num_traces < buffer.num_traces:
            first = sum(s.num_traces for s in self._shards[: buffer.number])
            shard, used = write_shard(self._path, buffer, first)
            # Only addresses of traces on disk: the table has those of traces still to be written, too.
            used = max(used, len(self._manifest["addresses"]))
            shards = [*self._manifest["shards"][: buffer.number], shard._asdict()]
            addresses = self._addresses.to_json()[:used]
            self._write_manifest({**self._manifest, "addresses": addresses, "shards": shards})
            if buffer.full:
                self._buffer = Buffer(self._num_complete)
            for shard in tail:
                (self._path / shard.file).unlink(missing_ok=True)

    def _take(self, batch: TraceBatch, columns: Mapping[str, Floats]) -> None:
        """Fills the buffer, and writes it whenever it is full."""
        sizes, start = canonical.sizes(batch), 0
        if self._buffer.full:
            self.flush()
        while start < len(batch):
            rest = np.arange(start, len(batch))
            extra = {name: values[rest] for name, values in columns.items()}
            start += self._buffer.add(batch.select(rest) if start else batch, extra, sizes[rest])
            if self._buffer.full:
                self.flush()

    # Reading

    def shard(self, number: int) -> TraceBatch:
        """Traces of one shard, read-only; what the file holds in full width is mapped into memory.

        Raises:
            StoreError: The shard is damaged.
            IndexError: There is no such shard.
        """
        return widened(self._reader.load(self._shards[number], self.seed or 0).traces)

    def shard_extra(self, number: int) -> dict[str, Floats]:
        """Extra columns of one shard, `(K,)` each; errors as for `shard`."""
        return dict(self._reader.load(self._shards[number], self.seed or 0).extra)

    def __iter__(self) -> Iterator[TraceBatch]:
        """The shards, one at a time: memory stays flat however large the store."""
        for number in range(len(self._shards)):
            yield self.shard(number)

    def read(self) -> TraceBatch:
        """All traces: mapped into memory if there is one shard, copied together if there are more."""
        if not self._shards:
            return no_traces(self._addresses, self.seed or 0)
        return TraceBatch.concatenate(list(self))

    def read_extra(self) -> dict[str, Floats]:
        """Extra columns of all traces, `(len(self),)` each."""
        parts = [self.shard_extra(number) for number in range(len(self._shards))]
        return {name: np.concatenate([p[name] for p in parts]) for name in self._manifest["extra"]}

    def select(self, positions: ArrayLike) -> TraceBatch:
        """Chosen traces, of which alone the files are read (after a first look at each shard, for its checksum).

        Args:
            positions: `(R,)` positions in the store, in the wanted order, repeats allowed.

        Raises:
            StoreError: A shard is damaged.
            IndexError: There is no such trace.
        """
        wanted = np.asarray(positions, np.int64)
        if len(wanted) == 0:
            return no_traces(self._addresses, self.seed or 0)
        return self._reader.select(self._shards, self.seed or 0, wanted)

    def trace(self, index: int) -> TraceBatch:
        """The trace with the given index, alone; the first one if there are several.

        Raises:
            StoreError: There is none, or its shard is damaged.
        """
        for shard in self._shards:
            if shard.min_index <= index <= shard.max_index:
                found = np.flatnonzero(self._reader.load(shard, self.seed or 0).traces.index == index)
                if len(found):
                    return self.select(shard.first + found[:1])
        raise StoreError(
            f"the trace store at {self._path} holds no trace with index {index}; its indices are "
            + (
                f"{min(s.min_index for s in self._shards)} to {self.next_index - 1}"
                if self._shards
                else "none"
            )
        )

    # Inside

    @property
    def _num_complete(self) -> int:
        return len(self._shards) - (1 if self._shards and not self._shards[-1].complete else 0)

    def _refill(self) -> None:
        """Takes the traces of a shard that is not full back into the buffer."""
        for shard in self._shards[self._num_complete :]:
            mapped = self._reader.load(shard, self.seed or 0)
            self._take(widened(mapped.traces), mapped.extra)

    def _demand_writable(self) -> None:
        if self._lock is None:
            raise StoreError(
                f"the trace store at {self._path} is not open for appending; "
                "open it with TraceStore.open(path, mode='append')"
            )

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        written = write_manifest(self._path, manifest)
        shards = _shards(written)
        self._manifest, self._shards = written, shards


def _shards(manifest: Mapping[str, Any]) -> tuple[Shard, ...]:
    return tuple(Shard.from_json(entry) for entry in manifest["shards"])

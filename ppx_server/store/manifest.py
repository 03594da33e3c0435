"""The manifest of a trace store, and how its files become durable."""

from __future__ import annotations

import fcntl
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from ppx_server.address import AddressTable
from ppx_server.errors import StoreError
from ppx_server.store.buffer import SHARD_TRACES

FORMAT = "ppx-trace-store"
VERSION = 2
"""1 had no rejection loops, and shards of any length."""
MANIFEST = "manifest.json"
LOCK = ".lock"
PARTIAL = ".partial"
_OURS = re.compile(r"manifest\.json|(shard|tail)-[\d-]+\.arrow|failures\.jsonl")
_TYPES = {"model_name": str, "fingerprint": str, "run": bool, "metadata": dict, "extra": list, "shards": list}
_MOST = (1 << 63) - 1
"""The largest number in a shard's entry; trace indices fit into 64 bits."""


class Shard(NamedTuple):
    """A shard's entry in the manifest.

    Attributes:
        file: File name within the store's directory.
        complete: It will not change any more; the last shard may grow.
        first: Position of its first trace in the store.
        num_traces: Number of traces.
        num_failed: How many of them failed.
        min_index: Smallest trace index.
        max_index: Largest trace index.
        num_bytes: Size of the file.
        crc32: Checksum of the file.
    """

    file: str
    complete: bool
    first: int
    num_traces: int
    num_failed: int
    min_index: int
    max_index: int
    num_bytes: int
    crc32: int

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """The entry of a manifest; keys of later versions are passed over.

        Raises:
            ValueError: It says something that no writer says.
        """
        shard = cls(*(entry[name] for name in cls._fields))
        if type(shard.file) is not str or type(shard.complete) is not bool:
            raise ValueError(f"a shard is called {shard.file!r}, complete {shard.complete!r}")
        for name, number in zip(cls._fields[2:], shard[2:], strict=True):
            if type(number) is not int or not 0 <= number <= _MOST:
                raise ValueError(f"{name} of {shard.file} is {number!r}")
        if not 0 < shard.num_traces <= SHARD_TRACES or shard.num_failed > shard.num_traces:
            raise ValueError(
                f"{shard.file} has {shard.num_traces} traces, of which {shard.num_failed} failed"
            )
        return shard


def read_manifest(directory: Path) -> dict[str, Any]:
    """What a store's manifest says, without its checksum.

    Raises:
        StoreError: There is no manifest, or it is damaged or of another format.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"no trace store at {directory}: there is no {MANIFEST}; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot read {path}: {error}; restore it from a copy") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"{path} is not the manifest of a trace store; check the path")
    if manifest.get("version") != VERSION:
        raise StoreError(
            f"{path} has format version {manifest.get('version')!r}, this program reads version {VERSION}; "
            "read it with the version of ppx that wrote it, or repeat the run into a new store"
        )
    if manifest.pop("crc32", None) != manifest_checksum(manifest):
        raise StoreError(f"{path} is damaged (its checksum does not match); restore it from a copy")
    try:
        shards = _checked(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"{path} does not say what a manifest must say ({error!r}); restore it from a copy"
        ) from error
    for shard in shards:
        if Path(shard.file).name != shard.file:
            raise StoreError(
                f"{path} names a shard outside the store, {shard.file!r}; do not trust this file"
            )
    return manifest


def _checked(manifest: Mapping[str, Any]) -> list[Shard]:
    """The shards, if everything has the type and range that a writer gives it: the numbers say what to allocate.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: Something has not.
    """
    AddressTable.from_json(manifest["addresses"])
    for key, kind in _TYPES.items():
        if type(manifest[key]) is not kind:
            raise TypeError(f"{key} is {manifest[key]!r}")
    if any(type(name) is not str for name in manifest["extra"]):
        raise TypeError(f"extra is {manifest['extra']!r}")
    total = manifest.get("total")
    if total is not None and (type(total) is not int or not 0 <= total <= _MOST):
        raise ValueError(f"total is {total!r}")
    seed = manifest["seed"]
    if seed is not None and (type(seed) is not int or not 0 <= seed < 1 << 64):
        raise ValueError(f"seed is {seed!r}")
    shards = [Shard.from_json(entry) for entry in manifest["shards"]]
    if len({shard.file for shard in shards}) < len(shards):
        raise ValueError("a file is two shards")
    for shard, first in zip(shards, accumulate((s.num_traces for s in shards), initial=0), strict=False):
        if shard.first != first or shard.min_index > shard.max_index:
            raise ValueError(
                f"{shard.file} begins at {shard.first}, not at {first}, or its indices are no range"
            )
    if not all(shard.complete for shard in shards[:-1]):
        raise ValueError("a shard before the last one is not complete")
    return shards


def write_manifest(directory: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces a store's manifest in one atomic step.

    Returns:
        The manifest as it will be read.

    Raises:
        StoreError: It cannot be written, or holds what JSON cannot say.
    """
    partial = directory / f"{MANIFEST}{PARTIAL}"
    try:
        text = json.dumps({**manifest, "crc32": manifest_checksum(manifest)}, indent=1)
        partial.write_text(text, encoding="ascii")
        settle(partial, directory / MANIFEST)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"cannot write the metadata of the trace store at {directory}: {error}; "
            "use strings, numbers, booleans, None, lists and dicts with string keys"
        ) from error
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {directory / MANIFEST}: {error}; the traces already in the store are safe"
        ) from error
    written: dict[str, Any] = json.loads(text)
    del written["crc32"]
    return written


def remove_leftovers(directory: Path, shards: Iterable[Shard]) -> None:
    """Removes the files that a killed writer left behind; only for the holder of the lock."""
    known = {shard.file for shard in shards}
    for pattern in (f"*{PARTIAL}", "shard-*.arrow", "tail-*.arrow"):
        for path in directory.glob(pattern):
            if path.name not in known:
                path.unlink(missing_ok=True)


def manifest_checksum(manifest: Mapping[str, Any]) -> int:
    """Checksum of everything else that a manifest says."""
    # Through JSON and back first: dumping turns tuples into lists and number keys into strings.
    body = json.loads(json.dumps(manifest))
    return zlib.crc32(json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii"))


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    crc32 = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc32 = zlib.crc32(block, crc32)
    return crc32


def check_intact(path: Path, shard: Shard) -> None:
    """Compares a file with its entry in the manifest.

    Raises:
        StoreError: They differ.
    """
    size = path.stat().st_size
    if size != shard.num_bytes:
        raise StoreError(f"it has {size} bytes instead of {shard.num_bytes}")
    if checksum(path) != shard.crc32:
        raise StoreError("its checksum does not match")


def settle(partial: Path, final: Path) -> None:
    """Makes a complete file durable under its final name, in one atomic step."""
    _sync(partial)
    os.replace(partial, final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Makes the directory of a new store, if there is not one that is `vacant`.

    Raises:
        StoreError: There is something in it, or it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make a trace store at {directory}: {error}; choose another path") from error
    if not vacant(directory):
        raise StoreError(
            f"cannot make a trace store at {directory}: the directory is not empty, or being written to; "
            "choose another path, or append with TraceStore.open(path, mode='append')"
        )


def vacant(directory: Path) -> bool:
    """Whether a new store may be made at a path: nothing is there, or what a killed writer left of a whole one."""
    if not directory.exists():
        return True
    if not directory.is_dir():
        return False
    names = {path.name for path in directory.iterdir()}
    others = {name for name in names if name != LOCK and not name.endswith(PARTIAL)}
    if not others:
        return True
    return missing(directory) > 0 and all(map(_OURS.fullmatch, others)) and not being_written(directory)


def missing(directory: Path) -> int:
    """How many traces a store lacks of those that it was made to hold; 0 where it is whole, open-ended or none."""
    try:
        manifest = read_manifest(directory)
    except StoreError:
        return 0
    return lacking(manifest)


def being_written(directory: Path) -> bool:
    """Whether a process appends to a store."""
    try:
        with (directory / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def lacking(manifest: Mapping[str, Any]) -> int:
    """See `missing`."""
    total: int = manifest.get("total") or 0
    return max(total - sum(int(entry["num_traces"]) for entry in manifest["shards"]), 0)


def clear(directory: Path) -> None:
    """Removes all files of a store, the lock excepted; only for the holder of the lock."""
    for path in directory.iterdir():
        if _OURS.fullmatch(path.name) or path.name.endswith(PARTIAL):
            path.unlink(missing_ok=True)


def acquire(directory: Path) -> IO[str]:
    """The writers' lock, which the system releases when the process ends, however it ends."""
    try:
        lock = (directory / LOCK).open("w")
    except OSError as error:
        raise StoreError(f"cannot append to the trace store at {directory}: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StoreError(
            f"another process appends to the trace store at {directory}; wait for it or use a store of your own"
        ) from error
    return lock

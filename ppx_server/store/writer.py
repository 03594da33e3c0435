"""What is written into a store: whether it fits, and how it gets to disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppx_server.errors import StoreError
from ppx_server.store import canonical
from ppx_server.store.buffer import Buffer
from ppx_server.store.manifest import PARTIAL, Shard, checksum, settle
from ppx_server.store.shard import to_record_batch, write_record_batch
from ppx_server.trace import Floats, Status, TraceBatch


def check_fits(
    path: Path,
    manifest: Mapping[str, Any],
    next_index: int,
    batch: TraceBatch,
    extra: Mapping[str, Floats],
) -> None:
    """Compares a batch with what a store holds already.

    Args:
        path: The store's directory.
        manifest: Its manifest.
        next_index: One more than its last trace index.
        batch: K traces.
        extra: Further columns.

    Raises:
        StoreError: The batch is of another seed, has other columns, or leaves a gap in a run.
    """
    where = f"cannot append to the trace store at {path}: "
    if manifest["seed"] not in (None, batch.seed):
        raise StoreError(
            f"{where}it holds traces of seed {manifest['seed']}, the batch is of seed {batch.seed}; "
            "use one store per seed"
        )
    if next_index and sorted(extra) != sorted(manifest["extra"]):
        raise StoreError(
            f"{where}its extra columns are {manifest['extra']}, not {list(extra)}; "
            "give the same columns with every batch"
        )
    if manifest["run"] and (batch.index != next_index + np.arange(len(batch))).any():
        raise StoreError(
            f"{where}it goes on with trace {next_index}, and the batch does not hold consecutive traces "
            "from there; append the traces of a run in the order of their indices"
        )
    for name, values in extra.items():
        if values.shape != (len(batch),):
            raise StoreError(
                f"{where}extra column {name!r} has shape {values.shape}; "
                f"give one number for each of the {len(batch)} traces"
            )


def write_shard(path: Path, buffer: Buffer, first: int) -> tuple[Shard, int]:
    """Writes the traces of a buffer; they count once the manifest mentions them.

    Args:
        path: The store's directory.
        buffer: The traces.
        first: Position of the first of them in the store.

    Returns:
        Their entry for the manifest, and how many entries of the address table they need.

    Raises:
        StoreError: The file cannot be written.
    """
    batch, extra = buffer.merged()
    file = f"shard-{buffer.number:06d}.arrow"
    if not buffer.full:
        file = f"tail-{buffer.number:06d}-{buffer.num_traces}.arrow"
    partial = path / f"{file}{PARTIAL}"
    try:
        write_record_batch(to_record_batch(batch, extra), partial)
        num_bytes, crc32 = partial.stat().st_size, checksum(partial)
        settle(partial, path / file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path / file}: {error}; the traces already in the store are safe"
        ) from error
    shard = Shard(
        file=file,
        complete=buffer.full,
        first=first,
        num_traces=len(batch),
        num_failed=int((batch.status == Status.FAILED).sum()),
        min_index=int(batch.index.min()),
        max_index=int(batch.index.max()),
        num_bytes=num_bytes,
        crc32=crc32,
    )
    return shard, canonical.num_addresses(batch)

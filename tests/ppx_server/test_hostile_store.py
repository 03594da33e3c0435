"""A store whose numbers lie: an error, before anything of the size that it claims is made."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ppx_server.errors import StoreError
from ppx_server.store import TraceStore, manifest, shard

WRONG = [10**30, (1 << 62), -1, math.nan, math.inf, "7", None, 1.5, [], {}]


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value there are numbers and flags."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from numbers(inner, (*path, key))
    if isinstance(value, int | float):
        yield path


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


def read(path: Path) -> None:
    store = TraceStore.open(path)
    store.read()
    store.read_extra()


@pytest.fixture
def stored(tmp_path: Path, make_traces) -> Path:
    """A store with a column of every kind, some of them constant."""
    traces = make_traces(40)
    traces = replace(traces, instance=np.zeros_like(traces.instance), flags=np.ones_like(traces.flags))
    with TraceStore.create(tmp_path / "s", model_name="m") as store:
        store.append(traces, extra={"log_weight": np.zeros(40)})
    return tmp_path / "s"


def test_every_number_of_the_manifest_is_checked(stored: Path) -> None:
    sound = manifest.read_manifest(stored)
    places = [p for p in numbers(sound) if p[0] != "metadata"]
    assert {p[-1] for p in places} >= {"version", "seed", "run", "first", "num_traces", "num_failed", "crc32"}
    for path in places:
        # Seeds are that large, and there may be none; what is read by a shape is bounded where it is read.
        sound_too = {"seed": [1 << 62, None], "addresses": [1 << 62]}.get(path[0], [])
        for value in WRONG:
            if value not in sound_too:
                manifest.write_manifest(stored, changed(sound, path, value))
                with pytest.raises(StoreError):
                    read(stored)
    manifest.write_manifest(stored, sound)
    read(stored)


def test_every_number_of_a_shard_is_checked(stored: Path, tmp_path: Path) -> None:
    (entry,) = manifest.read_manifest(stored)["shards"]
    path = stored / entry["file"]
    (tmp_path / "copy").write_bytes(path.read_bytes())
    record = shard.read_record_batch(tmp_path / "copy")
    about = json.loads(record.schema.metadata[b"ppx"])
    places = [p for p in numbers(about) if p[-1] != "extra.log_weight"]  # which may be any number
    assert {p[-1] for p in places} >= {"num_traces", "first_index", "draws.instance", "draws.flags"}
    for place in places:
        for value in WRONG:
            if value is None:  # as if it were not there, which is another thing
                continue
            write(stored, changed(about, place, value), record, entry)
            with pytest.raises(StoreError):
                read(stored)
    write(stored, about, record, entry)
    read(stored)


def write(path: Path, about: Any, record: pa.RecordBatch, entry: dict[str, Any]) -> None:
    """Writes a shard that says what it likes, and a manifest with its checksum."""
    file = path / entry["file"]
    shard.write_record_batch(record.replace_schema_metadata({b"ppx": json.dumps(about).encode()}), file)
    told = {"num_bytes": file.stat().st_size, "crc32": manifest.checksum(file)}
    manifest.write_manifest(path, {**manifest.read_manifest(path), "shards": [{**entry, **told}]})


@pytest.mark.parametrize("kind", ["traces", "draws"])
def test_nothing_of_a_claimed_size_is_made(kind: str, tmp_path: Path) -> None:
    count = 3_000_000_000 if kind == "traces" else 2_000_000_000  # more than that Arrow does not write
    about: dict[str, Any] = {"num_traces": count, "first_index": 0, "constants": {}, "copies": {}}
    record, num_traces = pa.RecordBatch.from_arrays([], []), count
    if kind == "draws":  # one trace with a list of rows that have no field
        rows = pa.Array.from_buffers(pa.struct([]), count, [None])
        draws = pa.LargeListArray.from_arrays(pa.array([0, count], pa.int64()), rows)
        record, num_traces = pa.RecordBatch.from_arrays([draws], ["draws"]), 1
        columns = ("address_id", "instance", "value", "z", "log_prob", "log_q", "flags")
        about |= {"num_traces": 1, "constants": {f"draws.{n}": 0 for n in columns}}
    path = tmp_path / "s"
    TraceStore.create(path, model_name="m").close()
    told = {**manifest.read_manifest(path), "seed": 1, "addresses": [["x", "x", "Normal", []]]}
    manifest.write_manifest(path, told)
    entry = manifest.Shard("shard-000000.arrow", True, 0, num_traces, 0, 0, num_traces - 1, 0, 0)
    if kind == "draws":
        write(path, about, record, entry._asdict())
    else:  # the manifest is the first to be asked
        manifest.write_manifest(path, {**told, "shards": [entry._asdict()]})
    program = "import sys; from ppx_server.store import TraceStore; TraceStore.open(sys.argv[1]).read()"
    limit = 4 << 30
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "s")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert "StoreError" in done.stderr.splitlines()[-1], done.stderr
    assert "MemoryError" not in done.stderr

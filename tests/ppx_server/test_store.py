"""The trace store: what goes in comes out, and nothing that happens to the files goes unnoticed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ppx_server.address import AddressTable
from ppx_server.errors import StoreError
from ppx_server.store import TraceStore
from ppx_server.trace import TensorTable, TraceBatch


def assert_same(found: TraceBatch, expected: TraceBatch, remapped: bool = False) -> None:
    for field in dataclasses.fields(TraceBatch):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(a, np.ndarray) and not (remapped and field.name == "address_id"):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, field.name)
        elif isinstance(a, TensorTable):
            for column in dataclasses.fields(TensorTable):
                if not (remapped and column.name == "address_id"):
                    np.testing.assert_array_equal(
                        getattr(a, column.name), getattr(b, column.name), column.name
                    )
                    assert getattr(a, column.name).dtype == getattr(b, column.name).dtype
    np.testing.assert_array_equal(found.params.data, expected.params.data)
    np.testing.assert_array_equal(found.params.offsets, expected.params.offsets)
    assert (found.seed, found.failures) == (expected.seed, expected.failures)
    for ours, theirs in (
        (found.address_id, expected.address_id),
        (found.tags.address_id, expected.tags.address_id),
    ):
        assert [found.addresses[i] for i in ours] == [expected.addresses[i] for i in theirs]


def test_every_column_comes_back(tmp_path: Path, make_traces) -> None:
    traces = make_traces(50)
    with TraceStore.create(
        tmp_path / "s", model_name="gaussian", metadata={"engine": ["prior", 1.5]}
    ) as store:
        store.append(traces, extra={"log_weight": traces.index * 0.5})
    store = TraceStore.open(tmp_path / "s")
    assert (len(store), store.model_name, store.seed) == (50, "gaussian", 7)
    assert store.metadata == {"engine": ["prior", 1.5]}
    assert list(store.addresses) == list(traces.addresses)
    assert_same(store.read(), traces)
    np.testing.assert_array_equal(store.read_extra()["log_weight"], traces.index * 0.5)


def test_shards_are_mapped_and_concatenated(tmp_path: Path, make_traces) -> None:
    table = AddressTable()
    batches = [make_traces(20, first=i * 20, addresses=table) for i in range(3)]
    for address in make_traces(0).addresses:
        table.intern(address)
    with TraceStore.create(tmp_path / "s") as store:
        for number, batch in enumerate(batches):
            store.append(batch, extra={"w": np.full(20, number)})
            assert len(store) == 20 * (number + 1)
        shard = store.shard(1)
        assert not shard.value.flags.writeable
        assert not shard.value.flags.owndata
        assert_same(shard, batches[1])
        assert_same(store.read(), TraceBatch.concatenate(batches))
        assert [len(b) for b in store] == [20, 20, 20]
        np.testing.assert_array_equal(store.read_extra()["w"], np.repeat([0.0, 1.0, 2.0], 20))
        assert [(s.first, s.min_index, s.max_index) for s in store.shards] == [
            (0, 0, 19),
            (20, 20, 39),
            (40, 40, 59),
        ]
        with pytest.raises(IndexError):
            store.shard(3)


def test_a_later_process_appends_with_other_address_ids(tmp_path: Path, make_traces) -> None:
    first = make_traces(30)
    with TraceStore.create(tmp_path / "s") as store:
        store.append(first)
    reversed_table = AddressTable(list(first.addresses)[::-1])
    second = make_traces(30, first=30, addresses=reversed_table)
    with TraceStore.open(tmp_path / "s", mode="append") as store:
        store.append(second)
    store = TraceStore.open(tmp_path / "s")
    assert_same(store.shard(0), first)
    assert_same(store.shard(1), second, remapped=True)
    assert store.read().addresses is store.addresses
    assert len(store.addresses) == len(first.addresses)


def test_empty_stores_and_empty_batches(tmp_path: Path, make_traces) -> None:
    with TraceStore.create(tmp_path / "s") as store:
        assert len(store.read()) == 0
        store.append(make_traces(0))
    assert len(TraceStore.open(tmp_path / "s").read()) == 0
    assert TraceStore.open(tmp_path / "s").seed == 7


def test_metadata_can_be_replaced_and_is_a_copy(tmp_path: Path) -> None:
    with TraceStore.create(tmp_path / "s", metadata={"a": 1}) as store:
        store.metadata["a"] = 2
        assert store.metadata == {"a": 1}
        store.write_metadata({"b": {"c": None, "d": -np.inf}})
        with pytest.raises(StoreError, match=r"metadata .* use strings"):
            store.write_metadata({"a": object()})
        assert store.metadata == {"b": {"c": None, "d": -np.inf}}
    assert TraceStore.open(tmp_path / "s").metadata == {"b": {"c": None, "d": -np.inf}}


def test_what_does_not_fit_is_refused(tmp_path: Path, make_traces) -> None:
    with TraceStore.create(tmp_path / "s") as store:
        store.append(make_traces(3), extra={"w": np.zeros(3)})
        with pytest.raises(StoreError, match="traces of seed 7, the batch is of seed 8"):
            store.append(make_traces(3, seed=8), extra={"w": np.zeros(3)})
        with pytest.raises(StoreError, match="extra columns are"):
            store.append(make_traces(3))
        with pytest.raises(StoreError, match=r"'w' has shape \(2,\)"):
            store.append(make_traces(3), extra={"w": np.zeros(2)})
        with pytest.raises(StoreError, match="another process appends"):
            TraceStore.open(tmp_path / "s", mode="append")
        assert len(TraceStore.open(tmp_path / "s")) == 3
    with pytest.raises(StoreError, match="not open for appending"):
        store.append(make_traces(3))
    with pytest.raises(StoreError, match="not open for appending"):
        TraceStore.open(tmp_path / "s").write_metadata({})
    with pytest.raises(StoreError, match="not empty"):
        TraceStore.create(tmp_path / "s")


WRITER = """
import sys
import numpy as np
from ppx_server.store import TraceStore
from ppx_server.store.directory import _no_traces
from ppx_server.address import AddressTable
from dataclasses import replace

store = TraceStore.open(sys.argv[1], mode="append")
none = _no_traces(AddressTable(), 7)
rows = 200_000
filled = {n: np.zeros(rows, getattr(none, n).dtype) for n in
          ("instance", "params_id", "value", "z", "log_prob", "log_q", "flags", "address_id")}
from ppx_server.address import Address
from ppx_server.trace import Params, TensorTable
print("ready", flush=True)
for i in range(1000):
    store.append(replace(
        none, **filled, addresses=AddressTable([Address("x", "x", "Normal", ())]), index=np.array([i]),
        status=np.zeros(1, np.uint8), offsets=np.array([0, rows]), params=Params(np.zeros(2), np.array([0, 2])),
        observations=TensorTable.empty(1), tags=TensorTable.empty(1), results=TensorTable.empty(1)))
"""


@pytest.mark.parametrize("delay", [0.0, 0.011, 0.023, 0.047, 0.09])
def test_a_killed_writer_leaves_a_store_that_opens(tmp_path: Path, delay: float) -> None:
    TraceStore.create(tmp_path / "s").close()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "s")], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(delay)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    (tmp_path / "s" / "shard-000999.arrow.partial").write_bytes(b"left over")
    before = len(TraceStore.open(tmp_path / "s"))
    with TraceStore.open(tmp_path / "s", mode="append") as store:  # the lock died with its holder
        assert not list((tmp_path / "s").glob("*.partial"))
        traces = store.read()
        np.testing.assert_array_equal(traces.index, np.arange(before))
        assert traces.offsets[-1] == 200_000 * before


@pytest.fixture
def stored(tmp_path: Path, make_traces) -> tuple[Path, TraceBatch]:
    table = make_traces(0).addresses
    with TraceStore.create(tmp_path / "s") as store:
        store.append(make_traces(40, addresses=table))
        store.append(make_traces(40, first=40, addresses=table))
    return tmp_path / "s", make_traces(40, addresses=table)


def test_truncated_shards_are_named_and_the_others_stay_readable(stored) -> None:
    path, first = stored
    shard = path / "shard-000001.arrow"
    content = shard.read_bytes()
    for size in [0, 1, 8, len(content) // 3, len(content) // 2, len(content) - 9, len(content) - 1]:
        shard.write_bytes(content[:size])
        store = TraceStore.open(path)
        with pytest.raises(
            StoreError, match=r"shard-000001.arrow \(traces 40 to 79\): it has \d+ bytes instead"
        ):
            store.read()
        assert_same(store.shard(0), first)
    shard.unlink()
    with pytest.raises(StoreError, match="shard-000001"):
        TraceStore.open(path).read()


def test_any_flipped_bit_of_a_shard_is_noticed(stored) -> None:
    path, _ = stored
    shard = path / "shard-000000.arrow"
    content = shard.read_bytes()
    for position in range(0, len(content), len(content) // 60):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        shard.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"shard-000000.arrow .* checksum does not match"):
            TraceStore.open(path).shard(0)


def test_any_damage_of_the_manifest_is_noticed(stored) -> None:
    path, _ = stored
    manifest = path / "manifest.json"
    content = manifest.read_bytes()
    for size in range(0, len(content), len(content) // 40):
        manifest.write_bytes(content[:size])
        with pytest.raises(StoreError, match="manifest"):
            TraceStore.open(path)
    for position in range(0, len(content), len(content) // 60):
        damaged = bytearray(content)
        damaged[position] ^= 1
        manifest.write_bytes(damaged)
        try:
            store = TraceStore.open(path)
        except StoreError:
            continue
        # What is not noticed must not matter: white space between tokens.
        assert json.loads(bytes(damaged)) == json.loads(content), position
        assert len(store) == 80


def test_foreign_files_are_not_stores(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no trace store at"):
        TraceStore.open(tmp_path / "nowhere")
    for content in ("{}", "[]", "null", '{"format": "zarr"}', "\x80", "[" * 100_000):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(StoreError, match="manifest"):
            TraceStore.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "ppx-trace-store", "version": 99}')
    with pytest.raises(StoreError, match="format version 99"):
        TraceStore.open(tmp_path)
    with pytest.raises(StoreError, match="not empty"):
        TraceStore.create(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot make a trace store"):
        TraceStore.create(tmp_path / "file")


def test_unknown_keys_of_later_versions_survive(stored, make_traces) -> None:
    path, _ = stored
    from ppx_server.store.manifest import manifest_checksum

    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["crc32"]
    manifest["next_index"] = 80
    manifest["shards"][0]["codec"] = "none"
    (path / "manifest.json").write_text(json.dumps({**manifest, "crc32": manifest_checksum(manifest)}))
    with TraceStore.open(path, mode="append") as store:
        store.append(make_traces(2, first=80))
    after = json.loads((path / "manifest.json").read_text())
    assert (after["next_index"], after["shards"][0]["codec"], len(after["shards"])) == (80, "none", 3)


def test_a_shard_cannot_point_outside_the_store(stored) -> None:
    path, _ = stored
    from ppx_server.store.manifest import manifest_checksum

    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["crc32"]
    manifest["shards"][0]["file"] = "../elsewhere.arrow"
    (path / "manifest.json").write_text(json.dumps({**manifest, "crc32": manifest_checksum(manifest)}))
    with pytest.raises(StoreError, match="outside the store"):
        TraceStore.open(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="choose another path"):
        TraceStore.create(tmp_path / "s")

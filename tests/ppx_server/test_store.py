"""The trace store: what goes in comes out, and nothing that happens to the files goes unnoticed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppx_server.address import AddressTable
from ppx_server.errors import StoreError
from ppx_server.store import TraceStore, buffer
from ppx_server.trace import LoopTable, Params, Status, TensorTable, TraceBatch


def assert_same(found: TraceBatch, expected: TraceBatch) -> None:
    """The same traces, whatever the numbers of addresses and parameter vectors."""
    for field in dataclasses.fields(TraceBatch):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "address_id":
            assert_same_addresses(found, found, expected, expected)
        elif isinstance(a, np.ndarray) and field.name != "params_id":
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, field.name)
        elif isinstance(a, TensorTable | LoopTable):
            assert_same_addresses(a, found, b, expected)
            for column in dataclasses.fields(a):
                c, d = getattr(a, column.name), getattr(b, column.name)
                assert c.dtype == d.dtype, column.name
                if column.name != "address_id":
                    np.testing.assert_array_equal(c, d, column.name)
    for ours, theirs in zip(found.params_id, expected.params_id, strict=True):
        np.testing.assert_array_equal(found.params[ours], expected.params[theirs])
    assert found.params_id.dtype == expected.params_id.dtype
    assert found.seed == expected.seed
    chosen = set(found.index.tolist())
    assert found.failures == {i: why for i, why in expected.failures.items() if i in chosen}


def assert_same_addresses(a: Any, found: TraceBatch, b: Any, expected: TraceBatch) -> None:
    assert [found.addresses[i] for i in a.address_id] == [expected.addresses[i] for i in b.address_id]


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(path.iterdir()) if p.name != ".lock"}


def disguised(batch: TraceBatch, rng: np.random.Generator) -> TraceBatch:
    """The same traces with other numbers for addresses and parameter vectors, some of these stored several times."""
    addresses = list(batch.addresses)
    turn = rng.permutation(len(addresses))
    table = AddressTable([addresses[i] for i in turn])
    ids = np.argsort(turn).astype(np.int32)
    tables = {
        name: dataclasses.replace(getattr(batch, name), address_id=ids[getattr(batch, name).address_id])
        for name in ("observations", "tags", "results", "loops")
    }
    rows = rng.permutation(np.repeat(np.arange(len(batch.params)), 3))
    vectors = [batch.params[i] for i in rows]
    params_id = np.array([rng.choice(np.flatnonzero(rows == i)) for i in batch.params_id], np.int32)
    return dataclasses.replace(
        batch,
        addresses=table,
        address_id=ids[batch.address_id],
        params_id=params_id,
        params=Params(np.concatenate(vectors), np.cumsum([0] + [len(v) for v in vectors])),
        **tables,
    )


def test_every_column_comes_back(tmp_path: Path, make_traces) -> None:
    traces = make_traces(50)
    with TraceStore.create(
        tmp_path / "s", model_name="gaussian", fingerprint="abc", metadata={"engine": ["prior", 1.5]}
    ) as store:
        store.append(traces, extra={"log_weight": traces.index * 0.5})
    store = TraceStore.open(tmp_path / "s")
    assert (len(store), store.model_name, store.fingerprint, store.seed) == (50, "gaussian", "abc", 7)
    assert store.metadata == {"engine": ["prior", 1.5]}
    assert set(store.addresses) == set(traces.addresses)
    assert store.num_failed == (traces.status == Status.FAILED).sum()
    assert_same(store.read(), traces)
    assert not store.read().value.flags.writeable
    assert not store.read().value.flags.owndata
    np.testing.assert_array_equal(store.read_extra()["log_weight"], traces.index * 0.5)


def constant(traces: TraceBatch) -> TraceBatch:
    """One draw, observation, tag and result per trace, and nothing in them that varies but values."""
    k, rng = len(traces), np.random.default_rng(1)
    ones, zeros = np.arange(k + 1), np.zeros(k, np.int32)
    table = TensorTable(ones, zeros, zeros, rng.normal(size=k), ones, np.zeros(k))
    return dataclasses.replace(
        traces,
        status=np.zeros(k, np.uint8),
        offsets=ones,
        address_id=zeros,
        instance=zeros,
        params_id=zeros,
        value=rng.normal(size=k),
        z=rng.normal(size=k),
        log_prob=np.full(k, -0.7),
        log_q=np.full(k, -0.7),
        flags=np.ones(k, np.uint8),
        observations=table,
        tags=table,
        results=dataclasses.replace(table, data=table.data[:0], data_offsets=np.zeros(k + 1, np.int64)),
        loops=LoopTable.empty(k),
        failures={},
    )


def test_what_is_constant_takes_no_room(tmp_path: Path, make_traces) -> None:
    traces = constant(make_traces(10_000, first=3))
    with TraceStore.create(tmp_path / "s") as store:
        store.append(traces, extra={"log_weight": np.zeros(10_000)})
    store = TraceStore.open(tmp_path / "s")
    assert_same(store.read(), traces)
    np.testing.assert_array_equal(store.read_extra()["log_weight"], np.zeros(10_000))
    # value, z, address, params; observation and tag: address, value; result: address.
    assert store.shards[0].num_bytes / 10_000 == pytest.approx(2 * 8 + 2 + 2 * 9 + 1, abs=0.5)


@pytest.mark.parametrize("change", ["no draws", "nothing", "some data", "large ids"])
def test_shapes_at_the_edge(tmp_path: Path, make_traces, change: str) -> None:
    traces = constant(make_traces(30))
    if change in ("no draws", "nothing"):
        none = {n: getattr(traces, n)[:0] for n in ("address_id", "instance", "params_id", "value", "z")}
        none |= {n: getattr(traces, n)[:0] for n in ("log_prob", "log_q", "flags")}
        params = Params(np.empty(0), np.zeros(1, np.int64))
        traces = dataclasses.replace(traces, **none, params=params, offsets=np.zeros(31, np.int64))
    if change == "nothing":
        tables = dict.fromkeys(("observations", "tags", "results"), TensorTable.empty(30))
        traces = dataclasses.replace(traces, **tables)
    if change == "some data":
        offsets = np.concatenate([[0, 0], np.arange(29) + 1])
        tags = dataclasses.replace(traces.tags, data=traces.tags.data[:29], data_offsets=offsets)
        traces = dataclasses.replace(traces, tags=tags)
    if change == "large ids":
        traces = dataclasses.replace(
            traces, index=np.arange(30) ** 2 * 10**12, instance=np.arange(30).astype(np.int32) * 10_000
        )
    with TraceStore.create(tmp_path / "s") as store:
        store.append(traces)
    assert_same(TraceStore.open(tmp_path / "s").read(), traces)


def test_bytes_do_not_depend_on_batches_interruptions_or_numbers(tmp_path: Path, make_traces) -> None:
    parts = [make_traces(n, first=f) for f, n in ((0, 120), (120, 1), (121, 400), (521, 79))]
    parts = [dataclasses.replace(p, addresses=parts[0].addresses) for p in parts]
    whole = TraceBatch.concatenate(parts)
    run = {"model_name": "m", "fingerprint": "f", "seed": 7}
    with TraceStore.resume(tmp_path / "once", **run) as store:
        store.append(whole)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        path, position = tmp_path / f"often{seed}", 0
        while position < len(whole):
            with TraceStore.resume(path, **run) as store:
                assert store.next_index == position
                for size in rng.integers(0, 80, 3).tolist():
                    rows = np.arange(position, min(position + size, len(whole)))
                    store.append(disguised(whole.select(rows), rng))
                    position += len(rows)
        assert files(path) == files(tmp_path / "once")
    assert_same(TraceStore.open(tmp_path / "once").read(), whole)


def test_shards_end_at_fixed_traces(tmp_path: Path, make_traces) -> None:
    run = {"model_name": "m", "fingerprint": "f", "seed": 7}
    traces = make_traces(buffer.SHARD_TRACES * 2 + 100)
    for name, cuts in (("a", [0, len(traces)]), ("b", [0, 5, 65_535, 65_537, 131_072, len(traces)])):
        with TraceStore.resume(tmp_path / name, **run) as store:
            for first, last in pairwise(cuts):
                store.append(traces.select(np.arange(first, last)))
                assert len(store) == last // buffer.SHARD_TRACES * buffer.SHARD_TRACES
                assert store.next_index == last
    assert files(tmp_path / "a") == files(tmp_path / "b")
    store = TraceStore.open(tmp_path / "a")
    assert [s.file for s in store.shards] == [
        "shard-000000.arrow",
        "shard-000001.arrow",
        "tail-000002-100.arrow",
    ]
    assert [(s.first, s.min_index, s.max_index) for s in store.shards] == [
        (0, 0, 65_535),
        (65_536, 65_536, 131_071),
        (131_072, 131_072, 131_171),
    ]
    assert [len(b) for b in store] == [65_536, 65_536, 100]
    np.testing.assert_array_equal(store.read().value, traces.value)
    with pytest.raises(IndexError):
        store.shard(3)


def test_shards_of_large_traces_are_short(tmp_path: Path, make_traces) -> None:
    run = {"model_name": "m", "fingerprint": "f", "seed": 7}
    traces = make_traces(900, result_size=12_500)  # 100 kB each, for half of them
    with TraceStore.resume(tmp_path / "a", **run) as store:
        store.append(traces)
    with TraceStore.resume(tmp_path / "b", **run) as store:
        for k in range(0, 900, 7):
            store.append(traces.select(np.arange(k, min(k + 7, 900))))
    shards = TraceStore.open(tmp_path / "a").shards
    assert len(shards) == 2
    assert shards[0].num_bytes == pytest.approx(buffer.SHARD_BYTES, rel=0.02)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_chosen_traces_are_read_alone(tmp_path: Path, make_traces) -> None:
    traces = make_traces(buffer.SHARD_TRACES + 50, first=10)
    with TraceStore.create(tmp_path / "s") as store:
        store.append(traces)
    store = TraceStore.open(tmp_path / "s")
    positions = np.array([65_580, 3, 0, 65_535, 65_536, 3])
    assert_same(store.select(positions), traces.select(positions))
    assert len(store.select([3]).params) <= 3
    assert_same(store.trace(65_560), traces.select([65_550]))
    assert len(store.select([])) == 0
    for wrong in (-1, len(traces)):
        with pytest.raises(IndexError, match="positions 0 to 65585"):
            store.select([wrong])
    with pytest.raises(StoreError, match="no trace with index 9; its indices are 10 to 65595"):
        store.trace(9)


def test_another_run_is_refused(tmp_path: Path, make_traces) -> None:
    run = {"model_name": "m", "fingerprint": "f", "seed": 7}
    with TraceStore.resume(tmp_path / "s", **run) as store:
        assert store.next_index == 0
        store.append(make_traces(20))
        for wrong in (make_traces(3), make_traces(3, first=21), make_traces(3, first=20).select([0, 2, 1])):
            with pytest.raises(StoreError, match="goes on with trace 20"):
                store.append(wrong)
        with pytest.raises(StoreError, match="seed 7, the batch is of seed 8"):
            store.append(make_traces(3, first=20, seed=8))
    for name, other in (("model_name", "n"), ("fingerprint", "g"), ("seed", 8)):
        with pytest.raises(StoreError, match=f"{name.replace('_', ' ')} is .* there and {other!r} here"):
            TraceStore.resume(tmp_path / "s", **{**run, name: other})
    TraceStore.create(tmp_path / "free", model_name="m", fingerprint="f").close()
    with pytest.raises(StoreError, match="does not hold a run"):
        TraceStore.resume(tmp_path / "free", **run)
    with TraceStore.resume(tmp_path / "s", **run) as store:  # no lock is left
        assert store.next_index == 20


def test_what_is_flushed_survives(tmp_path: Path, make_traces) -> None:
    with TraceStore.create(tmp_path / "s") as store:
        store.append(make_traces(20))
        assert len(TraceStore.open(tmp_path / "s")) == 0
        store.flush()
        assert_same(TraceStore.open(tmp_path / "s").read(), make_traces(20))
        store.append(make_traces(5, first=20))
        store.flush()
        store.flush()
        assert [p.name for p in (tmp_path / "s").glob("*.arrow")] == ["tail-000000-25.arrow"]


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
        store.flush()
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
from ppx_server.address import Address, AddressTable
from ppx_server.store import TraceStore
from ppx_server.trace import LoopTable, Params, TensorTable, TraceBatch

path, total = sys.argv[1], int(sys.argv[2])
store = TraceStore.resume(path, model_name="m", fingerprint="f", seed=7)
print("ready", flush=True)
rng = np.random.default_rng(store.next_index)
while (first := store.next_index) < total:
    k = min(int(rng.integers(1, 20_000)), total - first)
    value = np.repeat((np.arange(first, first + k) / 7.0), 10)
    small, ids = np.zeros(10 * k, np.uint8), np.zeros(10 * k, np.int32)
    none = TensorTable.empty(k)
    store.append(TraceBatch(
        addresses=AddressTable([Address("x", "x", "Normal", ())]), seed=7, index=np.arange(first, first + k),
        status=np.zeros(k, np.uint8), offsets=np.arange(k + 1) * 10, address_id=ids, instance=ids, params_id=ids,
        params=Params(np.zeros(2), np.array([0, 2])), value=value, z=value, log_prob=value, log_q=value,
        flags=small, observations=none, tags=none, results=none, loops=LoopTable.empty(k)))
    if rng.random() < 0.5:
        store.flush()
store.close()
"""
TOTAL = 300_000


def test_a_killed_writer_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    def writer(path: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WRITER, str(path), str(TOTAL)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    durable = 0
    for delay in (0.0, 0.05, 0.11, 0.23, 0.47):
        process = writer(tmp_path / "killed")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = TraceStore.open(tmp_path / "killed")  # the lock died with its holder
        assert durable <= len(store)
        durable = len(store)
        np.testing.assert_array_equal(store.read().value, np.repeat(np.arange(durable) / 7.0, 10))
        (tmp_path / "killed" / "shard-000999.arrow.partial").write_bytes(b"left over")
    for path in (tmp_path / "killed", tmp_path / "whole"):
        process = writer(path)
        process.communicate()
        assert process.returncode == 0
    assert len(TraceStore.open(tmp_path / "whole")) == TOTAL
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.fixture
def stored(tmp_path: Path, make_traces) -> tuple[Path, TraceBatch]:
    """A store of a full shard and a tail of 40 traces, and these."""
    traces = constant(make_traces(buffer.SHARD_TRACES + 40))
    with TraceStore.create(tmp_path / "s") as store:
        store.append(traces)
    return tmp_path / "s", traces.select(np.arange(buffer.SHARD_TRACES, len(traces)))


def test_truncated_shards_are_named_and_the_others_stay_readable(stored) -> None:
    path, tail = stored
    shard = path / "shard-000000.arrow"
    content = shard.read_bytes()
    for size in [0, 1, 8, len(content) // 3, len(content) // 2, len(content) - 9, len(content) - 1]:
        shard.write_bytes(content[:size])
        store = TraceStore.open(path)
        with pytest.raises(
            StoreError, match=r"shard-000000.arrow \(traces 0 to 65535\): it has \d+ bytes instead"
        ):
            store.read()
        assert_same(store.shard(1), tail)
    shard.unlink()
    with pytest.raises(StoreError, match="shard-000000"):
        TraceStore.open(path).read()


def test_any_flipped_bit_of_a_shard_is_noticed(stored) -> None:
    path, _ = stored
    shard = path / "tail-000001-40.arrow"
    content = shard.read_bytes()
    for position in range(0, len(content), len(content) // 60):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        shard.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"tail-000001-40.arrow .* checksum does not match"):
            TraceStore.open(path).shard(1)


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
        assert len(store) == buffer.SHARD_TRACES + 40


def test_foreign_files_are_not_stores(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no trace store at"):
        TraceStore.open(tmp_path / "nowhere")
    for content in ("{}", "[]", "null", '{"format": "zarr"}', "\x80", "[" * 100_000):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(StoreError, match="manifest"):
            TraceStore.open(tmp_path)
    for version in (1, 99):
        (tmp_path / "manifest.json").write_text(f'{{"format": "ppx-trace-store", "version": {version}}}')
        with pytest.raises(
            StoreError, match=f"format version {version}, this program reads version 2; read it"
        ):
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
    manifest["comment"] = "mine"
    manifest["shards"][0]["codec"] = "none"
    (path / "manifest.json").write_text(json.dumps({**manifest, "crc32": manifest_checksum(manifest)}))
    with TraceStore.open(path, mode="append") as store:
        store.append(make_traces(2, first=70_000))
    after = json.loads((path / "manifest.json").read_text())
    assert (after["comment"], after["shards"][0]["codec"]) == ("mine", "none")
    assert [s["num_traces"] for s in after["shards"]] == [65_536, 42]


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

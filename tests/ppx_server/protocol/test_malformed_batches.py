"""Batches from peers: columns that may be absent, columns that do not fit together, lists that would swell."""

from __future__ import annotations

import tracemalloc
from typing import Any

import flatbuffers
import numpy as np
import pytest

from ppx_server.errors import RemoteProtocolError
from ppx_server.protocol import (
    BatchResult,
    Event,
    Failure,
    Observation,
    RunBatch,
    WireAddress,
    decode,
    encode,
)
from ppx_server.protocol import batch_encoder as encoder
from ppx_server.protocol.layout import Integers, Table, Tables, TensorOf, Word, head
from tests.ppx_server.protocol.examples import (
    BATCH_RESULT,
    EMPTY_BATCH_RESULT,
    EMPTY_RUN_BATCH,
    RUN_BATCH,
    floats,
    ids,
    octets,
    same,
)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`encode` without its checks, to make what no peer should send."""

    def write(event: Event) -> bytes:
        with monkeypatch.context() as patch:
            patch.setattr(encoder, "check_run_batch", lambda event: None)
            patch.setattr(encoder, "check_batch_result", lambda event: None)
            return encode(event)

    return write


def tensors(**changes: Any) -> Any:
    return BATCH_RESULT.observations._replace(**changes)


def ulongs(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def loops(**changes: Any) -> dict[str, Any]:
    return {"loops": BATCH_RESULT.loops._replace(**changes)}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"instance": ids(0)}, "column instance has 1 elements instead of 3"),
        ({"value": floats(1, 2, 3, 4)}, "column value has 4 elements instead of 3"),
        ({"z": floats()}, "column z has 0 elements instead of 3"),
        ({"index": np.zeros(4, np.uint64)}, "column offsets has 4 elements instead of 5"),
        ({"offsets": ids(1, 2, 2, 3)}, "column offsets goes from 1 to 3 instead of from 0 to 3"),
        ({"offsets": ids(0, 2, 2, 2)}, "column offsets goes from 0 to 2"),
        ({"offsets": ids(0, 2, 1, 3)}, "column offsets decreases"),
        ({"offsets": ids(0, -2, 2, 3)}, "column offsets decreases"),
        ({"address": ids(0, -1, 0)}, "column address has -1; its numbers go from 0"),
        ({"instance": ids(0, 0, -(2**31))}, "column instance has -2147483648"),
        ({"first_address": -1}, "addresses are numbered from -1"),
        ({"first_address": 2**31 - 1}, "addresses are numbered from 2147483647"),
        ({"observations_id": 0}, "observations have the number 0"),
        ({"observations": (Observation("y", 0, 1.0),) * 2}, "give a .name, visit. twice"),
        ({"observations": (Observation("y", -1, 1.0),)}, "a negative visit"),
        ({"observations": (Observation("y", -1, 1.0, octets(1)),)}, "a negative visit"),
        ({"observations": (Observation("y", -2, np.empty(0), octets(1)),)}, "a negative visit"),
        (
            {"observations": (Observation("y", 0, np.ones(3), octets(1, 0)),)},
            "missing has 2 elements for an observation of 3",
        ),
        ({"observations": (Observation("y", 0, np.empty(0), octets(0)),)}, "0 for nothing"),
        ({"observations": (Observation("y", 0, 1.0, octets(2)),)}, "something else than 0 and 1"),
        (
            {"addresses": (WireAddress("a", "", "", (2, -1)),)},
            r"address 'a' has an impossible shape \(2, -1\)",
        ),
        ({"addresses": (WireAddress("a", "", "", (2**20, 2**20)),)}, "address 'a' has an impossible shape"),
    ],
)
def test_a_run_batch_that_does_not_fit(unchecked: Any, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"RunBatch message of .* bytes: .*{complaint}"):
        decode(unchecked(RUN_BATCH._replace(**changes)))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"instance": ids(0)}, "column instance has 1 elements instead of 5"),
        ({"params": ids(0)}, "column params has 1 elements instead of 5"),
        ({"value": floats(0)}, "column value has 1 elements instead of 5"),
        ({"z": floats(0)}, "column z has 1 elements instead of 5"),
        ({"log_prob": floats()}, "column log_prob has 0 elements instead of 5"),
        ({"flags": octets(0)}, "column flags has 1 elements instead of 5"),
        ({"status": octets(0)}, "column offsets has 4 elements instead of 2"),
        ({"offsets": ids(0, 2, 3, 6)}, "column offsets goes from 0 to 6"),
        ({"offsets": ids(0, 3, 2, 5)}, "column offsets decreases"),
        ({"address": ids(0, 1, -7, 0, 1)}, "column address has -7"),
        ({"instance": ids(0, 1, -7, 0, 1)}, "column instance has -7"),
        ({"params": ids(0, 1, 2, 0, 1)}, "column params has 2; its numbers go from 0 to 1"),
        ({"params": ids(0, 1, -1, 0, 1)}, "column params has -1"),
        ({"params_offsets": ids(0, 2, 4)}, "column params_offsets goes from 0 to 4"),
        ({"params_offsets": ids(0, 5, 3)}, "column params_offsets decreases"),
        ({"status": octets(0, 1, 3)}, "status has 3; it is 0, 1 or 2"),
        ({"flags": octets(1, 1, 1, 1, 4)}, "flags have bits other than those of 11"),
        ({"seconds": -1.0}, "seconds is -1.0"),
        ({"seconds": np.nan}, "seconds is nan"),
        ({"seconds": np.inf}, "seconds is inf"),
        (
            {"observations": tensors(log_prob=floats())},
            "column observations.log_prob has 0 elements instead of 2",
        ),
        (
            {"observations": tensors(instance=ids(0))},
            "column observations.instance has 1 elements instead of 2",
        ),
        ({"observations": tensors(offsets=ids(0, 2, 2, 3))}, "column observations.offsets goes from 0 to 3"),
        ({"observations": tensors(data_offsets=ids(0, 0, 7))}, "observations.data_offsets goes from 0 to 7"),
        ({"observations": tensors(address=ids(-1, 0))}, "column observations.address has -1"),
        ({"observations": tensors(instance=ids(-1, 0))}, "column observations.instance has -1"),
        ({"tags": tensors()}, "column tags.log_prob has 2 elements instead of 0"),
        ({"results": tensors(log_prob=floats())}, "results have more than one row for a trace"),
        (loops(begin=ids(0)), "column loops.begin has 1 elements instead of 3"),
        (loops(end=ids(0)), "column loops.end has 1 elements instead of 3"),
        (loops(offsets=ids(0, 3, 2, 3)), "column loops.offsets decreases"),
        (loops(address=ids(0, 0, -1)), "column loops.address has -1"),
        (loops(begin=ids(0, -1, 1)), "a rejection loop lies outside its trace"),
        (loops(begin=ids(0, 2, 1)), "a rejection loop lies outside its trace"),
        (loops(end=ids(3, 1, 2)), "a rejection loop lies outside its trace"),
        (loops(begin=ids(1, 0, 1)), "rejection loops are not in the order"),
        ({"failures": ()}, "failures are not those of the 1 traces of status 1"),
        ({"ordinal": ulongs(0, 2, 5, 0)}, "column ordinal has 4 elements instead of 5"),
        ({"ordinal": ulongs(0, 0, 5, 0, 1)}, "column ordinal does not increase within each trace"),
        ({"ordinal": ulongs(0, 2, 5, 1, 0)}, "column ordinal does not increase within each trace"),
        ({"ordinal": ulongs(0, 2**33 + 1, 5, 0, 1)}, "column ordinal .* beyond 8589934592"),
        ({"failures": BATCH_RESULT.failures * 2}, "failures are not those of the 1 traces"),
        ({"failures": (Failure(0, 0, ""),)}, "failures are not those of the 1 traces"),
        ({"failures": (Failure(-2, 0, ""),)}, "failures are not those of the 1 traces"),
        ({"failures": (Failure(1, 4, ""),)}, "unknown kind of failure 4; this side knows 0 to 3"),
        ({"first_address": -1}, "addresses are numbered from -1"),
    ],
)
def test_a_batch_result_that_does_not_fit(unchecked: Any, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"BatchResult message of .* bytes: .*{complaint}"):
        decode(unchecked(BATCH_RESULT._replace(**changes)))


def fill(event: Event, *fillings: Any) -> bytes:
    """A message with all leaves absent but for the given last ones."""
    skeleton = encoder._RUN_BATCH if type(event) is RunBatch else encoder._BATCH_RESULT
    none = [0 if leaf.kind in ("ulong", "double", "int", "bool") else None for leaf in skeleton._leaves]
    return skeleton.fill([*none[: len(none) - len(fillings)], *fillings])


@pytest.mark.parametrize("event", [EMPTY_RUN_BATCH, EMPTY_BATCH_RESULT])
def test_all_columns_may_be_absent(event: Event) -> None:
    assert same(decode(fill(event)), event)


@pytest.mark.parametrize(("code", "event"), [(13, EMPTY_RUN_BATCH), (14, EMPTY_BATCH_RESULT)])
def test_all_fields_may_be_absent(code: int, event: Event) -> None:
    builder = flatbuffers.Builder(64)
    builder.StartObject(0)
    body = builder.EndObject()
    builder.StartObject(2)
    builder.PrependUint8Slot(0, code, 0)
    builder.PrependUOffsetTRelativeSlot(1, body, 0)
    builder.Finish(builder.EndObject())
    assert same(decode(bytes(builder.Output())), event)


def test_empty_columns_may_be_present_and_offsets_absent() -> None:
    empty = RUN_BATCH._replace(
        offsets=ids(0, 0, 0, 0), address=ids(), instance=ids(), value=floats(), z=floats(), observations=None
    )
    number, seed, index = empty.batch, empty.seed, empty.index
    data = encoder._RUN_BATCH.fill(
        [number, seed, index, True, ids(), ids(), ids(), floats(), floats(), 0, None, 3, None]
    )
    assert same(decode(data), empty._replace(addresses=()))


def test_an_unknown_family_is_named() -> None:
    table = Table(("det/x", "x", 13, Integers(())))
    with pytest.raises(RemoteProtocolError, match="unknown distribution code 13 at address 'det/x'"):
        decode(fill(RUN_BATCH, head(Tables((table,))), 0, None))


def test_an_address_has_no_more_axes_than_a_tensor() -> None:
    table = Table(("det/x", "x", 0, Integers((1,) * 33)))
    with pytest.raises(RemoteProtocolError, match="address 'det/x' has 33 axes; at most 32"):
        decode(fill(BATCH_RESULT, head(Tables((table,))), None))


@pytest.mark.parametrize("event", [RUN_BATCH, BATCH_RESULT])
def test_a_claim_of_many_elements_allocates_nothing(event: Event) -> None:
    data = encode(event)
    claim = (2**32 - 1).to_bytes(4, "little")
    tracemalloc.start()
    for position in range(0, len(data), 4):
        try:
            decode(data[:position] + claim + data[position + 4 :])
        except RemoteProtocolError:
            continue
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


def swollen(elements: Tables, count: int) -> bytes:
    """A vector of `count` references to the first of the tables."""
    made = bytearray(head(elements) + bytes(8))  # with the empty data vector of a tensor
    first = int.from_bytes(made[4:8], "little")
    references = [(first + 4 * (count - 1) - 4 * i).to_bytes(4, "little") for i in range(count)]
    vector = count.to_bytes(4, "little") + b"".join(references) + made[8:]
    return vector + bytes(-len(vector) % 8)


LONG = "x" * 100_000
MANY_AXES = TensorOf((0,) * 32)


@pytest.mark.parametrize(
    ("event", "table", "tail", "complaint"),
    [
        (RUN_BATCH, Table((LONG,)), lambda v: (v, 0, None), "addresses overlap"),
        (RUN_BATCH, Table((LONG,)), lambda v: (None, 1, v), "observations overlap"),
        (RUN_BATCH, Table(("", Word(0), MANY_AXES)), lambda v: (None, 1, v), "observations overlap"),
        (BATCH_RESULT, Table((LONG,)), lambda v: (v, None), "addresses overlap"),
        (BATCH_RESULT, Table((Word(0), 0, LONG)), lambda v: (v, 0, None, None), "failures overlap"),
    ],
)
def test_a_small_message_does_not_become_a_large_event(
    event: Event, table: Table, tail: Any, complaint: str
) -> None:
    data = fill(event, *tail(swollen(Tables((table,)), 20_000)))
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match=complaint):
        decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000


def test_a_large_batch_is_read_without_copies() -> None:
    rows = 200_000
    event = BATCH_RESULT._replace(
        status=octets(0),
        offsets=ids(0, rows),
        **{c: np.zeros(rows, np.int32) for c in ("address", "instance", "params")},
        **{c: np.zeros(rows) for c in ("value", "z", "log_prob")},
        flags=np.ones(rows, np.uint8),
        failures=(),
        ordinal=ulongs(),
        **{
            t: getattr(EMPTY_BATCH_RESULT, t)._replace(offsets=ids(0, 0))
            for t in ("observations", "tags", "results", "loops")
        },
    )
    data = encode(event)
    tracemalloc.start()
    received = decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(received, BatchResult)
    assert same(received, event)
    assert peak < 20_000

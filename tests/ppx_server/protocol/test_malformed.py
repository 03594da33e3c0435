"""Bytes from peers: PPX 1.0's freedoms are accepted, all else is a RemoteProtocolError that says what is wrong."""

from __future__ import annotations

import random
import tracemalloc

import flatbuffers
import numpy as np
import pytest

from ppx_server.errors import RemoteProtocolError
from ppx_server.protocol import (
    Error,
    Handshake,
    HandshakeResult,
    Observe,
    ObserveResult,
    RunResult,
    Sample,
    SampleResult,
    WireDistribution,
    decode,
    encode,
)
from ppx_server.protocol.wire import MESSAGES
from tests.ppx_server.protocol.examples import EVENTS

MESSAGE_BYTES = [encode(event) for event in EVENTS]

Fields = dict[
    int, object
]  # by slot: int (a byte), str, bytes (a raw string), float list, int list or nested Fields


def table(builder: flatbuffers.Builder, fields: Fields) -> int:
    """Writes a table with FlatBuffers' own builder, so that it may be as wrong as the test needs."""
    places: dict[int, int] = {}
    for slot, value in fields.items():
        if isinstance(value, dict):
            places[slot] = table(builder, value)
        elif isinstance(value, str | bytes):
            places[slot] = builder.CreateString(value)
        elif isinstance(value, np.ndarray):
            places[slot] = builder.CreateNumpyVector(value)
    builder.StartObject(max(fields, default=-1) + 1)
    for slot, value in fields.items():
        if isinstance(value, int):
            builder.PrependUint8(value)
            builder.Slot(slot)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, places[slot], 0)
    return int(builder.EndObject())


def message(code: int, body: Fields | None, **finish: bytes) -> bytes:
    builder = flatbuffers.Builder(64)
    builder.Finish(table(builder, {0: code} if body is None else {0: code, 1: body}), **finish)
    return bytes(builder.Output())


def tensor(data: list[float] | None = None, shape: list[int] | None = None) -> Fields:
    fields: Fields = {}
    if data is not None:
        fields[0] = np.array(data, np.float64)
    if shape is not None:
        fields[1] = np.array(shape, np.int32)
    return fields


ONE = tensor([1.0], [])
SAMPLE: Fields = {0: "f/x", 1: "x", 2: 1, 3: {0: ONE, 1: ONE}}


@pytest.mark.parametrize(
    ("code", "body", "expected"),
    [
        (5, SAMPLE, Sample("f/x", "x", WireDistribution("Normal", (1.0, 1.0)), True)),
        (5, {**SAMPLE, 4: 0}, Sample("f/x", "x", WireDistribution("Normal", (1.0, 1.0)), False)),
        # `replace`, a field of the drafts before PPX 1.0, is ignored
        (5, {**SAMPLE, 4: 1, 5: 1}, Sample("f/x", "x", WireDistribution("Normal", (1.0, 1.0)), True)),
        (5, {2: 7, 3: {0: tensor([2.0])}}, Sample("", "", WireDistribution("Exponential", (2.0,)), True)),
        (1, {}, Handshake("")),
        (2, {0: "s"}, HandshakeResult("s", "")),
        (4, {}, RunResult(None)),
        (4, {0: tensor()}, RunResult(None)),
        (4, {0: tensor([], [0])}, RunResult(None)),
        (4, {0: tensor([4.0])}, RunResult(4.0)),
        (6, {0: tensor([4.0], [])}, SampleResult(4.0)),
        (7, {**SAMPLE}, Observe("f/x", "x", WireDistribution("Normal", (1.0, 1.0)), None)),
        (7, {**SAMPLE, 4: ONE}, Observe("f/x", "x", WireDistribution("Normal", (1.0, 1.0)), 1.0)),
        (8, {}, ObserveResult(None)),
        (12, {}, Error("")),
    ],
)
def test_what_ppx_1_0_peers_leave_out(code: int, body: Fields, expected: object) -> None:
    event = decode(message(code, body))
    assert type(event) is type(expected)
    assert event == expected


@pytest.mark.parametrize(
    ("sent", "shape"),
    [
        (tensor([1.0, 2.0], []), (2,)),
        (tensor([1.0, 2.0]), (2,)),
        (tensor([1.0], [1]), (1,)),
        (tensor([1.0, 2.0], [2, 1]), (2, 1)),
        (tensor([], [3, 0]), (3, 0)),
        (tensor(None, [0]), (0,)),
        (tensor(), (0,)),
    ],
)
def test_shapes(sent: Fields, shape: tuple[int, ...]) -> None:
    value = decode(message(6, {0: sent})).result
    assert isinstance(value, np.ndarray)
    assert value.shape == shape


def test_an_absent_tag_or_result_is_empty() -> None:
    assert decode(message(9, {0: "a"})).value.shape == (0,)
    assert decode(message(6, {})).result.shape == (0,)


def test_a_file_identifier_is_neither_needed_nor_written() -> None:
    assert decode(message(5, SAMPLE, file_identifier=b"PPXF")) == decode(message(5, SAMPLE))
    assert not any(b"PPXF" in data for data in MESSAGE_BYTES)


def test_nan_parameters_are_left_to_the_distribution() -> None:
    event = decode(message(5, {**SAMPLE, 3: {0: tensor([np.nan]), 1: tensor([-1.0])}}))
    assert np.isnan(event.distribution.params[0])
    assert event.distribution.params[1] == -1.0


@pytest.mark.parametrize(
    ("code", "body", "complaint"),
    [
        (0, {}, "unknown message type code 0; this side knows 1 to 18"),
        (19, {}, "unknown message type code 19"),
        (5, None, "Sample message .*: the body is missing"),
        (5, {0: "f/x"}, "Sample message .*unknown distribution code 0 at address 'f/x'"),
        (
            5,
            {**SAMPLE, 2: 13},
            "Sample message .*unknown distribution code 13 at address 'f/x'; this side knows 1 to 12",
        ),
        (7, {**SAMPLE, 2: 200}, "Observe message .*unknown distribution code 200 at address 'f/x'"),
        (5, {0: "f/x", 2: 1}, "the Normal at address 'f/x' has no table"),
        (5, {**SAMPLE, 3: {0: ONE}}, "parameter stddev of Normal at address 'f/x' is missing"),
        (
            5,
            {**SAMPLE, 3: {0: ONE, 1: tensor([1.0, 2.0], [3])}},
            r"stddev of Normal .* 2 elements.*shape \(3,\)",
        ),
        (
            5,
            {**SAMPLE, 3: {0: ONE, 1: tensor([1.0], [-1])}},
            r"1 elements, which do not fill its shape \(-1,\)",
        ),
        (5, {**SAMPLE, 3: {0: ONE, 1: tensor([1.0], [-1, -1])}}, r"do not fill its shape \(-1, -1\)"),
        (
            5,
            {**SAMPLE, 3: {0: tensor([1, 2], [2]), 1: tensor([1, 2, 3], [3])}},
            r"Normal at address 'f/x' have shapes \(2,\), \(3,\), which do not fit",
        ),
        (6, {0: tensor([1.0], [2**31 - 1] * 3)}, "result has 1 elements, which do not fill its shape"),
        (6, {0: tensor([], [0] + [2**31 - 1] * 3)}, "result has a shape .* that is too large"),
        (6, {0: tensor([1.0], [1] * 33)}, "result has 33 axes; at most 32"),
        (7, {**SAMPLE, 4: tensor([1.0], [2])}, "value observed at address 'f/x' has 1 elements"),
        (9, {0: "f/t", 2: tensor([1.0], [2])}, "value tagged at address 'f/t' has 1 elements"),
        (5, {**SAMPLE, 0: b"\xff\xfe"}, "address is not UTF-8"),
        (5, {**SAMPLE, 1: b"caf\xe9"}, "name is not UTF-8"),
        (2, {0: b"ok", 1: b"\xc0\x80"}, "HandshakeResult message .*: model_name is not UTF-8"),
        (12, {0: b"\xed\xa0\x80"}, "Error message .*: message is not UTF-8"),
        (5, {**SAMPLE, 0: "x" * 5000, 2: 99}, r"x{200}\.\.\.'; this side"),
    ],
)
def test_what_is_wrong_is_named(code: int, body: Fields | None, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        decode(message(code, body))


@pytest.mark.parametrize("data", MESSAGE_BYTES, ids=[type(e).__name__ for e in EVENTS])
def test_a_message_cut_short_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        attempt(data[:length])
    with pytest.raises(RemoteProtocolError):
        decode(data[: len(data) // 2])


def test_a_small_message_does_not_become_a_large_event() -> None:
    # 20,000 capabilities that are all the same 100 kB
    builder = flatbuffers.Builder(64)
    bomb = builder.CreateString("x" * 100_000)
    builder.StartVector(4, 20_000, 4)
    for _ in range(20_000):
        builder.PrependUOffsetTRelative(bomb)
    capabilities = builder.EndVector()
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(1, capabilities, 0)
    body = builder.EndObject()
    builder.StartObject(2)
    builder.PrependUint8Slot(0, 1, 0)
    builder.PrependUOffsetTRelativeSlot(1, body, 0)
    builder.Finish(builder.EndObject())
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match="capabilities overlap"):
        decode(bytes(builder.Output()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_claim_of_many_elements_allocates_nothing() -> None:
    claim = bytearray(encode(SampleResult(1.0)))
    claim[-12:-8] = (2**32 - 1).to_bytes(4, "little")
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match="4294967295 elements, more than the message holds"):
        decode(bytes(claim))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def attempt(data: bytes) -> None:
    """Whatever bytes: an event that can be looked at, or RemoteProtocolError; anything else fails the test."""
    try:
        event = decode(data)
    except RemoteProtocolError:
        return
    assert type(event) in MESSAGES
    repr(event)


def test_every_byte_of_every_message_changed() -> None:
    rng = random.Random(1)
    for data in MESSAGE_BYTES:
        for position in range(len(data)):
            for value in (0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)):
                attempt(data[:position] + bytes([value]) + data[position + 1 :])

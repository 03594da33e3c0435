"""Every message and family comes back as it was sent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from ppx_server.errors import LocalProtocolError
from ppx_server.protocol import (
    CAPABILITIES,
    BatchResult,
    Error,
    Event,
    HandshakeResult,
    Observation,
    Observe,
    ObserveResult,
    Rejection,
    RejectionResult,
    RunBatch,
    RunResult,
    Sample,
    SampleResult,
    Shutdown,
    ShutdownResult,
    Tag,
    WireAddress,
    WireDistribution,
    decode,
    encode,
)
from ppx_server.protocol.layout import Table, TensorOf, head
from ppx_server.protocol.wire import PARAM_NAMES
from tests.ppx_server.protocol.examples import (
    BATCH_RESULT,
    EXAMPLES,
    RUN_BATCH,
    batch_results,
    events,
    floats,
    ids,
    run_batches,
    same,
)


@settings(max_examples=1500, deadline=None)
@given(events)
def test_what_is_encoded_is_decoded(event: Event) -> None:
    assert same(decode(encode(event)), event)


@pytest.mark.parametrize("family", PARAM_NAMES)
@pytest.mark.parametrize("message", [Sample, Observe])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1, 4)])
def test_every_family_in_every_shape(family: str, message: type[Event], shape: tuple[int, ...]) -> None:
    params = []
    for i in range(len(PARAM_NAMES[family])):
        values = np.arange(np.prod(shape, dtype=int)).reshape(shape) + i / 7
        params.append(values if shape else float(values))
    distribution = WireDistribution(family, tuple(params))
    event = (
        Sample("f/x", "x", distribution, False)
        if message is Sample
        else Observe("f/x", "", distribution, 2.5)
    )
    assert same(decode(encode(event)), event)


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_tensors_are_views_aligned_to_their_elements(size: int) -> None:
    data = encode(Tag("some/address", "n", np.arange(size, dtype=np.float64)[:, None]))
    value = decode(data).value
    assert value.shape == (size, 1)
    assert not value.flags.writeable
    if size:
        start = (
            value.__array_interface__["data"][0]
            - np.frombuffer(data, np.uint8).__array_interface__["data"][0]
        )
        assert start % 8 == 0


@pytest.mark.parametrize(
    "value",
    [3, True, np.float32(0.5), np.array(2.0), np.array([1, 2]), [[1.0, 2.0]], np.ones((4, 6))[::2, ::-3]],
)
def test_whatever_is_a_tensor_can_be_sent(value: object) -> None:
    received = decode(encode(SampleResult(value))).result
    assert np.shape(received) == np.shape(value)
    assert np.array_equal(received, value)
    assert isinstance(received, float) == (np.shape(value) == ())


def test_an_empty_result_or_observed_value_is_none() -> None:
    # pyprob writes None as a tensor of shape (0,), and reads any empty tensor as None
    nothing = np.zeros(0)
    normal = WireDistribution("Normal", (0.0, 1.0))
    assert decode(encode(RunResult(nothing))).result is None
    assert decode(encode(ObserveResult(nothing))).value is None
    assert decode(encode(Observe("a", "b", normal, nothing))).value is None


def test_equal_heads_are_not_confused() -> None:
    # heads are kept by strings and shapes: neighbours in that key must not be mixed up
    messages = [
        Tag("a", "b", 1.0),
        Tag("a", "b", 2.0),
        Tag("b", "a", 1.0),
        Tag("a", "b", np.ones(1)),
        RunResult(1.0),
        RunResult(None),
        SampleResult(1.0),
        ObserveResult(1.0),
        ObserveResult(None),
    ]
    normal, uniform = WireDistribution("Normal", (0.0, 1.0)), WireDistribution("Uniform", (0.0, 1.0))
    messages += [Sample("a", "b", d, c) for d in (normal, uniform) for c in (True, False)]
    messages += [Observe("a", "b", d, v) for d in (normal, uniform) for v in (None, 0.0)]
    for event in messages * 2:
        assert same(decode(encode(event)), event)


TRUNCATED = WireDistribution("TruncatedNormal", (0.0, 1.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("event", "capability", "remedy"),
    [
        (Sample("det/x", "x", TRUNCATED, True), "truncated_normal", "'det/x'.*use a family of PPX 1.0"),
        (Observe("det/x", "x", TRUNCATED, None), "truncated_normal", "'det/x'.*use a family of PPX 1.0"),
        (ObserveResult(1.0), "observed_value", r"send ObserveResult\(None\)"),
        (Error("boom"), "error", r"send Reset\(\)"),
        (EXAMPLES[RunBatch], "batch", r"send Run\(\)"),
        (EXAMPLES[BatchResult], "batch", "not announced"),
        (EXAMPLES[Rejection], "rejection", "send nothing"),
        (EXAMPLES[RejectionResult], "rejection", "send nothing"),
        (EXAMPLES[Shutdown], "shutdown", "end the process"),
        (EXAMPLES[ShutdownResult], "shutdown", "not announced"),
    ],
)
def test_extensions_are_not_sent_to_a_peer_that_lacks_them(
    event: Event, capability: str, remedy: str
) -> None:
    with pytest.raises(LocalProtocolError, match=remedy):
        encode(event, set(CAPABILITIES) - {capability})
    assert encode(event, {capability}) == encode(event)


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        (
            Sample("a", "x", WireDistribution("Cauchy", (0.0, 1.0)), True),
            "unknown family 'Cauchy' at address 'a'",
        ),
        (Sample("a", "x", WireDistribution("Normal", (0.0,)), True), "takes 2: mean, stddev"),
        (SampleResult("red"), "the result of a draw"),
        (Tag("a", "x", [[1.0], [1.0, 2.0]]), "tagged at address 'a'"),
        (Tag("a", "\ud800", 1.0), "UTF-8"),
        ((1, 2), "no PPX event"),
    ],
)
def test_what_cannot_be_sent_is_refused_here(event: Event, complaint: str) -> None:
    with pytest.raises(LocalProtocolError, match=complaint):
        encode(event)


TRUNCATED_ADDRESS = (WireAddress("det/x", "x", "TruncatedNormal", ()),)


@pytest.mark.parametrize("event", [RUN_BATCH, BATCH_RESULT])
def test_families_in_batches_need_the_capability_too(event: Event) -> None:
    event = event._replace(addresses=TRUNCATED_ADDRESS)
    with pytest.raises(LocalProtocolError, match=r"TruncatedNormal.*'det/x'"):
        encode(event, {"batch"})
    assert same(decode(encode(event, {"batch", "truncated_normal"})), event)


def test_the_fingerprint_is_for_controllers_that_know_extensions() -> None:
    result = HandshakeResult("s", "m", ("batch",), "sha256:1f")
    assert decode(encode(result, {"error"})) == result
    assert decode(encode(result, set())) == result._replace(fingerprint="")


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        (RUN_BATCH._replace(z=floats(1.0)), "RunBatch cannot be sent: column z has 1 elements instead of 3"),
        (RUN_BATCH._replace(batch=-1), "RunBatch cannot be sent: a number does not fit"),
        (RUN_BATCH._replace(seed=2**64), "a number does not fit"),
        (RUN_BATCH._replace(index=np.array([-1, 0, 1])), "column index of type int64"),
        (RUN_BATCH._replace(address=[0.5, 1.0, 2.0]), "column address of type float64"),
        (RUN_BATCH._replace(address=np.array([0, 2**31, 0])), "column address of type int64"),
        (RUN_BATCH._replace(value=np.zeros((3, 1))), "column value has 2 axes"),
        (RUN_BATCH._replace(value=["a", "b", "c"]), "column value of type <U1"),
        (
            RUN_BATCH._replace(addresses=(WireAddress("a", "", "Cauchy", ()),)),
            "unknown family 'Cauchy' at address 'a'",
        ),
        (
            RUN_BATCH._replace(observations=(Observation("y", 0, "red"),)),
            "the observation 'y' cannot be sent",
        ),
        (BATCH_RESULT._replace(status=[0, 256, 0]), "column status of type int64"),
        (
            BATCH_RESULT._replace(offsets=ids(0, 3, 2, 5)),
            "BatchResult cannot be sent: column offsets decreases",
        ),
    ],
)
def test_a_batch_that_cannot_be_sent_is_refused_here(event: Event, complaint: str) -> None:
    with pytest.raises(LocalProtocolError, match=complaint):
        encode(event)


def test_columns_of_other_types_with_the_same_numbers_are_sent() -> None:
    event = RUN_BATCH._replace(
        index=np.array([3, 4, 5]),
        offsets=[0, 2, 2, 3],
        address=np.array([0, 9, 1, 9, 0], np.int64)[::2],
        value=np.array([0.5, np.nan, 2.0], np.float32),
    )
    received = decode(encode(event))
    assert received.index.tolist() == [3, 4, 5]
    assert received.offsets.tolist() == [0, 2, 2, 3]
    assert received.address.tolist() == [0, 1, 0]
    assert received.value[[0, 2]].tolist() == [0.5, 2.0]


def columns(event: object) -> list[np.ndarray]:
    if isinstance(event, np.ndarray):
        return [event]
    return [c for part in event for c in columns(part)] if isinstance(event, tuple) else []


@settings(max_examples=200, deadline=None)
@given(batch_results() | run_batches())
def test_columns_are_read_only_views_aligned_to_their_elements(event: Event) -> None:
    data = encode(event)
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    for column in columns(decode(data)):
        assert not column.flags.writeable or not column.size
        place = column.__array_interface__["data"][0] - start
        if column.size and 0 <= place < len(data):  # columns that are absent are not in the message
            assert place % column.itemsize == 0


def test_a_message_beyond_the_limit_of_flatbuffers_is_refused() -> None:
    for shape in [(2**28,), (2**14, 2**14)]:
        with pytest.raises(LocalProtocolError, match="larger than FlatBuffers' limit"):
            head(Table((6, Table((TensorOf(shape),)))))
    with pytest.raises(LocalProtocolError, match="32-bit"):
        encode(SampleResult(np.zeros((2**31, 0))))
    with pytest.raises(LocalProtocolError, match="at most 32"):
        head(Table((6, Table((TensorOf((1,) * 33),)))))

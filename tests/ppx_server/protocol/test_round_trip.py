"""Every message and family comes back as it was sent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ppx_server.errors import LocalProtocolError
from ppx_server.protocol import (
    CAPABILITIES,
    Error,
    Event,
    Handshake,
    HandshakeResult,
    Observe,
    ObserveResult,
    Reset,
    Run,
    RunResult,
    Sample,
    SampleResult,
    Tag,
    TagResult,
    WireDistribution,
    decode,
    encode,
)
from ppx_server.protocol.layout import Table, TensorOf, head
from ppx_server.protocol.wire import PARAM_NAMES

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
floats = st.floats(width=64)
arrays = npst.arrays(np.float64, npst.array_shapes(min_dims=1, max_dims=4, max_side=4), elements=floats)
empty = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3).map(lambda s: np.zeros((*s, 0)))
tensors = floats | arrays | empty
present = floats | arrays


@st.composite
def distributions(draw: st.DrawFn) -> WireDistribution:
    family = draw(st.sampled_from(sorted(PARAM_NAMES)))
    shape = draw(npst.array_shapes(min_dims=1, max_dims=3, max_side=3))
    param = floats | npst.arrays(np.float64, shape, elements=floats)
    return WireDistribution(family, tuple(draw(param) for _ in PARAM_NAMES[family]))


capabilities = st.lists(texts, max_size=4).map(tuple)
events = st.one_of(
    st.builds(Handshake, texts, capabilities),
    st.builds(HandshakeResult, texts, texts, capabilities),
    st.just(Run()),
    st.builds(RunResult, st.none() | present),
    st.builds(Sample, texts, texts, distributions(), st.booleans()),
    st.builds(SampleResult, tensors),
    st.builds(Observe, texts, texts, distributions(), st.none() | present),
    st.builds(ObserveResult, st.none() | present),
    st.builds(Tag, texts, texts, tensors),
    st.just(TagResult()),
    st.just(Reset()),
    st.builds(Error, texts),
)


def same(a: object, b: object) -> bool:
    """Equality by type, shape and bits, unlike that of tuples and arrays."""
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float | np.ndarray):
        return np.shape(a) == np.shape(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()
    return a == b


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


def test_a_message_beyond_the_limit_of_flatbuffers_is_refused() -> None:
    for shape in [(2**28,), (2**14, 2**14)]:
        with pytest.raises(LocalProtocolError, match="larger than FlatBuffers' limit"):
            head(Table((6, Table((TensorOf(shape),)))))
    with pytest.raises(LocalProtocolError, match="32-bit"):
        encode(SampleResult(np.zeros((2**31, 0))))
    with pytest.raises(LocalProtocolError, match="at most 32"):
        head(Table((6, Table((TensorOf((1,) * 33),)))))

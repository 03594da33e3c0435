"""Messages for the tests of the protocol: one of each type, awkward ones, and strategies that make any."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ppx_server.protocol import (
    CAPABILITIES,
    BatchResult,
    Error,
    Event,
    Failure,
    FailureKind,
    Handshake,
    HandshakeResult,
    LoopColumns,
    Observation,
    Observe,
    ObserveResult,
    Rejection,
    RejectionResult,
    Reset,
    Run,
    RunBatch,
    RunResult,
    Sample,
    SampleResult,
    Shutdown,
    ShutdownResult,
    Tag,
    TagResult,
    TensorColumns,
    WireAddress,
    WireDistribution,
)
from ppx_server.protocol.wire import FAMILY_NAMES, PARAM_NAMES

NAN = float("nan")
NORMAL = WireDistribution("Normal", (0.5, 2.0))
ARRAYS = WireDistribution("TruncatedNormal", (np.zeros((2, 3)), 1.0, np.ones(3), np.ones((2, 1))))
ADDRESSES = (
    WireAddress("detector/mu", "mu", "Normal", ()),
    WireAddress("detector/cells", "", "Poisson", (2, 3)),
    WireAddress("", "", "", ()),
)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def octets(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


def no_tensors(count: int) -> TensorColumns:
    return TensorColumns(ids(*[0] * (count + 1)), ids(), ids(), ids(0), floats(), floats())


def no_loops(count: int) -> LoopColumns:
    return LoopColumns(ids(*[0] * (count + 1)), ids(), ids(), ids())


RUN_BATCH = RunBatch(
    batch=7,
    seed=2**64 - 1,
    index=np.array([3, 2**63, 5], np.uint64),
    ask=True,
    offsets=ids(0, 2, 2, 3),
    address=ids(0, 1, 0),
    instance=ids(0, 0, 4),
    value=floats(NAN, 2.5, NAN),
    z=floats(-1.25, NAN, 0.5),
    first_address=0,
    addresses=ADDRESSES[:2],
    observations_id=3,
    observations=(Observation("y", 0, 8.0), Observation("cells", 1, np.arange(6.0).reshape(2, 3))),
)
BATCH_RESULT = BatchResult(
    batch=7,
    seconds=0.25,
    status=octets(0, 1, 2),
    offsets=ids(0, 2, 3, 5),
    address=ids(0, 1, 0, 0, 1),
    instance=ids(0, 0, 0, 0, 0),
    params=ids(0, 1, 0, 0, 1),
    value=floats(0.5, 2.5, 1.0, -1.0, NAN),
    z=floats(-1.25, NAN, 1.0, -2.0, NAN),
    log_prob=floats(-1.0, -np.inf, -2.0, -3.0, NAN),
    flags=octets(3, 3, 1, 1, 9),
    params_offsets=ids(0, 2, 3),
    params_data=floats(0.5, 2.0, 4.0),
    observations=TensorColumns(
        ids(0, 2, 2, 2), ids(2, 2), ids(0, 1), ids(0, 0, 6), np.arange(6.0), floats(-1.5, -2.5)
    ),
    tags=TensorColumns(ids(0, 0, 1, 1), ids(2), ids(0), ids(0, 1), floats(9.0), floats()),
    results=TensorColumns(ids(0, 1, 1, 1), ids(2), ids(0), ids(0, 2), floats(1.0, 2.0), floats()),
    loops=LoopColumns(ids(0, 2, 2, 3), ids(2, 2, 2), ids(0, 1, 1), ids(2, 1, 2)),
    failures=(Failure(1, FailureKind.MODEL, "division by zero"),),
    first_address=0,
    addresses=ADDRESSES,
)
EMPTY_RUN_BATCH = RunBatch(0, 0, np.array([], np.uint64), False, ids(0), ids(), ids(), floats(), floats())
EMPTY_BATCH_RESULT = BatchResult(
    0,
    0.0,
    octets(),
    ids(0),
    *[ids()] * 3,
    *[floats()] * 3,
    octets(),
    ids(0),
    floats(),
    *[no_tensors(0)] * 3,
    no_loops(0),
)

EXAMPLES: dict[type[Event], Event] = {
    type(event): event
    for event in [
        Handshake("controller", CAPABILITIES, 1 << 26),
        HandshakeResult("simulator", "gaussian", CAPABILITIES, "sha256:1f", 1 << 16, 1 << 26),
        Run(),
        RunResult(1.0),
        Sample("f/x", "x", NORMAL, True),
        SampleResult(0.5),
        Observe("f/y", "y", NORMAL, None),
        ObserveResult(None),
        Tag("f/t", "t", 2.0),
        TagResult(),
        Reset(),
        Error("division by zero"),
        RUN_BATCH,
        BATCH_RESULT,
        Rejection("f/loop", "loop", True),
        RejectionResult(),
        Shutdown(),
        ShutdownResult(),
    ]
}
"""One of each type."""

EVENTS: list[Event] = [
    *EXAMPLES.values(),
    RunResult(np.arange(6.0).reshape(2, 3)),
    Sample("detector/x", "", ARRAYS, False),
    Observe("detector/y", "y", NORMAL, np.ones((2, 2))),
    ObserveResult(8.0),
    Tag("t", "t", np.ones(5)),
    EMPTY_RUN_BATCH,
    EMPTY_BATCH_RESULT,
    RUN_BATCH._replace(addresses=(), observations=None),
]

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_floats = st.floats(width=64)
_arrays = npst.arrays(np.float64, npst.array_shapes(min_dims=1, max_dims=4, max_side=4), elements=_floats)
_empty = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3).map(lambda s: np.zeros((*s, 0)))
_tensors = _floats | _arrays | _empty
_present = _floats | _arrays
_ids = st.integers(0, 2**31 - 1)
_ulongs = st.integers(0, 2**64 - 1)


@st.composite
def _distributions(draw: st.DrawFn) -> WireDistribution:
    family = draw(st.sampled_from(sorted(PARAM_NAMES)))
    shape = draw(npst.array_shapes(min_dims=1, max_dims=3, max_side=3))
    param = _floats | npst.arrays(np.float64, shape, elements=_floats)
    return WireDistribution(family, tuple(draw(param) for _ in PARAM_NAMES[family]))


def _column(draw: st.DrawFn, size: int, dtype: type, elements: st.SearchStrategy) -> np.ndarray:
    return draw(npst.arrays(dtype, size, elements=elements))


def _counts(draw: st.DrawFn, segments: int, most: int = 3) -> np.ndarray:
    return np.array(draw(st.lists(st.integers(0, most), min_size=segments, max_size=segments)), np.int64)


def _ends(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


_wire_addresses = st.lists(
    st.builds(
        WireAddress,
        _texts,
        _texts,
        st.sampled_from(["", *FAMILY_NAMES]),
        st.lists(st.integers(0, 5), max_size=3).map(tuple),
    ),
    max_size=3,
).map(tuple)
_observations = st.none() | st.lists(
    st.builds(Observation, _texts, _ids, _tensors), max_size=3, unique_by=lambda o: (o.name, o.visit)
).map(tuple)


@st.composite
def run_batches(draw: st.DrawFn) -> RunBatch:
    count = draw(st.integers(0, 5))
    offsets = _ends(_counts(draw, count))
    rows = int(offsets[-1])
    observations = draw(_observations)
    return RunBatch(
        batch=draw(_ulongs),
        seed=draw(_ulongs),
        index=_column(draw, count, np.uint64, _ulongs),
        ask=draw(st.booleans()),
        offsets=offsets,
        address=_column(draw, rows, np.int32, _ids),
        instance=_column(draw, rows, np.int32, _ids),
        value=_column(draw, rows, np.float64, _floats),
        z=_column(draw, rows, np.float64, _floats),
        first_address=draw(st.integers(0, 1000)),
        addresses=draw(_wire_addresses),
        observations_id=draw(st.integers(1, 2**64 - 1)) if observations else draw(_ulongs),
        observations=observations,
    )


def _tensor_table(draw: st.DrawFn, count: int, *, log_prob: bool, most: int = 3) -> TensorColumns:
    offsets = _ends(_counts(draw, count, most))
    rows = int(offsets[-1])
    data_offsets = _ends(_counts(draw, rows))
    return TensorColumns(
        offsets,
        _column(draw, rows, np.int32, _ids),
        _column(draw, rows, np.int32, _ids),
        data_offsets,
        _column(draw, int(data_offsets[-1]), np.float64, _floats),
        _column(draw, rows if log_prob else 0, np.float64, _floats),
    )


def _loops(draw: st.DrawFn, draws: np.ndarray) -> LoopColumns:
    counts = _counts(draw, len(draws), 2)
    begin, end = [], []
    for trace, count in enumerate(counts):
        span = st.tuples(*[st.integers(0, int(draws[trace]))] * 2).map(sorted)
        rows = sorted(draw(st.lists(span, min_size=int(count), max_size=int(count))))
        begin += [row[0] for row in rows]
        end += [row[1] for row in rows]
    return LoopColumns(_ends(counts), _column(draw, len(begin), np.int32, _ids), ids(*begin), ids(*end))


@st.composite
def batch_results(draw: st.DrawFn) -> BatchResult:
    count = draw(st.integers(0, 4))
    offsets = _ends(_counts(draw, count))
    rows = int(offsets[-1])
    status = _column(draw, count, np.uint8, st.integers(0, 2))
    params_offsets = _ends(_counts(draw, draw(st.integers(1 if rows else 0, 3))))
    failed = [
        Failure(int(k), draw(st.sampled_from(FailureKind)), draw(_texts)) for k in np.flatnonzero(status == 1)
    ]
    return BatchResult(
        batch=draw(_ulongs),
        seconds=draw(st.floats(0, 1e9)),
        status=status,
        offsets=offsets,
        address=_column(draw, rows, np.int32, _ids),
        instance=_column(draw, rows, np.int32, _ids),
        params=_column(draw, rows, np.int32, st.integers(0, max(len(params_offsets) - 2, 0))),
        value=_column(draw, rows, np.float64, _floats),
        z=_column(draw, rows, np.float64, _floats),
        log_prob=_column(draw, rows, np.float64, _floats),
        flags=_column(draw, rows, np.uint8, st.sampled_from([0, 1, 2, 3, 8, 9])),
        params_offsets=params_offsets,
        params_data=_column(draw, int(params_offsets[-1]), np.float64, _floats),
        observations=_tensor_table(draw, count, log_prob=True),
        tags=_tensor_table(draw, count, log_prob=False),
        results=_tensor_table(draw, count, log_prob=False, most=1),
        loops=_loops(draw, np.diff(offsets)),
        failures=tuple(failed),
        first_address=draw(st.integers(0, 1000)),
        addresses=draw(_wire_addresses),
    )


_capabilities = st.lists(_texts, max_size=4).map(tuple)
_limits = st.integers(0, 2**31 - 1)
events = st.one_of(
    st.builds(Handshake, _texts, _capabilities, _limits),
    st.builds(HandshakeResult, _texts, _texts, _capabilities, _texts, _limits, _limits),
    st.just(Run()),
    st.builds(RunResult, st.none() | _present),
    st.builds(Sample, _texts, _texts, _distributions(), st.booleans()),
    st.builds(SampleResult, _tensors),
    st.builds(Observe, _texts, _texts, _distributions(), st.none() | _present),
    st.builds(ObserveResult, st.none() | _present),
    st.builds(Tag, _texts, _texts, _tensors),
    st.just(TagResult()),
    st.just(Reset()),
    st.builds(Error, _texts),
    run_batches(),
    batch_results(),
    st.builds(Rejection, _texts, _texts, st.booleans()),
    st.just(RejectionResult()),
    st.just(Shutdown()),
    st.just(ShutdownResult()),
)
"""Any event that can be sent."""


def same(a: object, b: object) -> bool:
    """Equality by type, shape and bits, unlike that of tuples and arrays."""
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float | np.ndarray):
        return np.shape(a) == np.shape(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()
    return a == b

"""The hand-written codec against schema/ppx.fbs: same names, same codes, same slots."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import flatbuffers.number_types as types
import numpy as np
import pytest
from flatbuffers.table import Table

import ppx_server.protocol
from ppx_server.protocol import (
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
    encode,
)
from ppx_server.protocol.batch_encoder import _BATCH_RESULT, _RUN_BATCH
from ppx_server.protocol.decoder import _READERS
from ppx_server.protocol.skeleton import Skeleton
from ppx_server.protocol.wire import FAMILY_NAMES, MESSAGES, PARAM_NAMES
from tests.ppx_server.protocol.examples import BATCH_RESULT, RUN_BATCH

SCHEMA = re.sub(
    r"//.*",
    "",
    (Path(ppx_server.protocol.__file__).parent / "schema" / "ppx.fbs").read_text(encoding="utf-8"),
)
UNIONS = {
    name: re.findall(r"\w+", members)
    for name, members in re.findall(r"union (\w+) \{(.*?)\}", SCHEMA, re.DOTALL)
}
TABLES = {
    name: re.findall(r"(\w+): *(\[?\w+\]?)", fields)
    for name, fields in re.findall(r"table (\w+) \{(.*?)\}", SCHEMA, re.DOTALL)
}

PPX_1_0 = {  # the public schema, version 1.0.0
    "MessageBody": "Handshake HandshakeResult Run RunResult Sample SampleResult Observe ObserveResult "
    "Tag TagResult Reset",
    "Distribution": "Normal Uniform Categorical Poisson Bernoulli Beta Exponential Gamma LogNormal Binomial Weibull",
    "Tensor": "data shape",
    "Handshake": "system_name",
    "HandshakeResult": "system_name model_name",
    "RunResult": "result",
    "Sample": "address name distribution control",
    "SampleResult": "result",
    "Observe": "address name distribution value",
    "Tag": "address name value",
    "Normal": "mean stddev",
    "Uniform": "low high",
    "Categorical": "probs",
    "Poisson": "rate",
    "Bernoulli": "probs",
    "Beta": "concentration1 concentration0",
    "Exponential": "rate",
    "Gamma": "concentration rate",
    "LogNormal": "loc scale",
    "Binomial": "total_count probs",
    "Weibull": "scale concentration",
}


@pytest.mark.parametrize("name", PPX_1_0)
def test_the_schema_only_adds_to_ppx_1_0(name: str) -> None:
    ours = UNIONS[name] if name in UNIONS else [field for field, _ in TABLES[name]]
    theirs = PPX_1_0[name].split()
    assert ours[: len(theirs)] == theirs


def test_unions_are_those_of_the_schema() -> None:
    assert [message.__name__ for message in MESSAGES] == UNIONS["MessageBody"]
    assert list(FAMILY_NAMES) == UNIONS["Distribution"]


def test_readers_are_in_the_order_of_the_union() -> None:
    camel = [reader.__name__.title().replace("_", "") for reader in _READERS]
    assert camel == UNIONS["MessageBody"]


@pytest.mark.parametrize("message", MESSAGES)
def test_events_have_the_fields_of_their_tables(message: type[Event]) -> None:
    assert [field for field, _ in TABLES[message.__name__]] == list(message._fields)


@pytest.mark.parametrize(
    ("table", "event"),
    [
        ("TensorColumns", TensorColumns),
        ("LoopColumns", LoopColumns),
        ("Failure", Failure),
        ("Address", WireAddress),
        ("Observation", Observation),
    ],
)
def test_parts_of_batches_have_the_fields_of_their_tables(table: str, event: type) -> None:
    assert [field for field, _ in TABLES[table]] == list(event._fields)


def test_kinds_of_failures_are_those_of_the_schema() -> None:
    members = re.search(r"enum FailureKind : ubyte \{(.*?)\}", SCHEMA, re.DOTALL)
    assert members is not None
    assert [kind.name.title() for kind in FailureKind] == re.findall(r"\w+", members[1])


@pytest.mark.parametrize(("skeleton", "name"), [(_RUN_BATCH, "RunBatch"), (_BATCH_RESULT, "BatchResult")])
def test_skeletons_have_the_leaves_of_their_tables(skeleton: Skeleton, name: str) -> None:
    assert [leaf.kind for leaf in skeleton._leaves] == leaves(name)


def leaves(name: str) -> list[str]:
    found = []
    for _, kind in TABLES[name]:
        if kind in TABLES:
            found += leaves(kind)
        else:
            found.append("[table]" if kind.strip("[]") in TABLES else kind)
    return found


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_families_have_the_fields_of_their_tables(family: str) -> None:
    assert [(name, "Tensor") for name in PARAM_NAMES[family]] == TABLES[family]


def read(table: Table, name: str) -> dict[str, Any]:
    """Reads a table with FlatBuffers' own runtime by the schema file alone."""
    found: dict[str, Any] = {}
    slot = 4
    for field, kind in TABLES[name]:
        offset = table.Offset(slot)
        if kind in UNIONS:
            code = table.Get(types.Uint8Flags, table.Pos + offset) if offset else 0
            inner = table.Offset(slot + 2)
            member = UNIONS[kind][code - 1]
            nested = Table(bytearray(), 0)
            table.Union(nested, inner)
            found[field] = (member, read(nested, member))
            slot += 4
            continue
        slot += 2
        found[field] = None if offset == 0 else value(table, offset, kind)
    return found


def value(table: Table, offset: int, kind: str) -> Any:
    if kind == "string":
        return table.String(table.Pos + offset).decode("utf-8")
    if kind in NUMBERS:
        return table.Get(NUMBERS[kind], table.Pos + offset)
    if kind == "[string]":
        start = table.Vector(offset)
        return [table.String(start + 4 * i).decode("utf-8") for i in range(table.VectorLen(offset))]
    if kind.strip("[]") in NUMBERS:
        return table.GetVectorAsNumpy(NUMBERS[kind.strip("[]")], offset).tolist()
    if kind.startswith("["):
        start = table.Vector(offset)
        places = [table.Indirect(start + 4 * i) for i in range(table.VectorLen(offset))]
        return [read(Table(table.Bytes, place), kind.strip("[]")) for place in places]
    return read(Table(table.Bytes, table.Indirect(table.Pos + offset)), kind)


NUMBERS = {
    "bool": types.BoolFlags,
    "ubyte": types.Uint8Flags,
    "FailureKind": types.Uint8Flags,
    "int": types.Int32Flags,
    "ulong": types.Uint64Flags,
    "double": types.Float64Flags,
}


def by_schema(event: Event) -> Any:
    data = bytearray(encode(event))
    root = Table(data, int.from_bytes(data[:4], "little"))
    return read(root, "Message")["body"]


def tensor(data: list[float], shape: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"data": data, "shape": list(shape)}


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_slots_of_families(family: str) -> None:
    names = PARAM_NAMES[family]
    params = tuple(float(i) for i in range(len(names)))
    expected = (family, {name: tensor([param]) for name, param in zip(names, params, strict=True)})
    sample = by_schema(Sample("f/x", "x", WireDistribution(family, params), False))
    assert sample == ("Sample", {"address": "f/x", "name": "x", "distribution": expected, "control": False})
    observe = by_schema(Observe("f/y", "", WireDistribution(family, params), np.array([[1.0, 2.0]])))
    observed = tensor([1.0, 2.0], (1, 2))
    assert observe == ("Observe", {"address": "f/y", "name": "", "distribution": expected, "value": observed})


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (Handshake("s", ("a", "b")), {"system_name": "s", "capabilities": ["a", "b"], "max_bytes": None}),
        (Handshake("s", ("a",), 9), {"system_name": "s", "capabilities": ["a"], "max_bytes": 9}),
        (Handshake("s"), {"system_name": "s", "capabilities": None, "max_bytes": None}),
        (
            HandshakeResult("s", "m", ("a",), "f"),
            {"system_name": "s", "model_name": "m", "capabilities": ["a"], "fingerprint": "f"}
            | dict.fromkeys(("max_traces", "max_bytes")),
        ),
        (
            HandshakeResult("s", "m", ("a",), "f", 5, 6),
            {"system_name": "s", "model_name": "m", "capabilities": ["a"], "fingerprint": "f"}
            | {"max_traces": 5, "max_bytes": 6},
        ),
        (Run(), {}),
        (RunResult(np.ones(2)), {"result": tensor([1.0, 1.0], (2,))}),
        (RunResult(None), {"result": None}),
        (SampleResult(1.5), {"result": tensor([1.5])}),
        (SampleResult(np.zeros(0)), {"result": tensor([], (0,))}),
        (ObserveResult(), {"value": None}),
        (ObserveResult(2.0), {"value": tensor([2.0])}),
        (Tag("a", "n", 3.0), {"address": "a", "name": "n", "value": tensor([3.0])}),
        (TagResult(), {}),
        (Reset(), {}),
        (Error("boom"), {"message": "boom"}),
        (Rejection("a", "n", True), {"address": "a", "name": "n", "begin": True}),
        (Rejection("a", "n", False), {"address": "a", "name": "n", "begin": False}),
        (RejectionResult(), {}),
        (Shutdown(), {}),
        (ShutdownResult(), {}),
    ],
)
def test_slots_of_messages(event: Event, fields: dict[str, Any]) -> None:
    assert by_schema(event) == (type(event).__name__, fields)


def as_read(part: Any) -> Any:
    """An event as the schema would have it read."""
    if isinstance(part, np.ndarray):
        return part.tolist() or None  # empty columns are absent
    if isinstance(part, WireAddress):
        code = FAMILY_NAMES.index(part.family) + 1 if part.family else 0
        return {"address": part.address, "name": part.name, "family": code, "shape": list(part.shape)}
    if isinstance(part, Observation):
        value = tensor(np.ravel(part.value).tolist(), np.shape(part.value))
        return {"name": part.name, "visit": part.visit, "value": value}
    if hasattr(part, "_fields"):
        return {name: as_read(getattr(part, name)) for name in part._fields}
    if isinstance(part, FailureKind):
        return int(part)
    return [as_read(p) for p in part] if isinstance(part, tuple) else part


@pytest.mark.parametrize("event", [RUN_BATCH, BATCH_RESULT])
def test_slots_of_batches(event: Event) -> None:
    kind, found = by_schema(event)
    assert kind == type(event).__name__
    assert repr(found) == repr(as_read(event))  # NaN is not equal to itself

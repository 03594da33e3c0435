"""pyprob 1.5.0's generated PPX 1.0 code reads what our codec writes, and the other way round.

The generated modules are loaded without pyprob itself, which would import torch. Reading and writing is done as in
pyprob's `remote.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppx_server.protocol import (
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
from ppx_server.protocol.wire import PARAM_NAMES

FAMILIES = [family for family in PARAM_NAMES if family != "TruncatedNormal"]  # those of PPX 1.0
SHAPES: list[tuple[int, ...]] = [(), (1,), (3,), (2, 1, 4)]
PACKAGE = "pyprob_ppx"

Generated = Callable[[str], Any]  # name of a table or union -> its generated module


@pytest.fixture(scope="module")
def ppx() -> Iterator[Generated]:
    """The generated module of a table."""
    pyprob = importlib.util.find_spec("pyprob")
    if pyprob is None or not pyprob.submodule_search_locations:
        pytest.skip("pyprob is not installed (extra `pyprob`)")
    folder = Path(pyprob.submodule_search_locations[0]) / "ppx"
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[PACKAGE] = package = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # flatbuffers 2.0 imports `imp`
        importlib.import_module("flatbuffers")
        spec.loader.exec_module(package)
    yield lambda name: importlib.import_module(f"{PACKAGE}.{name}")
    for name in [n for n in sys.modules if n.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def camel(field: str) -> str:
    return "".join(part[0].upper() + part[1:] for part in field.split("_"))


# Reading as pyprob does


def read(ppx: Generated, data: bytes) -> tuple[str, Any]:
    """The message's type and its table."""
    message = ppx("Message").Message.GetRootAsMessage(data, 0)
    return member(ppx, "MessageBody", message.BodyType(), message.Body())


def member(ppx: Generated, union: str, code: int, table: Any) -> tuple[str, Any]:
    codes = vars(getattr(ppx(union), union))
    (name,) = [name for name, value in codes.items() if value == code and not name.startswith("_")]
    found = getattr(ppx(name), name)()
    found.Init(table.Bytes, table.Pos)
    return name, found


def read_tensor(tensor: Any) -> Any:
    """`_protocol_tensor_to_variable`, without torch."""
    if tensor is None:
        return None
    data = tensor.DataAsNumpy()
    shape = tensor.ShapeAsNumpy()
    if len(data) == 0:
        return None
    return data.reshape(shape.tolist()) if len(shape) != 0 else data


def read_distribution(ppx: Generated, message: Any) -> tuple[str, list[Any]]:
    family, table = member(ppx, "Distribution", message.DistributionType(), message.Distribution())
    return family, [read_tensor(getattr(table, camel(name))()) for name in PARAM_NAMES[family]]


# Writing as pyprob does


def write(ppx: Generated, kind: str, fields: dict[str, Any]) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(64)
    body = write_table(ppx, builder, kind, fields)
    start(ppx, builder, "Message")
    add(ppx, builder, "Message", "body_type", getattr(ppx("MessageBody").MessageBody, kind))
    add(ppx, builder, "Message", "body", body)
    builder.Finish(ppx("Message").MessageEnd(builder))
    return bytes(builder.Output())


def start(ppx: Generated, builder: Any, kind: str) -> None:
    getattr(ppx(kind), f"{kind}Start")(builder)


def add(ppx: Generated, builder: Any, kind: str, field: str, value: Any) -> None:
    getattr(ppx(kind), f"{kind}Add{camel(field)}")(builder, value)


def write_table(ppx: Generated, builder: Any, kind: str, fields: dict[str, Any]) -> int:
    places: dict[str, Any] = {}
    for field, value in fields.items():
        if isinstance(value, str):
            places[field] = builder.CreateString(value)
        elif isinstance(value, WireDistribution):
            params = dict(zip(PARAM_NAMES[value.family], value.params, strict=True))
            places["distribution_type"] = getattr(ppx("Distribution").Distribution, value.family)
            places["distribution"] = write_table(ppx, builder, value.family, params)
        elif isinstance(value, bool):
            places[field] = value
        elif value is not None:
            places[field] = write_tensor(ppx, builder, np.asarray(value))
    start(ppx, builder, kind)
    for field, place in places.items():
        add(ppx, builder, kind, field, place)
    return int(getattr(ppx(kind), f"{kind}End")(builder))


def write_tensor(ppx: Generated, builder: Any, value: np.ndarray[Any, Any]) -> int:
    """`_variable_to_protocol_tensor`, without torch."""
    tensor = ppx("Tensor")
    tensor.TensorStartDataVector(builder, value.size)
    for element in reversed(value.flatten().tolist()):
        builder.PrependFloat64(element)
    data = builder.EndVector()
    tensor.TensorStartShapeVector(builder, value.ndim)
    for length in reversed(value.shape):
        builder.PrependInt32(length)
    shape = builder.EndVector()
    tensor.TensorStart(builder)
    tensor.TensorAddData(builder, data)
    tensor.TensorAddShape(builder, shape)
    return int(tensor.TensorEnd(builder))


def example(shape: tuple[int, ...], offset: float = 0.5) -> Any:
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float64).reshape(shape) + offset
    return values if shape else float(values)


def distribution(family: str, shape: tuple[int, ...]) -> WireDistribution:
    return WireDistribution(family, tuple(example(shape, i + 0.5) for i in range(len(PARAM_NAMES[family]))))


def as_dict(event: Event) -> dict[str, Any]:
    return event._asdict()


def assert_same(received: Event, sent: Event) -> None:
    assert type(received) is type(sent)
    np.testing.assert_equal(as_dict(received), as_dict(sent))


@pytest.mark.parametrize("control", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_sample(ppx: Generated, family: str, shape: tuple[int, ...], control: bool) -> None:
    event = Sample("[forward+0x1d]", "x", distribution(family, shape), control)

    kind, table = read(ppx, encode(event))
    assert kind == "Sample"
    assert (table.Address(), table.Name(), bool(table.Control())) == (b"[forward+0x1d]", b"x", control)
    read_family, params = read_distribution(ppx, table)
    assert read_family == family
    for ours, theirs in zip(event.distribution.params, params, strict=True):
        np.testing.assert_array_equal(np.ravel(ours), np.ravel(theirs))
        assert np.shape(theirs) == (np.shape(ours) or (1,))

    assert_same(decode(write(ppx, "Sample", as_dict(event))), event)


@pytest.mark.parametrize(
    "value", [None, 2.5, np.arange(6.0).reshape(2, 3)], ids=["absent", "scalar", "matrix"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_observe(ppx: Generated, family: str, value: Any) -> None:
    event = Observe("[forward+0x2f]", "", distribution(family, ()), value)

    kind, table = read(ppx, encode(event))
    assert kind == "Observe"
    assert (table.Address(), table.Name()) == (b"[forward+0x2f]", b"")
    assert read_distribution(ppx, table)[0] == family
    seen = read_tensor(table.Value())
    assert (seen is None) == (value is None)
    if value is not None:
        np.testing.assert_array_equal(np.ravel(seen), np.ravel(value))

    assert_same(decode(write(ppx, "Observe", as_dict(event))), event)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["RunResult", "SampleResult", "Tag"])
def test_values(ppx: Generated, kind: str, shape: tuple[int, ...]) -> None:
    value = example(shape)
    event = {
        "RunResult": RunResult(value),
        "SampleResult": SampleResult(value),
        "Tag": Tag("a\u00e9", "\u03bc", value),
    }[kind]

    seen_kind, table = read(ppx, encode(event))
    assert seen_kind == kind
    seen = read_tensor(table.Value() if kind == "Tag" else table.Result())
    np.testing.assert_array_equal(np.ravel(seen), np.ravel(value))
    if shape:
        assert seen.shape == shape
    if kind == "Tag":
        assert (table.Address().decode(), table.Name().decode()) == ("a\u00e9", "\u03bc")

    assert_same(decode(write(ppx, kind, as_dict(event))), event)


@pytest.mark.parametrize(
    "event", [Run(), ObserveResult(), TagResult(), Reset()], ids=lambda e: type(e).__name__
)
def test_messages_without_fields(ppx: Generated, event: Event) -> None:
    kind, _ = read(ppx, encode(event))
    assert kind == type(event).__name__
    assert_same(decode(write(ppx, kind, {})), event)


def test_handshake(ppx: Generated) -> None:
    kind, table = read(ppx, encode(Handshake("ours", ("error",))))
    assert (kind, table.SystemName()) == ("Handshake", b"ours")
    assert decode(write(ppx, "Handshake", {"system_name": "pyprob 1.5.0"})) == Handshake("pyprob 1.5.0")

    kind, table = read(ppx, encode(HandshakeResult("ours", "model", ("error",))))
    assert (kind, table.SystemName(), table.ModelName()) == ("HandshakeResult", b"ours", b"model")
    sent = {"system_name": "pyprob_cpp", "model_name": "gum"}
    assert decode(write(ppx, "HandshakeResult", sent)) == HandshakeResult("pyprob_cpp", "gum")


def test_nothing_is_an_empty_tensor(ppx: Generated) -> None:
    # pyprob sends None as a tensor of shape (0,)
    assert decode(write(ppx, "RunResult", {"result": np.zeros(0)})) == RunResult(None)
    for empty in (np.zeros(0), np.zeros((3, 0))):
        _, table = read(ppx, encode(RunResult(empty)))
        assert read_tensor(table.Result()) is None
    _, table = read(ppx, encode(RunResult(None)))
    assert read_tensor(table.Result()) is None

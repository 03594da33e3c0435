"""Code that flatc generates from our schema reads what our codec writes; the C++ verifier accepts it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import ppx_server.protocol
from ppx_server.protocol import (
    BatchResult,
    Error,
    Event,
    Failure,
    FailureKind,
    Handshake,
    HandshakeResult,
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
    WireAddress,
    WireDistribution,
    decode,
    encode,
)
from ppx_server.protocol.wire import PARAM_NAMES
from tests.ppx_server.protocol.examples import BATCH_RESULT, EMPTY_BATCH_RESULT, EVENTS, RUN_BATCH

SCHEMA = Path(ppx_server.protocol.__file__).parent / "schema" / "ppx.fbs"
FLATC = shutil.which("flatc")

pytestmark = pytest.mark.skipif(FLATC is None, reason="flatc is not installed (flatbuffers-compiler)")

SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (3,), (2, 5)]
TEXTS = ["", "x", "xy", "xyz", "wxyz", "\u03bc\u03c4"]  # every alignment of what follows


def example(shape: tuple[int, ...]) -> Any:
    return np.full(shape, 0.5) if shape else 0.5


def events() -> list[Event]:
    """All messages, families, shapes and alignments."""
    found: list[Event] = [Run(), TagResult(), Reset(), RunResult(None), ObserveResult(None)]
    found += [RejectionResult(), Shutdown(), ShutdownResult(), *EVENTS]
    for text in TEXTS:
        found += [
            Handshake(text),
            Handshake(text, ("a", "", text)),
            HandshakeResult(text, "m", ("error",)),
            HandshakeResult(text, "m", ("error",), text),
            Error(text),
            Rejection(text, "", True),
            Rejection("a", text, False),
            *batches(text),
        ]
        for family, names in PARAM_NAMES.items():
            for shape in SHAPES:
                distribution = WireDistribution(family, (example(shape),) * len(names))
                found += [Sample(text, "n", distribution, bool(shape)), Observe("a", text, distribution, 1.0)]
    for shape in SHAPES:
        value = example(shape)
        found += [RunResult(value), SampleResult(value), ObserveResult(value), Tag("a", "bc", value)]
    return found


def batches(text: str) -> list[Event]:
    """Batches whose strings, shapes and numbers of rows shift what follows them."""
    found: list[Event] = []
    for rows, shape in enumerate(SHAPES):
        addresses = tuple(
            WireAddress(text, text, family, shape) for family in ("", "Normal", "TruncatedNormal")
        )
        observations = tuple(Observation(text, visit, example(shape)) for visit in range(rows))
        index = np.arange(rows, dtype=np.uint64)
        choices = np.zeros(rows, np.int32)
        none = RUN_BATCH._replace(observations=None, addresses=())
        offsets = np.arange(rows + 1, dtype=np.int32)
        run = none._replace(
            index=index,
            offsets=offsets,
            address=choices,
            instance=choices,
            value=np.ones(rows),
            z=np.ones(rows),
        )
        found += [
            run,
            run._replace(addresses=addresses),
            run._replace(addresses=addresses, observations=observations),
            run._replace(
                addresses=addresses,
                observations=tuple(
                    o._replace(missing=np.ones(max(np.size(o.value), 1), np.uint8)) for o in observations
                ),
            ),
        ]
        result = EMPTY_BATCH_RESULT._replace(
            params_offsets=np.arange(rows + 1, dtype=np.int32), params_data=np.ones(rows), addresses=addresses
        )
        found += [result, BATCH_RESULT._replace(failures=(Failure(1, FailureKind.DENSITY, text),))]
    return found


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = tmp_path_factory.mktemp("flatc")
    subprocess.run([str(FLATC), "--python", "--gen-onefile", "-o", folder, SCHEMA], check=True)
    spec = importlib.util.spec_from_file_location("ppx_generated", folder / "ppx_generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # flatbuffers 2.0 imports `imp`
        spec.loader.exec_module(module)
    return module


def body(generated: ModuleType, event: Event) -> Any:
    message = generated.Message.GetRootAs(encode(event), 0)
    kind = type(event).__name__
    assert message.BodyType() == getattr(generated.MessageBody, kind)
    return cast(generated, kind, message.Body())


def cast(generated: ModuleType, kind: str, table: Any) -> Any:
    found = getattr(generated, kind)()
    found.Init(table.Bytes, table.Pos)
    return found


def test_truncated_normal(generated: ModuleType) -> None:
    params = (1.0, 2.0, np.zeros((2, 2)), 4.0)
    sample = body(generated, Sample("f/x", "x", WireDistribution("TruncatedNormal", params), True))
    assert sample.DistributionType() == generated.Distribution.TruncatedNormal
    table = cast(generated, "TruncatedNormal", sample.Distribution())
    tensors = [table.Mean(), table.Stddev(), table.Low(), table.High()]
    for tensor, param in zip(tensors, params, strict=True):
        assert tensor.ShapeAsNumpy().tolist() == list(np.shape(param))
        assert tensor.DataAsNumpy().tolist() == np.ravel(param).tolist()


def test_the_other_extensions(generated: ModuleType) -> None:
    assert body(generated, Error("boom")).Message() == b"boom"
    assert body(generated, ObserveResult(2.5)).Value().DataAsNumpy().tolist() == [2.5]
    assert body(generated, ObserveResult(None)).Value() is None
    for event in (Handshake("s", ("a", "bc")), HandshakeResult("s", "m", ("a", "bc"))):
        table = body(generated, event)
        assert [table.Capabilities(i) for i in range(table.CapabilitiesLength())] == [b"a", b"bc"]


def columns(table: Any, names: list[str]) -> list[list[float] | int]:
    """What the generated accessors of these columns give; they return 0 for an absent one."""
    found = [getattr(table, f"{name}AsNumpy")() for name in names]
    return [column if isinstance(column, int) else column.tolist() for column in found]


def test_run_batch(generated: ModuleType) -> None:
    table = body(generated, RUN_BATCH)
    assert (table.Batch(), table.Seed(), table.Ask(), table.ObservationsId()) == (7, 2**64 - 1, True, 3)
    names = ["Index", "Offsets", "Address", "Instance", "Value", "Z"]
    expected = [getattr(RUN_BATCH, name.lower()).tolist() for name in names]
    assert repr(columns(table, names)) == repr(expected)
    assert table.FirstAddress() == 0
    check_addresses(table, RUN_BATCH.addresses)
    assert table.ObservationsLength() == 2
    last = table.Observations(1)
    assert (last.Name(), last.Visit()) == (b"cells", 1)
    assert last.Value().ShapeAsNumpy().tolist() == [2, 3]
    assert last.Value().DataAsNumpy().tolist() == [0, 1, 2, 3, 4, 5]
    marked = Observation("cells", 0, np.arange(3.0), np.array([0, 1, 1], np.uint8))
    entry = body(generated, RUN_BATCH._replace(observations=(marked,))).Observations(0)
    assert entry.MissingAsNumpy().tolist() == [0, 1, 1]
    assert [entry.Value().Data(i) for i in range(3)] == [0.0, 1.0, 2.0]
    assert last.MissingIsNone()
    assert body(generated, RUN_BATCH._replace(observations=None)).ObservationsIsNone()


def test_batch_result(generated: ModuleType) -> None:
    table = body(generated, BATCH_RESULT)
    assert (table.Batch(), table.Seconds(), table.FirstAddress()) == (7, 0.25, 0)
    draws = [
        "Status",
        "Offsets",
        "Address",
        "Instance",
        "Params",
        "Value",
        "Z",
        "LogProb",
        "Flags",
        "ParamsOffsets",
        "ParamsData",
    ]
    assert repr(columns(table, draws)) == repr(as_lists(BATCH_RESULT, 2, 13))
    tensors = ["Offsets", "Address", "Instance", "DataOffsets", "Data", "LogProb"]
    for part, name in (
        (table.Observations(), "observations"),
        (table.Tags(), "tags"),
        (table.Results(), "results"),
    ):
        assert columns(part, tensors) == as_lists(getattr(BATCH_RESULT, name), 0, 6)
    loops = columns(table.Loops(), ["Offsets", "Address", "Begin", "End"])
    assert loops == as_lists(BATCH_RESULT.loops, 0, 4)
    failure = table.Failures(0)
    assert (table.FailuresLength(), failure.Trace(), failure.Kind(), failure.Message()) == (
        1,
        1,
        0,
        b"division by zero",
    )
    check_addresses(table, BATCH_RESULT.addresses)


def as_lists(event: Any, first: int, end: int) -> list[list[float] | int]:
    return [column.tolist() or 0 for column in event[first:end]]


def check_addresses(table: Any, addresses: tuple[WireAddress, ...]) -> None:
    assert table.AddressesLength() == len(addresses)
    for i, (address, name, family, shape) in enumerate(addresses):
        entry = table.Addresses(i)
        assert (entry.Address().decode(), entry.Name().decode()) == (address, name)
        assert entry.Family() == (list(PARAM_NAMES).index(family) + 1 if family else 0)
        assert entry.ShapeLength() == len(shape)
        assert [entry.Shape(j) for j in range(len(shape))] == list(shape)


def test_what_the_generated_code_writes_is_read(generated: ModuleType) -> None:
    """A BatchResult with three of its columns, in the order in which flatc's builder happens to lay them out."""
    import flatbuffers

    builder = flatbuffers.Builder(64)
    status = builder.CreateNumpyVector(np.zeros(2, np.uint8))
    data = builder.CreateNumpyVector(np.array([1.0, 2.0]))
    offsets = builder.CreateNumpyVector(np.array([0, 2], np.int32))
    generated.BatchResultStart(builder)
    generated.BatchResultAddSeconds(builder, 1.5)
    generated.BatchResultAddParamsData(builder, data)
    generated.BatchResultAddParamsOffsets(builder, offsets)
    generated.BatchResultAddStatus(builder, status)
    generated.BatchResultAddBatch(builder, 2**40)
    result = generated.BatchResultEnd(builder)
    generated.MessageStart(builder)
    generated.MessageAddBodyType(builder, generated.MessageBody.BatchResult)
    generated.MessageAddBody(builder, result)
    builder.Finish(generated.MessageEnd(builder))
    received = decode(bytes(builder.Output()))
    assert isinstance(received, BatchResult)
    assert (received.batch, received.seconds) == (2**40, 1.5)
    assert received.status.tolist() == [0, 0]
    assert received.offsets.tolist() == received.loops.offsets.tolist() == [0, 0, 0]
    assert received.params_offsets.tolist() == [0, 2]
    assert received.params_data.tolist() == [1.0, 2.0]


def test_type_codes(generated: ModuleType) -> None:
    for event in events():
        body(generated, event)


VERIFY = r"""
#include "ppx_generated.h"
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

// Arguments: files of one message each. Prints those that the verifier refuses.
int main(int argc, char** argv) {
  int refused = 0;
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    std::vector<double> aligned(bytes.size() / 8 + 1);
    std::memcpy(aligned.data(), bytes.data(), bytes.size());
    flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(aligned.data()), bytes.size());
    if (!verifier.VerifyBuffer<ppx::Message>(nullptr)) {
      std::printf("%s\n", argv[i]);
      ++refused;
    }
  }
  return refused ? 1 : 0;
}
"""


def test_the_cpp_verifier_accepts_our_bytes(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None or not Path("/usr/include/flatbuffers").is_dir():
        pytest.skip("g++ or the FlatBuffers headers are not installed")
    subprocess.run([str(FLATC), "--cpp", "-o", tmp_path, SCHEMA], check=True)
    (tmp_path / "verify.cpp").write_text(VERIFY)
    subprocess.run([compiler, "-std=c++17", "verify.cpp", "-o", "verify"], cwd=tmp_path, check=True)
    messages = [encode(event) for event in events()]
    for i, data in enumerate(messages):
        (tmp_path / f"{i}.ppx").write_bytes(data)
    misaligned = bytearray(encode(SampleResult(0.5)))
    misaligned[0] += 1
    (tmp_path / "wrong.ppx").write_bytes(misaligned)
    names = [f"{i}.ppx" for i in range(len(messages))]
    result = subprocess.run(
        ["./verify", *names, "wrong.ppx"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == ["wrong.ppx"]

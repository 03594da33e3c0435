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
    encode,
)
from ppx_server.protocol.wire import PARAM_NAMES

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
    for text in TEXTS:
        found += [
            Handshake(text),
            Handshake(text, ("a", "", text)),
            HandshakeResult(text, "m", ("error",)),
            Error(text),
        ]
        for family, names in PARAM_NAMES.items():
            for shape in SHAPES:
                distribution = WireDistribution(family, (example(shape),) * len(names))
                found += [Sample(text, "n", distribution, bool(shape)), Observe("a", text, distribution, 1.0)]
    for shape in SHAPES:
        value = example(shape)
        found += [RunResult(value), SampleResult(value), ObserveResult(value), Tag("a", "bc", value)]
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

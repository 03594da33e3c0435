"""Compiled C++ simulators and the processes and controllers that the tests of the C++ client need."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zmq

from ppx_client.cpp_build import compile_simulator, toolchain_missing
from ppx_server import protocol
from ppx_server.protocol import (
    CAPABILITIES,
    BatchResult,
    Connection,
    Observation,
    Role,
    RunBatch,
    WireAddress,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import flatbuffers
    import pyprob.ppx as old
    from pyprob.ppx import (
        Handshake,
        HandshakeResult,
        Message,
        Observe,
        ObserveResult,
        Run,
        RunResult,
        Sample,
        SampleResult,
        Tag,
        TagResult,
        Tensor,
    )
    from pyprob.ppx.Distribution import Distribution
    from pyprob.ppx.MessageBody import MessageBody

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).resolve().parent / "programs"
BUILD = ROOT / "build" / "tests"
TIMEOUT = 20_000  # ms

Script = Sequence[tuple[WireAddress, int, float, float]]

BODY_NAMES = {number: name for name, number in vars(MessageBody).items() if isinstance(number, int)}
FAMILY_NAMES = {number: name for name, number in vars(Distribution).items() if isinstance(number, int)}


@pytest.fixture(scope="session")
def compiled() -> Callable[[str], Path]:
    """Compiles a program of this folder once per session, and only if it changed since the last one."""
    missing = toolchain_missing()
    if missing:
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    parts = {"everything": [str(PROGRAMS / "everything_else.cpp")], "faults": ["-pthread"]}

    def build(name: str) -> Path:
        flags = ["-O0", "-Wpedantic", "-Werror", *parts.get(name, [])]
        return compile_simulator(PROGRAMS / f"{name}.cpp", BUILD / name, flags=flags)

    return build


class Served(NamedTuple):
    """A running simulator."""

    process: subprocess.Popen[str]
    address: str


@pytest.fixture(scope="session")
def serving() -> Callable[[Path], AbstractContextManager[Served]]:
    """Runs a simulator for the length of a with block."""

    @contextmanager
    def run(program: Path) -> Iterator[Served]:
        with tempfile.TemporaryDirectory() as folder:
            address = f"ipc://{folder}/socket"
            process = subprocess.Popen(
                [str(program)], env={**os.environ, "PPX_BIND": address}, stderr=subprocess.PIPE, text=True
            )
            try:
                assert process.stderr is not None
                assert process.stderr.readline() == f"{program.name}: serving PPX at {address}\n"
                yield Served(process, address)
            finally:
                process.kill()
                process.communicate()

    return run


class OldController:
    """A PPX 1.0 controller on the code that flatc generated for pyprob: independent of our codec."""

    def __init__(self, address: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.REQ)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, TIMEOUT)
        self.socket.connect(address)

    def exchange(self, message: bytes) -> tuple[str, Any]:
        """Sends bytes; returns the answer's kind and table."""
        self.socket.send(message)
        return self.receive()

    def receive(self) -> tuple[str, Any]:
        message = Message.Message.GetRootAsMessage(self.socket.recv(), 0)
        name = BODY_NAMES.get(message.BodyType(), "Error")
        tables = {
            "HandshakeResult": HandshakeResult.HandshakeResult,
            "RunResult": RunResult.RunResult,
            "Sample": Sample.Sample,
            "Observe": Observe.Observe,
            "Tag": Tag.Tag,
        }
        if name not in tables:
            return name, None
        table = tables[name]()
        table.Init(message.Body().Bytes, message.Body().Pos)
        return name, table

    def handshake(self) -> tuple[str, Any]:
        return self.exchange(self.encode_handshake())

    def run(self) -> tuple[str, Any]:
        return self.exchange(self.encode_empty(Run, "Run"))

    def answer(self, *values: float) -> tuple[str, Any]:
        """Answers a Sample."""
        return self.exchange(self.encode_sample_result(values))

    def go_on(self, kind: str) -> tuple[str, Any]:
        """Answers an Observe or a Tag."""
        module = {"Observe": ObserveResult, "Tag": TagResult}[kind]
        return self.exchange(self.encode_empty(module, f"{kind}Result"))

    def trace(self, choose: Callable[[Any], tuple[float, ...]]) -> list[tuple[str, Any]]:
        """All messages of one trace."""
        messages = [self.run()]
        while messages[-1][0] in ("Sample", "Observe", "Tag"):
            kind, table = messages[-1]
            messages.append(self.answer(*choose(table)) if kind == "Sample" else self.go_on(kind))
        return messages

    def close(self) -> None:
        self.socket.close()

    @staticmethod
    def encode_handshake() -> bytes:
        builder = flatbuffers.Builder(64)
        name = builder.CreateString("test")
        Handshake.HandshakeStart(builder)
        Handshake.HandshakeAddSystemName(builder, name)
        return _finish(builder, "Handshake", Handshake.HandshakeEnd(builder))

    @staticmethod
    def encode_empty(module: Any, name: str) -> bytes:
        builder = flatbuffers.Builder(64)
        getattr(module, f"{name}Start")(builder)
        return _finish(builder, name, getattr(module, f"{name}End")(builder))

    @staticmethod
    def encode_sample_result(values: tuple[float, ...]) -> bytes:
        builder = flatbuffers.Builder(64)
        data = builder.CreateNumpyVector(np.array(values, np.float64))
        shape = builder.CreateNumpyVector(np.array([len(values)] if len(values) != 1 else [], np.int32))
        Tensor.TensorStart(builder)
        Tensor.TensorAddData(builder, data)
        Tensor.TensorAddShape(builder, shape)
        tensor = Tensor.TensorEnd(builder)
        SampleResult.SampleResultStart(builder)
        SampleResult.SampleResultAddResult(builder, tensor)
        return _finish(builder, "SampleResult", SampleResult.SampleResultEnd(builder))


def _finish(builder: Any, name: str, body: int) -> bytes:
    Message.MessageStart(builder)
    Message.MessageAddBodyType(builder, getattr(MessageBody, name))
    Message.MessageAddBody(builder, body)
    builder.Finish(Message.MessageEnd(builder))
    return bytes(builder.Output())


def tensor_of(table: Any) -> tuple[list[float], list[int]]:
    """Data and shape of a tensor in pyprob's reader."""
    data, shape = table.DataAsNumpy(), table.ShapeAsNumpy()
    return [] if isinstance(data, int) else data.tolist(), [] if isinstance(shape, int) else shape.tolist()


def distribution_of(table: Any) -> tuple[str, dict[str, tuple[list[float], list[int]]]]:
    """Family and parameters of a Sample or Observe in pyprob's reader."""
    family = FAMILY_NAMES[table.DistributionType()]
    module = sys.modules[f"{old.__name__}.{family}"]
    reader = getattr(module, family)()
    reader.Init(table.Distribution().Bytes, table.Distribution().Pos)
    ignored = {"Init", f"GetRootAs{family}", "GetRootAs"}
    names = [
        n
        for n in vars(type(reader))
        if n[0].isupper() and n not in ignored and not n.endswith("BufferHasIdentifier")
    ]
    return family, {name: tensor_of(getattr(reader, name)()) for name in names}


class BatchController:
    """A controller of the batch extension: knows addresses by what they are, on both sides."""

    def __init__(self, address: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, TIMEOUT)
        self.socket.connect(address)
        self.known: list[WireAddress] = []
        self.greeting = self.greet()

    def greet(self, capabilities: Sequence[str] = CAPABILITIES) -> protocol.HandshakeResult:
        self.connection = Connection(Role.CONTROLLER)
        self.known.clear()
        self.told: list[WireAddress] = []
        answer = self.exchange(protocol.Handshake("test", tuple(capabilities)))
        assert isinstance(answer, protocol.HandshakeResult)
        return answer

    def send(self, event: Any) -> None:
        self.socket.send_multipart([b"", self.connection.send(event)])

    def receive(self) -> Any:
        empty, body = self.socket.recv_multipart()
        assert empty == b""
        event = self.connection.receive(body)
        if isinstance(event, BatchResult):
            assert event.first_address == len(self.known)
            self.known += event.addresses
        return event

    def exchange(self, event: Any) -> Any:
        self.send(event)
        return self.receive()

    def batch(
        self,
        index: Sequence[int],
        scripts: Sequence[Script] = (),
        *,
        seed: int = 1,
        ask: bool = False,
        observations: Mapping[tuple[str, int], Any] | None = None,
        observations_id: int = 0,
        number: int = 1,
    ) -> RunBatch:
        """A RunBatch. A script is a list of (address, visit, value, z); observations are sent if given.

        An observation is a value, or a value and the marks of what is missing.
        """
        rows = [row for script in scripts for row in script]
        new = [a for a in dict.fromkeys(row[0] for row in rows) if a not in self.told]
        first = len(self.told)
        self.told += new
        return RunBatch(
            number,
            seed,
            np.array(index, np.uint64),
            ask,
            np.cumsum([0, *(len(script) for script in scripts or [()] * len(index))], dtype=np.int32),
            np.array([self.told.index(row[0]) for row in rows], np.int32),
            np.array([row[1] for row in rows], np.int32),
            np.array([row[2] for row in rows], np.float64),
            np.array([row[3] for row in rows], np.float64),
            first,
            tuple(new),
            observations_id,
            None
            if observations is None
            else tuple(
                Observation(*key, *(value if isinstance(value, tuple) else (value,)))
                for key, value in observations.items()
            ),
        )

    def play(self, index: Sequence[int], scripts: Sequence[Script] = (), **options: Any) -> BatchResult:
        """Executes a batch."""
        answer = self.exchange(self.batch(index, scripts, **options))
        assert isinstance(answer, BatchResult), answer
        return answer

    def close(self) -> None:
        self.socket.close()


@pytest.fixture(scope="session")
def connected() -> Callable[[str], AbstractContextManager[BatchController]]:
    """A controller of the batch extension for the length of a with block."""

    @contextmanager
    def connect(address: str) -> Iterator[BatchController]:
        controller = BatchController(address)
        try:
            yield controller
        finally:
            controller.close()

    return connect


class Tools(NamedTuple):
    """What tests need from this file, which they cannot import."""

    controller: Callable[[str], OldController]
    tensor_of: Callable[[Any], tuple[list[float], list[int]]]
    distribution_of: Callable[[Any], tuple[str, dict[str, tuple[list[float], list[int]]]]]


@pytest.fixture
def tools() -> Iterator[Tools]:
    """PPX 1.0 controllers, closed at the end of the test, and readers of their messages."""
    controllers: list[OldController] = []

    def controller(address: str) -> OldController:
        controllers.append(OldController(address))
        return controllers[-1]

    yield Tools(controller, tensor_of, distribution_of)
    for each in controllers:
        each.close()

"""A controller that shares no code with the client: pyprob's generated reader, and FlatBuffers' own builder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import zmq
from numpy.typing import ArrayLike, NDArray

from ppx_server.protocol import BatchResult, Event, Handshake, HandshakeResult, WireAddress
from ppx_server.protocol.decoder import decode
from ppx_server.protocol.encoder import encode

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # flatbuffers 2.0 imports `imp`
    import flatbuffers
    from flatbuffers.number_types import Float64Flags, Int32Flags, UOffsetTFlags
    from flatbuffers.table import Table

BODIES = [
    "NONE",
    "Handshake",
    "HandshakeResult",
    "Run",
    "RunResult",
    "Sample",
    "SampleResult",
    "Observe",
    "ObserveResult",
    "Tag",
    "TagResult",
    "Reset",
    "Error",
    "RunBatch",
    "BatchResult",
    "Rejection",
    "RejectionResult",
    "Shutdown",
    "ShutdownResult",
]
FAMILIES = [
    "NONE",
    "Normal",
    "Uniform",
    "Categorical",
    "Poisson",
    "Bernoulli",
    "Beta",
    "Exponential",
    "Gamma",
    "LogNormal",
    "Binomial",
    "Weibull",
    "TruncatedNormal",
]
PARAMETERS = (0, 2, 2, 1, 1, 1, 2, 1, 2, 2, 2, 2, 4)
CONTROLLER = ("error", "observed_value", "truncated_normal", "batch", "rejection", "shutdown", "uncontrolled")


def _generated(name: str) -> Any:
    """A class of pyprob's generated code, without importing pyprob (and PyTorch)."""
    if "ppx_generated" not in sys.modules:
        found = importlib.util.find_spec("pyprob")
        if found is None or not found.submodule_search_locations:
            pytest.skip("pyprob is not installed (extra `pyprob`)")
        init = Path(found.submodule_search_locations[0]) / "ppx" / "__init__.py"
        spec = importlib.util.spec_from_file_location("ppx_generated", init)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["ppx_generated"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return getattr(importlib.import_module(f"ppx_generated.{name}"), name)


class Seen(NamedTuple):
    """A message of the simulator."""

    body: str
    address: str = ""
    name: str = ""
    family: str = ""
    params: tuple[NDArray[np.float64], ...] = ()
    control: bool = True
    value: NDArray[np.float64] | None = None
    text: tuple[str, ...] = ()


def _tensor(tensor: Any) -> NDArray[np.float64] | None:
    if tensor is None:
        return None
    data, shape = tensor.DataAsNumpy(), tensor.ShapeAsNumpy()
    assert isinstance(data, np.ndarray)
    assert isinstance(shape, np.ndarray), "readers of PPX 1.0 need the shape even if it is empty"
    return np.array(data).reshape(shape)


def _extra_tensor(table: Table, slot: int) -> NDArray[np.float64] | None:
    offset = UOffsetTFlags.py_type(table.Offset(4 + 2 * slot))
    if offset == 0:
        return None
    tensor = _generated("Tensor")()
    tensor.Init(table.Bytes, table.Indirect(offset + table.Pos))
    return _tensor(tensor)


def _extra_strings(table: Table, slot: int) -> tuple[str, ...]:
    offset = UOffsetTFlags.py_type(table.Offset(4 + 2 * slot))
    if offset == 0:
        return ()
    start = table.Vector(offset)
    return tuple(table.String(start + 4 * i).decode() for i in range(table.VectorLen(offset)))


def read(data: bytes) -> Seen:
    """Reads a message of a simulator by pyprob's generated code."""
    message = _generated("Message").GetRootAs(data, 0)
    body = BODIES[message.BodyType()]
    table = message.Body()
    if body == "Error":
        return Seen(body, text=(table.String(table.Pos + table.Offset(4)).decode(),))
    if body == "Rejection":
        texts = (table.String(table.Pos + table.Offset(slot)).decode() for slot in (4, 6))
        return Seen(body, *texts, value=np.float64(table.Bytes[table.Pos + table.Offset(8)]))
    if body == "ShutdownResult":
        return Seen(body)
    item = _generated(body)()
    item.Init(table.Bytes, table.Pos)
    if body == "HandshakeResult":
        texts = (item.SystemName().decode(), item.ModelName().decode(), *_extra_strings(table, 2))
        return Seen(body, text=texts)
    if body == "RunResult":
        return Seen(body, value=_tensor(item.Result()))
    if body == "Tag":
        return Seen(body, item.Address().decode(), item.Name().decode(), value=_tensor(item.Value()))
    if body not in ("Sample", "Observe"):
        return Seen(body)
    family = item.DistributionType()
    params = tuple(_extra_tensor(item.Distribution(), slot) for slot in range(PARAMETERS[family]))
    return Seen(
        body,
        item.Address().decode(),
        item.Name().decode(),
        FAMILIES[family],
        params,  # type: ignore[arg-type]
        control=item.Control() if body == "Sample" else True,
        value=_tensor(item.Value()) if body == "Observe" else None,
    )


def _build_tensor(builder: flatbuffers.Builder, value: ArrayLike) -> int:
    array = np.asarray(value, np.float64)
    builder.StartVector(8, array.size, 8)
    for x in reversed(array.ravel().tolist()):
        builder.Prepend(Float64Flags, x)
    data = builder.EndVector()
    builder.StartVector(4, array.ndim, 4)
    for n in reversed(array.shape):
        builder.Prepend(Int32Flags, n)
    shape = builder.EndVector()
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, data, 0)
    builder.PrependUOffsetTRelativeSlot(1, shape, 0)
    return int(builder.EndObject())


def write(body: str, value: ArrayLike | None = None, capabilities: Sequence[str] | None = None) -> bytes:
    """Writes a message of a controller by FlatBuffers' builder."""
    builder = flatbuffers.Builder(64)
    fields = []
    if value is not None:
        fields.append(_build_tensor(builder, value))
    elif body == "Handshake":
        fields.append(builder.CreateString("test"))
        if capabilities is not None:
            strings = [builder.CreateString(capability) for capability in capabilities]
            builder.StartVector(4, len(strings), 4)
            for string in reversed(strings):
                builder.PrependUOffsetTRelative(string)
            fields.append(builder.EndVector())
    builder.StartObject(len(fields))
    for slot, field in enumerate(fields):
        builder.PrependUOffsetTRelativeSlot(slot, field, 0)
    table = builder.EndObject()
    builder.StartObject(2)
    builder.PrependUint8Slot(0, BODIES.index(body), 0)
    builder.PrependUOffsetTRelativeSlot(1, table, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


class Controller:
    """A REQ socket that speaks PPX."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self._socket.connect(endpoint)

    def raw(self, data: bytes) -> Seen:
        """Sends bytes."""
        self._socket.send(data)
        return read(self._socket.recv())

    def start(self, body: str) -> None:
        """Sends a message, and does not wait for the answer."""
        self._socket.send(write(body))

    def send(self, body: str, value: ArrayLike | None = None) -> Seen:
        """Sends a message."""
        return self.raw(write(body, value))

    def handshake(self, *capabilities: str) -> Seen:
        """Shakes hands, without capabilities as PPX 1.0 does."""
        return self.raw(write("Handshake", capabilities=capabilities or None))

    def close(self) -> None:
        """Disconnects."""
        self._socket.close()
        self._context.term()


class BatchController:
    """A DEALER socket that speaks the batch extension, by the codec of `ppx_server`.

    Attributes:
        addresses: What the simulator's numbers stand for, as far as it has said.
    """

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self._socket.connect(endpoint)
        self.addresses: list[WireAddress] = []

    def start(self, event: Event | bytes) -> None:
        """Sends a message, and does not wait for the answer."""
        self._socket.send_multipart((b"", event if isinstance(event, bytes) else encode(event)))

    def receive(self) -> Any:
        """The next answer."""
        event = decode(self._socket.recv_multipart()[1])
        if isinstance(event, BatchResult):
            assert event.first_address == len(self.addresses)
            self.addresses += event.addresses
        return event

    def ask(self, event: Event | bytes) -> Any:
        """Sends a message, and waits for the answer."""
        self.start(event)
        return self.receive()

    def handshake(self, *more: str) -> HandshakeResult:
        """Shakes hands; `more` are capabilities that most tests do without."""
        self.addresses = []
        result = self.ask(Handshake("test", (*CONTROLLER, *more)))
        assert isinstance(result, HandshakeResult)
        return result

    def close(self) -> None:
        """Disconnects."""
        self._socket.close()
        self._context.term()


class Simulator:
    """A simulator process and its endpoint."""

    def __init__(
        self, script: Path, folder: str, cwd: Path | None = None, arguments: Sequence[str] = ()
    ) -> None:
        self.endpoint = f"ipc://{folder}/socket"
        self.process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**os.environ, "PPX_BIND": self.endpoint},
            cwd=cwd,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._controllers: list[Controller | BatchController] = []

    def connect(self) -> Controller:
        """A new controller."""
        controller = Controller(self.endpoint)
        self._controllers.append(controller)
        return controller

    def connect_for_batches(self) -> BatchController:
        """A new controller that has shaken hands."""
        controller = BatchController(self.endpoint)
        self._controllers.append(controller)
        controller.handshake()
        return controller

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Stops the process; its exit code and what it wrote to stderr."""
        self.process.send_signal(number)
        _, output = self.process.communicate(timeout=10)
        return self.process.returncode, output

    def close(self) -> None:
        """Leaves nothing behind."""
        for controller in self._controllers:
            controller.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


Serve = Callable[..., Simulator]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts simulators, from the body of their `forward` or from a path."""
    simulators: list[Simulator] = []
    folders: list[str] = []

    def start(model: str | Path, *, cwd: Path | None = None, arguments: Sequence[str] = ()) -> Simulator:
        if isinstance(model, str):
            body = textwrap.indent(textwrap.dedent(model).strip(), "    ")
            script = tmp_path / "model.py"
            header = "import numpy as np\nimport ppx_client as ppx\n\ndef forward():\n"
            script.write_text(f"{header}{body}\n\nppx.serve(forward, 'model')\n")
        else:
            script = model
        folders.append(tempfile.mkdtemp(prefix="ppx-"))  # short: endpoints of ipc have at most 107 characters
        simulators.append(Simulator(script, folders[-1], cwd, arguments))
        return simulators[-1]

    yield start
    for simulator in simulators:
        simulator.close()
    for folder in folders:
        shutil.rmtree(folder)


class Wire(NamedTuple):
    """The independent reader and writer."""

    read: Callable[[bytes], Seen]
    write: Callable[..., bytes]


@pytest.fixture
def wire() -> Wire:
    """Reads and writes messages by generated code."""
    return Wire(read, write)

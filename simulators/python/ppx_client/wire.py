"""PPX messages as bytes: the part of the protocol that a simulator speaks.

FlatBuffers of the schema `ppx.fbs` (root table `Message { body: MessageBody }`). Messages that repeat are written once
as a `Template`; afterwards only their doubles are replaced. Whatever the bytes are that are read, the outcome is a
message or `MalformedError`. The messages of batches are in `columns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppx_client.buffers import Column, Doubles, Inline, MalformedError, Reader, Table, Writer

if TYPE_CHECKING:
    from ppx_client.buffers import Tensor

_F64, _I32 = Struct("<d"), Struct("<i")
_MAX_CAPABILITIES = 64


class Body(IntEnum):
    """Members of the union MessageBody."""

    HANDSHAKE = 1
    HANDSHAKE_RESULT = 2
    RUN = 3
    RUN_RESULT = 4
    SAMPLE = 5
    SAMPLE_RESULT = 6
    OBSERVE = 7
    OBSERVE_RESULT = 8
    TAG = 9
    TAG_RESULT = 10
    RESET = 11
    ERROR = 12
    RUN_BATCH = 13
    BATCH_RESULT = 14
    REJECTION = 15
    REJECTION_RESULT = 16
    SHUTDOWN = 17
    SHUTDOWN_RESULT = 18

    __hash__ = int.__hash__  # Enum's own is written in Python, and these are keys on the hot path


def _tensor(value: Tensor) -> Table:
    """A float has the empty shape. Both vectors are always present: PPX 1.0 readers do not expect them to be absent."""
    if isinstance(value, float):
        return Table((Doubles(_F64.pack(value)), Column(b"", 4)))
    shape = np.array(value.shape, "<i4")
    return Table((Doubles(value.astype("<f8").tobytes()), Column(shape.tobytes(), 4)))


class Template:
    """A message whose structure stays and whose doubles change."""

    __slots__ = ("_data", "_slots")

    def __init__(self, body: Body, fields: Table) -> None:
        writer = Writer(Table((int(body), fields)))
        self._data = writer.data
        whole = memoryview(writer.data)
        self._slots = [(position, whole[position : position + size]) for position, size in writer.doubles]

    def fill(self, tensors: Sequence[Tensor]) -> bytearray:
        """The message with other values; the next call overwrites it.

        Args:
            tensors: One per tensor of the message, in its order, shaped as the ones the template was made from.
        """
        data = self._data
        for (position, slot), tensor in zip(self._slots, tensors, strict=False):
            if type(tensor) is float:
                _F64.pack_into(data, position, tensor)
            elif slot:
                slot[:] = memoryview(tensor).cast("B")  # type: ignore[arg-type]
        return data


def sample(address: str, name: str, code: int, params: Sequence[Tensor], control: bool) -> Template:
    """A Sample message; `fill` takes the parameters."""
    distribution = Table(map(_tensor, params))
    return Template(Body.SAMPLE, Table((address, name, code, distribution, int(control))))


def observe(address: str, name: str, code: int, params: Sequence[Tensor], value: Tensor | None) -> Template:
    """An Observe message; `fill` takes the parameters, then the value if there is one."""
    distribution = Table(map(_tensor, params))
    given = None if value is None else _tensor(value)
    return Template(Body.OBSERVE, Table((address, name, code, distribution, given)))


def tag(address: str, name: str, value: Tensor) -> Template:
    """A Tag message; `fill` takes the value."""
    return Template(Body.TAG, Table((address, name, _tensor(value))))


def rejection(address: str, name: str, begin: bool) -> bytes:
    """A Rejection message (capability `rejection`)."""
    return message(Body.REJECTION, address, name, int(begin))


def handshake_result(
    system_name: str,
    model_name: str,
    capabilities: Sequence[str] = (),
    fingerprint: str = "",
    *,
    limits: tuple[int, int] | None = None,
) -> bytes:
    """A HandshakeResult message; without capabilities it is one of PPX 1.0.

    Args:
        system_name: What serves.
        model_name: What is served.
        capabilities: What the simulator understands beyond PPX 1.0.
        fingerprint: Changes whenever the model does.
        limits: Most traces of a batch, and most bytes of a message, where the controller takes batches.
    """
    more: list[Any] = [list(capabilities), fingerprint] if capabilities else []
    if more and limits is not None:
        more += [Inline(_I32.pack(limit)) for limit in limits]
    return message(Body.HANDSHAKE_RESULT, system_name, model_name, *more)


def run_result(result: Tensor | None) -> bytes:
    """A RunResult message."""
    return message(Body.RUN_RESULT, None if result is None else _tensor(result))


def error(reason: str) -> bytes:
    """An Error message (capability `error`)."""
    return message(Body.ERROR, reason)


def message(body: Body, *fields: Any) -> bytes:
    """A message of the given fields."""
    return bytes(long_message(body, *fields))


def long_message(body: Body, *fields: Any) -> bytearray:
    """The same, not copied."""
    return Writer(Table((int(body), Table(fields)))).data


class Received(NamedTuple):
    """A message from the controller.

    Attributes:
        body: Which message.
        value: Tensor of a SampleResult or ObserveResult, None if absent.
        value_at: Position of its first double in the message, 0 if it is absent.
        capabilities: What the controller of a Handshake announces.
        max_bytes: The longest message that it takes, 0 if it does not say.
        data: The whole message, of a RunBatch, which `columns` reads.
    """

    body: Body
    value: Tensor | None = None
    value_at: int = 0
    capabilities: tuple[str, ...] = ()
    max_bytes: int = 0
    data: bytes = b""


def decode(data: bytes) -> Received:
    """Reads a message of the controller.

    Raises:
        MalformedError: The bytes are no message, or one that only simulators send.
    """
    reader = Reader(data)
    root = reader.reference(0)
    code = reader.byte(root, 0)
    table = reader.child(root, 1)
    if table == 0:
        raise MalformedError("a message without a body")
    if code == Body.HANDSHAKE:
        max_bytes = max(0, reader.number(table, 2, "<i4"))
        return Received(Body.HANDSHAKE, capabilities=_capabilities(reader, table), max_bytes=max_bytes)
    if code in (Body.SAMPLE_RESULT, Body.OBSERVE_RESULT):
        value, value_at = reader.tensor(table, 0)
        return Received(Body(code), value, value_at)
    if code in _WITHOUT_FIELDS:
        return Received(Body(code))
    if code == Body.RUN_BATCH:
        return Received(Body.RUN_BATCH, data=data)
    known = f"a {Body(code).name}" if code in Body.__members__.values() else f"a body of unknown type {code}"
    raise MalformedError(f"{known}, which controllers do not send")


_WITHOUT_FIELDS = (Body.RUN, Body.TAG_RESULT, Body.RESET, Body.REJECTION_RESULT, Body.SHUTDOWN)


def _capabilities(reader: Reader, table: int) -> tuple[str, ...]:
    positions = reader.children(table, 1) or []
    if len(positions) > _MAX_CAPABILITIES:
        raise MalformedError(f"{len(positions)} capabilities")
    return tuple(map(reader.string, positions))


class ScalarPattern:
    """The bytes around the one double of a message that was read, to read the next one of its kind at once."""

    __slots__ = ("_at", "_head", "_size", "_tail")

    def __init__(self, data: bytes, value_at: int) -> None:
        self._size = len(data)
        self._at = value_at
        self._head = data[:value_at]
        self._tail = data[value_at + 8 :]

    def read(self, data: bytes) -> float | None:
        """The double of an equal message, None if it is another one."""
        if len(data) == self._size and data.startswith(self._head) and data.endswith(self._tail):
            value: float = _F64.unpack_from(data, self._at)[0]
            return value
        return None

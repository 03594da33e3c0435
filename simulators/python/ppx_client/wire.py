"""PPX messages as bytes: the part of the protocol that a simulator speaks.

FlatBuffers of the schema `ppx.fbs` (root table `Message { body: MessageBody }`), written and read by hand: the
FlatBuffers runtime for Python takes 20-50 us per message and does not check bounds. A message is written front to back,
every table before what it refers to, which FlatBuffers allows. Messages that repeat are written once as a
`Template`; afterwards only their doubles are replaced.

Reading checks every offset against the buffer: whatever the bytes are, the outcome is a message or `MalformedError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from math import prod
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = float | NDArray[np.float64]

_U8, _U16, _U32, _I32, _F64 = Struct("<B"), Struct("<H"), Struct("<I"), Struct("<i"), Struct("<d")

_MAX_CAPABILITIES = 64
_MAX_STRING = 4096
"""Longest string read from a controller, in bytes; bounds what a hostile message can make us copy."""


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

    __hash__ = int.__hash__  # Enum's own is written in Python, and these are keys on the hot path


class MalformedError(Exception):
    """Bytes that are no message of the protocol."""


class _Doubles(NamedTuple):
    data: bytes


class _Ints(NamedTuple):
    data: bytes


class _Table(tuple[Any, ...]):
    """Fields of a table in order of the schema: None (absent), int (one byte), str, list of str, or a nested node."""

    __slots__ = ()


class _Writer:
    """Writes nodes one after the other.

    Attributes:
        data: The message so far.
        doubles: Position and size in bytes of every vector of doubles, in the order they were written.
    """

    def __init__(self, root: _Table) -> None:
        self.data = bytearray(4)
        self.doubles: list[tuple[int, int]] = []
        _U32.pack_into(self.data, 0, self._table(root))
        self._align(8)

    def _align(self, size: int, ahead: int = 0) -> None:
        self.data += bytes(-(len(self.data) + ahead) % size)

    def _table(self, fields: _Table) -> int:
        vtable_size = 4 + 2 * len(fields)
        self._align(4, vtable_size)
        # References come first, single bytes after them, so that everything is aligned.
        references = [(slot, field) for slot, field in enumerate(fields) if not isinstance(field, int | None)]
        flags = [(slot, field) for slot, field in enumerate(fields) if isinstance(field, int)]
        vtable = [0] * len(fields)
        for i, (slot, _) in enumerate(references):
            vtable[slot] = 4 + 4 * i
        for i, (slot, _) in enumerate(flags):
            vtable[slot] = 4 + 4 * len(references) + i
        size = 4 + 4 * len(references) + len(flags)
        self.data += b"".join(map(_U16.pack, (vtable_size, size, *vtable)))
        table = len(self.data)
        self.data += _I32.pack(vtable_size) + bytes(4 * len(references)) + bytes(flag for _, flag in flags)
        self._align(4)
        for i, (_, field) in enumerate(references):
            reference = table + 4 + 4 * i
            _U32.pack_into(self.data, reference, self._node(field) - reference)
        return table

    def _node(self, node: Any) -> int:
        if isinstance(node, _Table):
            return self._table(node)
        if isinstance(node, str):
            text = node.encode("utf-8")
            return self._vector(text, len(text), 4, b"\0")
        if isinstance(node, list):
            return self._strings(node)
        if isinstance(node, _Doubles):
            vector = self._vector(node.data, len(node.data) // 8, 8)
            self.doubles.append((vector + 4, len(node.data)))
            return vector
        return self._vector(node.data, len(node.data) // 4, 4)

    def _vector(self, data: bytes, count: int, alignment: int, end: bytes = b"") -> int:
        self._align(4)
        self._align(alignment, 4)
        position = len(self.data)
        self.data += _U32.pack(count) + data + end
        return position

    def _strings(self, strings: list[str]) -> int:
        vector = self._vector(bytes(4 * len(strings)), len(strings), 4)
        for i, string in enumerate(strings):
            reference = vector + 4 + 4 * i
            _U32.pack_into(self.data, reference, self._node(string) - reference)
        return vector


def _tensor(value: Tensor) -> _Table:
    """A float has the empty shape. Both vectors are always present: PPX 1.0 readers do not expect them to be absent."""
    if isinstance(value, float):
        return _Table((_Doubles(_F64.pack(value)), _Ints(b"")))
    shape = np.array(value.shape, "<i4")
    return _Table((_Doubles(value.astype("<f8").tobytes()), _Ints(shape.tobytes())))


class Template:
    """A message whose structure stays and whose doubles change."""

    __slots__ = ("_data", "_slots")

    def __init__(self, body: Body, fields: _Table) -> None:
        writer = _Writer(_Table((int(body), fields)))
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
    distribution = _Table(map(_tensor, params))
    return Template(Body.SAMPLE, _Table((address, name, code, distribution, int(control))))


def observe(address: str, name: str, code: int, params: Sequence[Tensor], value: Tensor | None) -> Template:
    """An Observe message; `fill` takes the parameters, then the value if there is one."""
    distribution = _Table(map(_tensor, params))
    given = None if value is None else _tensor(value)
    return Template(Body.OBSERVE, _Table((address, name, code, distribution, given)))


def tag(address: str, name: str, value: Tensor) -> Template:
    """A Tag message; `fill` takes the value."""
    return Template(Body.TAG, _Table((address, name, _tensor(value))))


def handshake_result(system_name: str, model_name: str, capabilities: Sequence[str]) -> bytes:
    """A HandshakeResult message; without capabilities it is one of PPX 1.0."""
    fields = (system_name, model_name, list(capabilities)) if capabilities else (system_name, model_name)
    return _message(Body.HANDSHAKE_RESULT, *fields)


def run_result(result: Tensor | None) -> bytes:
    """A RunResult message."""
    return _message(Body.RUN_RESULT, None if result is None else _tensor(result))


def reset() -> bytes:
    """A Reset message."""
    return _message(Body.RESET)


def error(message: str) -> bytes:
    """An Error message (capability `error`)."""
    return _message(Body.ERROR, message)


def _message(body: Body, *fields: Any) -> bytes:
    return bytes(_Writer(_Table((int(body), _Table(fields)))).data)


class Received(NamedTuple):
    """A message from the controller.

    Attributes:
        body: Which message.
        value: Tensor of a SampleResult or ObserveResult, None if absent.
        value_at: Position of its first double in the message, 0 if it is absent.
        capabilities: What the controller of a Handshake announces.
    """

    body: Body
    value: Tensor | None = None
    value_at: int = 0
    capabilities: tuple[str, ...] = ()


def decode(data: bytes) -> Received:
    """Reads a message of the controller.

    Raises:
        MalformedError: The bytes are no message, or one that only simulators send.
    """
    reader = _Reader(data)
    root = reader.reference(0)
    code = reader.byte(root, 0)
    table = reader.child(root, 1)
    if table == 0:
        raise MalformedError("a message without a body")
    if code == Body.HANDSHAKE:
        return Received(Body.HANDSHAKE, capabilities=reader.strings(table, 1))
    if code in (Body.SAMPLE_RESULT, Body.OBSERVE_RESULT):
        value, value_at = reader.tensor(table, 0)
        return Received(Body(code), value, value_at)
    if code in (Body.RUN, Body.TAG_RESULT, Body.RESET):
        return Received(Body(code))
    known = f"a {Body(code).name}" if code in Body.__members__.values() else f"a body of unknown type {code}"
    raise MalformedError(f"{known}, which controllers do not send")


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


class _Reader:
    """Reads a FlatBuffer; every access is checked."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def _u32(self, position: int) -> int:
        if not 0 <= position <= len(self._data) - 4:
            raise MalformedError(f"an offset points to byte {position} of {len(self._data)}")
        return int(_U32.unpack_from(self._data, position)[0])

    def _u16(self, position: int) -> int:
        if not 0 <= position <= len(self._data) - 2:
            raise MalformedError(f"an offset points to byte {position} of {len(self._data)}")
        return int(_U16.unpack_from(self._data, position)[0])

    def reference(self, position: int) -> int:
        """Where the reference at `position` points to."""
        return position + self._u32(position)

    def _field(self, table: int, slot: int) -> int:
        """Position of a field, 0 if it is absent."""
        soffset = self._u32(table)
        vtable = table - (soffset - (1 << 32) if soffset & 0x80000000 else soffset)
        if 4 + 2 * slot + 2 > self._u16(vtable):
            return 0
        offset = self._u16(vtable + 4 + 2 * slot)
        return table + offset if offset else 0

    def byte(self, table: int, slot: int) -> int:
        """A one-byte field, 0 if it is absent."""
        position = self._field(table, slot)
        if position >= len(self._data):
            raise MalformedError(f"a field lies at byte {position} of {len(self._data)}")
        return self._data[position] if position else 0

    def child(self, table: int, slot: int) -> int:
        """Position of what a field refers to, 0 if it is absent."""
        position = self._field(table, slot)
        return self.reference(position) if position else 0

    def _vector(self, position: int, item_size: int) -> tuple[int, int]:
        """Position of the first item, and their number."""
        count = self._u32(position)
        if position + 4 + count * item_size > len(self._data):
            raise MalformedError(f"a vector of {count} items exceeds the message of {len(self._data)} bytes")
        return position + 4, count

    def tensor(self, table: int, slot: int) -> tuple[Tensor | None, int]:
        """A tensor and the position of its first double; `(None, 0)` if it is absent or empty."""
        tensor = self.child(table, slot)
        data = self.child(tensor, 0) if tensor else 0
        if not data:
            return None, 0
        start, count = self._vector(data, 8)
        shape = self._shape(tensor, count)
        if count == 0:
            return None, 0
        if shape == ():
            return float(_F64.unpack_from(self._data, start)[0]), start
        return np.frombuffer(self._data, "<f8", count, start).reshape(shape), start

    def _shape(self, tensor: int, count: int) -> tuple[int, ...]:
        vector = self.child(tensor, 1)
        start, rank = self._vector(vector, 4) if vector else (0, 0)
        if rank == 0:
            return () if count == 1 else (count,)
        if rank > 32:
            raise MalformedError(f"a tensor of {rank} dimensions")
        shape = tuple(int(_I32.unpack_from(self._data, start + 4 * i)[0]) for i in range(rank))
        if min(shape) < 0 or prod(shape) != count:
            raise MalformedError(f"a tensor of shape {shape} with {count} elements")
        return shape

    def strings(self, table: int, slot: int) -> tuple[str, ...]:
        """A vector of strings, empty if it is absent."""
        vector = self.child(table, slot)
        if not vector:
            return ()
        start, count = self._vector(vector, 4)
        if count > _MAX_CAPABILITIES:
            raise MalformedError(f"{count} capabilities")
        return tuple(self._string(self.reference(start + 4 * i)) for i in range(count))

    def _string(self, position: int) -> str:
        start, length = self._vector(position, 1)
        if length > _MAX_STRING:
            raise MalformedError(f"a string of {length} bytes")
        try:
            return self._data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedError("a string that is not UTF-8") from None

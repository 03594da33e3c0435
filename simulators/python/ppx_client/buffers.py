"""FlatBuffers, written and read by hand, every access checked.

The FlatBuffers runtime for Python takes 20-50 us per message and does not check bounds. A message is written front to
back, every table before what it refers to, which FlatBuffers allows.
"""

from __future__ import annotations

from math import prod
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = float | NDArray[np.float64]

_U8, _U16, _U32, _I32, _F64 = Struct("<B"), Struct("<H"), Struct("<I"), Struct("<i"), Struct("<d")

_MAX_STRING = 4096
"""Longest string read from a controller, in bytes; bounds what a hostile message can make us copy."""


class MalformedError(Exception):
    """Bytes that are no message of the protocol."""


class Doubles(NamedTuple):
    """A vector of doubles, whose place in the message is remembered."""

    data: bytes


class Column(NamedTuple):
    """A vector of numbers of `size` bytes."""

    data: bytes
    size: int


class Inline(NamedTuple):
    """A number of 4 or 8 bytes that lies within its table."""

    data: bytes


class Table(tuple[Any, ...]):
    """Fields of a table in order of the schema.

    None (absent), int (one byte), Inline, str, a list of strings or tables, or another node.
    """

    __slots__ = ()


class Writer:
    """Writes nodes one after the other.

    Attributes:
        data: The message so far.
        doubles: Position and size in bytes of every vector of doubles, in the order they were written.
    """

    def __init__(self, root: Table) -> None:
        self.data = bytearray(4)
        self.doubles: list[tuple[int, int]] = []
        _U32.pack_into(self.data, 0, self._table(root))
        self._align(8)

    def _align(self, size: int, ahead: int = 0) -> None:
        self.data += bytes(-(len(self.data) + ahead) % size)

    def _table(self, fields: Table) -> int:
        vtable_size = 4 + 2 * len(fields)
        body = bytearray(_I32.pack(vtable_size))
        slots = [0] * len(fields)
        references = []
        present = [(_size(field), slot, field) for slot, field in enumerate(fields) if field is not None]
        # The larger ones come first, so that everything is aligned.
        present.sort(key=_larger_first)
        for size, slot, field in present:
            body += bytes(-len(body) % size)
            slots[slot] = len(body)
            if size == 1:
                body.append(field)
            elif isinstance(field, Inline):
                body += field.data
            else:
                references.append((len(body), field))
                body += bytes(4)
        self._align(8, vtable_size)
        self.data += b"".join(map(_U16.pack, (vtable_size, len(body), *slots)))
        table = len(self.data)
        self.data += body
        for place, field in references:
            node = self._node(field)
            _U32.pack_into(self.data, table + place, node - table - place)
        return table

    def _node(self, node: Any) -> int:
        if isinstance(node, Table):
            return self._table(node)
        if isinstance(node, str):
            return self._vector(node.encode("utf-8"), 1, b"\0")
        if isinstance(node, list):
            return self._nodes(node)
        if isinstance(node, Column):
            return self._vector(node.data, node.size)
        vector = self._vector(node.data, 8)
        self.doubles.append((vector + 4, len(node.data)))
        return vector

    def _vector(self, data: bytes, size: int, end: bytes = b"") -> int:
        self._align(4)
        self._align(size, 4)
        position = len(self.data)
        self.data += _U32.pack(len(data) // size)
        self.data += data
        self.data += end
        return position

    def _nodes(self, nodes: list[Any]) -> int:
        vector = self._vector(bytes(4 * len(nodes)), 4)
        for place, node in enumerate(nodes, start=1):
            reference = vector + 4 * place
            position = self._node(node)
            _U32.pack_into(self.data, reference, position - reference)
        return vector


def _larger_first(field: tuple[int, int, Any]) -> int:
    return -field[0]


def _size(field: Any) -> int:
    if isinstance(field, int):
        return 1
    return len(field.data) if isinstance(field, Inline) else 4


class Reader:
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

    def number(self, table: int, slot: int, dtype: str) -> int:
        """A field that holds a whole number of the given type, 0 if it is absent."""
        position = self._field(table, slot)
        size = np.dtype(dtype).itemsize
        if position > len(self._data) - size:
            raise MalformedError(f"a field lies at byte {position} of {len(self._data)}")
        return int(np.frombuffer(self._data, dtype, 1, position)[0]) if position else 0

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

    def column(self, table: int, slot: int, dtype: str) -> NDArray[Any]:
        """A vector of numbers as a view of the message, empty if it is absent."""
        vector = self.child(table, slot)
        if not vector:
            return np.empty(0, dtype)
        start, count = self._vector(vector, np.dtype(dtype).itemsize)
        return np.frombuffer(self._data, dtype, count, start)

    def children(self, table: int, slot: int) -> list[int] | None:
        """Positions of the tables or strings in a vector, None if it is absent."""
        vector = self.child(table, slot)
        if not vector:
            return None
        start, count = self._vector(vector, 4)
        return [self.reference(start + 4 * i) for i in range(count)]

    def tensor(self, table: int, slot: int) -> tuple[Tensor | None, int]:
        """A tensor and the position of its first double; `(None, 0)` if it is absent or empty."""
        tensor = self.child(table, slot)
        data = self.child(tensor, 0) if tensor else 0
        if not data:
            return None, 0
        start, count = self._vector(data, 8)
        shape = self.shape(tensor, 1)
        if not shape and count != 1:
            shape = (count,)
        if min(shape, default=0) < 0 or prod(shape) != count:
            raise MalformedError(f"a tensor of shape {shape} with {count} elements")
        if count == 0:
            return None, 0
        if shape == ():
            return float(_F64.unpack_from(self._data, start)[0]), start
        return np.frombuffer(self._data, "<f8", count, start).reshape(shape), start

    def shape(self, table: int, slot: int) -> tuple[int, ...]:
        """A shape, `()` if it is absent."""
        lengths = self.column(table, slot, "<i4")
        if len(lengths) > 32:
            raise MalformedError(f"a tensor of {len(lengths)} dimensions")
        return tuple(lengths.tolist())

    def string(self, position: int) -> str:
        """The string at a position; empty at 0, where a field is absent."""
        if not position:
            return ""
        start, length = self._vector(position, 1)
        if length > _MAX_STRING:
            raise MalformedError(f"a string of {length} bytes")
        try:
            return self._data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedError("a string that is not UTF-8") from None

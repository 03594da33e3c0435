"""Reads the parts of messages: tables, strings, tensors and columns, whatever the bytes.

What makes it safe: `struct` refuses to read past the end; the only positions that could be negative, those of vtables,
are checked; lengths are compared with the buffer before anything is sliced; arrays are views. The schema has no
recursive tables, so the depth is bounded, and no list can make a few bytes stand for many (`Room`).

Positions are offsets into the message. A *field* is the position of a reference; an *entry* is the offset of a field
from its table, 0 where it is absent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppx_server.protocol.events import Tensor
from ppx_server.protocol.wire import MAX_DIMENSIONS

Buffer = bytes | memoryview
"""A received message."""

U16 = Struct("<H").unpack_from
I32 = Struct("<i").unpack_from
U32 = Struct("<I").unpack_from
U64 = Struct("<Q").unpack_from
F64 = Struct("<d").unpack_from

_MAX_FIELDS = 21
_VTABLE_ENTRIES = tuple(Struct(f"<{n}H").unpack_from for n in range(_MAX_FIELDS + 1))
_SHAPES = tuple(Struct(f"<{n}i").unpack_from for n in range(MAX_DIMENSIONS + 1))
_ABSENT = tuple((0,) * n for n in range(_MAX_FIELDS + 1))
_QUOTED_CHARACTERS = 200

_EMPTY = {dtype: np.frombuffer(b"", dtype) for dtype in ("<f8", "<i4", "<u8", "|u1")}
_ITEM_BYTES = {dtype: array.itemsize for dtype, array in _EMPTY.items()}


class MalformedError(Exception):
    """Why the bytes are no message; becomes a RemoteProtocolError that also says which message."""


class Room:
    """How much a list of tables may still refer to: no more than the message holds.

    Tables and strings may be referred to more than once, so that without a limit a small message could become a large
    event.

    Args:
        size: Bytes of the message.
        what: The list, for the complaint.
    """

    def __init__(self, size: int, what: str) -> None:
        self._left, self._what = size, what

    def take(self, size: int) -> None:
        """Counts `size` bytes that an element of the list refers to."""
        self._left -= size
        if self._left < 0:
            raise MalformedError(f"{self._what} overlap")


def entries(data: Buffer, table: int, count: int) -> tuple[int, ...]:
    """Offsets from `table` of its first `count` fields; 0 for absent ones."""
    vtable = table - I32(data, table)[0]
    if vtable < 0:
        raise MalformedError("an offset points before the message")
    present = (U16(data, vtable)[0] - 4) >> 1
    if present >= count:
        found: tuple[int, ...] = _VTABLE_ENTRIES[count](data, vtable + 4)
        return found
    if present < 0:
        raise MalformedError("a vtable is too small")
    return (*_VTABLE_ENTRIES[present](data, vtable + 4), *_ABSENT[count - present])


def string(data: Buffer, table: int, entry: int, what: str) -> str:
    """A string that ought to be there; absent, it is empty."""
    return _string(data, table + entry, what) if entry else ""


def strings(data: Buffer, table: int, entry: int, what: str) -> tuple[str, ...]:
    """A vector of strings; absent, it is empty."""
    if not entry:
        return ()
    room, found = Room(len(data), what), []
    for field in _references(data, table + entry, what):
        found.append(_string(data, field, what))
        room.take(len(found[-1]))
    return tuple(found)


def tables(data: Buffer, table: int, entry: int, what: str) -> Iterator[int]:
    """Positions of the tables of a vector; absent, it is empty."""
    if entry:
        for field in _references(data, table + entry, what):
            yield field + U32(data, field)[0]


def _references(data: Buffer, field: int, what: str) -> range:
    start = field + U32(data, field)[0]
    count = U32(data, start)[0]
    if start + 4 + 4 * count > len(data):
        raise MalformedError(f"{what} run past the end of the message")
    return range(start + 4, start + 4 + 4 * count, 4)


def _string(data: Buffer, field: int, what: str) -> str:
    start = field + U32(data, field)[0]
    end = start + 4 + U32(data, start)[0]
    if end > len(data):
        raise MalformedError(f"{what} runs past the end of the message")
    try:
        return str(data[start + 4 : end], "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{what} is not UTF-8 ({error.reason} at its byte {error.start})") from None


def column(data: Buffer, table: int, entry: int, dtype: str) -> NDArray[Any]:
    """A vector of numbers as a view of the message; absent, it is empty."""
    if not entry:
        return _EMPTY[dtype]
    start = table + entry
    start += U32(data, start)[0]
    size = U32(data, start)[0]
    if not size:
        return _EMPTY[dtype]
    if start + 4 + size * _ITEM_BYTES[dtype] > len(data):
        raise MalformedError(f"a column of {size} elements runs past the end of the message")
    return np.frombuffer(data, dtype, size, start + 4)


def integer(data: Buffer, table: int, entry: int) -> int:
    """A signed 32-bit number; absent, it is 0."""
    return I32(data, table + entry)[0] if entry else 0


def unsigned(data: Buffer, table: int, entry: int) -> int:
    """An unsigned 64-bit number; absent, it is 0."""
    return U64(data, table + entry)[0] if entry else 0


def shape(data: Buffer, table: int, entry: int, what: str) -> tuple[int, ...]:
    """A shape by itself; absent, that of a scalar."""
    if not entry:
        return ()
    start = table + entry
    start += U32(data, start)[0]
    ndim = U32(data, start)[0]
    if ndim > MAX_DIMENSIONS:
        raise MalformedError(f"{what} has {ndim} axes; at most {MAX_DIMENSIONS} are allowed")
    found: tuple[int, ...] = _SHAPES[ndim](data, start + 4)
    return found


def tensor(data: Buffer, field: int) -> Tensor:
    """The tensor that a field refers to."""
    table = field + U32(data, field)[0]
    data_entry, shape_entry = entries(data, table, 2)
    start = size = ndim = 0
    if data_entry:
        start = table + data_entry
        start += U32(data, start)[0]
        size = U32(data, start)[0]
    if shape_entry:
        shape_start = table + shape_entry
        shape_start += U32(data, shape_start)[0]
        ndim = U32(data, shape_start)[0]
    if ndim == 0:
        if size == 1:
            return F64(data, start + 4)[0]  # type: ignore[no-any-return]
        return _array(data, start + 4, size, (size,))
    if ndim > MAX_DIMENSIONS:
        raise MalformedError(f"has {ndim} axes; at most {MAX_DIMENSIONS} are allowed")
    return _array(data, start + 4, size, _SHAPES[ndim](data, shape_start + 4))


def _array(data: Buffer, start: int, size: int, shape: tuple[int, ...]) -> Tensor:
    if size == 0:
        start = 0  # nothing is read
    if start + 8 * size > len(data):
        raise MalformedError(f"has {size} elements, more than the message holds")
    if min(shape) < 0 or prod(shape) != size:
        raise MalformedError(f"has {size} elements, which do not fill its shape {shape}")
    try:
        return np.frombuffer(data, "<f8", size, start).reshape(shape)
    except ValueError:  # an axis of length 0 beside axes whose product overflows
        raise MalformedError(f"has a shape {shape} that is too large") from None


def value(data: Buffer, table: int, entry: int, what: str) -> Tensor:
    """A tensor that ought to be there; absent, it is empty."""
    if not entry:
        return np.empty(0)
    try:
        return tensor(data, table + entry)
    except struct.error:
        raise MalformedError(f"{what} points outside the message") from None
    except MalformedError as error:
        raise MalformedError(f"{what} {error}") from None


def optional(data: Buffer, table: int, entry: int, what: str) -> Tensor | None:
    """A tensor that may be absent, which PPX 1.0 peers also express as an empty one."""
    found = value(data, table, entry, what)
    return found if type(found) is float or np.size(found) else None


def quote(address: str) -> str:
    """An address for a complaint."""
    return repr(address if len(address) <= _QUOTED_CHARACTERS else address[:_QUOTED_CHARACTERS] + "...")

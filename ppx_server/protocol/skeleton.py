"""Lays out messages that always have the same fields: their tables are made once, then only filled in.

A skeleton holds all tables of the message, every vtable and every reference between tables. What varies are its
*leaves*: numbers, and references to columns and to vectors of tables, which follow the tables one behind the other,
those aligned to 8 bytes first. A leaf that is absent is struck out of its vtable.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, pack, pack_into
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_server.errors import LocalProtocolError
from ppx_server.protocol.wire import MAX_BYTES

NUMBERS = {"ulong": "<Q", "double": "<d", "int": "<i", "bool": "<?"}
COLUMNS = {"[ulong]": "<u8", "[double]": "<f8", "[int]": "<i4", "[ubyte]": "|u1"}
TABLES = "[table]"
"""Kind of a leaf that is a vector of tables, as made by `layout.head` and `layout.vectors`."""

_WIDTHS = {kind: Struct(form).size for kind, form in NUMBERS.items()}  # all other fields are references
_REFERENCE = 4

Fields = tuple["str | Fields", ...]
"""The fields of a table, in the order of the schema: kinds of leaves, and tables."""

Filling = int | float | NDArray[np.generic] | bytes | None
"""What fills a leaf: a number, a contiguous column, a vector of tables, or None where the field is absent."""


class _Leaf(NamedTuple):
    position: int  # of the field
    entry: int  # of the vtable's element
    kind: str


class Skeleton:
    """The tables of a message.

    Args:
        code: Type code of the message.
        body: Fields of its body.
    """

    def __init__(self, code: int, body: Fields) -> None:
        self._buffer = bytearray(4)
        self._leaves: list[_Leaf] = []
        self._refer(0, ("bool", body))  # a Message: a byte and a table
        type_code = self._leaves.pop(0)
        self._buffer[type_code.position] = code
        kinds = list(enumerate(leaf.kind for leaf in self._leaves))
        self._numbers = [(i, Struct(NUMBERS[kind]).pack_into) for i, kind in kinds if kind in NUMBERS]
        self._tables = [i for i, kind in kinds if kind == TABLES]
        self._columns = [
            (i, np.dtype(form).itemsize)
            for form in ("<u8", "<f8", "<i4", "|u1")  # wide ones first
            for i, kind in kinds
            if COLUMNS.get(kind) == form
        ]

    def fill(self, fillings: Sequence[Filling]) -> bytes:
        """The message.

        Args:
            fillings: One for each leaf, in the order of the schema, tables in their places.

        Raises:
            LocalProtocolError: The message would be too large.
        """
        buffer = bytearray(self._buffer)
        pieces: list[bytes | bytearray | memoryview] = [buffer]
        end = len(buffer)
        for i, write in self._numbers:
            write(buffer, self._leaves[i].position, fillings[i])
        for i in self._tables:
            if (part := fillings[i]) is None:
                self._strike(buffer, i)
                continue
            assert isinstance(part, bytes)
            position = self._leaves[i].position
            pack_into("<I", buffer, position, end - position)
            pieces.append(part)
            end += len(part)
        for i, width in self._columns:
            column = fillings[i]
            if column is None:
                self._strike(buffer, i)
                continue
            assert isinstance(column, np.ndarray)
            position, size = self._leaves[i].position, column.size
            # doubles are aligned to 8: their length, of 4 bytes, follows 4 bytes of padding
            padding = 4 if width == 8 else -end % 4
            pack_into("<I", buffer, position, end + padding - position)
            pieces += (pack(f"<{padding}xI", size), column.data)
            end += padding + 4 + width * size
            if end > MAX_BYTES:
                raise LocalProtocolError(
                    f"the message would be larger than FlatBuffers' limit of {MAX_BYTES} bytes; send less at once"
                )
        return b"".join(pieces)

    def _strike(self, buffer: bytearray, leaf: int) -> None:
        pack_into("<H", buffer, self._leaves[leaf].entry, 0)

    def _refer(self, field: int, fields: Fields) -> None:
        """Writes a table and the reference to it at position `field`; its widest fields come first."""
        widths = [_WIDTHS.get(f, _REFERENCE) if isinstance(f, str) else _REFERENCE for f in fields]
        places, end = [0] * len(fields), 4
        for i in sorted(range(len(fields)), key=lambda i: -widths[i]):
            places[i], end = end, end + widths[i]
        vtable = len(self._buffer)
        self._buffer += pack(f"<{len(fields) + 2}H", 4 + 2 * len(fields), end, *places)
        self._buffer += bytes((4 - len(self._buffer)) % 8)  # so that the wide fields are aligned to 8
        table = len(self._buffer)
        self._buffer += pack("<i", table - vtable) + bytes(end - 4)
        self._buffer += bytes(-len(self._buffer) % 8)
        pack_into("<I", self._buffer, field, table - field)
        for i, kind in enumerate(fields):
            if isinstance(kind, str):
                self._leaves.append(_Leaf(table + places[i], vtable + 4 + 2 * i, kind))
            else:
                self._refer(table + places[i], kind)

"""Lays a FlatBuffer out front to back: everything but the doubles in a *head*, the doubles behind it.

A head depends on the strings and shapes of a message, not on its numbers, so that heads can be kept and a message is
often a kept head and a few packed doubles. Tables, strings and integer vectors are aligned to 4 bytes, double vectors
to 8, relative to the start of the message, as FlatBuffers demands (its C++ verifier checks it).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod
from struct import Struct, pack, pack_into
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_server.errors import LocalProtocolError
from ppx_server.protocol.events import Tensor
from ppx_server.protocol.wire import MAX_BYTES, MAX_DIMENSIONS

Shape = tuple[int, ...]


class Table(NamedTuple):
    """A table, its fields in the order of the schema; None for an absent one, int for a byte."""

    fields: tuple[Field, ...]


class Tables(NamedTuple):
    """A vector of tables."""

    values: tuple[Table, ...]


class Word(NamedTuple):
    """A signed 32-bit number."""

    value: int


class TensorOf(NamedTuple):
    """A table Tensor of a shape, whose data follow behind the head in the order of the tensors."""

    shape: Shape


class Strings(NamedTuple):
    """A vector of strings."""

    values: tuple[str, ...]


class Integers(NamedTuple):
    """A vector of signed 32-bit numbers, such as a shape."""

    values: Shape


class Octets(NamedTuple):
    """A vector of bytes."""

    values: bytes


class _Doubles(NamedTuple):
    size: int


Field = None | int | str | Table | Tables | Word | TensorOf | Strings | Integers | Octets | _Doubles

_SCALARS = tuple(Struct("<" + "xxxxId" * n).pack for n in range(6))


def head(root: Table | Tables) -> bytes:
    """The message without the data vectors of its tensors, which `vectors` makes.

    Args:
        root: The root table, or a vector of tables for a larger message. Such a part has no reference to its root; its
            place must be aligned to 8 bytes, and so is its end.

    Raises:
        LocalProtocolError: The message would be too large, or a string cannot be encoded.
    """
    try:
        return _Head(root).finish()
    except UnicodeEncodeError as error:
        raise LocalProtocolError(
            f"a string cannot be sent as UTF-8: {error}; remove its surrogates"
        ) from error
    except struct.error as error:
        raise LocalProtocolError(
            f"a shape or a number does not fit PPX's 32-bit integers: {error}"
        ) from error


def doubles(value: Tensor, what: str) -> NDArray[np.float64]:
    """A tensor as a C-contiguous array of little-endian doubles, of the same shape.

    Raises:
        LocalProtocolError: The value is not numbers.
    """
    try:
        return np.asarray(value, "<f8", order="C")
    except (TypeError, ValueError) as error:
        raise LocalProtocolError(f"{what} cannot be sent as a tensor of doubles: {error}") from error


def scalars(*values: float) -> bytes:
    """Data vectors of one element each."""
    if len(values) == 1:
        return _SCALARS[1](1, values[0])
    flat: list[float] = []
    for value in values:
        flat += (1, value)
    return _SCALARS[len(values)](*flat)


def vectors(arrays: Sequence[NDArray[np.float64]]) -> list[bytes | memoryview]:
    """Data vectors of C-contiguous little-endian arrays, as pieces to be joined."""
    pieces: list[bytes | memoryview] = []
    for array in arrays:
        pieces += (pack("<xxxxI", array.size), array.data)
    return pieces


class _Head:
    """A head in the making."""

    def __init__(self, root: Table | Tables) -> None:
        self._buffer = bytearray()
        self._vtables: dict[bytes, int] = {}
        self._doubles: list[tuple[int, int]] = []
        if isinstance(root, Tables):
            self._references(root.values)
        else:
            self._buffer += bytes(4)
            self._refer(0, root)

    def finish(self) -> bytes:
        """The head, its references to the data vectors filled in."""
        self._align(8)
        position = len(self._buffer)
        for field, size in self._doubles:
            # 4 bytes of padding, so that the doubles behind the 4 bytes of length are aligned to 8
            if position + 8 + 8 * size > MAX_BYTES:
                raise LocalProtocolError(
                    f"the message would be larger than FlatBuffers' limit of {MAX_BYTES} bytes; send less at once"
                )
            pack_into("<I", self._buffer, field, position + 4 - field)
            position += 8 + 8 * size
        return bytes(self._buffer)

    def _align(self, size: int) -> None:
        self._buffer += bytes(-len(self._buffer) % size)

    def _refer(self, field: int, target: Field) -> None:
        """Writes what a reference refers to, and the reference at position `field`."""
        if isinstance(target, _Doubles):
            self._doubles.append((field, target.size))
            return
        if isinstance(target, str):
            position = self._string(target)
        elif isinstance(target, Strings | Tables):
            position = self._references(target.values)
        elif isinstance(target, Integers):
            position = len(self._buffer)
            self._buffer += pack(f"<I{len(target.values)}i", len(target.values), *target.values)
        elif isinstance(target, Octets):
            position = len(self._buffer)
            self._buffer += pack("<I", len(target.values)) + target.values
            self._align(4)
        else:
            assert isinstance(target, Table | TensorOf)
            position = self._table(target.fields if isinstance(target, Table) else _tensor(target.shape))
        pack_into("<I", self._buffer, field, position - field)

    def _string(self, value: str) -> int:
        position = len(self._buffer)
        encoded = value.encode("utf-8")
        self._buffer += pack("<I", len(encoded)) + encoded + b"\0"
        self._align(4)
        return position

    def _references(self, values: tuple[str | Table, ...]) -> int:
        position = len(self._buffer)
        self._buffer += pack("<I", len(values)) + bytes(4 * len(values))
        for i, value in enumerate(values):
            self._refer(position + 4 + 4 * i, value)
        return position

    def _table(self, fields: tuple[Field, ...]) -> int:
        """References and words come first, then bytes, so that nothing but the end needs padding."""
        entries, end = [0] * len(fields), 4
        for i, field in enumerate(fields):
            if field is not None and not isinstance(field, int):
                entries[i], end = end, end + 4
        for i, field in enumerate(fields):
            if isinstance(field, int):
                entries[i], end = end, end + 1
        vtable = self._vtable(pack(f"<{len(fields) + 2}H", 4 + 2 * len(fields), end, *entries))
        position = len(self._buffer)
        self._buffer += pack("<i", position - vtable) + bytes(end - 4)
        self._align(4)
        for entry, field in zip(entries, fields, strict=True):
            if isinstance(field, int):
                self._buffer[position + entry] = field
            elif isinstance(field, Word):
                pack_into("<i", self._buffer, position + entry, field.value)
            elif field is not None:
                self._refer(position + entry, field)
        return position

    def _vtable(self, vtable: bytes) -> int:
        """Position of the vtable, written where no table before had the same."""
        position = self._vtables.get(vtable)
        if position is None:
            position = self._vtables[vtable] = len(self._buffer)
            self._buffer += vtable
            self._align(4)
        return position


def _tensor(shape: Shape) -> tuple[Field, ...]:
    if len(shape) > MAX_DIMENSIONS:
        raise LocalProtocolError(f"a tensor of {len(shape)} axes; at most {MAX_DIMENSIONS} can be sent")
    return _Doubles(prod(shape)), Integers(shape)

"""Addresses: which random choice of the simulator a draw is.

A simulator sends an address with every draw: the draw's name or its call site, behind the enclosing scopes. Repeated
visits within one trace share the address and differ by their *instance* (0 for the first visit), which the
controller counts. Traces and scripts hold small integers; an `AddressTable` says what they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_ELEMENTS = (1 << 63) - 1


class Address(NamedTuple):
    """One entry of the address table.

    Attributes:
        address: What the simulator sends: enclosing scopes, then the name or the call site.
        name: The draw's name, empty if the simulator gave none.
        family: Name of the distribution family (`"Normal"`), or `""` for a tag.
        shape: Shape of the value; `()` for a scalar.
    """

    address: str
    name: str
    family: str
    shape: tuple[int, ...]


class AddressTable:
    """An append-only, two-way table between addresses and small integers (ids count up from 0).

    The same address string with another family or shape is another entry, so that an id determines how a value is
    read.
    """

    def __init__(self, addresses: Sequence[Address] = ()) -> None:
        self._addresses: list[Address] = []
        self._ids: dict[Address, int] = {}
        for address in addresses:
            self.intern(address)

    def intern(self, address: Address) -> int:
        """Returns the id of `address`, adding it at its first visit."""
        address_id = self._ids.get(address)
        if address_id is None:
            address_id = self._ids[address] = len(self._addresses)
            self._addresses.append(address)
        return address_id

    def find(self, name: str) -> tuple[int, ...]:
        """Returns the ids whose name, or else whose full address, is `name`; empty if there is none."""
        by_name = tuple(i for i, a in enumerate(self._addresses) if a.name == name)
        return by_name or tuple(i for i, a in enumerate(self._addresses) if a.address == name)

    def translate(self, address_id: NDArray[np.int32], source: AddressTable) -> NDArray[np.int32]:
        """Ids of this table for ids of another one, adding the addresses that are new here.

        Args:
            address_id: `(N,)` ids of `source`.
            source: The other table.

        Returns:
            `(N,)` ids of this table.
        """
        if source is self:
            return address_id
        used, position = np.unique(address_id, return_inverse=True)
        ids = np.array([self.intern(source[int(i)]) for i in used], np.int32)
        return ids[position]

    def __getitem__(self, address_id: int) -> Address:
        return self._addresses[address_id]

    def __len__(self) -> int:
        return len(self._addresses)

    def __iter__(self) -> Iterator[Address]:
        return iter(self._addresses)

    def to_json(self) -> list[list[Any]]:
        """The entries as JSON values, in order of their ids."""
        return [[a.address, a.name, a.family, list(a.shape)] for a in self._addresses]

    @classmethod
    def from_json(cls, entries: list[list[Any]]) -> AddressTable:
        """The inverse of `to_json`.

        Raises:
            TypeError, ValueError: The entries are not what `to_json` returns.
        """
        addresses = [Address(a, n, f, tuple(shape)) for a, n, f, shape in entries]
        for *texts, shape in addresses:
            if not all(type(text) is str for text in texts):
                raise TypeError(f"an address, its name and its family are texts, not {texts}")
            if (
                not all(type(side) is int and side >= 0 for side in shape)
                or math.prod(shape) > _MOST_ELEMENTS
            ):
                raise ValueError(f"{shape} is no shape")
        table = cls(addresses)
        if len(table) < len(addresses):
            raise ValueError("an address is there twice")
        return table

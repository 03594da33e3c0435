"""Which draws a proposal knows: addresses with their family and, for categorical draws, the number of categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_server.address import Address, AddressTable
from ppx_server.distributions import FAMILIES, Kind

Ints = NDArray[np.int64]
UNKNOWN = 0
"""Row of draws the proposal does not know; in tables a row of zeros."""


class AddressKey(NamedTuple):
    """What tells draws apart: elements and instances of a draw share their entry.

    Attributes:
        address: The simulator's address.
        family: Name of the distribution family.
        num_categories: Number of categories of a categorical draw, otherwise 0.
    """

    address: str
    family: str
    num_categories: int

    @property
    def kind(self) -> Kind:
        """What sort of values the draw has."""
        return FAMILIES[self.family].kind


class Vocabulary:
    """An append-only table of address keys; rows count from 1, row 0 is `UNKNOWN`.

    Categories of all categorical draws share a second numbering, also from 1.
    """

    def __init__(self, keys: Sequence[AddressKey] = ()) -> None:
        self._keys: list[AddressKey] = []
        self._rows: dict[AddressKey, int] = {}
        self._first_category: list[int] = [0]
        self.num_categories = 0
        for key in keys:
            self.intern(key)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, row: int) -> AddressKey:
        return self._keys[row - 1]

    @property
    def keys(self) -> tuple[AddressKey, ...]:
        """All keys, in order of their rows."""
        return tuple(self._keys)

    def intern(self, key: AddressKey) -> int:
        """Row of a key, which is added if it is new."""
        row = self._rows.get(key)
        if row is None:
            self._keys.append(key)
            self._first_category.append(self.num_categories + 1 if key.num_categories else 0)
            self.num_categories += key.num_categories
            row = self._rows[key] = len(self._keys)
        return row

    def find(self, key: AddressKey) -> int:
        """Row of a key, or `UNKNOWN`."""
        return self._rows.get(key, UNKNOWN)

    def first_category(self, rows: Ints) -> Ints:
        """Number of category 0 of the draws in the given rows; 0 for draws without categories."""
        return np.asarray(self._first_category, np.int64)[rows]

    def rows_of(
        self, addresses: AddressTable, address_id: NDArray[np.int32], num_params: Ints, *, grow: bool
    ) -> tuple[Ints, NDArray[np.uint8]]:
        """Rows and kinds of draws.

        Args:
            addresses: What `address_id` stands for.
            address_id: `(N,)`.
            num_params: `(N,)` lengths of the draws' parameter vectors.
            grow: Add keys that are new, in order of appearance; otherwise they are `UNKNOWN`.

        Returns:
            `(N,)` rows, and `(N,)` positions in `KINDS`.
        """
        ids, inverse = np.unique(address_id, return_inverse=True)
        kind = np.array([KINDS.index(FAMILIES[addresses[i].family].kind) for i in ids.tolist()], np.uint8)[
            inverse
        ]
        size = np.where(kind == CATEGORICAL, num_params, 0)
        pairs, first, inverse = np.unique(
            address_id.astype(np.int64) << 32 | size, return_index=True, return_inverse=True
        )
        rows = np.zeros(len(pairs), np.int64)
        for position in np.argsort(first).tolist():
            pair = int(pairs[position])
            key = AddressKey(*_where(addresses[pair >> 32]), pair & 0xFFFFFFFF)
            rows[position] = self.intern(key) if grow else self.find(key)
        return rows[inverse], kind

    def to_json(self) -> list[list[Any]]:
        """The keys as JSON values."""
        return [list(key) for key in self._keys]

    @classmethod
    def from_json(cls, entries: list[list[Any]]) -> Vocabulary:
        """The inverse of `to_json`."""
        return cls([AddressKey(str(a), str(f), int(n)) for a, f, n in entries])


KINDS = (Kind.CONTINUOUS, Kind.ORDERED, Kind.CATEGORICAL)
CONTINUOUS, ORDERED, CATEGORICAL = range(3)


def _where(address: Address) -> tuple[str, str]:
    return address.address, address.family

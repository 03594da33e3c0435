"""What a guide knows of every address, multiplied out once and stacked, so that many draws are looked up in one gather.

Letters: n draws, E entries, R rows of draws before, H state size, C categories.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ppx_proposals.vocabulary import KINDS, UNKNOWN, AddressKey, Vocabulary
from ppx_proposals.weights import Single, Weights
from ppx_server.address import AddressTable
from ppx_server.distributions import FAMILIES, Kind

Ints = NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)

PRIOR = len(KINDS)
"""Kind of the draws that the proposal does not know: they come from the prior."""
NOTHING = 0
"""Row of `before` for the first draw of a trace."""


class _Stack(Generic[Scalar]):
    """An array that grows by rows, with room to spare."""

    def __init__(self, dtype: type[Scalar], *shape: int) -> None:
        self._room: NDArray[Scalar] = np.zeros((16, *shape), dtype)
        self.size = 0

    @property
    def rows(self) -> NDArray[Scalar]:
        """All rows so far, as a view."""
        return self._room[: self.size]

    def add(self, rows: NDArray[Scalar]) -> None:
        """Appends rows."""
        size = self.size + len(rows)
        if size > len(self._room):
            room = np.zeros((2 * size, *self._room.shape[1:]), self._room.dtype)
            room[: self.size] = self.rows
            self._room = room
        self._room[self.size : size] = rows
        self.size = size


class Entries:
    """Entries of the draws that were met, in order of appearance; one per address id and number of categories.

    A draw leaves two things to the next one: a row of `before`, which stands for the address and, for a categorical
    draw, for its category; and a number, the feature, which multiplies the same row of `slope`.

    Args:
        vocabulary: The draws the proposal knows.
        weights: See `Weights`.
    """

    def __init__(self, vocabulary: Vocabulary, weights: Weights) -> None:
        self._vocabulary, self._weights = vocabulary, weights
        self._gates = _Stack(np.float32, weights.gates.shape[0])
        self._head = _Stack(np.float32, weights.mixture[0].shape[0])
        self._before = _Stack(np.float32, weights.gates.shape[0])
        self._slope = _Stack(np.float32, weights.gates.shape[0])
        self._numbers = _Stack(np.int64, 5)
        self._categories: dict[int, tuple[Single, Single]] = {}
        self.begin(AddressTable())

    def begin(self, addresses: AddressTable) -> None:
        """Forgets all entries: address ids are those of another table from now on."""
        self._addresses = addresses
        self._ids: dict[tuple[int, int], int] = {}
        self._latest = np.zeros(0, np.int64)
        self._categorical = np.zeros(0, np.bool_)
        self._categories.clear()
        for stack in (self._gates, self._head, self._before, self._slope, self._numbers):
            stack.size = 0
        zero = np.zeros((1, self._weights.gates.shape[0]), np.float32)
        self._before.add(zero)
        self._slope.add(zero)

    def __len__(self) -> int:
        return self._numbers.size

    @property
    def gates(self) -> Single:
        """`(E, 4H)`: what an entry adds to the gates."""
        return self._gates.rows

    @property
    def head(self) -> Single:
        """`(E, hidden)`: what it adds to the first layer of its head."""
        return self._head.rows

    @property
    def before(self) -> Single:
        """`(R, 4H)`: what the draw before adds to the gates."""
        return self._before.rows

    @property
    def slope(self) -> Single:
        """`(R, 4H)`: what it adds per unit of its feature."""
        return self._slope.rows

    @property
    def kind(self) -> Ints:
        """`(E,)` positions in `KINDS`, or `PRIOR`."""
        return self._numbers.rows[:, 0]

    @property
    def family(self) -> Ints:
        """`(E,)` codes of the families."""
        return self._numbers.rows[:, 1]

    @property
    def address_id(self) -> Ints:
        """`(E,)` address ids."""
        return self._numbers.rows[:, 2]

    @property
    def num_categories(self) -> Ints:
        """`(E,)`, 0 for draws that are not categorical."""
        return self._numbers.rows[:, 3]

    @property
    def first_before(self) -> Ints:
        """`(E,)` rows of `before`: this one if the category does not matter, the next ones for categories 0, 1, ..."""
        return self._numbers.rows[:, 4]

    def categories(self, entry: int) -> tuple[Single, Single]:
        """Keys `(key_size, C)` and biases `(C,)` of a categorical draw the proposal knows."""
        return self._categories[entry]

    def find(self, address_id: NDArray[np.int32] | Ints, num_params: Ints) -> Ints:
        """Entries of draws `(n,)` with parameter vectors of given lengths `(n,)`, which are added if they are new."""
        found = self.latest(address_id)
        size = np.where(self._categorical[address_id], num_params, 0)
        other = found < 0
        other |= self.num_categories[found] != size if len(self) else True
        if other.any():
            for pair in np.unique(address_id[other].astype(np.int64) << 32 | size[other]).tolist():
                where = other & (address_id == pair >> 32) & (size == pair & 0xFFFFFFFF)
                found[where] = self._latest[pair >> 32] = self._id(pair >> 32, pair & 0xFFFFFFFF)
        return found

    def latest(self, address_id: NDArray[np.int32] | Ints) -> Ints:
        """The entries `(n,)` that addresses had most recently; -1 where there is none."""
        if len(self._addresses) > len(self._latest):
            new = [self._addresses[i] for i in range(len(self._latest), len(self._addresses))]
            categorical = [a.family != "" and FAMILIES[a.family].kind is Kind.CATEGORICAL for a in new]
            self._latest = np.concatenate([self._latest, np.full(len(new), -1, np.int64)])
            self._categorical = np.concatenate([self._categorical, np.array(categorical, np.bool_)])
        latest: Ints = self._latest[address_id]
        return latest

    def foreseen(self, address_id: Ints) -> Ints:
        """The entries `(n,)` that addresses will presumably have; -1 for what is no draw or was never met."""
        found = self.latest(address_id)
        for new in np.unique(address_id[(found < 0) & ~self._categorical[address_id]]).tolist():
            if self._addresses[new].family:
                found[address_id == new] = self._latest[new] = self._id(new, 0)
        return found

    def _id(self, address_id: int, num_categories: int) -> int:
        entry = self._ids.get((address_id, num_categories))
        if entry is None:
            entry = self._ids[address_id, num_categories] = len(self)
            self._add(address_id, num_categories)
        return entry

    def _add(self, address_id: int, num_categories: int) -> None:
        weights, address = self._weights, self._addresses[address_id]
        family = FAMILIES[address.family]
        row = self._vocabulary.find(AddressKey(address.address, address.family, num_categories))
        kind = PRIOR if row == UNKNOWN else KINDS.index(family.kind)
        current, before, slope = np.split(weights.addresses[row], 3)
        layer = weights.categorical if family.kind is Kind.CATEGORICAL else weights.mixture
        number = [kind, family.code, address_id, num_categories, len(self.before)]
        rows = before[None]
        if family.kind is Kind.CATEGORICAL and kind != PRIOR:
            a, first = len(current), int(self._vocabulary.first_category(np.array([row]))[0])
            table = weights.categories[first : first + num_categories]
            rows = np.concatenate([rows, before + table[:, :a]])
            self._categories[len(self)] = np.ascontiguousarray(table[:, a:-1].T), table[:, -1]
        self._gates.add(_row(weights.gates + current @ weights.from_current))
        self._head.add(_row(layer[0] + current @ layer[2]))
        self._before.add((rows @ weights.from_previous).astype(np.float32))
        self._slope.add(np.repeat(_row(slope @ weights.from_previous), len(rows), axis=0))
        self._numbers.add(np.array([number]))


def _row(values: NDArray[np.floating]) -> Single:
    return values[None].astype(np.float32, copy=False)

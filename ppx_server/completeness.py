"""Whether traces observe what was given: as many visits of each name, in the same shapes.

A name that is given is given completely, unless the set of observations says that it is partial: a trace that visits it
more often or less often, or in another shape, is ruled out. Whichever way a trace was executed, this is decided here,
by its rows: the simulator draws what it has no fitting value for, and the row of the trace then counts nothing. What is
wrong with a trace becomes one more row of it, without a value and with log_prob -inf, at an address that says so. Thus
the trace has weight zero, stays in the result, and whatever counts weights needs to know nothing of visits.

Letters: K traces, M rows of their observations, G names given, S given visits (slots).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_server.address import Address, AddressTable
from ppx_server.observations import EVERY_VISIT, ObservationKey, ObservationSet
from ppx_server.trace import Ids, Ints, Status, TensorTable, TraceBatch

Bools = NDArray[np.bool_]


class Mismatch(StrEnum):
    """Why a trace does not observe what was given; in the words of the address that says so."""

    MORE = "more visits than were given"
    FEWER = "fewer visits than were given"
    SHAPE = "another shape than was given"

    def address(self, name: str, shape: tuple[int, ...] = ()) -> Address:
        """The address of the row that rules a trace out; the shape is the one that was given."""
        return Address(f"{name}: {self.value}", name, "", shape)

    @classmethod
    def of(cls, address: Address) -> Mismatch | None:
        """What the address of a row says, None if it is that of an observe."""
        if address.family:
            return None
        return next((m for m in cls if address == m.address(address.name, address.shape)), None)


def mismatches(traces: TraceBatch) -> Ints:
    """Rows of the observations, in order, that rule their traces out because they observe something else."""
    table = traces.observations
    used = np.flatnonzero(np.bincount(table.address_id, minlength=1))
    ids = [i for i in used.tolist() if Mismatch.of(traces.addresses[i]) is not None]
    return np.flatnonzero(np.isin(table.address_id, ids)) if ids else np.empty(0, np.int64)


class Completeness:
    """Compares traces with one set of observations.

    Args:
        observations: The set.
        addresses: The address table of the traces.
        observed: Ids of addresses that traces are known to observe; more are added.
    """

    def __init__(self, observations: ObservationSet, addresses: AddressTable, observed: set[int]) -> None:
        self.observations = observations
        self._addresses, self._observed = addresses, observed
        self._slots = _Slots(observations)
        self._groups = _Groups(observations.names)
        self._names = observations.names
        self._complete = np.array([observations.is_complete(name) for name in self._names] + [False])
        self._wild = np.array([(name, EVERY_VISIT) in observations for name in self._names] + [False])
        self._required = self._complete[self._slots.group] & ~self._slots.empty
        self._made = np.zeros(len(self._slots.keys), bool)
        self._last: tuple[Ids, Ids, Ints, Ints] | None = None

    @property
    def unseen(self) -> list[str]:
        """Names that no trace has observed; an empty measurement is content with that."""
        self._groups.learn(self._addresses)
        ids = sorted(self._observed)
        seen = {self._names[g] for g in (*self._groups.by_name[ids], *self._groups.by_address[ids]) if g >= 0}
        nothing = {
            self._names[g] for g in range(len(self._names)) if self._slots.empty[self._slots.group == g].any()
        }
        return [name for name in self._names if name not in seen | nothing]

    def unmade(self) -> list[ObservationKey]:
        """Visits of partial names that no trace has made; each is told once."""
        unmade = ~self._made & ~self._complete[self._slots.group]
        self._made[unmade] = True
        return sorted(self._slots.keys[slot] for slot in np.flatnonzero(unmade).tolist())

    def judged(self, traces: TraceBatch) -> TraceBatch:
        """The traces, with a row for everything that rules one out."""
        table = traces.observations
        pattern = (table.address_id, table.instance, table.offsets, table.data_offsets)
        if self._last is not None and _equal(pattern, self._last):
            return traces
        self._groups.learn(self._addresses)
        self._observed.update(np.flatnonzero(np.bincount(table.address_id, minlength=1)).tolist())
        rows = _Rows(table, self._groups, self._slots)
        faults = [self._other_shapes(table, rows), self._more(table, rows), self._fewer(len(traces), rows)]
        self._made[rows.slot[rows.slot >= 0]] = self._made[rows.other_slot[rows.other_slot >= 0]] = True
        found = _Faults(*(np.concatenate(column) for column in zip(*faults, strict=True))).first()
        found = found.select(traces.status[found.trace] == Status.OK)
        if len(found.trace):
            return replace(traces, observations=_with_rows(table, found))
        if len(table.address_id) <= _KEPT_ROWS and not traces.status.any():
            self._last = pattern
        return traces

    def _other_shapes(self, table: TensorTable, rows: _Rows) -> _Faults:
        given, observed = self._slots.shape[rows.slot], self._groups.shape[table.address_id]
        wrong = np.flatnonzero((given != _ANY_SHAPE) & (given != observed))
        slots = rows.slot[wrong]
        ids = {slot: self._id(Mismatch.SHAPE, *self._slots.named(slot)) for slot in np.unique(slots).tolist()}
        visit = np.array([self._slots.keys[slot][1] for slot in slots.tolist()], np.int32)
        address_id = np.array([ids[s] for s in slots.tolist()], np.int32)
        return _Faults(rows.trace[wrong], self._slots.group[slots], address_id, visit)

    def _more(self, table: TensorTable, rows: _Rows) -> _Faults:
        # A row without data has the value of the model's code, which counts although the controller gives none.
        drawn = table.data_offsets[1:] > table.data_offsets[:-1]
        open_rows = (rows.slot < 0) & drawn & ~self._wild[rows.by_name] & ~self._wild[rows.by_address]
        by_name = self._complete[rows.by_name]
        more = np.flatnonzero(open_rows & (by_name | self._complete[rows.by_address]))
        group = np.where(by_name, rows.by_name, rows.by_address)[more]
        visit = np.where(by_name, table.instance, rows.address_visit)[more]
        return _Faults(rows.trace[more], group, self._ids(Mismatch.MORE, group), visit.astype(np.int32))

    def _fewer(self, num_traces: int, rows: _Rows) -> _Faults:
        """Traces that lack a required visit, with the first that they lack."""
        slots = self._slots
        required = np.bincount(slots.group[self._required], minlength=len(self._names))
        rank = np.zeros(len(slots.keys), np.int64)
        rank[self._required] = _ranks(slots.group[self._required])
        traces, groups, ranks = [], [], []
        for column in (rows.slot, rows.other_slot):
            hit = np.flatnonzero(np.append(self._required, False)[column])
            traces.append(rows.trace[hit])
            groups.append(slots.group[column[hit]])
            ranks.append(rank[column[hit]])
        trace, group, made = np.concatenate(traces), np.concatenate(groups), np.concatenate(ranks)
        counts = np.bincount(trace * len(self._names) + group, minlength=num_traces * len(self._names))
        lacking, which = np.nonzero(counts.reshape(num_traces, len(self._names)) < required)
        if not len(lacking):
            none = np.empty(0, np.int64)
            return _Faults(none, none, none.astype(np.int32), none.astype(np.int32))
        # Visits in order: those before the first that is lacking have the ranks 0, 1, ...
        place = trace * len(self._names) + group
        order = np.lexsort((made, place))
        in_order = made[order] == _ranks(place[order])
        before = np.bincount(place[order][in_order], minlength=num_traces * len(self._names))
        firsts = np.concatenate([[0], np.cumsum(required)])
        visits = np.array([slots.keys[slot][1] for slot in slots.in_order(self._required)], np.int32)
        visit = visits[firsts[which] + before.reshape(num_traces, len(self._names))[lacking, which]]
        return _Faults(lacking, which, self._ids(Mismatch.FEWER, which), visit)

    def _ids(self, mismatch: Mismatch, groups: Ints) -> Ids:
        ids = {group: self._id(mismatch, self._names[group]) for group in np.unique(groups).tolist()}
        return np.array([ids[group] for group in groups.tolist()], np.int32)

    def _id(self, mismatch: Mismatch, name: str, shape: tuple[int, ...] = ()) -> int:
        return self._addresses.intern(mismatch.address(name, shape))


_KEPT_ROWS = 4096
"""Markov chains often do the same again, and a comparison is much cheaper than another look."""
_ANY_SHAPE, _EMPTY = -1, -2


class _Slots:
    """The visits that a set of observations gives one by one.

    Attributes:
        keys: Name and visit of each.
        group: `(S,)` number of the name.
        shape: `(S + 1,)` number of the shape; `_ANY_SHAPE` where it is not said, and for slot -1.
        empty: `(S,)` whether it is an empty measurement, which is there where no visit is.
    """

    def __init__(self, observations: ObservationSet) -> None:
        numbers = {name: number for number, name in enumerate(observations.names)}
        self.keys = sorted(
            (key for key in observations if key[1] != EVERY_VISIT), key=lambda key: (numbers[key[0]], key[1])
        )
        self._values = [observations[key] for key in self.keys]
        self.group = np.array([numbers[name] for name, _ in self.keys], np.int64)
        self.shape = np.array(
            [_ANY_SHAPE if v is None else _shape_number(np.shape(v)) for v in (*self._values, None)], np.int64
        )
        self.empty = self.shape[:-1] == _EMPTY
        visit = np.array([visit for _, visit in self.keys], np.int64)
        self._length = np.zeros(len(numbers) + 1, np.int64)
        np.maximum.at(self._length, self.group, visit + 1)
        self._start = np.cumsum(self._length) - self._length
        self._table = np.full(int(self._length.sum()) + 1, -1, np.int64)
        self._table[self._start[self.group] + visit] = np.arange(len(self.keys))

    def find(self, group: Ints, visit: Ints | Ids) -> Ints:
        """The slot of each of some visits; -1 where none is given."""
        there = visit < self._length[group]
        return self._table[np.where(there, self._start[group] + visit, -1)]

    def named(self, slot: int) -> tuple[str, tuple[int, ...]]:
        """Name and shape of a slot."""
        value = self._values[slot]
        assert value is not None
        return self.keys[slot][0], np.shape(value)

    def in_order(self, chosen: Bools) -> list[int]:
        """Chosen slots by group and visit."""
        found: list[int] = np.flatnonzero(chosen).tolist()
        return found


_shapes: dict[tuple[int, ...], int] = {}


def _shape_number(shape: tuple[int, ...]) -> int:
    """A number for a shape; one for all that hold nothing."""
    return _EMPTY if 0 in shape else _shapes.setdefault(shape, len(_shapes))


class _Groups:
    """Which given names the addresses of traces belong to.

    Attributes:
        by_name: `(A,)` number of the name that an address has; -1, the last, for none.
        by_address: `(A,)` number of the full address that was given as a name, where the name is another one.
        shape: `(A,)` number of the shape.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}
        self.by_name = self.by_address = self.shape = np.empty(0, np.int64)

    def learn(self, addresses: AddressTable) -> None:
        """Looks at addresses that are new."""
        known = len(self.by_name)
        if len(addresses) == known:
            return
        new = [addresses[i] for i in range(known, len(addresses))]
        by_name = [self._numbers.get(a.name or a.address, -1) if a.family else -1 for a in new]
        scoped = [a.family and a.name not in ("", a.address) for a in new]
        by_address = [self._numbers.get(a.address, -1) if s else -1 for a, s in zip(new, scoped, strict=True)]
        self.by_name = np.concatenate([self.by_name, np.array(by_name, np.int64)])
        self.by_address = np.concatenate([self.by_address, np.array(by_address, np.int64)])
        self.shape = np.concatenate([self.shape, np.array([_shape_number(a.shape) for a in new], np.int64)])


class _Rows:
    """What rows of observations have to do with a set; M rows.

    Attributes:
        trace: `(M,)` position of the trace.
        by_name: `(M,)` number of the name; -1 for none.
        by_address: `(M,)` number of the full address; -1 for none.
        address_visit: `(M,)` number of the visit to the full address; where none is given, 0.
        slot: `(M,)` the visit given that holds for the row; -1 for none.
        other_slot: `(M,)` another visit given that the row makes, since its name has a value already; -1 for none.
    """

    def __init__(self, table: TensorTable, groups: _Groups, slots: _Slots) -> None:
        self.trace = np.repeat(np.arange(len(table.offsets) - 1), np.diff(table.offsets))
        self.by_name = groups.by_name[table.address_id]
        self.by_address = groups.by_address[table.address_id]
        self.address_visit = np.zeros(len(self.trace), np.int64)
        self.slot = slots.find(self.by_name, table.instance)
        self.other_slot = np.full(len(self.trace), -1, np.int64)
        rows = np.flatnonzero(self.by_address >= 0)
        if len(rows):
            place = self.trace[rows] * (int(self.by_address.max()) + 1) + self.by_address[rows]
            order = np.argsort(place, kind="stable")
            self.address_visit[rows[order]] = _ranks(place[order])
            found = slots.find(self.by_address[rows], self.address_visit[rows])
            named = self.slot[rows] >= 0
            self.other_slot[rows[named]] = found[named]
            self.slot[rows[~named]] = found[~named]


class _Faults(NamedTuple):
    """Rows to be added: `(n,)` each, trace, number of the name, address and visit."""

    trace: Ints
    group: Ints
    address_id: Ids
    visit: Ids

    def select(self, chosen: Bools | Ints) -> _Faults:
        """Some of them."""
        trace, group, address_id, visit = self
        return _Faults(trace[chosen], group[chosen], address_id[chosen], visit[chosen])

    def first(self) -> _Faults:
        """The first of each trace and name; one is enough to rule a trace out."""
        if not len(self.trace):
            return self
        _, chosen = np.unique(self.trace * (int(self.group.max()) + 1) + self.group, return_index=True)
        return self.select(chosen)


def _equal(pattern: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> bool:
    return all(np.array_equal(one, another) for one, another in zip(pattern, other, strict=True))


def _ranks(sorted_places: Ints) -> Ints:
    """Number of each element among its equals, which are neighbours."""
    begins = np.ones(len(sorted_places), bool)
    begins[1:] = sorted_places[1:] != sorted_places[:-1]
    rows = np.arange(len(sorted_places))
    return rows - np.maximum.accumulate(np.where(begins, rows, 0))


def _with_rows(table: TensorTable, faults: _Faults) -> TensorTable:
    """The table with a row more at the end of a trace for each fault, without data and with log_prob -inf."""
    faults = faults.select(np.argsort(faults.trace, kind="stable"))
    at = table.offsets[faults.trace + 1]
    more = np.concatenate([[0], np.cumsum(np.bincount(faults.trace, minlength=len(table.offsets) - 1))])
    return TensorTable(
        offsets=table.offsets + more,
        address_id=np.insert(table.address_id, at, faults.address_id),
        instance=np.insert(table.instance, at, faults.visit),
        data=table.data,
        data_offsets=np.insert(table.data_offsets, at, table.data_offsets[at]),
        log_prob=np.insert(table.log_prob, at, -np.inf),
    )

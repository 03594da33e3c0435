"""Forecasts: which draw comes next in a trace, given the last ones. They decide how fast a guide speculates, no more.

A *site* is an address and whether inference may choose its draws there, as one number: `2 * address_id + controlled`.
An array draw is one draw here. Letters: n traces or transitions, R rows of a table.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ppx_server.address import Address, AddressTable
from ppx_server.distributions import FAMILIES, Kind
from ppx_server.trace import Status, TraceBatch

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NONE = -1
"""No site: before a trace's first draw, and after its last one."""
_MOST = 255
"""Larger visits and outcomes count as this."""
_LEAST_COUNT = 4
"""A context that was met less often is not trusted where there is a coarser one."""
_MOST_ROWS = 1 << 15
"""Rows a table keeps; the rarest go."""
_LEVELS = 3


class Past(NamedTuple):
    """The last draws of n traces.

    Attributes:
        site: `(n,)` the draw before, or `NONE`.
        instance: `(n,)` its visit.
        outcome: `(n,)` its value (of an array the first) if it is discrete, 0 if it is continuous, `NONE` if not known.
        earlier: `(n,)` site of the draw before that one, or `NONE`.
    """

    site: Ints
    instance: Ints
    outcome: Ints
    earlier: Ints


class Transitions(NamedTuple):
    """What came after n draws: the draw, or the end of the trace."""

    past: Past
    site: Ints


class Forecast(Protocol):
    """Foresees the next draw."""

    def begin(self, addresses: AddressTable) -> None:
        """Says what address ids mean from now on; the table may grow afterwards."""

    def next(self, past: Past) -> tuple[Ints, Floats]:
        """The most likely sites `(n,)`, `NONE` for the end of a trace; and their probabilities `(n,)`."""

    def observe(self, transitions: Transitions) -> None:
        """Learns from what traces did."""


def heads(traces: TraceBatch) -> Ints:
    """Row of the first element of each row's draw, as `(N,)`: that of an array draw, or the row itself."""
    rows = np.arange(len(traces.address_id))
    same = np.zeros(len(rows), np.bool_)
    same[1:] = (np.diff(traces.address_id) == 0) & (np.diff(traces.instance) == 0)
    starts = traces.offsets[:-1]
    same[starts[starts < len(rows)]] = False
    first: Ints = np.maximum.accumulate(np.where(same, 0, rows))
    return first


def sites(traces: TraceBatch, rows: Ints) -> Ints:
    """Sites of the draws in the given rows."""
    site: Ints = 2 * traces.address_id[rows].astype(np.int64) + traces.controlled[rows]
    return site


def outcomes(discrete: NDArray[np.bool_], value: Floats) -> Ints:
    """Outcomes `(n,)` of draws with given values, NaN where they are not known."""
    known = np.isfinite(value)
    clipped = np.clip(np.where(known, value, 0.0), 0.0, _MOST).astype(np.int64)
    return np.where(discrete, np.where(known, clipped, NONE), 0)


def is_discrete(address: Address) -> bool:
    """Whether an entry of an address table is a discrete draw."""
    return address.family != "" and FAMILIES[address.family].kind is not Kind.CONTINUOUS


def transitions(
    traces: TraceBatch, first: Ints, begin: Ints, end: Ints, chosen: NDArray[np.bool_]
) -> Transitions:
    """What came after what, in chosen traces.

    Args:
        traces: K traces.
        first: `(N,)` what `heads` says of them.
        begin: `(K,)` ordinals of the first draws of interest.
        end: `(K,)` ordinals of the last draws of interest, which may be pending; the number of draws for a trace that
            has ended, whose end is of interest if it did not fail.
        chosen: `(K,)` which traces.
    """
    trace = np.repeat(np.arange(len(traces)), traces.length)
    ordinal = np.arange(len(trace)) - traces.offsets[trace]
    wanted = (
        chosen[trace] & (first == np.arange(len(trace))) & (ordinal >= begin[trace]) & (ordinal <= end[trace])
    )
    into = np.flatnonzero(wanted)
    ended = np.flatnonzero(chosen & (end == traces.length) & (traces.status == Status.OK))
    after = np.concatenate([into, traces.offsets[ended + 1]])
    start = traces.offsets[np.concatenate([trace[into], ended])]
    site = np.concatenate([sites(traces, into), np.full(len(ended), NONE)])
    return Transitions(past_of(traces, first, after, start), site)


def past_of(traces: TraceBatch, first: Ints, rows: Ints, start: Ints) -> Past:
    """The draws before the ones that begin at the given rows.

    Args:
        traces: K traces.
        first: `(N,)` what `heads` says of them.
        rows: `(n,)` rows at which draws begin, or traces end.
        start: `(n,)` rows at which their traces begin.
    """
    discrete = np.array([is_discrete(a) for a in traces.addresses], np.bool_)
    if len(first) == 0:
        nothing = np.full(len(rows), NONE)
        return Past(nothing, np.zeros_like(nothing), np.zeros_like(nothing), nothing)
    last = first[np.maximum(rows - 1, 0)]
    earlier = first[np.maximum(last - 1, 0)]
    any_last, any_earlier = rows > start, last > start
    return Past(
        site=np.where(any_last, sites(traces, last), NONE),
        instance=np.where(any_last, traces.instance[last], 0),
        outcome=np.where(any_last, outcomes(discrete[traces.address_id[last]], traces.value[last]), 0),
        earlier=np.where(any_last & any_earlier, sites(traces, earlier), NONE),
    )


class TableForecast:
    """A forecast by counting what followed the same site, visit, outcome and earlier site.

    Where that was met too rarely, the earlier site is left out, then the outcome; of visits only the first is told
    apart then. Sites are counted in a table of addresses of its own, so that counts outlive a simulator.

    Attributes:
        addresses: What the counts' addresses stand for.
        counts: `(R, 6)` int64: site, visit, outcome, earlier site, next site, count.
    """

    def __init__(self, addresses: AddressTable | None = None, counts: Ints | None = None) -> None:
        self.addresses = addresses or AddressTable()
        self.counts = np.zeros((0, 6), np.int64) if counts is None else counts
        self._simulators = AddressTable()
        self._ours, self._theirs = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._new: list[Ints] = []
        self._num_new = 0
        self._index()

    @classmethod
    def of(cls, traces: TraceBatch) -> Self:
        """What whole traces tell."""
        forecast = cls()
        forecast.begin(traces.addresses)
        start, every = np.zeros(len(traces), np.int64), np.ones(len(traces), np.bool_)
        forecast.observe(transitions(traces, heads(traces), start, traces.length, every))
        forecast._count()
        return forecast

    def copy(self) -> Self:
        """A forecast that knows the same and learns by itself."""
        self._count()
        return type(self)(AddressTable(list(self.addresses)), self.counts)

    def begin(self, addresses: AddressTable) -> None:
        """See `Forecast.begin`."""
        self._simulators = addresses
        self._ours, self._theirs = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def next(self, past: Past) -> tuple[Ints, Floats]:
        """See `Forecast.next`."""
        if 4 * self._num_new > self._total:
            self._count()
        self._translate()
        own = Past(
            _renumber(past.site, self._ours), past.instance, past.outcome, _renumber(past.earlier, self._ours)
        )
        site = np.full(len(past.site), NONE)
        share = np.zeros(len(past.site))
        todo = np.arange(len(site))
        for level in range(_LEVELS):
            if len(todo) == 0 or len(self._keys) == 0:
                break
            key = _key(level, *(column[todo] for column in own))
            place = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
            found = self._keys[place] == key
            rows, place = todo[found], place[found]
            site[rows], share[rows] = self._best[place], self._share[place]
            todo = todo[~found]
        theirs = _renumber(site, self._theirs)
        share[(theirs == NONE) & (site != NONE)] = 0.0
        return theirs, share

    def observe(self, transitions: Transitions) -> None:
        """See `Forecast.observe`."""
        self._translate()
        past, site = transitions
        row = np.empty((len(site), 6), np.int64)
        row[:, 0], row[:, 3], row[:, 4] = (_renumber(s, self._ours) for s in (past.site, past.earlier, site))
        row[:, 1], row[:, 2], row[:, 5] = np.minimum(past.instance, _MOST), past.outcome, 1
        self._new.append(row)
        self._num_new += len(row)
        if self._num_new > _MOST_ROWS:
            self._count()

    def _translate(self) -> None:
        """Learns the meaning of address ids that are new to it."""
        if len(self._ours) < len(self._simulators) or len(self._theirs) < len(self.addresses):
            ours = [self.addresses.intern(a) for a in self._simulators]
            self._ours = np.array(ours, np.int64)
            self._theirs = np.full(len(self.addresses), NONE)
            self._theirs[self._ours] = np.arange(len(ours))

    def _count(self) -> None:
        """Adds up what is new."""
        if not self._new:
            return
        rows = np.concatenate([self.counts, *self._new])
        self._new, self._num_new = [], 0
        groups, count = _add_up(rows[:, :5], rows[:, 5])
        kept = np.sort(np.argsort(-count, kind="stable")[:_MOST_ROWS])
        self.counts = np.concatenate([groups[kept], count[kept, None]], axis=1)
        self._index()

    def _index(self) -> None:
        """Finds the most likely next site of every context, at every level."""
        self._total = int(self.counts[:, 5].sum())
        site, instance, outcome, earlier, after, count = self.counts.T
        keys, best, share = [], [], []
        for level in range(_LEVELS):
            key = _key(level, site, instance, outcome, earlier).view(np.int64)
            pairs, number = _add_up(np.stack([key, after], axis=1), count)
            order = np.lexsort((number, pairs[:, 0]))
            contexts, first = np.unique(pairs[order, 0], return_index=True)
            if len(contexts) == 0:
                continue
            total = np.add.reduceat(number[order], first)
            winner = order[np.append(first[1:], len(order)) - 1]
            trusted = (total >= _LEAST_COUNT) | (level == _LEVELS - 1)
            keys.append(contexts.view(np.uint64)[trusted])
            best.append(pairs[winner, 1][trusted])
            share.append((number[winner] / total)[trusted])
        if not keys:
            self._keys, self._best, self._share = np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0)
            return
        joined = np.concatenate(keys)
        order = np.argsort(joined)
        self._keys, self._best, self._share = (
            joined[order],
            np.concatenate(best)[order],
            np.concatenate(share)[order],
        )


def _renumber(site: Ints, address: Ints) -> Ints:
    """Sites whose addresses have other numbers; `NONE` for those that have none."""
    number = address[np.maximum(site, 0) >> 1] if len(address) else np.full(len(site), NONE)
    return np.where((site == NONE) | (number == NONE), NONE, 2 * number + (site & 1))


def _add_up(rows: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Distinct rows, and the sum of their counts."""
    if len(rows) == 0:
        return rows, count
    order = np.lexsort(rows.T[::-1])
    rows = rows[order]
    first = np.flatnonzero(np.append(True, (rows[1:] != rows[:-1]).any(axis=1)))
    return rows[first], np.add.reduceat(count[order], first)


_MIX = np.uint64(0x9E3779B97F4A7C15)


def _key(level: int, site: Ints, instance: Ints, outcome: Ints, earlier: Ints) -> NDArray[np.uint64]:
    """Contexts as one number each; two that collide give a bad forecast, no more."""
    columns = (site, np.minimum(instance, (_MOST, 1, 1)[level]), outcome, earlier)[: (4, 3, 2)[level]]
    key = np.full(len(site), level + 1, np.uint64)
    for column in columns:
        key = (key ^ column.astype(np.uint64)) * _MIX
        key ^= key >> np.uint64(29)
    return key

"""The network rolled forward over the draws that are foreseen, for many traces at once.

Letters: n traces, C choices of all of them, H state size, A addresses, G visited places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ppx_proposals.cell import Cell, Chosen, State
from ppx_proposals.entries import Ints
from ppx_proposals.forecast import NONE, Forecast, Past, is_discrete, outcomes
from ppx_proposals.parameters import ParameterMemory, concatenate
from ppx_proposals.vocabulary import CATEGORICAL, ORDERED
from ppx_proposals.weights import Single
from ppx_server.address import AddressTable
from ppx_server.distributions import FAMILIES
from ppx_server.trace import Params

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
NormalsOf = Callable[[Ints, int, int], Floats]

MOST_STEPS = 64
"""Choices ahead of a trace."""
MOST_STATES = 1 << 17
"""Choices ahead of all traces of a call, each of which keeps its state: 1 KiB at H = 128."""
LEAST_CONFIDENCE = 0.25
"""A tail ends where it is less likely than this that the trace follows it."""
_MOST_NUMBERS = 16
"""Pairs of random numbers fetched at once per trace; at first it is 2."""
Scalar = TypeVar("Scalar", bound=np.generic)


class Places:
    """What counts of an address for a forecast, per address id: its size, and where its visits are counted.

    Attributes:
        size: `(A,)` elements of a draw.
        group: `(A,)` number of (address, name), by which visits are counted.
        discrete: `(A,)`.
        is_draw: `(A,)` whether it has a family.
        num_groups: G.
    """

    def __init__(self, addresses: AddressTable) -> None:
        groups: dict[tuple[str, str], int] = {}
        self.group = np.array(
            [groups.setdefault((a.address, a.name), len(groups)) for a in addresses], np.int64
        )
        self.size = np.array([int(np.prod(a.shape)) for a in addresses], np.int64)
        self.discrete = np.array([is_discrete(a) for a in addresses], np.bool_)
        self.is_draw = np.array([a.family in FAMILIES for a in addresses], np.bool_)
        self.num_groups = len(groups)


@dataclass(eq=False)
class Front:
    """Where n traces stand: at an element of a draw, or (`element == size`) between two draws.

    Attributes:
        row: `(n,)` which of the rollout's traces.
        ordinal: `(n,)` scalar draws made before.
        state: State of the network.
        site, instance, element, size, entry: `(n,)` the draw and its elements; or the draw before.
        outcome: `(n,)` what the draw gave, as in `Past`.
        earlier: `(n,)` site of the draw before this one.
        given: `(n,)` whether the draw is known to come, with its parameters, rather than foreseen.
        source: `(n,)` of given draws the row of element 0 in the traces executed.
        confidence: `(n,)` probability that the trace comes here.
    """

    row: Ints
    ordinal: Ints
    state: State
    site: Ints
    instance: Ints
    element: Ints
    size: Ints
    entry: Ints
    outcome: Ints
    earlier: Ints
    given: Flags
    source: Ints
    confidence: Floats

    @classmethod
    def fresh(cls, n: int, size: int, confidence: Floats) -> Front:
        """Traces that have made no draw; `size` is H."""
        return cls(
            row=np.arange(n),
            ordinal=np.zeros(n, np.int64),
            state=State.fresh(n, size),
            site=np.full(n, NONE),
            instance=np.zeros(n, np.int64),
            element=np.zeros(n, np.int64),
            size=np.zeros(n, np.int64),
            entry=np.zeros(n, np.int64),
            outcome=np.zeros(n, np.int64),
            earlier=np.full(n, NONE),
            given=np.zeros(n, np.bool_),
            source=np.zeros(n, np.int64),
            confidence=confidence,
        )

    def going(self) -> Flags:
        """Which traces are likely enough to come here."""
        going: Flags = self.given | (self.confidence >= LEAST_CONFIDENCE)
        return going

    def keep(self, rows: Flags) -> Front:
        """Chosen traces."""
        if rows.all():
            return self
        columns = {k: v[rows] for k, v in vars(self).items() if k != "state"}
        return Front(state=self.state.take(rows), **columns)


class _Step(NamedTuple):
    """One choice of n traces; h and c `(n, H)` in front of it."""

    front: Front
    params_id: Ints
    chosen: Chosen
    h: Single
    c: Single


@dataclass(frozen=True, eq=False)
class Rollout:
    """What is foreseen for n traces. It keeps their states, `(C + n)` times 8 H bytes, until it is settled.

    Attributes:
        begin: `(n,)` ordinals at which they go on.
        state: Their states there.
        offsets: `(n + 1,)`; choices of trace k are rows `offsets[k]:offsets[k + 1]`.
        entry, instance, element, ordinal: `(C,)` the draws.
        params_id: `(C,)` rows of `params`: the parameters with which discrete choices were made, or `NONE`.
        given: `(C,)` whether the draw and its parameters were known, rather than foreseen.
        value, z, log_ratio, before, feature: `(C,)`, as in `Chosen`.
        params: Parameters.
        states: Per step, the traces that took it, and their h and c in front of the draw.
        settled: `(sum of begin,)` log ratios of the draws made before, trace after trace.
    """

    begin: Ints
    state: State
    offsets: Ints
    entry: Ints
    instance: Ints
    element: Ints
    ordinal: Ints
    params_id: Ints
    given: Flags
    value: Floats
    z: Floats
    log_ratio: Floats
    before: Ints
    feature: Single
    params: Params
    states: list[tuple[Ints, Single, Single]]
    settled: Floats

    def hidden(self, rows: Ints, step: Ints) -> Single:
        """h `(r, H)` in front of the draws that are the given steps `(r,)` of given traces."""
        h = np.empty((len(rows), self.state.h.shape[1]), np.float32)
        for number in np.unique(step).tolist():
            among = np.flatnonzero(step == number)
            members, all_h, _ = self.states[number]
            h[among] = all_h[np.searchsorted(members, rows[among])]
        return h

    def after(self, rows: Ints, steps: Ints) -> State:
        """States of given traces after they took so many steps."""
        state = self.state.take(rows)
        for number in np.unique(steps[steps > 0]).tolist():
            among = np.flatnonzero(steps == number)
            members, h, c = self.states[number - 1]
            place = np.searchsorted(members, rows[among])
            last = self.offsets[rows[among]] + number - 1
            state.h[among], state.c[among] = h[place], c[place]
            state.before[among], state.feature[among] = self.before[last], self.feature[last]
        return state

    def tails(self, address_id: Ints) -> dict[str, NDArray[Any]]:
        """The choices as columns of `Tails`. Discrete choices under foreseen parameters go by coordinate: a value
        might be impossible under the actual ones."""
        by_value = self.given & ~np.isnan(self.value)
        return {
            "address_id": address_id[self.entry].astype(np.int32),
            "instance": self.instance.astype(np.int32),
            "value": np.where(by_value, self.value, np.nan),
            "z": np.where(by_value, np.nan, self.z),
        }


class Given(NamedTuple):
    """Parameters of the draws that are known to come: vectors, and which of them each row of the traces has."""

    params: Params
    params_id: Ints


class Roller:
    """Rolls the network forward.

    Args:
        cell: The network.
        forecast: Foresees draws.
        memory: Foresees parameters.

    Attributes:
        places: What is known of addresses; to be replaced as the table grows.
    """

    def __init__(self, cell: Cell, forecast: Forecast, memory: ParameterMemory) -> None:
        self._cell, self._forecast, self._memory = cell, forecast, memory
        self.places = Places(AddressTable())

    def roll(
        self, front: Front, visits: NDArray[np.int32], given: Given, settled: Floats, numbers: Numbers
    ) -> Rollout:
        """Rolls n traces forward.

        Args:
            front: Where they stand.
            visits: `(n, G)` visits of each trace so far; changed.
            given: Parameters of given draws.
            settled: See `Rollout`.
            numbers: Their random numbers.
        """
        cell, begin, state = self._cell, front.ordinal.copy(), front.state
        params = concatenate([given.params, self._memory.params])
        steps: list[_Step] = []
        for _ in range(max(1, min(MOST_STEPS, MOST_STATES // max(len(begin), 1)))):
            self._turn(front, visits)
            params_id = self._parameters(front, given)
            going = front.going()
            front, params_id = front.keep(going), params_id[going]
            if len(front.row) == 0:
                break
            h, c = cell.advance(front.state, front.entry, front.instance, front.element)
            normals = numbers.at(front.row, front.ordinal)
            chosen = cell.choose(h, front.entry, params, params_id, normals)
            steps.append(_Step(front, params_id, chosen, h, c))
            front = self._move(steps[-1])
        return assemble(steps, begin, state, params, settled)

    def _turn(self, front: Front, visits: NDArray[np.int32]) -> None:
        """Foresees the next controlled draw of the traces that stand between two draws."""
        places = self.places
        todo = between = np.flatnonzero(front.element == front.size)
        front.given[between] = False
        for _ in range(MOST_STEPS):
            if len(todo) == 0:
                break
            past = Past(front.site[todo], front.instance[todo], front.outcome[todo], front.earlier[todo])
            site, share = self._forecast.next(past)
            front.confidence[todo] *= np.where(site == NONE, 0.0, share)
            going = front.confidence[todo] >= LEAST_CONFIDENCE
            todo, site = todo[going], site[going]
            address = site >> 1
            at = front.row[todo], places.group[address]
            front.earlier[todo], front.site[todo] = front.site[todo], site
            front.instance[todo] = visits[at]
            visits[at] += 1
            front.element[todo], front.size[todo] = 0, places.size[address]
            front.outcome[todo] = np.where(places.discrete[address], NONE, 0)
            # Draws that nobody chooses take random numbers, but no step.
            passed = (site & 1) == 0
            front.ordinal[todo[passed]] += front.size[todo[passed]]
            todo = todo[passed]
        front.confidence[todo] = 0.0
        between = between[front.confidence[between] > 0.0]
        entry = self._cell.entries.foreseen(front.site[between] >> 1)
        front.entry[between] = np.maximum(entry, 0)
        front.confidence[between[(entry < 0) | (front.size[between] == 0)]] = 0.0

    def _parameters(self, front: Front, given: Given) -> Ints:
        """Rows of the parameters of n draws; `NONE` where they do not matter."""
        known = np.flatnonzero(front.given)
        result = np.full(len(front.row), NONE)
        result[known] = given.params_id[front.source[known] + front.element[known]]
        kind = self._cell.entries.kind
        open_ = np.flatnonzero(front.going() & ~front.given)
        open_ = open_[np.isin(kind[front.entry[open_]], (ORDERED, CATEGORICAL))]
        if len(open_):
            found = self._memory.find(front.entry[open_], front.instance[open_], front.element[open_])
            front.confidence[open_[found == NONE]] = 0.0
            result[open_] = len(given.params) + found
        return result

    def _move(self, step: _Step) -> Front:
        """Where the traces stand after a step."""
        front, chosen = step.front, step.chosen
        outcome = outcomes(self.places.discrete[front.site >> 1], chosen.value)
        foreseen = ~front.given & ~np.isnan(chosen.value)
        reliability = self._memory.reliability(front.entry) if foreseen.any() else np.ones(len(foreseen))
        return replace(
            front,
            ordinal=front.ordinal + 1,
            state=State(step.h, step.c, chosen.before, chosen.feature),
            site=front.site.copy(),
            instance=front.instance.copy(),
            element=front.element + 1,
            size=front.size.copy(),
            entry=front.entry.copy(),
            outcome=np.where(front.element == 0, outcome, front.outcome),
            earlier=front.earlier.copy(),
            given=front.given.copy(),
            confidence=front.confidence * np.where(foreseen, reliability, 1.0),
        )


class Numbers:
    """Random numbers of n traces, fetched a few at a time.

    Args:
        slots: `(n,)`.
        normals: As in `SpeculativeGuide.speculate`.
    """

    def __init__(self, slots: Ints, normals: NormalsOf) -> None:
        self._slots, self._normals = slots, normals
        self._first, self._count = np.zeros(len(slots), np.int64), np.zeros(len(slots), np.int64)
        self._room = np.empty((len(slots), _MOST_NUMBERS, 2))
        self._next = 2

    def at(self, rows: Ints, ordinal: Ints) -> Floats:
        """The numbers `(r, 2)` of draws with the given ordinals `(r,)`, which must not decrease from call to call."""
        missing = ordinal >= self._first[rows] + self._count[rows]
        if missing.any():
            for start in np.unique(ordinal[missing]).tolist():
                group = rows[missing & (ordinal == start)]
                self._room[group, : self._next] = self._normals(self._slots[group], start, self._next)
                self._first[group], self._count[group] = start, self._next
            self._next = min(2 * self._next, _MOST_NUMBERS)
        numbers: Floats = self._room[rows, ordinal - self._first[rows]]
        return numbers


def assemble(steps: list[_Step], begin: Ints, state: State, params: Params, settled: Floats) -> Rollout:
    """Lays steps out trace after trace."""
    rows = [step.front.row for step in steps]
    length = np.bincount(np.concatenate([*rows, np.zeros(0, np.int64)]), minlength=len(begin))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
    place = [offsets[row] + number for number, row in enumerate(rows)]

    def column(of: Callable[[_Step], NDArray[Scalar]], dtype: type[Scalar]) -> NDArray[Scalar]:
        result = np.empty(offsets[-1], dtype)
        for step, where in zip(steps, place, strict=True):
            result[where] = of(step)
        return result

    return Rollout(
        begin=begin,
        state=state,
        offsets=offsets,
        entry=column(lambda s: s.front.entry, np.int64),
        instance=column(lambda s: s.front.instance, np.int64),
        element=column(lambda s: s.front.element, np.int64),
        ordinal=column(lambda s: s.front.ordinal, np.int64),
        params_id=column(lambda s: s.params_id, np.int64),
        given=column(lambda s: s.front.given, np.bool_),
        value=column(lambda s: s.chosen.value, np.float64),
        z=column(lambda s: s.chosen.z, np.float64),
        log_ratio=column(lambda s: s.chosen.log_ratio, np.float64),
        before=column(lambda s: s.chosen.before, np.int64),
        feature=column(lambda s: s.chosen.feature, np.float32),
        params=params,
        states=[(step.front.row, step.h, step.c) for step in steps],
        settled=settled,
    )

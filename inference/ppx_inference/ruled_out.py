"""Traces that the observations rule out: how many, which observe made it so, and by how much the nearest one missed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_server.completeness import Mismatch, mismatches
from ppx_server.executor import Executes
from ppx_server.observations import ObservationSet
from ppx_server.script import ScriptBatch
from ppx_server.trace import Ints, Status, TensorTable, TraceBatch

Bools = NDArray[np.bool_]

_MOST_REASONS = 3
_NUM_REPEATED = 16
"""Traces that are executed again to see by how much they miss."""


class Reason(NamedTuple):
    """Why traces are ruled out.

    Attributes:
        name: Name of the observation.
        mismatch: What the traces observe instead of what was given; None if they observe it, but with density zero.
        num_traces: How many.
        visit: The visit at which the first of them shows it, from 0.
        given: The shape that was given, where another one was observed.
        observed: The shape that the first of the traces observes.
    """

    name: str
    mismatch: Mismatch | None
    num_traces: int
    visit: int
    given: tuple[int, ...]
    observed: tuple[int, ...]

    def __str__(self) -> str:
        name, visit = repr(self.name), self.visit
        match self.mismatch:
            case Mismatch.MORE:
                return f"made more visits of {name} than were given ({visit})"
            case Mismatch.FEWER:
                return f"made fewer visits of {name} than were given (the first of these traces {visit})"
            case Mismatch.SHAPE if 0 in self.given:
                return f"observe {name}, of which an empty measurement was given"
            case Mismatch.SHAPE:
                return f"observe {name} in shape {self.observed}, where shape {self.given} was given"
        where = name if visit == 0 else f"({name}, {visit})"
        return f"give the value of {where} density zero"

    @property
    def remedy(self) -> str:
        """What to do if it is so in every trace."""
        match self.mismatch:
            case Mismatch.MORE | Mismatch.FEWER:
                return (
                    f"give as many visits of {self.name!r} as were measured, None for one that was not, or say "
                    f"partial=[{self.name!r}] if what is given is not all there is"
                )
            case Mismatch.SHAPE if self.observed == () and len(self.given) == 1:
                return f"the model observes single numbers: give ({self.name!r}, 0), ({self.name!r}, 1), ... one by one"
            case Mismatch.SHAPE:
                return "give the value in the shape in which the model observes it"
        return "check values and units, or widen the observation noise of the model"


def reasons(traces: TraceBatch) -> list[Reason]:
    """Why traces are ruled out that did not fail, the most frequent reason first; a trace may have several."""
    table, addresses = traces.observations, traces.addresses
    trace = np.repeat(np.arange(len(traces)), np.diff(table.offsets))
    rows = np.flatnonzero(np.isneginf(table.log_prob))
    rows = rows[traces.status[trace[rows]] == Status.OK]
    found = []
    for address_ids in _alike(traces, rows):
        these = rows[np.isin(table.address_id[rows], address_ids)]
        entry = addresses[int(address_ids[0])]
        mismatch = Mismatch.of(entry)
        first = int(these[0])
        name = entry.name or entry.address
        observed = _shape_in(table, traces, int(trace[first]), name, int(table.instance[first]))
        found.append(
            Reason(
                name,
                mismatch,
                len(np.unique(trace[these])),
                int(table.instance[first]),
                entry.shape,
                observed,
            )
        )
    return sorted(found, key=lambda reason: -reason.num_traces)


def explain(traces: TraceBatch) -> str:
    """In one or two sentences: how many traces the observations rule out, and which observe made it so.

    With the remedy if they rule out all that did not fail. Empty if nothing is ruled out.
    """
    count, finished = int(np.count_nonzero(is_ruled_out(traces))), _num_finished(traces)
    if not count:
        return ""
    found = reasons(traces)
    parts = [
        f"they {r}" if len(found) == 1 and r.num_traces == count else f"{r.num_traces:,} {r}"
        for r in found[:_MOST_REASONS]
    ]
    if len(found) > _MOST_REASONS:
        parts.append(f"others for {len(found) - _MOST_REASONS} more reasons")
    how_many = f"all {count:,}" if count == finished else f"{count:,} of {finished:,}"
    text = f"the observations rule out {how_many} traces: {'; '.join(parts)}"
    return f"{text}; {found[0].remedy}" if count == finished else text


def nearest_miss(simulator: Executes, traces: TraceBatch, observations: ObservationSet) -> str:
    """By how much traces miss the observation that most often has density zero; empty if there is none.

    The draws of some of the traces are repeated, and the observation drawn. The nearest value to the one given shows
    what the model can do, such as in which unit it observes.
    """
    most = next((r for r in reasons(traces) if r.mismatch is None), None)
    given = None if most is None else observations.get((most.name, most.visit))
    if most is None or given is None:
        return ""
    ruled_out = np.flatnonzero(is_ruled_out(traces))[:_NUM_REPEATED]
    drawn = simulator.execute(ScriptBatch.replay(traces.select(ruled_out)), None)
    table = drawn.observations
    rows = table.rows(drawn.addresses.find(most.name), most.visit)
    sizes = np.diff(table.data_offsets)
    fitting = [row for row in rows.tolist() if row >= 0 and sizes[row] == np.size(given)]
    values = np.array([table.data[table.data_offsets[r] : table.data_offsets[r + 1]] for r in fitting])
    if not values.size:
        return ""
    misses = np.nan_to_num(np.abs(values - np.ravel(given)), nan=0.0)  # what was not measured cannot miss
    nearest = int(np.argmin(misses.max(axis=1)))
    element = int(np.argmax(misses[nearest]))
    place = ", ".join(map(str, np.unravel_index(element, np.shape(given)))) if np.ndim(given) else ""
    where = f" of its element [{place}]" if place else ""
    return (
        f"in {len(values)} of them, with the observation drawn, the nearest value{where} is "
        f"{values[nearest, element]:.6g}, where {np.ravel(given)[element]:.6g} is given"
    )


def is_ruled_out(traces: TraceBatch) -> Bools:
    """`(K,)`, whether the observations rule out a trace that did not fail."""
    return np.asarray(np.isneginf(traces.log_likelihood) & (traces.status == Status.OK))


def observe_something_else(traces: TraceBatch) -> bool:
    """Whether every trace that did not fail, of which there is one, observes something else than was given."""
    return 0 < _num_finished(traces) == _num_of(traces, *Mismatch)


def observe_other_shapes(traces: TraceBatch) -> bool:
    """Whether that is so, and for want of the shape that was given; then no other trace will observe it."""
    return observe_something_else(traces) and 2 * _num_of(traces, Mismatch.SHAPE) > _num_finished(traces)


def _num_of(traces: TraceBatch, *kinds: Mismatch) -> int:
    """How many traces that did not fail observe something else in one of these ways."""
    table, rows = traces.observations, mismatches(traces)
    ids = np.unique(table.address_id[rows])
    rows = rows[
        np.isin(table.address_id[rows], [i for i in ids if Mismatch.of(traces.addresses[i]) in kinds])
    ]
    trace = np.unique(np.searchsorted(table.offsets, rows, side="right") - 1)
    return int(np.count_nonzero(traces.status[trace] == Status.OK))


def _num_finished(traces: TraceBatch) -> int:
    return int(np.count_nonzero(traces.status == Status.OK))


def _alike(traces: TraceBatch, rows: Ints) -> Iterator[list[int]]:
    """Address ids of rows, in groups of one name and one kind of mismatch."""
    groups: dict[tuple[str, Mismatch | None], list[int]] = {}
    for address_id in dict.fromkeys(traces.observations.address_id[rows].tolist()):
        entry = traces.addresses[address_id]
        groups.setdefault((entry.name or entry.address, Mismatch.of(entry)), []).append(address_id)
    yield from groups.values()


def _shape_in(table: TensorTable, traces: TraceBatch, trace: int, name: str, visit: int) -> tuple[int, ...]:
    """The shape in which a trace observes a visit of a name, or else a visit of an address."""
    entries = [
        (traces.addresses[int(table.address_id[row])], int(table.instance[row]))
        for row in range(int(table.offsets[trace]), int(table.offsets[trace + 1]))
    ]
    made = [(entry, instance) for entry, instance in entries if entry.family]
    by_name = [entry.shape for entry, instance in made if entry.name == name and instance == visit]
    by_address = [entry.shape for entry, _ in made if entry.address == name]
    return (by_name or by_address[visit:] or [()])[0]

"""Rejection loops that are not marked, found by experiment: rounds that can be left out without any influence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest

import numpy as np
from numpy.typing import NDArray

from ppx_inference.conformance.differences import describe, difference
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_server.script import ScriptBatch
from ppx_server.trace import LoopTable, Status, TraceBatch

_SHARE = 0.05
"""Of the time for all."""
_EXPERIMENTS_PER_ADDRESS, _EXPERIMENTS = 40, 400
_LEAST_TRACES = 2
"""In so many traces a round must have been without influence."""


@dataclass(frozen=True)
class _Round:
    """Draws from one visit of an address to the next, within one trace.

    Attributes:
        trace: Position of the trace.
        address_id: Where the round begins.
        begin: Row of its first draw.
        end: Row behind its last draw, where the next round begins.
    """

    trace: int
    address_id: int
    begin: int
    end: int


def rejection(evidence: Evidence) -> Iterator[Finding]:
    """Leaves out single rounds of loops, with all other draws as they were, and looks whether anything changes."""
    traces = evidence.sound
    rounds = _rounds(traces, int(_SHARE * evidence.subject.seconds / max(evidence.seconds_per_trace, 1e-9)))
    if not rounds:
        detail = "no loop of a varying number of rounds" + (
            ", but marked ones" if len(traces.loops.begin) else ""
        )
        yield Finding("rejection loops", Level.PASS, detail)
        return
    expected = _without(traces, rounds)
    again = evidence.simulator.execute(ScriptBatch.replay(expected), None)
    idle: dict[int, set[int]] = {}
    for position, one in enumerate(rounds):
        if again.status[position] == Status.OK and difference(expected, again, position) is None:
            idle.setdefault(one.address_id, set()).add(one.trace)
    found = {a: t for a, t in idle.items() if len(t) >= _LEAST_TRACES}
    if not found:
        tried = len({one.address_id for one in rounds})
        detail = f"loops at {tried} addresses: every round that was left out made a difference"
        yield Finding("rejection loops", Level.PASS, detail, facts={"experiments": len(rounds)})
        return
    address_id = min(found, key=lambda a: int(np.flatnonzero(traces.address_id == a)[0]))
    tried = sum(one.address_id == address_id for one in rounds)
    detail = (
        f"a loop that begins at {describe(traces.addresses[address_id])} seems to draw until something is accepted: in "
        f"{len(found[address_id])} traces ({tried} tried) a round could be left out without any influence on the rest"
    )
    remedy = (
        "mark it: ppx.rejection in Python, ppx_client::rejection_scope in C++; else proposals and weights "
        "have to deal with draws that were thrown away"
    )
    yield Finding("rejection loops", Level.WARN, detail, remedy, {"experiments": len(rounds)})


def _rounds(traces: TraceBatch, most: int) -> list[_Round]:
    """Rounds to leave out: unmarked, at addresses whose number of visits varies, of as many traces as possible."""
    trace = np.repeat(np.arange(len(traces)), traces.length)
    marked = _marked(traces)
    rounds: list[_Round] = []
    for address_id in np.unique(traces.address_id[~marked]).tolist():
        rows = np.flatnonzero(traces.address_id == address_id)
        starts = rows[
            np.concatenate([[True], (np.diff(traces.instance[rows]) != 0) | (np.diff(trace[rows]) != 0)])
        ]
        visits = np.bincount(trace[starts], minlength=len(traces))
        if visits.max() < 2 or visits.max() == visits.min():
            continue
        pairs = [
            _Round(int(trace[a]), address_id, a, b)
            for a, b in pairwise(starts.tolist())
            if trace[a] == trace[b] and not marked[a:b].any()
        ]
        by_trace: dict[int, list[_Round]] = {}
        for one in pairs:
            by_trace.setdefault(one.trace, []).append(one)
        in_turn = [one for turn in zip_longest(*by_trace.values()) for one in turn if one is not None]
        rounds += in_turn[:_EXPERIMENTS_PER_ADDRESS]
    return rounds[: max(min(most, _EXPERIMENTS), 2)]


def _marked(traces: TraceBatch) -> NDArray[np.bool_]:
    """Which draws lie in a marked loop, `(N,)`."""
    marked = np.zeros(len(traces.value), bool)
    loops = traces.loops
    first = np.repeat(traces.offsets[:-1], np.diff(loops.offsets))
    for begin, end in zip((first + loops.begin).tolist(), (first + loops.end).tolist(), strict=True):
        marked[begin:end] = True
    return marked


def _without(traces: TraceBatch, rounds: list[_Round]) -> TraceBatch:
    """The traces as they would be if the rounds had not happened, one for each."""
    keys: dict[tuple[str, str], int] = {}
    key_of = np.array([keys.setdefault((a.address, a.name), len(keys)) for a in traces.addresses])
    rows, instances, lengths = [], [], []
    for one in rounds:
        before = np.arange(traces.offsets[one.trace], one.begin)
        after = np.arange(one.end, traces.offsets[one.trace + 1])
        gone = np.arange(one.begin, one.end)
        visits = np.unique(np.stack([key_of[traces.address_id[gone]], traces.instance[gone]]), axis=1)[0]
        shift = np.bincount(visits, minlength=len(keys))
        rows += [before, after]
        instances += [
            traces.instance[before],
            traces.instance[after] - shift[key_of[traces.address_id[after]]],
        ]
        lengths.append(len(before) + len(after))
    kept = np.concatenate(rows)
    base = traces.select([one.trace for one in rounds])
    columns = {
        n: getattr(traces, n)[kept] for n in ("address_id", "params_id", "value", "z", "log_prob", "flags")
    }
    return replace(
        base,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        instance=np.concatenate(instances).astype(np.int32),
        log_q=columns["log_prob"],
        loops=LoopTable.empty(len(rounds)),
        **columns,
    )

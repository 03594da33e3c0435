"""Rejection loops that are not marked, found by experiment.

A round that the model threw away has no influence: the trace without it is the same trace, and so is one in which it is
made many times. Rounds of loops that count, walk or wait may be left out by chance, but cannot be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_inference.conformance.differences import describe, difference
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_server.executor import Executes
from ppx_server.script import ScriptBatch
from ppx_server.trace import LoopTable, Status, TraceBatch

_SHARE = 0.05
"""Of the time for all."""
_EXPERIMENTS_PER_ADDRESS, _EXPERIMENTS = 40, 400
_COPIES = 30
_LEAST_TRACES, _LEAST_SHARE = 2, 0.9
"""In so many traces rounds must be without influence, and of those that can be left out so many can be repeated."""


@dataclass(frozen=True)
class Round:
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


class Loop(NamedTuple):
    """An unmarked rejection loop.

    Attributes:
        address_id: Where its rounds begin.
        tried: How many rounds were tried.
        rejected: How many of them had no influence.
    """

    address_id: int
    tried: int
    rejected: int


def rejection(evidence: Evidence) -> Iterator[Finding]:
    """Whether there are unmarked rejection loops."""
    traces = evidence.sound
    affordable = int(_SHARE * evidence.subject.seconds / max(evidence.seconds_per_trace, 1e-9))
    rounds = rounds_to_try(traces, affordable)
    if not rounds:
        detail = "no loop of a varying number of rounds" + (
            ", but marked ones" if len(traces.loops.begin) else ""
        )
        yield Finding("rejection loops", Level.PASS, detail)
        return
    facts = {"experiments": len(rounds)}
    found = unmarked(evidence.simulator, traces, rounds)
    if found:
        loop = found[0]
        detail = (
            f"a loop that begins at {describe(traces.addresses[loop.address_id])} draws until something is accepted: "
            f"{loop.rejected} of its rounds ({loop.tried} tried) could be left out, or repeated {_COPIES} times, "
            "without any influence on the rest"
        )
        yield Finding("rejection loops", Level.WARN, detail, _REMEDY, facts)
        return
    places = len({one.address_id for one in rounds})
    detail = f"loops at {places} addresses: their rounds make a difference"
    yield Finding("rejection loops", Level.PASS, detail, facts=facts)


def unmarked(simulator: Executes, traces: TraceBatch, rounds: Sequence[Round]) -> list[Loop]:
    """The rejection loops among loops, found by leaving out rounds and repeating those that could be left out.

    Args:
        simulator: Where the traces come from.
        traces: They, none of them failed.
        rounds: What to leave out, one at a time; all other draws are forced to be as they were.
    """
    idle = _without_influence(simulator, traces, rounds, copies=0)
    rejected = _without_influence(simulator, traces, idle, copies=_COPIES)
    found = []
    for address_id in dict.fromkeys(one.address_id for one in rejected):
        tried, left_out, repeated = (
            [one.trace for one in some if one.address_id == address_id] for some in (rounds, idle, rejected)
        )
        if len(set(repeated)) >= _LEAST_TRACES and len(repeated) >= _LEAST_SHARE * len(left_out):
            found.append(Loop(address_id, len(tried), len(repeated)))
    return found


_REMEDY = (
    "mark its begin and its end: ppx.rejection in Python, ppx_client::rejection_scope in C++, the message Rejection; "
    "else proposals and weights have to deal with draws that were thrown away"
)


def _without_influence(
    simulator: Executes, traces: TraceBatch, rounds: Sequence[Round], *, copies: int
) -> list[Round]:
    """The rounds that can be made `copies` times instead of once, and everything else comes out as it was."""
    if not rounds:
        return []
    expected = _changed(traces, rounds, copies)
    again = simulator.execute(ScriptBatch.replay(expected), None)
    return [
        one
        for position, one in enumerate(rounds)
        if again.status[position] == Status.OK and difference(expected, again, position) is None
    ]


def rounds_to_try(traces: TraceBatch, most: int) -> list[Round]:
    """Rounds to leave out: unmarked, at addresses whose number of visits varies, of as many traces as possible."""
    trace = np.repeat(np.arange(len(traces)), traces.length)
    marked = _marked(traces)
    rounds: list[Round] = []
    for address_id in np.unique(traces.address_id[~marked]).tolist():
        rows = np.flatnonzero(traces.address_id == address_id)
        starts = rows[
            np.concatenate([[True], (np.diff(traces.instance[rows]) != 0) | (np.diff(trace[rows]) != 0)])
        ]
        visits = np.bincount(trace[starts], minlength=len(traces))
        if visits.max() < 2 or visits.max() == visits.min():
            continue
        pairs = [
            Round(int(trace[a]), address_id, a, b)
            for a, b in pairwise(starts.tolist())
            if trace[a] == trace[b] and not marked[a:b].any()
        ]
        by_trace: dict[int, list[Round]] = {}
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


def _changed(traces: TraceBatch, rounds: Sequence[Round], copies: int) -> TraceBatch:
    """The traces as they would be if a round had been made `copies` times; one trace for each round."""
    keys: dict[tuple[str, str], int] = {}
    key_of = np.array([keys.setdefault((a.address, a.name), len(keys)) for a in traces.addresses])
    rows, instances, lengths = [], [], []
    for one in rounds:
        before = np.arange(traces.offsets[one.trace], one.begin)
        within = np.arange(one.begin, one.end)
        after = np.arange(one.end, traces.offsets[one.trace + 1])
        pairs = np.stack([key_of[traces.address_id[within]], traces.instance[within]])
        visits = np.bincount(np.unique(pairs, axis=1)[0], minlength=len(keys))
        parts = [(before, 0), *((within, copy) for copy in range(copies)), (after, copies - 1)]
        rows += [part for part, _ in parts]
        instances += [
            traces.instance[part] + n * visits[key_of[traces.address_id[part]]] for part, n in parts
        ]
        lengths.append(sum(len(part) for part, _ in parts))
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

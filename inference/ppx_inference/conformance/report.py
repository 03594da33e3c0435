"""The report of the kit as plain values: addresses, transitions between them, and the JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_server.address import Address
from ppx_server.trace import TraceBatch

START, END = -1, -2
"""Where every trace begins and ends, in transitions."""


class AddressRow(NamedTuple):
    """What is known of one address.

    Attributes:
        address: Enclosing scopes, then the name or the call site.
        name: The name; empty if there is none.
        kind: `draw`, `observe`, `tag` or `result`.
        family: Family of the distribution; empty for tags and results.
        shape: Shape of the value.
        share: Of the traces, how many visit it.
        visits: How often a trace visits it, on average over all traces.
    """

    address: str
    name: str
    kind: str
    family: str
    shape: tuple[int, ...]
    share: float
    visits: float


class Transition(NamedTuple):
    """From one draw to the next.

    Attributes:
        source: Address id, or START.
        target: Address id, or END.
        number: How often, in all traces.
        probability: Share of what follows the source.
    """

    source: int
    target: int
    number: int
    probability: float


def address_rows(traces: TraceBatch) -> list[AddressRow]:
    """The addresses of traces: draws in the order in which they are first made, then observations, tags and results."""
    rows = list(draw_rows(traces).values())
    for kind, table in (("observe", traces.observations), ("tag", traces.tags), ("result", traces.results)):
        trace = np.repeat(np.arange(len(traces)), np.diff(table.offsets))
        rows += _rows_of(kind, traces, table.address_id, trace).values()
    return rows


def draw_rows(traces: TraceBatch) -> dict[int, AddressRow]:
    """What is known of the addresses of draws, by id, in the order in which they are first made."""
    starts, trace = _draw_starts(traces)
    return _rows_of("draw", traces, traces.address_id[starts], trace)


def transitions(traces: TraceBatch, *, among: Sequence[int] | None = None) -> list[Transition]:
    """How often draws follow each other; an array draw counts once.

    Args:
        traces: K traces.
        among: Ids of the addresses that count; what lies between them is passed over. By default all.
    """
    starts, trace = _draw_starts(traces)
    ids = traces.address_id[starts].astype(np.int64)
    if among is not None:
        kept = np.isin(ids, list(among))
        ids, trace = ids[kept], trace[kept]
    counts = np.bincount(trace, minlength=len(traces))
    ends = np.cumsum(counts)
    source = np.insert(ids, ends - counts, START)
    target = np.insert(ids, ends, END)
    pairs, number = np.unique(np.stack([source, target]), axis=1, return_counts=True)
    leaving = Counter[int]()
    for a, n in zip(pairs[0].tolist(), number.tolist(), strict=True):
        leaving[a] += n
    return [
        Transition(a, b, n, n / leaving[a])
        for a, b, n in zip(pairs[0].tolist(), pairs[1].tolist(), number.tolist(), strict=True)
    ]


def passed(findings: Sequence[Finding], *, strict: bool) -> bool:
    """Whether nothing failed; if strict, nothing was warned of either."""
    bad = {Level.FAIL, Level.WARN} if strict else {Level.FAIL}
    return not any(f.level in bad for f in findings)


def document(
    findings: Sequence[Finding], evidence: Evidence | None, *, strict: bool, complete: bool = True
) -> dict[str, Any]:
    """What `ppx check --json` prints; the schema is in docs/conformance.md.

    Args:
        findings: What was found so far.
        evidence: The simulator; None if it did not start.
        strict: Whether warnings count as failures.
        complete: Whether all checks were made.
    """
    counts = Counter(f.level for f in findings)
    traces = None if evidence is None else evidence.seen
    return {
        "passed": passed(findings, strict=strict),
        "strict": strict,
        "complete": complete,
        "model_name": "" if evidence is None else evidence.simulator.model_name,
        "protocol": None if evidence is None else "batch" if evidence.takes_batches else "1.0",
        "num_traces": 0 if traces is None else len(traces),
        "counts": {str(level): counts[level] for level in Level},
        "checks": [{**asdict(f), "level": str(f.level), "facts": f.facts or {}} for f in findings],
        "addresses": [] if traces is None else [row._asdict() for row in address_rows(traces)],
        "transitions": [] if traces is None else _named(traces),
    }


def _named(traces: TraceBatch) -> list[dict[str, Any]]:
    def name(address_id: int) -> str | None:
        return None if address_id < 0 else traces.addresses[address_id].address

    return [
        {"from": name(t.source), "to": name(t.target), "count": t.number, "probability": t.probability}
        for t in transitions(traces)
    ]


def _rows_of(
    kind: str, traces: TraceBatch, ids: NDArray[np.int32], trace: NDArray[np.int64]
) -> dict[int, AddressRow]:
    distinct, first, visits = np.unique(ids, return_index=True, return_counts=True)
    visited = np.unique(np.stack([ids, trace]), axis=1)[0]
    share = np.bincount(visited, minlength=1 + max(distinct.tolist(), default=0))[distinct] / len(traces)
    rows = {}
    for i in np.argsort(first).tolist():
        entry: Address = traces.addresses[int(distinct[i])]
        rows[int(distinct[i])] = AddressRow(
            entry.address,
            entry.name,
            kind,
            entry.family,
            entry.shape,
            float(share[i]),
            float(visits[i]) / len(traces),
        )
    return rows


def _draw_starts(traces: TraceBatch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of every draw, and its trace."""
    trace = np.repeat(np.arange(len(traces)), traces.length)
    again = np.zeros(len(trace), bool)
    again[1:] = (np.diff(trace) == 0) & (np.diff(traces.address_id) == 0) & (np.diff(traces.instance) == 0)
    starts = np.flatnonzero(~again)
    return starts, trace[starts]

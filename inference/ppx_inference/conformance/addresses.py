"""Addresses: whether there are ever more of them, what varies in them, and which have names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_server.trace import TraceBatch

_VARYING = re.compile(r"0[xX][0-9a-fA-F]+|[0-9a-fA-F]{8,}|\d+")
_POINTER = re.compile(r"0[xX][0-9a-fA-F]{3,}|(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{8,}")
"""Places in memory as programs print them; so many hexadecimal digits in a row are no count."""
_CHECKPOINTS = (16, 4, 1)
_FEW, _ENOUGH_TRACES = 12, 64
"""So many addresses may be anything; fewer traces have not seen all branches."""
_EXPLODING, _GROWING = 0.7, 0.35
"""Exponents b of `addresses ~ traces^b`: 1 for an address per trace, 0 for a fixed number, and little more where rare
branches are still to be seen."""
_ROUNDS = 10
"""How many rounds of a loop may have an address each."""
_SHOWN = 3


@dataclass(frozen=True)
class VaryingPart:
    """Addresses that are alike but for some digits.

    Attributes:
        template: What they have in common, with `#` for what varies.
        examples: Some of them.
        is_pointer: Whether what varies looks like a place in memory.
    """

    template: str
    examples: tuple[str, ...]
    is_pointer: bool

    def __str__(self) -> str:
        what = "a pointer" if self.is_pointer else "a number"
        return f"{what}, # in {self.template!r} ({', '.join(map(repr, self.examples))})"


def varying_part(addresses: Sequence[str]) -> VaryingPart | None:
    """What varies between addresses; None unless they differ in numbers only."""
    pieces = [_VARYING.split(a) for a in addresses]
    numbers = [_VARYING.findall(a) for a in addresses]
    if len(set(map(tuple, pieces))) != 1:
        return None
    changing = [len({n[i] for n in numbers}) > 1 for i in range(len(numbers[0]))]
    if not any(changing):
        return None
    template = pieces[0][0]
    for number, changes, piece in zip(numbers[0], changing, pieces[0][1:], strict=True):
        template += ("#" if changes else number) + piece
    varying = [n[i] for n in numbers for i, changes in enumerate(changing) if changes]
    examples = tuple(dict.fromkeys(addresses))[:_SHOWN]
    return VaryingPart(template, examples, all(_POINTER.fullmatch(v) for v in varying))


def growth(evidence: Evidence) -> Iterator[Finding]:
    """Distinct addresses against traces, and loops whose rounds have an address each."""
    traces = evidence.traces
    counts = _counts(traces)
    told = ", ".join(f"{number:,} in {size:,} traces" for size, number in counts)
    facts = {"traces": [size for size, _ in counts], "addresses": [number for _, number in counts]}
    if len(traces) < _ENOUGH_TRACES:
        detail = f"distinct addresses: {told}; too few traces to say whether there are ever more"
        yield Finding("addresses", Level.SKIP, detail, facts=facts)
        return
    (size, number), (_, last) = counts[-2:]
    exponent = float(np.log(last / max(number, 1)) / np.log(len(traces) / size))
    if last > _FEW and exponent > _GROWING:
        part = _most_varying(traces)
        detail = f"distinct addresses: {told}, ever more" + (f"; what varies is {part}" if part else "")
        level = Level.FAIL if exponent > _EXPLODING else Level.WARN
        yield Finding("addresses", level, detail, _remedy(part), facts)
        return
    counter = _loop_counter(traces)
    if counter is not None:
        part, fewest, most = counter
        detail = f"the rounds of a loop have an address each: {part}, {fewest} to {most} of them in a trace"
        yield Finding("addresses", Level.WARN, detail, _remedy(part), facts)
        return
    yield Finding("addresses", Level.PASS, f"distinct addresses: {told}", facts=facts)


def names(evidence: Evidence) -> Iterator[Finding]:
    """Draws that are known by their names."""
    traces = evidence.traces
    entries = [traces.addresses[int(i)] for i in np.unique(traces.address_id)]
    unnamed = [a.address for a in entries if not a.name]
    facts = {"draw_addresses": len(entries), "unnamed": len(unnamed)}
    if not unnamed:
        yield Finding("names", Level.PASS, f"all {len(entries)} draw addresses have names", facts=facts)
        return
    detail = (
        f"{len(entries) - len(unnamed)} of {len(entries)} draw addresses have names; the others, such as "
        f"{unnamed[0]!r}, are known by their call site"
    )
    remedy = "name what you want to find again in results, and what a trained network must know after an edit"
    yield Finding("names", Level.PASS, detail, remedy, facts)


def _counts(traces: TraceBatch) -> list[tuple[int, int]]:
    """How many addresses the first traces have: (traces, addresses), each four times the number before."""
    first_seen: dict[str, int] = {}
    trace = np.repeat(np.arange(len(traces)), traces.length)
    ids, rows = np.unique(traces.address_id, return_index=True)
    for address_id, row in zip(ids.tolist(), rows.tolist(), strict=True):
        text = traces.addresses[address_id].address
        first_seen[text] = min(int(trace[row]), first_seen.get(text, len(traces)))
    seen = np.array(list(first_seen.values()))
    sizes = sorted({len(traces) // part for part in _CHECKPOINTS} - {0})
    return [(size, int((seen < size).sum())) for size in sizes]


def _families(traces: TraceBatch) -> dict[tuple[str, str], list[int]]:
    """Address ids of draws by what is left of the address without its numbers, and family."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in np.unique(traces.address_id).tolist():
        entry = traces.addresses[i]
        groups[_VARYING.sub("#", entry.address), entry.family].append(i)
    return groups


def _most_varying(traces: TraceBatch) -> VaryingPart | None:
    largest = max(_families(traces).values(), key=len)
    return varying_part([traces.addresses[i].address for i in largest])


def _loop_counter(traces: TraceBatch) -> tuple[VaryingPart, int, int] | None:
    """Addresses that are numbered by the round of a loop, whose number of rounds varies; fewest and most rounds."""
    trace = np.repeat(np.arange(len(traces)), traces.length)
    for ids in sorted(_families(traces).values(), key=len, reverse=True):
        if len(ids) < _ROUNDS:
            return None
        part = varying_part([traces.addresses[i].address for i in ids])
        if part is None or part.template.count("#") > 1:
            continue
        prefix, suffix = map(len, part.template.split("#"))
        texts = [traces.addresses[i].address for i in ids]
        counters = [text[prefix : len(text) - suffix] for text in texts]
        if not all(c.isdecimal() for c in counters):
            continue
        number_of = np.full(len(traces.addresses), -1, np.int64)
        number_of[ids] = [int(c) for c in counters]
        rows = np.flatnonzero(number_of[traces.address_id] >= 0)
        rounds = np.bincount(trace[rows], minlength=len(traces))
        last = np.full(len(traces), number_of[ids].min() - 1)
        np.maximum.at(last, trace[rows], number_of[traces.address_id[rows]])
        in_order = (last - number_of[ids].min() + 1 == rounds).all()
        if in_order and rounds.max() >= _ROUNDS and rounds.max() - rounds.min() >= _ROUNDS // 2:
            return part, int(rounds.min()), int(rounds.max())
    return None


def _remedy(part: VaryingPart | None) -> str:
    if part is not None and part.is_pointer:
        return "keep pointers out of addresses and names: they change with every trace or start"
    return (
        "keep loop counters, indices and times out of addresses and names: one place in the program has one address, "
        "and the controller counts the visits"
    )

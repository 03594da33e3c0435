"""What traces consist of: whether they run through, what inference could choose in them, how long they are."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator

import numpy as np

from ppx_inference.conformance.differences import briefly
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level, Subject
from ppx_server.text import counted
from ppx_server.trace import Status, TraceBatch

_TOLERATED = 0.1
"""Share of failed traces beyond which inference gives up."""
_LONG, _VERY_LONG = 1_000, 10_000
_OUTLIER = 100
"""How many times the median is strange."""
_SHOWN_REASONS = 3
_FATAL = re.compile(r"crashed|closed the connection|sent nothing|broke off")
_UNDEFINED = re.compile(r"\bnan\b|\binf\b|infinit|not finite|must be finite", re.IGNORECASE)


def traces(evidence: Evidence) -> Iterator[Finding]:
    """Whether prior traces run through."""
    batch, subject = evidence.traces, evidence.subject
    failed = np.flatnonzero(batch.status == Status.FAILED)
    facts = {"traces": len(batch), "failed": len(failed)}
    if not len(failed):
        yield Finding("traces", Level.PASS, f"{len(batch):,} prior traces ran through", facts=facts)
        return
    reasons = Counter(_reason(batch, int(row)) for row in failed)
    shown = "; ".join(f"{count:,} x {reason}" for reason, count in reasons.most_common(_SHOWN_REASONS))
    share = len(failed) / len(batch)
    fatal = any(_FATAL.search(reason) for reason in reasons)
    undefined = any(_UNDEFINED.search(reason) for reason in reasons)
    index = int(batch.index[failed[0]])
    remedy = f"see one with: {replay_command(subject, index)}"
    if fatal:
        remedy += "; the process must survive whatever a trace does: let the client report the error"
    if undefined:
        remedy += (
            "; all numbers must be finite: look for divisions by zero, logs and roots of negative numbers"
        )
    if not fatal:
        remedy += "; if such traces are impossible rather than broken, give them a likelihood of zero instead"
    level = Level.FAIL if fatal or share > _TOLERATED else Level.WARN
    detail = f"{len(failed):,} of {len(batch):,} prior traces failed: {shown}"
    yield Finding("traces", level, detail, remedy, {**facts, "reasons": dict(reasons), "index": index})


def draws(evidence: Evidence) -> Iterator[Finding]:
    """Whether there is anything that inference may choose."""
    batch = evidence.sound
    controlled = int(batch.controlled.sum())
    facts = {"draws": len(batch.value), "controlled": controlled}
    if not len(batch.value):
        remedy = "replace the random number calls of the simulator by draws of PPX (`sample`)"
        yield Finding("draws", Level.FAIL, f"{counted(len(batch), 'trace')} without any draw", remedy, facts)
        return
    per_trace = len(batch.value) / len(batch)
    if not controlled:
        remedy = "let inference choose: leave out control=False where the choice is worth inferring"
        detail = f"{counted(per_trace, 'draw')} per trace, none of which inference may choose"
        yield Finding("draws", Level.FAIL, detail, remedy, facts)
        return
    share = controlled / len(batch.value)
    some = f", {share:.0%} of them for inference to choose" if share < 1 else ""
    yield Finding("draws", Level.PASS, f"{counted(per_trace, 'draw')} per trace{some}", facts=facts)


def lengths(evidence: Evidence) -> Iterator[Finding]:
    """How many draws a trace makes."""
    length = evidence.sound.length
    least, median, most = int(length.min()), float(np.median(length)), int(length.max())
    facts = {"least": least, "median": median, "most": most}
    told = f"{least:,} to {most:,} draws, half of the traces up to {median:,.0f}"
    if least == most:
        told = f"always {counted(most, 'draw')}"
    if most >= _VERY_LONG or (most >= _LONG and most > _OUTLIER * median):
        remedy = (
            "long traces are slow, and take much memory: draw arrays instead of single numbers, set control=False for "
            "noise that nobody asks for, and look whether every loop ends"
        )
        yield Finding("lengths", Level.WARN, told, remedy, facts)
        return
    yield Finding("lengths", Level.PASS, told, facts=facts)


def values(evidence: Evidence) -> Iterator[Finding]:
    """Whether observations, tags and results are numbers."""
    batch = evidence.sound
    wrong = []
    for kind, table in (("observation", batch.observations), ("tag", batch.tags), ("result", batch.results)):
        row_of = np.repeat(np.arange(len(table.address_id)), np.diff(table.data_offsets))
        rows = np.unique(row_of[~np.isfinite(table.data)])
        if len(rows):
            entry = batch.addresses[int(table.address_id[rows[0]])]
            what = f"{kind} {entry.name or entry.address!r}" if kind != "result" else kind
            wrong.append(f"{what} in {len(rows):,} of {len(table.address_id):,} cases")
    if wrong:
        detail = f"NaN or infinite: {', '.join(wrong)}"
        remedy = "leave out what is not defined, or say it by a number: means and quantiles over NaN are NaN"
        yield Finding("values", Level.WARN, detail, remedy)
        return
    yield Finding("values", Level.PASS, "all observations, tags and results are finite numbers")


def replay_command(subject: Subject, index: int) -> str:
    """The command that shows one prior trace."""
    start = f"-- {shlex.join(subject.command)}" if subject.command else f"--address {subject.address}"
    return f"ppx replay --seed {subject.seed} --index {index} {start}"


def _reason(batch: TraceBatch, row: int) -> str:
    """Why a trace failed, without what differs from trace to trace."""
    return briefly(batch.failures.get(int(batch.index[row]), ""))

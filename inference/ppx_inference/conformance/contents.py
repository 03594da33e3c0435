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
from ppx_inference.conformance.influence import Noise, harmless_noise
from ppx_inference.conformance.reasons import Fault, faults
from ppx_server.text import counted
from ppx_server.trace import Status, TraceBatch

_TOLERATED = 0.1
"""Share of failed traces beyond which inference gives up."""
_LONG, _VERY_LONG = 1_000, 10_000
"""Draws of a trace."""
_OUTLIER = 100
"""How many times the median is strange."""
_SHOWN_REASONS, _SHOWN_PATTERNS = 3, 3
_MOSTLY = 0.5
_NO_FILE = re.compile(r"FileNotFoundError|No such file|cannot open|can't open|does not exist", re.IGNORECASE)
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
    blamed = faults(batch)
    undefined = any(_UNDEFINED.search(reason) for reason in reasons)
    index = int(batch.index[failed[0]])
    remedy = f"see one with: {replay_command(subject, index)}"
    if Fault.CRASH in blamed:
        remedy += (
            "; the process must survive whatever a trace does: let the client report the error, and where memory is "
            "used that is not its own, find the place (g++ -g -fsanitize=address,undefined, gfortran -fcheck=all)"
        )
    if Fault.HANG in blamed:
        remedy += "; let every loop end, or give a slow trace more time by --timeout"
    if subject.command and any(_NO_FILE.search(reason) for reason in reasons):
        remedy += (
            "; a program that reads files by relative paths is started with a copy of this folder by --cwd ."
        )
    if undefined:
        remedy += (
            "; all numbers must be finite: look for divisions by zero, logs and roots of negative numbers"
        )
    if blamed == {Fault.MODEL} and share < 1:
        remedy += "; if such traces are impossible rather than broken, give them a likelihood of zero instead"
    level = Level.FAIL if blamed != {Fault.MODEL} or share > _TOLERATED else Level.WARN
    how_many = f"all {len(batch):,}" if share == 1 else f"{len(failed):,} of {len(batch):,}"
    detail = f"{how_many} prior traces failed: {shown}"
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
    per_trace = mean_number(len(batch.value) / len(batch), "draw")
    if not controlled:
        remedy = "let inference choose: leave out control=False where the choice is worth inferring"
        detail = f"{per_trace} per trace, none of which inference may choose"
        yield Finding("draws", Level.FAIL, detail, remedy, facts)
        return
    share = controlled / len(batch.value)
    some = f", {share:.0%} of them for inference to choose" if share < 1 else ""
    yield Finding("draws", Level.PASS, f"{per_trace} per trace{some}", facts=facts)


def lengths(evidence: Evidence) -> Iterator[Finding]:
    """How many draws a trace makes, and whether inference has to choose noise that hardly matters."""
    traces = evidence.sound
    length = traces.length
    least, median, most = int(length.min()), float(np.median(length)), int(length.max())
    facts = {"least": least, "median": median, "most": most}
    told = f"{least:,} to {most:,} draws, half of the traces up to {median:,.0f}"
    if least == most:
        told = f"always {most:,} draw{'' if most == 1 else 's'}"
    noise = harmless_noise(evidence)
    if noise is not None:
        yield Finding(
            "lengths", Level.WARN, f"{told}; {_measured(noise)}", _uncontrol(noise), facts | noise.facts
        )
        return
    controlled = np.diff(
        np.concatenate([[0], np.cumsum(traces.controlled)])[traces.offsets]
    )  # others cost little
    if controlled.max() >= _VERY_LONG or (most >= _LONG and most > _OUTLIER * median):
        remedy = f"long traces are slow, and take much memory: {', and '.join(_shorten(traces))}"
        yield Finding("lengths", Level.WARN, told, remedy, facts)
        return
    yield Finding("lengths", Level.PASS, told, facts=facts)


def _measured(noise: Noise) -> str:
    return (
        f"{noise.per_trace:,.0f} of them per trace hardly matter to what is observed: all of them drawn anew change "
        f"the log likelihood by {noise.effect:.2g}, all draws by {noise.total:.2g} (root mean square of "
        f"{noise.experiments} experiments)"
    )


def _uncontrol(noise: Noise) -> str:
    shown = noise.patterns[:_SHOWN_PATTERNS]
    options = " ".join(f"--uncontrolled {shlex.quote(pattern)}" for pattern in shown)
    in_python = ", ".join(map(repr, shown))
    more = len(noise.patterns) - len(shown)
    others = f" (and {more:,} more patterns, in the facts of --json)" if more else ""
    return (
        f"leave them to the prior, so that chains and networks choose what matters: {options} on the command line, "
        f"Simulator(uncontrolled=[{in_python}]) in Python{others}; or in the model, control=False where they are "
        "drawn, or with ppx.uncontrolled(): around them"
    )


def _shorten(traces: TraceBatch) -> list[str]:
    """What makes long traces shorter and has not been done yet."""
    sizes = np.array([int(np.prod(a.shape, dtype=np.int64)) for a in traces.addresses], np.int64)
    ways = ["look whether every loop ends"]
    if (sizes[traces.address_id] == 1).mean() > _MOSTLY:
        ways.insert(0, "draw arrays instead of single numbers")
    if traces.controlled.mean() > _MOSTLY:
        ways.insert(0, "set control=False for noise that nobody asks for (--uncontrolled PATTERN)")
    return ways


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


def mean_number(mean: float, what: str) -> str:
    """A mean number and what is counted: `1 draw`, `2.35 draws`, `17,100 draws`."""
    told = f"{mean:,.0f}" if mean >= 1000 or mean == round(mean) else f"{mean:.3g}"
    return f"{told} {what}" + ("" if told == "1" else "s")


def replay_command(subject: Subject, index: int) -> str:
    """The command that shows one prior trace."""
    start = f"-- {shlex.join(subject.command)}" if subject.command else f"--address {subject.address}"
    return f"ppx replay --seed {subject.seed} --index {index} {start}"


def _reason(batch: TraceBatch, row: int) -> str:
    """Why a trace failed, without what differs from trace to trace."""
    return briefly(batch.failures.get(int(batch.index[row]), ""))

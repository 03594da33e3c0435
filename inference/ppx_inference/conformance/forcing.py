"""Values that a draw cannot have, forced: refused, or of density zero."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np

from ppx_inference.conformance.differences import briefly, describe, first_difference
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_inference.conformance.reasons import Fault, fault
from ppx_inference.conformance.repeating import number_of
from ppx_server.address import Address
from ppx_server.distributions import FAMILIES, Kind
from ppx_server.errors import PPXError, SimulatorError
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

_MOST_ADDRESSES = 6
_END_SECONDS = 0.5  # from when a process closes its files until it has ended
_PATIENCE_SHARE, _PATIENCE_TRACES = 0.05, 30.0
"""Of the time for all, and of the time of a trace, to wait for a model that was given what it cannot have drawn."""
_MOST_LOST = 3
"""Processes that may be lost that way before no more is tried."""


@dataclass(frozen=True)
class _Attempt:
    """A value that is forced on the first visit of a draw.

    Attributes:
        entry: Which draw.
        script: It, in the trace that makes this draw first.
        value: The value.
        is_legal: Whether the model can be given it: a number outside the support, of density zero.
    """

    entry: Address
    script: ScriptBatch
    value: float
    is_legal: bool

    def __str__(self) -> str:
        return f"{self.value:g} for {describe(self.entry)}"


_REFUSING = (
    "a value that is not finite, not whole where the family is discrete, or no index of the categories must fail the "
    "trace (Error, or Reset for controllers of PPX 1.0; in a batch a failure of kind Choice), and not end the process"
)
_WEIGHING = (
    "take the value that is forced, and report its density: -inf outside of the support (docs/protocol.md)"
)


def support(evidence: Evidence) -> Iterator[Finding]:
    """Values that no client may take, with a sound trace before and after; then those of density zero.

    Values outside of the support are the model's to deal with, and a sound one may do anything with them: a loop of
    negative steps never ends. So they go to a process of their own, for a short time, and only what comes back counts.
    """
    attempts = list(_attempts(evidence.sound))
    refused = [attempt for attempt in attempts if not attempt.is_legal]
    legal = [attempt for attempt in attempts if attempt.is_legal]
    wrong = _refusals(evidence, refused)
    if wrong is not None:
        yield wrong
        return
    weighed, lost = 0, _Lost()
    if evidence.takes_batches and not evidence.defect and evidence.subject.command:  # else densities are ours
        weighed, unused = _weighed(evidence, legal, lost)
        if unused:
            yield Finding("support", Level.FAIL, unused, _WEIGHING)
            return
    yield _passed(refused, legal, weighed, lost)


def _refusals(evidence: Evidence, attempts: Sequence[_Attempt]) -> Finding | None:
    """What is wrong with how values are met that must be refused; None if nothing is."""
    first = evidence.some.select([0])
    taken: list[str] = []
    with evidence.connect() as simulator:
        running = evidence.second.running
        before = simulator.execute(ScriptBatch.replay(first), None)
        for attempt in attempts:
            try:
                trace = simulator.execute(attempt.script, None)
                reason = next(iter(trace.failures.values()), "")
                wrong = briefly(reason) if reason and fault(reason) is not Fault.MODEL else ""
            except PPXError as error:
                wrong = briefly(str(error))
            process = running.process
            if process is not None and process.wait(_END_SECONDS if wrong else 0.0) is not None:
                wrong = briefly(process.describe_end())
            if wrong and evidence.hidden is not None:
                detail = (
                    f"it was lost when given {attempt}, but its traces are not the same again: see same seed"
                )
                return Finding("support", Level.SKIP, detail)
            if wrong:
                return Finding("support", Level.FAIL, f"when it was given {attempt}: {wrong}", _REFUSING)
            if trace.status[0] == Status.OK and _made(trace, attempt):
                taken.append(str(attempt))
        after = simulator.execute(ScriptBatch.replay(first), None)
    parted = first_difference(before, after) if evidence.hidden is None else None
    if parted is not None:
        detail = f"after values were refused, a sound trace is not what it was before: {parted.text}"
        remedy = "a trace that is given up must leave nothing behind: release and reset what it had begun"
        return Finding("support", Level.FAIL, detail, remedy)
    if taken:  # clients of PPX 1.0 seldom look
        detail = f"values that the draw cannot have were taken as they are: {', '.join(taken)}"
        return Finding("support", Level.FAIL if evidence.takes_batches else Level.WARN, detail, _REFUSING)
    return None


@dataclass
class _Lost:
    """Values outside of the support with which the model did not come to an end.

    Attributes:
        hung: Those after which nothing came.
        ended: Those of which the process ended.
    """

    hung: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.hung) + len(self.ended)


def _weighed(evidence: Evidence, attempts: Sequence[_Attempt], lost: _Lost) -> tuple[int, str]:
    """How many values outside of the support had density zero, and the first that had not, in words."""
    subject = evidence.subject
    patience = max(_PATIENCE_SHARE * subject.seconds, _PATIENCE_TRACES * evidence.seconds_per_trace)
    weighed = 0
    for attempt in attempts:
        with evidence.third.connect(timeout=min(patience, subject.timeout)) as simulator:
            try:
                trace = simulator.execute(attempt.script, None)
                reason = next(iter(trace.failures.values()), "")
            except SimulatorError as error:
                trace, reason = None, str(error)
            how = fault(reason)
        if how in (Fault.HANG, Fault.CRASH):
            (lost.hung if how is Fault.HANG else lost.ended).append(str(attempt))
            evidence.third.stop()
            if len(lost) == _MOST_LOST:
                break
            continue
        if trace is None or how is Fault.PROTOCOL:  # densities are compared as they come
            return weighed, f"when it was given {attempt}: {briefly(reason)}"
        if trace.status[0] != Status.OK or not _made(trace, attempt):
            continue  # another process may have other addresses: told by restart
        if not (np.isneginf(trace.log_prob) & (trace.value == attempt.value)).any():
            return (
                weighed,
                f"{attempt} is outside of the support, but no draw has a density of 0 and that value",
            )
        weighed += 1
    return weighed, ""


def _passed(refused: Sequence[_Attempt], legal: Sequence[_Attempt], weighed: int, lost: _Lost) -> Finding:
    told = [f"{number_of(len(refused), 'value')} that no draw can have refused"]
    if weighed:
        told.append(f"{number_of(weighed, 'value')} outside of the support had density 0")
    if lost.hung:
        told.append(
            f"with {', '.join(lost.hung)} the model did not end in time, which says nothing against it"
        )
    facts = {"refused": len(refused), "weighed": weighed, "hung": len(lost.hung), "ended": len(lost.ended)}
    if lost.ended:
        detail = f"{'; '.join(told)}; with {', '.join(lost.ended)} the process ended"
        remedy = (
            "no engine of ppx gives a model such values, but other controllers may: if it is to be steered by those, "
            "let it look at its values before it uses them as an index, and report an error"
        )
        return Finding("support", Level.WARN, detail, remedy, facts)
    families = ", ".join(dict.fromkeys(a.entry.family for a in (*refused, *legal)))
    return Finding("support", Level.PASS, f"{'; '.join(told)} ({families})", facts=facts)


def _made(trace: TraceBatch, attempt: _Attempt) -> bool:
    """Whether the trace makes the draw."""
    return any(trace.addresses[i] == attempt.entry for i in np.unique(trace.address_id).tolist())


def _attempts(traces: TraceBatch) -> Iterator[_Attempt]:
    """Values for some draws, of every family that occurs."""
    _, rows = np.unique(traces.address_id, return_index=True)
    of_family: dict[str, list[int]] = defaultdict(list)
    for row in sorted(rows.tolist()):
        of_family[traces.addresses[int(traces.address_id[row])].family].append(row)
    in_turn = [row for turn in zip_longest(*of_family.values()) for row in turn if row is not None]
    for row in in_turn[:_MOST_ADDRESSES]:
        entry = traces.addresses[int(traces.address_id[row])]
        params = traces.params[int(traces.params_id[row])].tolist()
        for value, is_legal in _outside(entry.family, params):
            yield _Attempt(entry, _script(traces, row, value), value, is_legal)


def _outside(family: str, params: list[float]) -> Iterator[tuple[float, bool]]:
    """Values outside the support; whether the model can be given them."""
    yield np.inf, False
    if FAMILIES[family].kind is not Kind.CONTINUOUS:
        yield 0.5, False
    match family:
        case "Categorical":
            yield float(len(params)), False
            yield -1.0, False
        case "Bernoulli":
            yield 2.0, True
        case "Binomial":
            yield params[0] + 1.0, True
        case "Uniform":
            yield params[0] - (params[1] - params[0]), True
        case "TruncatedNormal" if np.isfinite(params[2]):
            yield params[2] - 1.0, True
        case "Beta" | "Exponential" | "Gamma" | "LogNormal" | "Weibull":
            yield -1.0, True


def _script(traces: TraceBatch, row: int, value: float) -> ScriptBatch:
    """The trace of a draw, with that draw forced; what comes before it is as it was."""
    trace = int(np.searchsorted(traces.offsets, row, side="right")) - 1
    return ScriptBatch(
        seed=traces.seed,
        index=traces.index[trace : trace + 1],
        offsets=np.array([0, 1]),
        address_id=traces.address_id[row : row + 1],
        instance=traces.instance[row : row + 1],
        value=np.array([value]),
        z=np.zeros(1),
        addresses=traces.addresses,
    )

"""Whether a trace depends on its seed, index and script only: the same again, in other company, processes and ways."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ppx_inference.conformance.addresses import varying_part
from ppx_inference.conformance.differences import OTHER_QUANTILES, Difference, first_difference
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_inference.conformance.reasons import Fault
from ppx_server.script import ScriptBatch
from ppx_server.trace import TraceBatch

_FAR = 1 << 40
"""Traces of other indices, which are executed before a replay, begin here."""
_COMPANY = 50

_BYPASS = (
    "something random or left over does not come from PPX: let every random number come from PPX draws (no rand(), "
    "random, time, thread order, uninitialised or overwritten memory), and set global state anew at the start of "
    "each run"
)
LOST = {
    Fault.CRASH: "the process must survive whatever a trace does: look for memory that is used beyond its bounds or "
    "after it was freed (gcc and g++ -g -fsanitize=address,undefined, gfortran -fcheck=all)",
    Fault.HANG: "a trace that ended before must end again: look for loops and locks that depend on earlier runs",
}
"""What to do where the second run of a trace lost the simulator."""


def same_seed(evidence: Evidence) -> Iterator[Finding]:
    """The first traces again, in the same process."""
    passed = "{} run again with the same seed: the same draws, observations, tags and results"
    yield compared(evidence, "same seed", evidence.some, evidence.hidden, passed=passed, remedy=_BYPASS)


def replay(evidence: Evidence) -> Iterator[Finding]:
    """Recorded values forced, last trace first, after traces that are none of them."""
    traces = evidence.some.select(np.arange((len(evidence.some) + 1) // 2))  # the others take as long
    strangers = np.arange(_FAR, _FAR + min(len(traces), _COMPANY))
    evidence.simulator.execute(ScriptBatch.empty(evidence.subject.seed ^ 1, strangers), None)
    backwards = traces.select(np.arange(len(traces))[::-1])
    again = evidence.simulator.execute(ScriptBatch.replay(backwards), None)
    found = first_difference(traces, again.select(np.arange(len(traces))[::-1]))
    passed = "{} replayed from their recorded values, in reverse order and after others: the same"
    remedy = (
        "a run must depend on its draws only: set global state anew at the start of each run, draw nothing outside "
        "PPX, and use the value that the draw returns"
    )
    yield compared(evidence, "replay", traces, found, passed=passed, remedy=remedy)


def both_ways(evidence: Evidence) -> Iterator[Finding]:
    """By batches and draw by draw."""
    remedy = (
        "in batches the client draws by itself: numbers by Philox from seed, index and number of the draw, values by "
        "the quantile of the family (docs/protocol.md, sections Random numbers and Standard coordinates)"
    )
    if evidence.draws_wrongly:
        yield Finding("both ways", Level.FAIL, evidence.defect, remedy)
        return
    if evidence.defect:
        yield Finding("both ways", Level.SKIP, "batches report wrong densities: see log_prob")
        return
    stepwise = evidence.stepwise
    batch = evidence.some.select(np.arange(len(stepwise)))
    found = first_difference(batch, stepwise, tolerance=OTHER_QUANTILES)
    if found is not None and evidence.rounding:
        yield _amplifies(found)
        return
    passed = "{} the same by batches and draw by draw"
    yield compared(evidence, "both ways", stepwise, found, passed=passed, remedy=remedy)


def restart(evidence: Evidence) -> Iterator[Finding]:
    """A second process."""
    remedy = (
        "nothing may depend on the process: no pointers, process ids, times, hashes or paths of the working directory "
        "in addresses and values"
    )
    passed = "a second process has the same addresses, and the same {}"
    yield compared(evidence, "restart", evidence.some, evidence.unsteady, passed=passed, remedy=remedy)


def compared(
    evidence: Evidence,
    check: str,
    traces: TraceBatch,
    found: Difference | None,
    *,
    passed: str,
    remedy: str,
) -> Finding:
    """The outcome of running traces again.

    Args:
        evidence: Where they come from.
        check: Which check ran them.
        traces: The traces.
        found: Where the two runs part, if they do.
        passed: What was found if they do not; {} stands for how many traces.
        remedy: What to do if nothing more is known of the cause.
    """
    if found is None:
        detail = passed.format(number_of(len(traces), "trace"))
        return Finding(check, Level.PASS, detail, facts={"traces": len(traces)})
    detail, facts = found.text, {"index": found.index, "kind": found.kind}
    part = varying_part([found.before, found.after]) if found.before and found.after else None
    if part is not None:
        detail += f"; what changes is {part}"
    if found.fault in LOST:
        remedy = LOST[found.fault]
    elif found.fault is Fault.MODEL:
        remedy = "the model raises the second time only: " + remedy
    elif part is not None and part.is_pointer:
        remedy = (
            "a pointer is in the address: give the draw a name, or make the address of function name and "
            "offset within the file instead of a place in memory, which changes with every start"
        )
    elif notices := evidence.notices():
        detail += f"; the client says: {'; '.join(notices)}"
        remedy = (
            "begin with what the client says, the likely cause; it is told in the simulator's output, too"
        )
    return Finding(check, Level.FAIL, detail, remedy, facts)


def number_of(count: int, what: str) -> str:
    """A number and what is counted: `1 trace`, `1,600 traces`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _amplifies(found: Difference) -> Finding:
    detail = (
        f"the model amplifies rounding: {found.text}, although the draws before are the same to {OTHER_QUANTILES:g}; "
        "given the very same values, batches and draw by draw agree"
    )
    remedy = (
        "your model amplifies rounding: branch on whole-number draws (Categorical, Poisson, Binomial), or use few "
        "digits of a number, as in int(2**31 * u), not the last ones, which differ between machines and languages"
    )
    return Finding(
        "both ways", Level.WARN, detail, remedy, {"index": found.index, "kind": found.kind, "rounding": True}
    )

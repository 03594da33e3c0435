"""Whether a trace depends on its seed, index and script only: the same again, in other company, processes and ways."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ppx_inference.conformance.addresses import varying_part
from ppx_inference.conformance.differences import (
    OTHER_QUANTILES,
    Difference,
    briefly,
    first_difference,
)
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_server.errors import SimulatorStartError
from ppx_server.script import ScriptBatch
from ppx_server.trace import TraceBatch

_FAR = 1 << 40
"""Traces of other indices, which are executed before a replay, begin here."""
_COMPANY = 50

_BYPASS = (
    "something random or left over does not come from PPX: let every random number come from PPX draws (no rand(), "
    "random, time, thread order or uninitialised memory), and set global state anew at the start of each run"
)


def same_seed(evidence: Evidence) -> Iterator[Finding]:
    """The first traces again, in the same process."""
    passed = "{} run again with the same seed: the same draws, observations, tags and results"
    yield _compared("same seed", evidence.some, evidence.hidden, passed, _BYPASS)


def replay(evidence: Evidence) -> Iterator[Finding]:
    """Recorded values forced, last trace first, after traces that are none of them."""
    traces = evidence.some
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
    yield _compared("replay", traces, found, passed, remedy)


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
    yield _compared("both ways", stepwise, found, "{} the same by batches and draw by draw", remedy)


def restart(evidence: Evidence) -> Iterator[Finding]:
    """A second process."""
    remedy = (
        "nothing may depend on the process: no pointers, process ids, times or hashes in addresses and values"
    )
    passed = "a second process has the same addresses, and the same {}"
    yield _compared("restart", evidence.some, evidence.unsteady, passed, remedy)


def other_folder(evidence: Evidence) -> Iterator[Finding]:
    """A process started in another working directory."""
    traces = evidence.some.select(np.arange(min(len(evidence.some), 20)))
    with tempfile.TemporaryDirectory(prefix="ppx-elsewhere-") as folder:
        try:
            simulator = evidence.subject.open(
                batches=not evidence.defect, command=started_in(folder, evidence.subject.command)
            )
        except SimulatorStartError as error:
            yield Finding(
                "other folder", Level.SKIP, f"it does not start in another folder: {briefly(str(error))}"
            )
            return
        with simulator:
            again = simulator.execute(ScriptBatch.empty(evidence.subject.seed, traces.index), None)
    found = first_difference(traces, again)
    if found is None or found.kind != "address":
        yield Finding("other folder", Level.PASS, "started in another folder it has the same addresses")
        return
    remedy = "let addresses hold no absolute or relative path of where the program was started"
    yield _parted("other folder", found, remedy)


def started_in(folder: str, command: Sequence[str]) -> list[str]:
    """A command that does the same in another folder: names of existing files in it are made absolute."""
    program = shutil.which(command[0]) or command[0]
    words = [program, *command[1:]]
    absolute = [os.path.abspath(w) if w and not w.startswith("-") and Path(w).exists() else w for w in words]
    return ["/bin/sh", "-c", 'cd "$0" && exec "$@"', folder, *absolute]


def _compared(check: str, traces: TraceBatch, found: Difference | None, passed: str, remedy: str) -> Finding:
    """The outcome of running traces again; `passed` says what was found if there is no difference, {} of how many."""
    if found is not None:
        return _parted(check, found, remedy)
    detail = passed.format(f"{len(traces):,} traces")
    return Finding(check, Level.PASS, detail, facts={"traces": len(traces)})


def _parted(check: str, found: Difference, remedy: str) -> Finding:
    detail = found.text
    if found.kind == "address" and found.before and found.after:
        part = varying_part([found.before, found.after])
        if part is not None:
            detail += f"; what changes is {part}"
            if part.is_pointer:
                remedy = (
                    "a pointer is in the address: give the draw a name, or make the address of function name and "
                    "offset within the file instead of a place in memory, which changes with every start"
                )
    return Finding(check, Level.FAIL, detail, remedy, {"index": found.index, "kind": found.kind})

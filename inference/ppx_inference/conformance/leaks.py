"""Resources of the simulator's processes over many runs: memory, open files, threads. Linux only."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_inference.conformance.differences import briefly
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_inference.simulator import Simulator
from ppx_server.errors import SimulatorError
from ppx_server.script import ScriptBatch

_SHARE = 0.25
"""Of the time for all."""
_PARTS = 40
_END_SECONDS = 0.5  # from when a process closes its files until it has ended
_WARM_UP = 0.35
"""Share of the runs after which caches and heaps have their size."""
_FEWEST_RUNS = 200
_FAR = 1 << 41
"""Index of the first of these runs, which are none of the prior traces seen elsewhere."""
_LEAST_BYTES, _LEAST_FILES, _LEAST_THREADS = 1 << 20, 5, 3
"""Growth after the warm-up that is no accident."""
_STEADY = 0.8
"""Correlation of growth with runs, squared, from which it is steady."""


class Usage(NamedTuple):
    """What the processes of a simulator use."""

    memory: int
    files: int
    threads: int


def leaks(evidence: Evidence) -> Iterator[Finding]:
    """Many prior runs in one process, and how its use of resources grows."""
    if not sys.platform.startswith("linux"):
        yield Finding("leaks", Level.SKIP, "processes are looked at through /proc, which Linux has")
        return
    affordable = _SHARE * evidence.subject.seconds / max(evidence.seconds_per_trace, 1e-9)
    possible = int(min(affordable, evidence.subject.runs))
    if possible < _FEWEST_RUNS:
        yield Finding("leaks", Level.SKIP, f"{possible:,} runs, all there is time for, are too few")
        return
    running = evidence.second.running
    assert running.process is not None
    with evidence.connect() as simulator:
        try:
            runs, usage = _watched(evidence, simulator, running.process.pid)
        except SimulatorError as error:
            ended = running.process.wait(_END_SECONDS) is not None
            detail = briefly(running.process.describe_end() if ended else str(error))
            remedy = "a process must last: no run may end it, or make it fail ever after"
            evidence.trouble = evidence.trouble or "its process does not last: see leaks"
            yield Finding("leaks", Level.FAIL, f"it does not survive many runs: {detail}", remedy)
            return
    facts = {
        "runs": int(runs[-1]),
        "memory": int(usage[-1, 0]),
        "files": int(usage[-1, 1]),
        "threads": int(usage[-1, 2]),
    }
    if runs[-1] < _FEWEST_RUNS:
        yield Finding(
            "leaks", Level.SKIP, f"{runs[-1]:,} runs, all there was time for, are too few", facts=facts
        )
        return
    grown = [text for column in range(3) if (text := _grown(runs, usage[:, column], column))]
    if grown:
        yield Finding("leaks", Level.FAIL, f"{runs[-1]:,} runs: {'; '.join(grown)}", _REMEDY, facts)
        return
    used = f"{usage[-1, 0] / 2**20:,.0f} MiB, {usage[-1, 1]} files, {usage[-1, 2]} threads"
    yield Finding("leaks", Level.PASS, f"{runs[-1]:,} runs, no growth: {used}", facts=facts)


_REMEDY = (
    "release at the end of each run what it has taken, also when it ends by an exception: a controller abandons traces "
    "that way. Lists and caches that outlive a run, files and threads opened in each are the usual reasons"
)


def _watched(
    evidence: Evidence, simulator: Simulator, pid: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs made `(M,)` and use of resources `(M, 3)`, after each of M parts."""
    wanted, limit = evidence.subject.runs, _SHARE * evidence.subject.seconds
    size = max(wanted // _PARTS, 1)
    size = max(min(size, int(limit / _PARTS / max(evidence.seconds_per_trace, 1e-9))), 1)
    runs, usage = [0], [measured(pid)]
    started = time.perf_counter()
    while runs[-1] < wanted and time.perf_counter() - started < limit:
        first = _FAR + runs[-1]
        simulator.execute(ScriptBatch.empty(evidence.subject.seed, np.arange(first, first + size)), None)
        runs.append(runs[-1] + size)
        usage.append(measured(pid))
    return np.array(runs), np.array(usage)


def _grown(runs: NDArray[np.int64], used: NDArray[np.int64], column: int) -> str:
    """The growth of one resource in words, empty if there is none."""
    late = runs >= _WARM_UP * runs[-1]
    x, y = runs[late].astype(float), used[late].astype(float)
    if len(x) < 4 or not np.ptp(y):
        return ""
    slope = float(np.polyfit(x - x[0], y, 1)[0])
    growth = slope * (x[-1] - x[0])
    is_steady = float(np.corrcoef(x, y)[0, 1]) ** 2 >= _STEADY
    goes_on = y[-1] - y[len(y) // 2] >= growth / 4  # and does not come to an end, as heaps do
    if not is_steady or not goes_on or growth < (_LEAST_BYTES, _LEAST_FILES, _LEAST_THREADS)[column]:
        return ""
    if column == 0:
        return f"memory grows by {slope:,.0f} bytes per run, to {y[-1] / 2**20:,.0f} MiB"
    what = ("files", "threads")[column - 1]
    return f"open {what} grow by {1000 * slope:,.3g} per 1,000 runs, to {y[-1]:,.0f}"


def measured(pid: int) -> Usage:
    """What a process and its descendants use now; processes that end meanwhile count for nothing."""
    memory = files = threads = 0
    for process in _tree(pid):
        folder = Path("/proc") / str(process)
        try:
            memory += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            files += len(os.listdir(folder / "fd"))
            threads += len(os.listdir(folder / "task"))
        except OSError:
            continue
    return Usage(memory, files, threads)


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for process in found:
        for file in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                found += [int(child) for child in file.read_text().split()]
            except OSError:
                continue
    return found

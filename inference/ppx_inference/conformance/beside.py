"""Whether processes of the simulator leave each other alone, and whether it matters in which folder they start."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ppx_inference.conformance.differences import Difference, briefly, first_difference
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_inference.conformance.repeating import compared
from ppx_server.errors import SimulatorStartError
from ppx_server.script import ScriptBatch
from ppx_server.trace import TraceBatch

_SHARE, _ROUNDS = 0.05, 40
"""Of the time for all; and how often two processes execute the traces, if they are done sooner."""
_MOST_TRACES = 20
_MOST_BYTES = 8 << 20
"""Of a program, to look for names of files in."""
_SHOWN_NAMES = 5
_BUSY = re.compile(r"in use|EADDRINUSE|already|lock|bind", re.IGNORECASE)
_ALONE = "or run one at a time: --workers 1, in Python num_workers=1"


def side_by_side(evidence: Evidence) -> Iterator[Finding]:
    """Two processes execute the traces at the same time, different ones at any moment."""
    if evidence.lonely:
        what = (
            "a port, a lock, a device or shared memory" if _BUSY.search(evidence.lonely) else "what it holds"
        )
        remedy = (
            f"inference runs several processes: let each have {what} of its own, such as a port that the system "
            f"chooses (0); {_ALONE}"
        )
        detail = f"while one process runs, a second one does not start: {briefly(evidence.lonely)}"
        yield Finding("side by side", Level.FAIL, detail, remedy)
        return
    traces = evidence.some
    script = ScriptBatch.empty(evidence.subject.seed, traces.index)
    deadline = time.perf_counter() + _SHARE * evidence.subject.seconds
    found = None
    addresses = [evidence.second.running.address, evidence.third.running.address]
    with evidence.subject.connect(addresses, batches=not evidence.defect) as simulator:
        for _ in range(_ROUNDS):
            found = first_difference(traces, simulator.execute(script, None))
            if found is not None or time.perf_counter() > deadline:
                break
    remedy = (
        "processes that run at once get into each other's way: look for a file of fixed name in a folder that they "
        "share, such as /tmp (take a temporary one, or put the process id into its name), for a port, shared memory or "
        f"a database; {_ALONE}"
    )
    passed = "{} by two processes at the same time: the same as by one alone"
    yield compared(evidence, "side by side", traces, found, passed=passed, remedy=remedy)


def other_folder(evidence: Evidence) -> Iterator[Finding]:
    """A process in the folder where the check is made, or in an empty folder: where the others are not."""
    traces = evidence.some.select(np.arange(min((len(evidence.some) + 1) // 2, _MOST_TRACES)))
    here = (evidence.subject.cwd or Path.cwd()).resolve()
    names = _names_read(evidence.subject.command, here)
    process = evidence.second.running.process
    assert process is not None
    with tempfile.TemporaryDirectory(prefix="ppx-elsewhere-") as empty:
        folder, where = (
            (here, "in this folder") if _folder_of(process.pid) != here else (empty, "in an empty folder")
        )
        try:
            again = _executed_in(evidence, str(folder), traces)
        except SimulatorStartError as error:
            detail = f"started {where} it does not answer: {briefly(str(error))}"
            yield Finding("other folder", Level.FAIL, detail, _relative_files(names))
            return
    found = first_difference(traces, again)
    remedy = _relative_files(names)
    if found is not None and _names_a_folder(found, (str(here), empty, os.path.realpath(empty))):
        remedy = _PATHS
    passed = f"started {where}, too, {{}} come out the same"
    yield compared(evidence, "other folder", traces, found, passed=passed, remedy=remedy)


def _folder_of(pid: int) -> Path | None:
    """Where a process works; None where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


_PATHS = "let addresses hold no absolute or relative path of where the program was started"


def _relative_files(names: Sequence[str]) -> str:
    which = f" (this folder has {', '.join(names)}, which the program names)" if names else ""
    return (
        f"files that are read by a relative path are found in one folder only{which}: make their paths from that of "
        "the program, or hand them over as absolute paths; to start every process with a copy of this folder: --cwd ."
    )


def _executed_in(evidence: Evidence, folder: str, traces: TraceBatch) -> TraceBatch:
    command = started_in(folder, evidence.subject.command)
    with evidence.subject.open(batches=not evidence.defect, command=command) as simulator:
        return simulator.execute(ScriptBatch.empty(evidence.subject.seed, traces.index), None)


def _names_a_folder(found: Difference, folders: Sequence[str]) -> bool:
    """Whether addresses differ in the folder where the process was started."""
    return any(folder in text for folder in folders for text in (found.before, found.after))


def _names_read(command: Sequence[str], folder: Path) -> list[str]:
    """Which entries of a folder the program names: in the files among the words of its command."""
    program = os.path.abspath(shutil.which(command[0]) or command[0])
    files = [word for word in command[1:] if not word.startswith("-") and Path(word).is_file()]
    if not files or program.startswith(os.getcwd() + os.sep):  # else it is an interpreter
        files.append(program)
    texts = []
    for name in files:
        with open(name, "rb") as file:
            texts.append(file.read(_MOST_BYTES))
    named = [
        entry
        for entry in sorted(os.listdir(folder))
        if len(entry) > 2 and any(os.fsencode(entry) in text for text in texts)
    ]
    return named[:_SHOWN_NAMES]


def started_in(folder: str, command: Sequence[str]) -> list[str]:
    """A command that does the same in another folder: names of existing files in it are made absolute."""
    program = shutil.which(command[0]) or command[0]
    words = [program, *command[1:]]
    absolute = [os.path.abspath(w) if w and not w.startswith("-") and Path(w).exists() else w for w in words]
    return ["/bin/sh", "-c", 'cd "$0" && exec "$@"', folder, *absolute]

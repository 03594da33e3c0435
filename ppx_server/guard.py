"""What happens to simulators when the controller ends without having stopped them, and what not when it forks."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

_END_SECONDS = 2.0
_PROGRAM = """
import os, signal, sys, json
guarded = {}
for line in sys.stdin:  # guards PPX simulators
    group, folders = json.loads(line)
    if folders:
        guarded[group] = folders
    else:
        guarded.pop(group, None)
for group in guarded:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
if guarded:
    import shutil
    for folders in guarded.values():
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
"""


class Guard:
    """A small process that outlives this one just long enough to kill the simulators it leaves behind.

    It reads process groups and their folders from a pipe, to guard or (without folders) to forget. When the pipe ends,
    however this process ended, it kills what it guards and removes the folders. A forked process guards nothing of its
    parent's, and does not keep its pipe open.
    """

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._leave_to_parent)
        atexit.register(self._end)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._guarded: dict[int, list[str]] = {}

    def add(self, group: int, folders: Sequence[Path]) -> None:
        """Guards a process group, and the folders it uses."""
        with self._lock:
            self._guarded[group] = [str(folder) for folder in folders]
            self._tell(group, self._guarded[group])

    def forget(self, group: int) -> None:
        """Guards a process group no more."""
        with self._lock:
            if self._guarded.pop(group, None) is not None:
                self._tell(group, [])

    def _tell(self, group: int, folders: Sequence[str]) -> None:
        lines = json.dumps([group, folders]) + "\n"
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", _PROGRAM],
                bufsize=0,  # nothing of a line is kept back, and no lock is held when another thread forks
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            lines = "".join(json.dumps(list(known)) + "\n" for known in self._guarded.items())
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed; the next one is told everything
            self._process.stdin.write(lines.encode())

    def _leave_to_parent(self) -> None:
        process = self._process
        self._begin()
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.returncode = 0  # it is no child of this process, which need not wait for it

    def _end(self) -> None:
        """Closes the pipe and waits until what was left behind is killed."""
        if self._process is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._process.communicate(timeout=_END_SECONDS)


guard = Guard()

"""A simulator as a child process: started, watched, stopped without orphans."""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from ppx_server.errors import SimulatorStartError
from ppx_server.text import plain

_KEPT_OUTPUT = 16_384  # bytes of a simulator's latest output that an error message may quote
_QUOTED_LINES = 12
_STOP_SECONDS = 2.0
_PLACEHOLDER = "{address}"


class _Guard:
    """A small process that outlives this one just long enough to kill the simulators it leaves behind.

    It reads process groups and their folders from a pipe, to guard (`+`) or to forget (`-`). When the pipe ends,
    however this process ended, it kills what it guards and removes the folders.
    """

    _PROGRAM = """
import os, signal, sys
guarded = {}
for line in sys.stdin:  # guards PPX simulators
    group, folder = line[1:].rstrip("\\n").split(" ", 1)
    if line[0] == "+":
        guarded[int(group)] = folder
    else:
        guarded.pop(int(group), None)
for group, folder in guarded.items():
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
if guarded:
    import shutil
    for folder in guarded.values():
        shutil.rmtree(folder, ignore_errors=True)
"""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._guarded: dict[int, str] = {}

    def add(self, group: int, folder: str) -> None:
        """Guards a process group, and the folder it uses."""
        with self._lock:
            self._guarded[group] = folder
            self._tell("+", group, folder)

    def forget(self, group: int) -> None:
        """Guards a process group no more."""
        with self._lock:
            folder = self._guarded.pop(group, None)
            if folder is not None:
                self._tell("-", group, folder)

    def _tell(self, sign: str, group: int, folder: str) -> None:
        lines = f"{sign}{group} {folder}\n"
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", self._PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            atexit.register(self._end, self._process)
            lines = "".join(f"+{group} {folder}\n" for group, folder in self._guarded.items())
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed; the next one is told everything
            self._process.stdin.write(lines.encode())
            self._process.stdin.flush()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        """Closes the pipe and waits until what was left behind is killed."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            process.communicate(timeout=_STOP_SECONDS)


_guard = _Guard()

_INTERPRETERS = {".py": "python", ".R": "Rscript", ".r": "Rscript", ".js": "node", ".sh": "sh"}


class SimulatorProcess:
    """One running simulator process, serving PPX at `address`.

    The process finds its endpoint in the environment variable `PPX_BIND`; `{address}` in the command is replaced by
    it too. It runs in a session of its own, so that Ctrl-C in the terminal reaches the controller only, and it is
    killed, with all it started, when the controller ends without having stopped it.

    Args:
        command: Program and arguments.
        memory_limit: Bytes of address space that the process may take, or None; beyond it its allocations fail.

    Raises:
        SimulatorStartError: The program does not exist or cannot be executed.
    """

    def __init__(self, command: Sequence[str], *, memory_limit: int | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ppx-")
        self.address = f"ipc://{self._folder.name}/socket"
        self._output = bytearray()
        self._stopped = False
        self.command = [part.replace(_PLACEHOLDER, self.address) for part in command]
        self._reader = threading.Thread(target=self._read_output, name="ppx-output", daemon=True)
        try:
            self._process = self._start()
        except BaseException:
            self._folder.cleanup()
            raise
        try:
            self._reader.start()
            _guard.add(self.pid, self._folder.name)
            if memory_limit is not None:
                with contextlib.suppress(ProcessLookupError):  # it has ended already
                    resource.prlimit(self.pid, resource.RLIMIT_AS, (memory_limit, memory_limit))
        except BaseException:
            self.stop(grace=0.0)
            raise

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while the process runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """Waits up to `seconds` for the process to end; returns its exit code, or None."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def describe_end(self) -> str:
        """How the process ended and the last lines it printed, for error messages."""
        code = self._process.poll()
        if code is None:
            text = f"process {self.pid} is still running"
        elif code < 0:
            text = f"process {self.pid} was ended by {_signal_name(-code)}"
        else:
            text = f"process {self.pid} ended with exit code {code}"
        return text + self.quote_output()

    def quote_output(self) -> str:
        """The last lines the process printed, indented, or nothing."""
        self._reader.join(0.2 if self._process.poll() is not None else 0.0)
        text = plain(bytes(self._output).decode(errors="replace").strip(), lines=True)
        lines = text.splitlines()[-_QUOTED_LINES:]
        return "".join(["; its last output:"] + [f"\n    {line}" for line in lines]) if lines else ""

    def terminate(self) -> None:
        """Asks the process to end (SIGTERM), without waiting."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)

    def stop(self, grace: float = _STOP_SECONDS) -> None:
        """Ends the process with everything it started; safe to call twice.

        Args:
            grace: Seconds between SIGTERM and SIGKILL.
        """
        if self._process.poll() is None:
            self.terminate()
            if self.wait(grace) is None:
                self._signal(signal.SIGKILL)
                self._process.wait()
        self._signal(signal.SIGKILL)  # what is left of its process group
        if not self._stopped:
            self._stopped = True
            _guard.forget(self.pid)
        if self._reader.ident is not None:  # it was started
            self._reader.join(1.0)
        self._folder.cleanup()

    def _start(self) -> subprocess.Popen[bytes]:
        program = self.command[0]
        if shutil.which(program) is None:
            raise SimulatorStartError(
                f"cannot start the simulator: no executable file {program!r} (in {Path.cwd()} or on PATH); "
                + _remedy(program)
            )
        try:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PPX_BIND": self.address},
                start_new_session=True,
            )
        except OSError as error:  # not a program after all, or no memory or process left
            raise SimulatorStartError(f"cannot start the simulator {program!r}: {error}") from error

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            while chunk := os.read(pipe.fileno(), 65_536):
                self._output += chunk
                del self._output[:-_KEPT_OUTPUT]

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is gone
            os.killpg(self._process.pid, number)


def _remedy(program: str) -> str:
    """What to do about a program that is not found."""
    path = Path(program)
    if path.is_file() and path.suffix in _INTERPRETERS:
        return f"say what runs it: {_INTERPRETERS[path.suffix]} {program}"
    if path.is_file() and os.access(path, os.X_OK):
        return f"a program in this folder is ./{program}"
    if path.is_file():
        return "the file is there, but may not be executed: chmod +x, or say what runs it"
    return "build it, or give its full path"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

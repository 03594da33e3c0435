"""A simulator as a child process: started, watched, stopped without orphans."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import threading

from ppx_server.command import Command
from ppx_server.errors import SimulatorStartError
from ppx_server.folder import ProcessFolder
from ppx_server.guard import guard
from ppx_server.notices import Notices
from ppx_server.text import plain

_KEPT_OUTPUT = 16_384  # bytes of a simulator's latest output that an error message may quote
_QUOTED_LINES = 12
_STOP_SECONDS = 2.0


class SimulatorProcess:
    """One running simulator process, serving PPX at `address`.

    The process finds its endpoint in the environment variable `PPX_BIND`; `{address}` in the command is replaced by
    it too. It runs in a folder of its own (`ProcessFolder`), which is removed with it, and in a session of its own, so
    that Ctrl-C in the terminal reaches the controller only. It is killed, with all it started, when the controller
    ends without having stopped it. A forked controller cannot stop it.

    Args:
        command: Program and arguments.
        memory_limit: Bytes of address space that the process may take, or None; beyond it its allocations fail.

    Raises:
        SimulatorStartError: The program does not exist or cannot be executed, or there is no place for its folder.
    """

    def __init__(self, command: Command, *, memory_limit: int | None = None) -> None:
        self._command = command
        self._owner = os.getpid()
        self._folder = ProcessFolder(command.cwd)
        self.address = self._folder.address
        self._output = bytearray()
        self._notices = Notices()
        self._stopped = False
        self._reader = threading.Thread(target=self._read_output, name="ppx-output", daemon=True)
        try:
            self._process = self._start()
        except BaseException:
            self._folder.remove()
            raise
        try:
            self._reader.start()
            guard.add(self.pid, self._folder.folders)
            if memory_limit is not None:
                with contextlib.suppress(ProcessLookupError):  # it has ended already
                    resource.prlimit(self.pid, resource.RLIMIT_AS, (memory_limit, memory_limit))
        except BaseException as error:
            self.stop(grace=0.0)
            if isinstance(error, RuntimeError):  # no thread can be started
                raise SimulatorStartError(f"cannot start the simulator: {error}; see ulimit -u") from error
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
        """How the process ended, what to do about it, and the last lines it printed, for error messages."""
        code = self._process.poll()
        if code is None:
            text = f"process {self.pid} is still running"
        elif code < 0:
            text = f"process {self.pid} was ended by {_signal_name(-code)}"
        else:
            text = f"process {self.pid} ended with exit code {code}"
        output = self.quote_output()
        return text + self._command.advice(output) + output

    def last_words(self, text: str) -> str:
        """A text about its failure, with the name of its working directory, which is kept for whoever wants to know."""
        kept = self._folder.keep()
        return f"{text}{chr(10) if chr(10) in text else '; '}{kept}" if kept else text

    def quote_output(self) -> str:
        """The last lines the process printed, indented, or nothing; but for the line that says where it serves."""
        self._reader.join(0.2 if self._process.poll() is not None else 0.0)
        printed = plain(bytes(self._output).decode(errors="replace").strip(), lines=True).splitlines()
        lines = [line for line in printed if not line.endswith(f"serving PPX at {self.address}")][
            -_QUOTED_LINES:
        ]
        return "".join(["; its last output:"] + [f"\n    {line}" for line in lines]) if lines else ""

    def notices(self) -> list[str]:
        """What the client library in it has said of the model, such as draws on other threads."""
        return list(self._notices.texts)

    def terminate(self) -> None:
        """Asks the process to end (SIGTERM), without waiting."""
        if os.getpid() == self._owner and self._process.poll() is None:
            self._signal(signal.SIGTERM)

    def stop(self, grace: float = _STOP_SECONDS) -> None:
        """Ends the process with everything it started, and removes its folder; safe to call twice.

        In a process that was forked off the controller it does nothing.

        Args:
            grace: Seconds between SIGTERM and SIGKILL.
        """
        if os.getpid() != self._owner:
            return
        if self._process.poll() is None:
            self.terminate()
            if self.wait(grace) is None:
                self._signal(signal.SIGKILL)
                self._process.wait()
        self._signal(signal.SIGKILL)  # what is left of its process group
        if not self._stopped:
            self._stopped = True
            guard.forget(self.pid)
        if self._reader.ident is not None:  # it was started
            self._reader.join(1.0)
        self._folder.remove()

    def _start(self) -> subprocess.Popen[bytes]:
        work = str(self._folder.work)
        own = {"PPX_BIND": self.address, "TMPDIR": str(self._folder.temporary), "PWD": work}
        try:
            return subprocess.Popen(
                self._command.arguments(self.address),
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**self._command.environment(), **own},
                cwd=work,
                start_new_session=True,
            )
        except OSError as error:  # not a program after all, or no memory or process left
            raise SimulatorStartError(self._command.explain(error)) from error

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            while chunk := os.read(pipe.fileno(), 65_536):
                self._notices.feed(chunk)
                self._output += chunk
                del self._output[:-_KEPT_OUTPUT]

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is gone
            os.killpg(self._process.pid, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

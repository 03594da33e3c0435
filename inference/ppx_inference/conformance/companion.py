"""A further process of the simulator, for what needs another one than the first."""

from __future__ import annotations

import time
from contextlib import ExitStack

from ppx_inference.conformance.findings import Running, Subject
from ppx_inference.simulator import Simulator
from ppx_server.errors import SimulatorStartError

_ANSWER_SECONDS = 5.0
"""Within which a process answers a Handshake that has answered one before."""
_END_SECONDS = 0.5  # from when a process closes its files until it has ended
_FIRST_LOOK_SECONDS = 0.5  # until it is looked whether a process that was started still runs


class Companion:
    """A process that is started when it is first needed, and again where it has ended or hangs.

    Args:
        subject: How to start it; of a simulator that is running already there is only the one.

    Attributes:
        start_seconds: What its starts have taken so far.
    """

    def __init__(self, subject: Subject) -> None:
        self.start_seconds = 0.0
        self._subject = subject
        self._running: Running | None = None
        self._stack = ExitStack()

    @property
    def running(self) -> Running:
        """The process, which has answered.

        Raises:
            SimulatorStartError: It does not start or answer.
        """
        process = None if self._running is None else self._running.process
        if self._running is None or (process is not None and process.exit_code() is not None):
            self.stop()
            began = time.monotonic()
            running = self._stack.enter_context(self._subject.running())
            try:
                self._await(running)  # once it has answered, it answers at once
            except SimulatorStartError:
                self.stop()
                raise
            finally:
                self.start_seconds += time.monotonic() - began
            self._running = running
        return self._running

    def _await(self, running: Running) -> None:
        """Waits for its first answer, or its end."""
        patience, last = _FIRST_LOOK_SECONDS, time.monotonic() + self._subject.start_seconds
        while True:
            left = last - time.monotonic()
            try:
                self._subject.connect(running.address, start_timeout=min(patience, left)).close()
                return
            except SimulatorStartError as error:
                if running.process is not None and running.process.exit_code() is not None:
                    ended = running.process.describe_end()
                    raise SimulatorStartError(f"it ended before it answered: {ended}") from error
                if left <= patience:
                    raise
            patience *= 2

    def connect(self, *, batches: bool = True, timeout: float | None = None) -> Simulator:
        """A connection to it, after a fresh start if it hangs in what it was doing before.

        Args:
            batches: False to go draw by draw.
            timeout: Seconds it may take for a trace; by default those of the subject.

        Raises:
            SimulatorStartError: It does not start or answer.
        """
        running = self.running
        try:
            return self._subject.connect(
                running.address, batches=batches, timeout=timeout, start_timeout=_ANSWER_SECONDS
            )
        except SimulatorStartError:
            if running.process is None:
                raise
        self.stop()
        return self._subject.connect(self.running.address, batches=batches, timeout=timeout)

    def ended(self) -> str:
        """How its process ended since it was last needed, with its last output; empty if it has not."""
        process = None if self._running is None else self._running.process
        if process is None or process.wait(_END_SECONDS) is None:
            return ""
        return process.describe_end()

    def stop(self) -> None:
        """Ends it; it is started again when it is needed."""
        if self._running is not None and self._running.process is not None:
            self._running.process.stop(grace=0.0)  # it may hang
        self._running = None
        self._stack.close()

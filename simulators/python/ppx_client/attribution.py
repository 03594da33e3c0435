"""Which trace a statement belongs to, on whatever thread it is made.

A process runs one trace at a time for a server, so a statement on a thread without a context of its own (a pool, a
library that runs the simulation on a thread to be able to stop it, a greenlet) belongs to the trace that runs. It must
be the only one: two threads that make statements at the same time would leave the order of draws to chance, so the
trace fails by name. So does one in which a thread draws that was in the midst of something when the trace began: its
draws belong to a trace that is over, or to none.

The thread of the model takes the short way: its context says which trace runs. Whatever else happens (statements on
other threads, in forked processes, after the end) makes that trace's `thread` another number for a while or for good,
and so sends it here.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from types import FrameType
from typing import TYPE_CHECKING, Any

from ppx_client import processes
from ppx_client.errors import TraceEnded, UncontrolledError
from ppx_client.notices import notice
from ppx_client.traces import EndOfTrace, prefix, running

if TYPE_CHECKING:
    from ppx_client.buffers import Tensor
    from ppx_client.distributions import Distribution
    from ppx_client.traces import Running

_POOLS = frozenset(
    ("threading", "queue", "concurrent.futures.thread", "multiprocessing.pool", "multiprocessing.dummy")
)
"""Modules whose threads wait for work: one that is nowhere else has nothing to do with a trace yet."""

_NOBODY = 0
"""No thread has this number."""


def current() -> Running | None:
    """The trace that a statement belongs to, None without a controller.

    Raises:
        UncontrolledError: It belongs to none, though a model is served.
    """
    trace = running.get()
    if trace is not None and trace.thread == get_ident():
        return trace
    return _elsewhere(trace)


def scopes() -> str:
    """The enclosing scopes, each followed by `/`; on other threads those of the model while it waits."""
    found = prefix.get()
    if found is not None:
        return found
    execution = _running_here(None)
    return "" if execution is None else execution.trace.scopes


def note_scopes(names: str) -> None:
    """Tells the running trace of the scopes of its own thread, for the threads it waits for."""
    trace = running.get()
    if trace is not None and trace.thread == get_ident():
        trace.scopes = names


class Execution:
    """One run of the model, and who may make statements in it.

    Attributes:
        trace: Its trace.
        thread: The thread that runs the model.
    """

    def __init__(self, trace: Running) -> None:
        self.trace = trace
        self.thread = trace.thread = get_ident()
        self.lock = threading.Lock()
        self._outsiders = _at_work(self.thread)
        self._threads: dict[int, str] = {}

    def admit(self) -> None:
        """Another thread is about to make a statement.

        Raises:
            UncontrolledError: It has no part in this trace.
        """
        thread = get_ident()
        name = threading.current_thread().name
        if thread in self._outsiders:
            self.fail(
                f"the thread {name!r}, which was at work when the trace began, makes a statement in it "
                f"({processes.place()}); let the model wait for its threads before it returns, or run each task of a "
                "thread that it keeps by contextvars.copy_context().run"
            )
        if thread not in self._threads:
            alive = sys._current_frames()
            others = [other for number, other in self._threads.items() if number in alive]
            self._threads[thread] = name
            if others:
                notice(
                    "threads",
                    f"draws of one trace are made on the threads {others[0]!r} and {name!r}, both of which are alive: "
                    "unless the model waits for one before the next draws, their order is left to chance; use one "
                    "worker, or draw first and hand the numbers to the threads",
                )

    def collide(self) -> None:
        """Two threads make statements at the same time.

        Raises:
            UncontrolledError: Always.
        """
        self.fail(
            f"two threads of the model draw at the same time (one of them {threading.current_thread().name!r}, "
            f"{processes.place()}), so their order is left to chance; wait for one before the next draws, or draw "
            "first and hand the numbers to the threads"
        )

    def fail(self, reason: str) -> None:
        """Ends the trace.

        Raises:
            UncontrolledError: Always.
        """
        error = UncontrolledError(reason)
        self.trace.fail(f"{type(error).__name__}: {reason}")
        raise error

    def close(self) -> None:
        """The model has returned. What children or threads of it did wrong makes the trace fail."""
        global _late
        self.trace.thread = _NOBODY
        # A thread that is in the midst of a statement comes to its end: the controller answers.
        with self.lock:
            _executions.remove(self)
        fault, _late = processes.fault() or _late, None
        if fault is not None:
            self.trace.fail(fault)


_executions: list[Execution] = []
"""Those whose model runs: one, but for a process with several servers."""
_late: str | None = None
"""Why the next trace fails: a statement was made between traces."""


_num_begun = 0


def num_begun() -> int:
    """How many traces have begun in this process: a number for the one that runs."""
    return _num_begun


def begin(trace: Running) -> Execution:
    """The model is about to run, on this thread."""
    global _num_begun
    _num_begun += 1
    execution = Execution(trace)
    _executions.append(execution)
    return execution


def _in_child() -> None:
    for execution in _executions:
        execution.trace.thread = _NOBODY


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


_woken: Execution | None = None


def wake() -> int | None:
    """A thread of the model has died of the end of its trace; the thread of the model, if it may be waiting for it."""
    global _woken
    execution = _running_here(None)
    if execution is None or execution.trace.end is None:
        return None
    _woken = execution
    return execution.thread


def was_woken() -> bool:
    """Whether the signal that has come was one to wake the thread of the model.

    Raises:
        EndOfTrace: It was, and the model still runs.
    """
    global _woken
    execution, _woken = _woken, None
    if execution is None:
        return False
    if execution in _executions and execution.trace.end is not None:
        raise execution.trace.end
    return True


def _at_work(own: int) -> dict[int, str]:
    """Threads but this one that run code of a model or of a library, with their names."""
    frames = sys._current_frames()
    if len(frames) == 1:
        return {}
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        number: names.get(number, str(number))
        for number, frame in frames.items()
        if number != own and not _idle(frame)
    }


def _idle(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") not in _POOLS:
            return False
        frame = frame.f_back
    return True


def _running_here(trace: Running | None) -> Execution | None:
    """The execution of a trace, or else the one that this thread has a part in."""
    open_ones = list(_executions)
    if trace is not None:
        return next((one for one in open_ones if one.trace is trace), None)
    own = next((one for one in open_ones if one.thread == get_ident()), None)
    return own or (open_ones[0] if len(open_ones) == 1 else None)


def _elsewhere(trace: Running | None) -> Running | None:
    """The trace of a statement that is not made on the model's thread in its context."""
    processes.check()
    execution = _running_here(trace)
    if execution is not None:
        if execution.thread != get_ident():
            return _OnThread(execution)
        if execution.lock.locked():
            execution.collide()
        return execution.trace
    if trace is None and not (processes.serves() or _executions):
        return None
    return _refuse()


def _refuse() -> Running | None:
    global _late
    reason = (
        f"a statement is made on the thread {threading.current_thread().name!r} ({processes.place()}) outside of the "
        "trace it belongs to; let the model wait for its threads before it returns"
    )
    if len(_executions) == 1:
        _executions[0].fail(reason)
    error = UncontrolledError(reason)
    _late = f"{type(error).__name__}: {reason}"
    raise error


class _OnThread:
    """The running trace, for a thread that the model waits for.

    Attributes:
        end: As of the trace.
        thread: None has it.
        scopes: As of the trace.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._trace = execution.trace
        self.end, self.thread, self.scopes = self._trace.end, _NOBODY, self._trace.scopes

    @contextmanager
    def _statement(self) -> Iterator[None]:
        execution = self._execution
        execution.admit()
        if not execution.lock.acquire(blocking=False):
            execution.collide()
        try:
            if _in_statement(sys._current_frames().get(execution.thread)):
                execution.collide()
            if self._trace.thread != execution.thread:
                _refuse()  # the model has returned meanwhile
            self._trace.thread = _NOBODY
            try:
                yield
            except EndOfTrace as end:
                # Pools hand exceptions to whoever waits for the result, but not those that are no Exception.
                raise TraceEnded(end.reason) from None
            finally:
                if execution in _executions:
                    self._trace.thread = execution.thread
        finally:
            execution.lock.release()

    def sample(self, distribution: Distribution, address: str, name: str, control: bool) -> Any:
        """As of the trace."""
        with self._statement():
            return self._trace.sample(distribution, address, name, control)

    def observe(self, distribution: Distribution, value: Tensor | None, address: str, name: str) -> Any:
        """As of the trace."""
        with self._statement():
            return self._trace.observe(distribution, value, address, name)

    def tag(self, value: Tensor, address: str, name: str) -> None:
        """As of the trace."""
        with self._statement():
            self._trace.tag(value, address, name)

    def begin_rejection(self, address: str, name: str) -> int:
        """As of the trace."""
        with self._statement():
            return self._trace.begin_rejection(address, name)

    def end_rejection(self, address: str, name: str, loop: int) -> None:
        """As of the trace."""
        with self._statement():
            self._trace.end_rejection(address, name, loop)

    def fail(self, reason: str) -> None:
        """As of the trace."""
        self._trace.fail(reason)


def _in_statement(frame: FrameType | None) -> bool:
    """Whether a thread is inside of this package, or of what this package has called."""
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package == "ppx_client":
            return True
        if package not in ("numpy", "scipy", "zmq", "contextlib"):
            return False
        frame = frame.f_back
    return False

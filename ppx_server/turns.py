"""Who may use simulators: one thread after the other, in the process that opened them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ppx_server.errors import LocalProtocolError


class Turns:
    """Lets threads have simulators one after the other; refuses those that could never have them.

    Sockets and processes belong to the process that opened them. In one that was forked off it they look as if they
    could be used, but two would read from one stream then.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._thread: int | None = None

    @property
    def in_fork(self) -> bool:
        """Whether this is a process that was forked off the one that opened the simulators."""
        return os.getpid() != self._process

    @property
    def mine(self) -> bool:
        """Whether it is this thread's turn."""
        return self._thread == threading.get_ident()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until no other thread has the simulators, and has them during the block.

        Raises:
            LocalProtocolError: This thread has them already, or it is another process.
        """
        if self.in_fork:
            raise LocalProtocolError(
                f"this simulator was opened in process {self._process} and cannot be used in process {os.getpid()}, "
                "which was forked off it; open one in each process (Simulator(...) after the fork, with a "
                "DataLoader in worker_init_fn)"
            )
        if self.mine:
            raise LocalProtocolError(
                "this simulator was asked to execute traces while this thread executes some on it, as from a guide or "
                "a signal handler; open another simulator for that"
            )
        with self._lock:
            try:
                self._thread = threading.get_ident()
                yield
            finally:
                self._thread = None

"""Ctrl-C, postponed where it would end half-way what must not: it would leave processes, sockets or files behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Postpones what handlers of SIGINT and SIGTERM do to the end of the block; also a decorator."""
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # Python's handlers run in the main thread only
        yield
        return
    came: dict[signal.Signals, FrameType | None] = {}
    handlers = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, lambda number, frame: came.setdefault(signal.Signals(number), frame))
    with ExitStack() as later:
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            # The stack calls the handler of the first signal first, and the other one even if that raises.
            for number, frame in reversed(came.items()):
                later.callback(handlers[number], number, frame)

"""Ctrl-C, postponed where it would end half-way what must not: it would leave processes, sockets or files behind.

What takes no time is `uninterrupted`. What may take long is `finishing`: the first Ctrl-C is answered, the second one
takes effect at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from ppx_server.text import paragraph

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


@contextmanager
def finishing(what: str) -> Iterator[list[signal.Signals]]:
    """Answers a first SIGINT or SIGTERM in the block with what is being finished; a second one interrupts.

    Args:
        what: What is being done, such as `saving 3,000 traces to result`.

    Yields:
        A list that holds the signal afterwards, if one came; whoever wants it to take effect raises it again.
    """
    came: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    handlers = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}

    def answer(number: int, frame: FrameType | None) -> None:
        if came:
            handlers[signal.Signals(number)](number, frame)
            return
        came.append(signal.Signals(number))
        # Not through the buffer of sys.stderr, which may be in use.
        os.write(2, f"{paragraph(what)}; interrupt it again to give it up\n".encode())

    for number in handlers:
        signal.signal(number, answer)
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

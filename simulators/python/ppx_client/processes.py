"""Draws in processes other than the one that serves: a child cannot ask the controller, so it must not draw.

A child that draws for itself would take a copy of the parent's random numbers, and no trace would show them. It gets an
error instead, and leaves a note in a page of memory that it shares with the process that serves. That one looks there
when the model returns, so the trace fails by name even if the child is never heard of again.

Forked children inherit the page, be it that they were forked before serving began; processes that are started anew
(`multiprocessing`'s spawn) find it by an environment variable, where the system has /proc.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ppx_client.errors import UncontrolledError

_VARIABLE = "PPX_SERVING"
"""Process and file descriptor of the page, for children that are started while a model is served."""
_SIZE = 4096
_SERVERS, _WRITTEN, _TEXT = 0, 1, 4
"""Where in the page: how many models are served, the length of the note (2 bytes behind), the note."""


class _Page:
    """Memory shared with children.

    Args:
        file: Descriptor of its file, None to make a new one.
    """

    def __init__(self, file: int | None = None) -> None:
        self.file = file
        if file is None and hasattr(os, "memfd_create"):
            self.file = os.memfd_create("ppx")
            os.ftruncate(self.file, _SIZE)
        self._memory = mmap.mmap(-1 if self.file is None else self.file, _SIZE)

    @property
    def serves(self) -> bool:
        """Whether its process serves a model."""
        return self._memory[_SERVERS] > 0

    def count(self, change: int) -> None:
        """One server more or less."""
        self._memory[_SERVERS] += change

    def write(self, note: str) -> None:
        """Leaves a note, if there is none."""
        if not self._memory[_WRITTEN]:
            text = note.encode()[: _SIZE - _TEXT]
            self._memory[_TEXT : _TEXT + len(text)] = text
            self._memory[_WRITTEN + 1 : _TEXT] = len(text).to_bytes(2, "little")
            self._memory[_WRITTEN] = 1

    def take(self) -> str | None:
        """The note, which is then gone."""
        if not self._memory[_WRITTEN]:
            return None
        size = int.from_bytes(self._memory[_WRITTEN + 1 : _TEXT], "little")
        text = self._memory[_TEXT : _TEXT + size].decode(errors="replace")
        self._memory[_WRITTEN] = 0
        return text


_page: _Page | None = None
_forked = False
"""Whether this process was forked from one that had a page, and does not serve itself."""


def _before_fork() -> None:
    global _page
    _page = _page or _Page()


def _in_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)


@contextmanager
def serving() -> Iterator[None]:
    """This process serves a model while the block lasts."""
    global _page, _forked
    if _page is None or _forked:
        _page, _forked = _Page(), False
    page, before = _page, os.environ.get(_VARIABLE)
    page.count(1)
    if page.file is not None:
        os.environ[_VARIABLE] = f"{os.getpid()}/{page.file}"
    try:
        yield
    finally:
        page.count(-1)
        if before is not None:
            os.environ[_VARIABLE] = before
        else:
            os.environ.pop(_VARIABLE, None)


def is_forked() -> bool:
    """Whether this process is a child that runs on with what it has of its parent."""
    return _forked


def serves() -> bool:
    """Whether this process serves a model."""
    return _page is not None and not _forked and _page.serves


def fault() -> str | None:
    """What children have done wrong since it was asked last."""
    return None if _page is None or _forked else _page.take()


def check() -> None:
    """Called where a statement is made outside of a trace.

    Raises:
        UncontrolledError: This process is a child of one that serves.
    """
    if _forked:
        if _page is not None and _page.serves:
            _refuse(_page, "a forked process")
    elif _VARIABLE in os.environ and not serves():
        page = _of_parent(os.environ[_VARIABLE])
        if page is not None and page.serves:
            _refuse(page, "a child process")


def _of_parent(where: str) -> _Page | None:
    """The page of the process that serves, if it still runs."""
    process, _, file = where.partition("/")
    with suppress(OSError, ValueError):
        descriptor = os.open(f"/proc/{int(process)}/fd/{int(file)}", os.O_RDWR)
        try:
            return _Page(descriptor)
        finally:
            os.close(descriptor)
    return None


def _refuse(page: _Page, what: str) -> NoReturn:
    reason = (
        f"a draw was made in {what} ({place()}), where the controller cannot reach it; draw in the process that "
        "serves the model, and hand the numbers to its children"
    )
    page.write(f"UncontrolledError: {reason}")
    raise UncontrolledError(reason)


_BETWEEN = frozenset(("ppx_client", "contextlib", "numpy", "pandas", "random", "scipy"))
"""Packages between a statement and the place in the model where it is made."""


def place() -> str:
    """Where in the model a statement is made, for messages."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        frame = frame.f_back
    code = frame.f_code
    return f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}"


def leave(error: BaseException | None) -> NoReturn:
    """Ends a forked process in which the model came to its end: what follows is its parent's business."""
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        status = 1
        sys.excepthook(type(error), error, error.__traceback__)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)

"""What the command line prints: results on stdout, messages on stderr, one JSON document for machines.

All of it passes through here, where it becomes text (see `ppx_server.text`): nothing is taken for markup, whoever
named it.

Exit codes: 0 done, 1 an error or a failed check, 2 wrong usage, 130 interrupted by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, ParamSpec

import numpy as np
import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from ppx_server.errors import PPXError
from ppx_server.text import paragraph, plain

P = ParamSpec("P")

FAILED = 1
INTERRUPTED = 130
_MIN_WIDTH, _MAX_WIDTH = 100, 1000
"""Columns of a table that is not shown on a terminal, at least and at most."""
_LONG = 32
"""Letters of an address in a line."""


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """Ctrl-C came when something was finished; what is kept of it is known.

    Attributes:
        kept: What is kept, in words.
        document: What `--json` prints.
    """

    def __init__(self, kept: str, document: Mapping[str, Any] | None = None) -> None:
        super().__init__(kept)
        self.kept = kept
        self.document = document


class Table(RichTable):
    """A table whose cells are text: a string is shown as it is, a `Text` with its style."""

    def add_row(self, *cells: Any, **settings: Any) -> None:
        """Adds a row; on a terminal long addresses are broken between their parts."""
        on_terminal = sys.stdout.isatty()
        shown = (_broken(c) if on_terminal and isinstance(c, str) else c for c in cells)
        super().add_row(*(_text(c) if isinstance(c, str) else c for c in shown), **settings)


def note(text: str) -> None:
    """Prints a message on stderr."""
    print(paragraph(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Prints a warning on stderr."""
    _say("warning:", "yellow", text)


def fail(text: str) -> None:
    """Prints an error on stderr."""
    _say("error:", "red", text)


def show(*parts: Table | str) -> None:
    """Prints a result on stdout."""
    for part in parts:
        if isinstance(part, str):
            _console().print(Text(paragraph(part)), soft_wrap=True)
        else:
            _console(part).print(part)


def show_json(document: Mapping[str, Any]) -> None:
    """Prints the one JSON document of a command; numbers that JSON cannot say become null."""
    # The one control character that JSON leaves as it is.
    print(json.dumps(_plain(document), indent=1).replace("\x7f", "\\u007f"), flush=True)


def table(title: str, columns: Iterable[str], *, left: int = 1) -> Table:
    """An empty table; its first `left` columns are text, the others numbers."""
    made = Table(title=_text(title), title_justify="left", title_style="bold", header_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number < left else "right", overflow="fold")
    return made


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table; a dash where there is none."""
    if value is None or math.isnan(value):
        return "-"
    if abs(value) >= 1e4 and value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """Makes errors, warnings and interruptions of a command into one line on stderr and an exit code.

    With `as_json=True` among the arguments, an error is a JSON document `{"error": {...}}` too. The environment
    variable PPX_TRACEBACK=1 lets errors through with their traceback.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            with _plain_warnings(), _terminable():
                command(*args, **kwargs)
        except Interrupted as stop:
            note(f"interrupted: {stop.kept}")
            if as_json and stop.document is not None:
                show_json(stop.document)
            raise typer.Exit(INTERRUPTED) from None
        except KeyboardInterrupt:
            note("interrupted: nothing is kept")
            raise typer.Exit(INTERRUPTED) from None
        except (PPXError, ValueError, OSError) as error:
            if os.environ.get("PPX_TRACEBACK") or isinstance(error, BrokenPipeError):
                raise
            fail(str(error))
            if as_json:
                show_json({"error": {"type": type(error).__name__, "message": str(error)}})
            raise typer.Exit(FAILED) from None

    return wrapped


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as one line, without the place in our code that issued them."""

    def show_warning(message: Warning | str, *place: Any, **more: Any) -> None:
        warn(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show_warning
        yield


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM (`docker stop`, a batch system) saves what Ctrl-C saves."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(mark: str, style: str, text: str) -> None:
    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    console.print(Text.assemble((mark, style), " ", paragraph(text)), soft_wrap=True)


def _broken(address: str) -> str:
    """Lines of an address that end behind a separator; anything with a space in it stays."""
    if len(address) <= _LONG or " " in address:
        return address
    lines = [""]
    for part in re.split(r"(?<=[:/.|;])", address):
        if lines[-1] and len(lines[-1]) + len(part) > _LONG:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _text(text: str) -> Text:
    return Text(plain(text, lines=True))


def _console(wide: Table | None = None) -> Console:
    """stdout; where it is no terminal, lines are as long as a table needs."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not sys.stdout.isatty():
        console.width = max(_MIN_WIDTH, _columns())
        if wide is not None:
            options = console.options.update(max_width=_MAX_WIDTH)
            console.width = max(console.width, Measurement.get(console, options, wide).maximum)
    return console


def _columns() -> int:
    try:
        return int(os.environ.get("COLUMNS", "0"))
    except ValueError:
        return 0


def _plain(value: Any) -> Any:
    """A value as JSON can say it."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | bool | None) else str(value)

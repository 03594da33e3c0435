"""Progress of a run: reports with rate, shown as a bar on a terminal and nowhere else unless asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol


class ProgressReport(NamedTuple):
    """Where a run stands.

    Attributes:
        done: Executions finished.
        total: Executions in all.
        rate: Executions per second so far.
        message: What is being done, and what is known of it.
    """

    done: int
    total: int
    rate: float
    message: str


class Progress(Protocol):
    """Receives reports, at most ten per second and one at the end."""

    def __call__(self, report: ProgressReport, /) -> None:
        """Takes note of where a run stands."""


_MIN_INTERVAL = 0.1
"""Seconds between reports."""


def quiet(report: ProgressReport, /) -> None:
    """Shows nothing: pass `progress=quiet` to have no bar on a terminal either."""


class Reporter:
    """Counts what is done and passes it on at a bounded rate."""

    def __init__(self, progress: Progress, total: int, message: str) -> None:
        self._progress, self._total, self._message = progress, total, message
        self._started = self._last = time.perf_counter()
        self._done = 0

    def advance(self, count: int, detail: str = "") -> None:
        """Adds `count` finished executions."""
        self._done += count
        now = time.perf_counter()
        if now - self._last >= _MIN_INTERVAL or self._done >= self._total:
            self._last = now
            message = f"{self._message} {detail}".rstrip()
            rate = self._done / max(now - self._started, 1e-9)
            self._progress(ProgressReport(self._done, self._total, rate, message))

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the start."""
        return time.perf_counter() - self._started


@contextmanager
def reporting(progress: Progress | None, total: int, message: str) -> Iterator[Reporter]:
    """A reporter for the duration of a run.

    Args:
        progress: Who receives the reports; None for a bar on stderr if that is a terminal, else nobody.
        total: Executions in all.
        message: What is being done.
    """
    if progress is not None or not sys.stderr.isatty():
        yield Reporter(progress or quiet, total, message)
        return
    with terminal_bar() as bar:
        yield Reporter(bar, total, message)


@contextmanager
def terminal_bar() -> Iterator[Progress]:
    """A progress bar on stderr with rate and estimated time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, rate=0.0)

        def show(report: ProgressReport, /) -> None:
            bar.update(
                task, completed=report.done, total=report.total, description=report.message, rate=report.rate
            )

        yield show

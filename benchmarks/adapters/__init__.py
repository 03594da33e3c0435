"""What a draw costs through each adapter, against the same draw of the program that is not instrumented.

There is a program per language in this folder. `PROGRAM serve ROW` serves a model that makes 1000 draws of a row.
`PROGRAM bare ROW` reads numbers from standard input, makes so many traces without PPX, and prints an empty line;
`PROGRAM alone ROW` makes them through the adapter, without a controller. What is compared is their CPU time.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console
from rich.table import Table

from benchmarks.adapters.programs import PROGRAMS, Program
from benchmarks.conversation import Conversation, cpu_seconds
from benchmarks.models import ROOT

__all__ = ["PROGRAMS", "Figures", "measure", "show"]

_MOST_TRACES = 200
"""In one turn."""
_WARM_UP = 3
"""Traces that come first."""


class Figures(NamedTuple):
    """Least CPU seconds per trace over all rounds.

    Attributes:
        program: Which program.
        row: Which of its rows.
        bare: Of the uninstrumented draws.
        alone: Of ours without a controller.
        batch: Of ours under a controller, the answer to it included.
    """

    program: str
    row: str
    bare: float
    alone: float
    batch: float


def show(
    names: Sequence[str], seconds: float, console: Console, *, rounds: int = 10, file: Path | None = None
) -> None:
    """Measures and prints a table per program; says what cannot be measured here.

    Args:
        names: Of programs.
        seconds: Spent on a row, about.
        console: Where to print.
        rounds: In each, everything is measured once.
        file: JSON file for the figures.
    """
    found = []
    for name in names:
        program = PROGRAMS[name]
        missing = program.missing()
        if missing:
            console.print(f"{program.title}: left out, as this machine has no {', '.join(missing)}")
            continue
        command = program.build()
        figures = [Figures(name, row, *measure(command, row, seconds, rounds)) for row in program.rows]
        found += figures
        console.print(_table(program, figures))
        if file is not None:
            file.write_text(json.dumps([f._asdict() for f in found]))


def measure(command: Sequence[str], row: str, seconds: float, rounds: int) -> tuple[float, float, float]:
    """Least CPU seconds per trace, as in `Figures`; the three take turns.

    Args:
        command: What starts the program.
        row: Which of its rows.
        seconds: How long it takes, about.
        rounds: How many turns.
    """
    with ExitStack() as stack:
        bare = stack.enter_context(_Program([*command, "bare", row]))
        alone = stack.enter_context(_Program([*command, "alone", row]))
        served = stack.enter_context(Conversation([*command, "serve", row]))
        programs: tuple[_Program | Conversation, ...] = bare, alone, served
        for program in programs:
            program.play(_WARM_UP)
        turn = seconds / rounds / len(programs)
        counts = [
            max(1, min(_MOST_TRACES, int(turn / (_seconds(program, _WARM_UP) / _WARM_UP))))
            for program in programs
        ]
        found = [
            [_seconds(program, count) / count for program, count in zip(programs, counts, strict=True)]
            for _ in range(rounds)
        ]
    least = [min(column) for column in zip(*found, strict=True)]
    return least[0], least[1], least[2]


def _seconds(program: _Program | Conversation, num_traces: int) -> float:
    before = program.cpu_seconds()
    program.play(num_traces)
    return program.cpu_seconds() - before


class _Program:
    """A with block in which a program makes traces without a controller."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def play(self, num_traces: int) -> None:
        """Makes so many traces."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{num_traces}\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise SystemExit(f"{shlex.join(self._command)} has ended; run it to see why")

    def cpu_seconds(self) -> float:
        """CPU time that the program has spent so far."""
        return cpu_seconds(self._process.pid)


def _table(program: Program, found: Sequence[Figures]) -> Table:
    unit = "ns per draw" if program.draws_per_trace > 1 else "traces/s"
    table = Table(title=f"{program.title}: {unit}", title_justify="left")
    table.add_column("adapter")
    for header in ("bare", "without a controller", "under a batch", "ratio"):
        table.add_column(header, justify="right")
    for figures in found:
        bare, alone, batch = (
            1.0 / s if unit == "traces/s" else 1e9 * s / program.draws_per_trace
            for s in (figures.bare, figures.alone, figures.batch)
        )
        digits = 1 if bare < 100.0 else 0
        cells = (f"{x:,.{digits}f}" for x in (bare, alone, batch))
        table.add_row(figures.row, *cells, f"{batch / bare:.1f}")
    return table

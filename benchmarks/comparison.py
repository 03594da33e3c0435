"""The table: pyprob, this project with and without the batch extension, and the bare simulators, in one run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import bare, work
from benchmarks.models import MODELS, ROOT, observations

SIDES = ("pyprob", "PPX 1.0", "batches", "bare")
"""pyprob driving the simulator; ours draw by draw; ours by whole batches; the simulator without PPX."""


class Plan(NamedTuple):
    """What is measured.

    Attributes:
        models: Names of models.
        languages: Languages of the simulators.
        only: Kinds of work.
        sides: Who does it.
        seconds: How long.
        workers: Simulator processes of ours; None for the default of `Simulator`.
    """

    models: Sequence[str]
    languages: Sequence[str]
    only: Sequence[str]
    sides: Sequence[str]
    seconds: work.Seconds
    workers: int | None


class Cell(NamedTuple):
    """One measurement: all kinds of work, by one side, in one round."""

    round: int
    model: str
    language: str
    side: str
    figures: work.Figures


def run(plan: Plan, rounds: int) -> Iterator[Cell]:
    """Measures everything, round after round, so that a disturbance hits all sides alike; says how far it is."""
    todo = [(m, lang, side) for m in plan.models for lang in plan.languages for side in plan.sides]
    started = time.perf_counter()
    for number in range(rounds):
        for position, (model, language, side) in enumerate(todo):
            done = number * len(todo) + position
            elapsed = time.perf_counter() - started
            left = f", about {elapsed / done * (rounds * len(todo) - done):.0f} s left" if done else ""
            print(f"round {number + 1} of {rounds}: {model}, {language}, {side}{left}", file=sys.stderr)
            yield Cell(number, model, language, side, _measure(plan, model, language, side))


def _measure(plan: Plan, model: str, language: str, side: str) -> work.Figures:
    if side == "bare":
        return bare.measure(model, language, plan.seconds.work) if "prior" in plan.only else {}
    request = {
        "model": model,
        "language": language,
        "only": list(plan.only),
        "seconds": plan.seconds,
        "observations": {name: value.tolist() for name, value in observations(model).items()},
        "batches": side == "batches",
        "workers": plan.workers,
    }
    if side != "pyprob":
        return _in_process("ppx_side", request)
    with serving(MODELS[model].command(language)) as address:
        return _in_process("pyprob_side", {**request, "address": address})


def _in_process(module: str, request: dict[str, Any]) -> work.Figures:
    """Figures from a fresh process."""
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", json.dumps(request)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        raise SystemExit(f"{module} failed with exit code {result.returncode}")
    # pyprob says good-bye on stdout.
    figures: work.Figures = json.loads(next(s for s in result.stdout.splitlines() if s.startswith("{")))
    return figures


@contextmanager
def serving(command: Sequence[str]) -> Iterator[str]:
    """A running simulator, by its address."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/socket"
        process = subprocess.Popen(
            command, env={**os.environ, "PPX_BIND": address}, stderr=subprocess.DEVNULL
        )
        try:
            yield address
        finally:
            process.terminate()
            process.wait()


def show(cells: Sequence[Cell], plan: Plan, console: Console) -> None:
    """Prints a table per simulator: medians over the rounds, and medians of the ratios within a round."""
    for model in plan.models:
        for language in plan.languages:
            of_model = [c for c in cells if (c.model, c.language) == (model, language)]
            console.print(_table(of_model, plan, model, language))


def _table(cells: Sequence[Cell], plan: Plan, model: str, language: str) -> Table:
    rounds = len({c.round for c in cells})
    table = Table(title=f"{model}, {language} simulator (medians of {rounds} rounds)", title_justify="left")
    headers = ["", *plan.sides, "1.0 / pyprob", "batches / pyprob", "batches / bare"]
    for header in headers:
        table.add_column(header, justify="right" if header else "left")
    for name in plan.only:
        rates = [_number(_median(_values(cells, side, name).values())) for side in plan.sides]
        cpp, judged = language == "C++", name != "effective" or model != work.UNTRAINED
        ratios = [
            _ratio(cells, name, "PPX 1.0", "pyprob", work.STEPWISE if judged else None),
            _ratio(cells, name, "batches", "pyprob", work.PYPROB.get(name) if cpp and judged else None),
            _ratio(cells, name, "batches", "bare", work.BARE[model] if cpp and name == "prior" else None),
        ]
        table.add_row(work.LABELS[name], *rates, *ratios)
    return table


def _values(cells: Sequence[Cell], side: str, name: str) -> dict[int, float]:
    """Rates by round."""
    return {c.round: value for c in cells if c.side == side and (value := c.figures.get(name)) is not None}


def _ratio(cells: Sequence[Cell], name: str, ours: str, theirs: str, budget: float | None) -> str:
    """A ratio and, in brackets, what it should be at least."""
    above, below = _values(cells, ours, name), _values(cells, theirs, name)
    ratio = _median([above[r] / below[r] for r in above.keys() & below.keys() if below[r] > 0.0])
    if ratio is None:
        return "-"
    text = f"{ratio:,.3g} x"
    if budget is None:
        return text
    colour = "green" if ratio >= budget else "red"
    return f"[{colour}]{text}[/{colour}] (>= {budget:.3g})"


def _median(values: Any) -> float | None:
    values = list(values)
    return statistics.median(values) if values else None


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

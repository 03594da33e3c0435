"""Runs: single trainings, done in parallel processes and kept in a file, so that a stopped experiment goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Outcome = dict[str, Any]
"""What a run found, as JSON knows it."""


class Run(NamedTuple):
    """One training, or one measurement.

    Attributes:
        experiment: Which experiment it is part of.
        task: What is learnt.
        method: By which optimizer.
        lr: Its initial learning rate.
        seed: Of the initial weights and the order of the minibatches.
        length: How long, in epochs, minibatches or rounds.
    """

    experiment: str
    task: str
    method: str
    lr: float
    seed: int
    length: int

    @property
    def key(self) -> str:
        """Its name in the file."""
        return f"{self.experiment}/{self.task}/{self.method}/lr {self.lr:g}/length {self.length}/seed {self.seed}"


class Sources(NamedTuple):
    """Where runs find what they learn from.

    Attributes:
        mnist: The images; None if no run needs them.
        tau: Folder of traces of the tau decay; None if no run needs them.
    """

    mnist: Path | None = None
    tau: Path | None = None


class Results:
    """Outcomes of runs, written to a JSON file after every run if there is one.

    Args:
        file: The file; what it holds is not done again.

    Raises:
        SystemExit: The file holds something else.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._outcomes: dict[str, Outcome] = {}
        if file is None or not file.exists():
            return
        try:
            self._outcomes = dict(json.loads(file.read_text(encoding="utf-8"))["runs"])
        except (ValueError, TypeError, KeyError) as error:
            raise SystemExit(
                f"{file} does not hold runs of this benchmark ({error!r}); name another file, or remove it"
            ) from error

    def __contains__(self, run: Run) -> bool:
        return run.key in self._outcomes

    def __getitem__(self, run: Run) -> Outcome:
        return self._outcomes[run.key]

    def add(self, run: Run, outcome: Outcome) -> None:
        """Keeps an outcome."""
        self._outcomes[run.key] = outcome
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._file.with_name(self._file.name + ".new")
            fresh.write_text(json.dumps({"runs": self._outcomes}), encoding="utf-8")
            fresh.replace(self._file)

    def done(self, runs: Iterable[Run]) -> list[tuple[Run, Outcome]]:
        """Those of some runs that are done."""
        return [(run, self[run]) for run in runs if run in self]


def perform(
    runs: Sequence[Run],
    work: Callable[[Run, Sources], Outcome],
    sources: Sources,
    results: Results,
    *,
    workers: int,
    console: Console,
) -> None:
    """Does those of some runs that are not done, and keeps their outcomes.

    Args:
        runs: The runs.
        work: Does one; a function of a module.
        sources: What `work` learns from.
        results: Where outcomes are kept.
        workers: Processes at once; each computes with one thread.
        console: Where to show progress.
    """
    missing = [run for run in runs if run not in results]
    if not missing:
        return
    with _bar(console) as bar:
        task = bar.add_task(missing[0].experiment, total=len(runs), completed=len(runs) - len(missing))
        for run, outcome in _outcomes(missing, work, sources, workers):
            results.add(run, outcome)
            bar.advance(task)


def _outcomes(
    runs: Sequence[Run], work: Callable[[Run, Sources], Outcome], sources: Sources, workers: int
) -> Iterator[tuple[Run, Outcome]]:
    """Outcomes in the order in which they come."""
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(runs)), mp_context=get_context("spawn"), initializer=_begin
    )
    try:
        futures = {pool.submit(work, run, sources): run for run in runs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise SystemExit(
            "a process that did a run was killed, perhaps because memory ran out; what was done before is in the file "
            "that --json names: the same command goes on, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In a new process: Ctrl-C ends it without a word, and arithmetic has one thread."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)


def default_workers() -> int:
    """Half of the cores."""
    return max(1, (os.cpu_count() or 1) // 2)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )

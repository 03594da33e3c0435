"""The optimizers of `ppx_proposals.optim` against others, and against what their papers report.

mnist        losses on MNIST beside those of the hypergradient paper's code
towers       test errors on MNIST beside those of the paper on hyperoptimizer towers
sensitivity  loss at the end against the initial learning rate, on MNIST
tau          the same for a proposal network that learns the tau decay
overhead     seconds per step, over those of torch.optim
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks.optimizers.runs import Outcome, Results, Run, Sources, default_workers, perform

__all__ = ["EXPERIMENTS", "LEARN_IMAGES", "Effort", "check_images", "show"]

EXPERIMENTS = ("mnist", "towers", "sensitivity", "tau", "overhead")
LEARN_IMAGES = ("mnist", "towers", "sensitivity")
"""Those that need the images of MNIST."""


class Effort(NamedTuple):
    """How much is done.

    Attributes:
        quick: A little of everything, to see that it runs.
        seeds: Runs of each kind; None for what each experiment does by default.
        workers: Processes at once; None for half of the cores.
    """

    quick: bool = False
    seeds: int | None = None
    workers: int | None = None


class _Experiment(NamedTuple):
    plan: Callable[..., list[Run]]
    work: Callable[[Run, Sources], Outcome]
    show: Callable[[list[Run], Results, Console], None]
    draw: Callable[[list[Run], Results, Path], None] | None


def check_images(path: Path) -> None:
    """Looks whether a file holds the images of MNIST; a ValueError says what it should hold."""
    from benchmarks.optimizers import mnist

    mnist.check(path)


def show(
    names: Sequence[str],
    mnist: Path | None,
    effort: Effort,
    console: Console,
    *,
    file: Path | None = None,
    figures: Path | None = None,
) -> None:
    """Does experiments, prints their tables and draws their figures; Ctrl-C shows what is done.

    Args:
        names: Of `EXPERIMENTS`.
        mnist: The images.
        effort: How much is done.
        console: Where to print.
        file: JSON file for the outcomes; runs that it holds are not done again.
        figures: Folder for the figures; None for none.

    Raises:
        SystemExit: It was interrupted.
    """
    experiments = _experiments()
    results = Results(file)
    plans = {name: e.plan(quick=effort.quick, seeds=effort.seeds) for name, e in experiments.items()}
    interrupted = False
    for name in names:
        experiment, runs = experiments[name], plans[name]
        try:
            if not interrupted:
                _perform(name, runs, experiment, mnist, effort, results, console)
        except KeyboardInterrupt:
            interrupted = True
        experiment.show(runs, results, console)
        if figures is not None and experiment.draw is not None and results.done(runs):
            # A figure also shows what was done before, by another command.
            experiment.draw([run for plan in plans.values() for run in plan], results, figures)
    if interrupted:
        planned = [run for name in names for run in plans[name]]
        console.print(
            f"interrupted: {len(results.done(planned))} of {len(planned)} runs are done"
            + ("" if file is None else f" and in {file}; the same command goes on")
        )
        raise SystemExit(130)


def _perform(
    name: str,
    runs: list[Run],
    experiment: _Experiment,
    mnist: Path | None,
    effort: Effort,
    results: Results,
    console: Console,
) -> None:
    workers = effort.workers or default_workers()
    missing = [run for run in runs if run not in results]
    if name == "overhead":
        workers = 1  # nobody else may compute while something is timed
    if name != "tau" or not missing:
        perform(runs, experiment.work, Sources(mnist), results, workers=workers, console=console)
        return
    from benchmarks.optimizers import tau

    with tempfile.TemporaryDirectory(prefix="ppx-tau-") as folder:
        tau.prepare(Path(folder), missing)
        sources = Sources(tau=Path(folder))
        perform(runs, experiment.work, sources, results, workers=workers, console=console)


def _experiments() -> dict[str, _Experiment]:
    """The experiments; they import torch, which takes a while."""
    from benchmarks.optimizers import overhead, reproduction, sensitivity, tau, towers

    return {
        "mnist": _Experiment(reproduction.plan, reproduction.work, reproduction.show, reproduction.draw),
        "towers": _Experiment(towers.plan, towers.work, towers.show, None),
        "sensitivity": _Experiment(sensitivity.plan, sensitivity.work, sensitivity.show, sensitivity.draw),
        "tau": _Experiment(sensitivity.plan_tau, tau.work, sensitivity.show, sensitivity.draw),
        "overhead": _Experiment(overhead.plan, overhead.work, overhead.show, None),
    }

"""The first table of the hypergradient paper's code, again: losses on MNIST after 1 and 10 epochs.

Baydin, Cornish, Martinez Rubio, Schmidt and Wood, ICLR 2018, arXiv 1703.04782, section 5.1: minibatches of 128, initial
learning rate 1e-3, L2 penalty 1e-4, learning rate of the learning rate 1e-3 (SGD, SGDN) and 1e-7 (Adam).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.optimizers import figures, mnist
from benchmarks.optimizers.methods import L2, optimizer
from benchmarks.optimizers.runs import Outcome, Results, Run, Sources

NAME = "mnist"
BATCH_SIZE = 128
LR = 1e-3
METHODS = ("SGD", "SGD-HD", "SGDN", "SGDN-HD", "Adam", "Adam-HD")
REFERENCE: dict[str, dict[int, tuple[float, float]]] = {
    "SGD": {1: (1.2041, 0.7690), 10: (0.3957, 0.3738)},
    "SGD-HD": {1: (0.4170, 0.3158), 10: (0.2934, 0.2878)},
    "SGDN": {10: (0.2893, 0.2846)},
    "SGDN-HD": {1: (0.3609, 0.2792), 10: (0.2613, 0.2719)},
    "Adam": {1: (0.4312, 0.2979), 10: (0.2590, 0.2719)},
    "Adam-HD": {1: (0.4207, 0.2953), 10: (0.2583, 0.2723)},
}
"""Losses of training and of the images held out by epoch: logistic regression, one run of the authors' code."""
_TOLERANCE = 4.0
"""Standard errors within which we call two figures the same."""
_SEEDS = {"logistic": 10, "mlp": 3}


def plan(*, quick: bool, seeds: int | None) -> list[Run]:
    """The runs; `seeds` of each, None for the default."""
    epochs, most = (1, 1) if quick else (10, 1000)
    return [
        Run(NAME, task, method, LR, seed, epochs)
        for task, default in _SEEDS.items()
        for seed in range(min(seeds or default, most))
        for method in METHODS
    ]


def work(run: Run, sources: Sources) -> Outcome:
    """Does a run."""
    assert sources.mnist is not None
    model = mnist.MODELS[run.task](run.seed)
    split = mnist.standardised(sources.mnist)
    chosen = optimizer(run.method, model.parameters(), run.lr, weight_decay=L2)
    return mnist.learn(model, chosen, split, epochs=run.length, batch_size=BATCH_SIZE, seed=run.seed)


def show(runs: list[Run], results: Results, console: Console) -> None:
    """Prints ours beside the reference."""
    for task in _SEEDS:
        done = results.done(run for run in runs if run.task == task)
        if not done:
            continue
        table = Table(
            title=f"{mnist.TITLES[task]}: mean loss and standard deviation over seeds", title_justify="left"
        )
        table.add_column("optimizer")
        for header in ("epoch", "seeds", "train", "reference", "same", "held out", "reference", "same"):
            table.add_column(header, justify="right")
        for method in METHODS:
            found = [outcome for run, outcome in done if run.method == method and not outcome["diverged"]]
            for epoch in sorted({1, done[0][0].length}):
                reference = REFERENCE.get(method, {}).get(epoch) if task == "logistic" else None
                cells = []
                for number, key in enumerate(("train", "held_out")):
                    losses = np.array([outcome[key][epoch - 1] for outcome in found])
                    cells += _cells(losses, None if reference is None else reference[number])
                if found:
                    table.add_row(method, str(epoch), str(len(found)), *cells)
        console.print(table)
    console.print(
        f"same: the difference is within {_TOLERANCE:g} standard deviations of the difference between the mean of our "
        "runs and one run. The reference is one run of the authors' code."
    )


def same(losses: NDArray[np.float64], reference: float) -> tuple[float, bool]:
    """How far the mean of our losses is from one run's, in standard deviations, and whether that is near enough.

    Args:
        losses: `(n,)` of at least two seeds.
        reference: The loss of one run.
    """
    # sd of the difference between the mean of n and one more: sd sqrt(1 + 1/n)
    error = float(losses.std(ddof=1)) * math.sqrt(1.0 + 1.0 / len(losses))
    distance = float(losses.mean() - reference) / error
    return distance, abs(distance) <= _TOLERANCE


def _cells(losses: NDArray[np.float64], reference: float | None) -> tuple[str, str, str]:
    if len(losses) == 0:
        return "-", "-", "-"
    several = len(losses) > 1
    ours = f"{losses.mean():.4f}" + (f" ± {losses.std(ddof=1):.4f}" if several else "")
    if reference is None:
        return ours, "", ""
    if not several:
        return ours, f"{reference:.4f}", "?"
    distance, near = same(losses, reference)
    return ours, f"{reference:.4f}", f"{distance:+.1f} sd, {'yes' if near else 'no'}"


def draw(runs: list[Run], results: Results, folder: Path) -> None:
    """Losses and learning rates against iterations, as in the paper's figure 2; means over seeds."""
    runs = [run for run in runs if run.experiment == NAME]
    tasks = [task for task in _SEEDS if results.done(r for r in runs if r.task == task)]
    figure, axes = figures.grid(2, len(tasks), size=(4.4, 2.7))
    for column, task in enumerate(tasks):
        loss, lr = axes[0][column], axes[1][column]
        for method in METHODS:
            done = results.done(r for r in runs if r.task == task and r.method == method)
            curves = [outcome["curve"] for _, outcome in done if not outcome["diverged"]]
            if not curves:
                continue
            style = figures.style(method)
            x = curves[0]["iteration"]
            loss.plot(x, np.mean([c["loss"] for c in curves], axis=0), label=method, **style)
            lr.plot(x, np.mean([c["lr"] for c in curves], axis=0), **style)
        loss.set(title=mnist.TITLES[task], xscale="log", yscale="log", ylabel="training loss")
        lr.set(xscale="log", yscale="log", xlabel="iteration", ylabel="learning rate")
    axes[0][0].legend(fontsize=8)
    figures.save(figure, folder / "mnist.png")

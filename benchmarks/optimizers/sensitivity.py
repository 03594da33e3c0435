"""Loss at the end against the initial learning rate: on MNIST, and of a proposal network on the tau decay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from benchmarks.optimizers import figures, mnist, tau
from benchmarks.optimizers.methods import KINDS, L2, METHODS, RULES, TRAINING, allowed, optimizer
from benchmarks.optimizers.runs import Outcome, Results, Run, Sources

NAME, TAU = "sensitivity", "tau"
TASKS = (*mnist.MODELS, *tau.NETWORKS)
TITLES = {**mnist.TITLES, **tau.TITLES}
_LRS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_TAU_LRS = {"small": (1e-2, 3e-3, 1e-3, 1e-4, 1e-1, 1e-5, 1e-6), "default": (1e-2, 3e-3, 1e-3, 1e-4)}
"""Those that tell most come first: the first is the default of training."""
_ADAM = ("Adam", "Adam-HD", "Adam-HD multiplicative", TRAINING)
_TAU_METHODS = {"small": (*_ADAM, "SGDN", "SGDN-HD", "SGDN-HD multiplicative"), "default": _ADAM}
_EPOCHS, _BATCH_SIZE = 5, 128
_MINIBATCHES = {"small": 600, "default": 600}
_SEEDS = 2
_UNTRAINED = {"logistic": math.log(mnist.NUM_CLASSES), "mlp": math.log(mnist.NUM_CLASSES)}
"""Loss of who knows nothing; a proposal's is 0."""
_GOOD = 0.9
"""Share of the best improvement over knowing nothing that counts as good."""
_NOTHING = "knows nothing"
_DRAWN = ("SGD", "SGDN", "Adam")
"""AdamW lies on Adam."""


def plan(*, quick: bool, seeds: int | None) -> list[Run]:
    """The runs on MNIST; `seeds` of each, None for the default."""
    lrs, epochs, number = (_LRS[::5], 1, 1) if quick else (_LRS, _EPOCHS, seeds or _SEEDS)
    return [
        Run(NAME, task, f"{kind}{suffix}", lr, seed, epochs)
        for seed in range(number)
        for task in mnist.MODELS
        for kind in KINDS
        for suffix in RULES
        for lr in lrs
    ]


def plan_tau(*, quick: bool, seeds: int | None) -> list[Run]:
    """The runs on the tau decay; `seeds` of each, None for the default."""
    runs = [
        Run(TAU, task, method, lr, seed, 4 if quick else _MINIBATCHES[task])
        for seed in range(1 if quick else seeds or _SEEDS)
        for task in tau.NETWORKS
        for lr in _TAU_LRS[task]
        for method in _TAU_METHODS[task]
        if allowed(method, lr)
    ]
    return [run for run in runs if run.lr in (1e-4, 1e-2) and run.task == "small"] if quick else runs


def work(run: Run, sources: Sources) -> Outcome:
    """Does a run on MNIST."""
    assert sources.mnist is not None
    model = mnist.MODELS[run.task](run.seed)
    split = mnist.standardised(sources.mnist)
    chosen = optimizer(run.method, model.parameters(), run.lr, weight_decay=L2)
    outcome = mnist.learn(model, chosen, split, epochs=run.length, batch_size=_BATCH_SIZE, seed=run.seed)
    final = math.nan if outcome["diverged"] else outcome["held_out"][-1]
    return {
        "loss": None if math.isnan(final) else final,
        "lr": outcome["curve"]["lr"][-1:],
        "seconds": outcome["seconds"],
    }


def show(runs: list[Run], results: Results, console: Console) -> None:
    """Prints a table per task: loss at the end by optimizer and initial learning rate."""
    for task in TASKS:
        done = results.done(run for run in runs if run.task == task)
        if not done:
            continue
        lrs = sorted({run.lr for run, _ in done})
        losses = {
            (method, lr): _mean(o for r, o in done if (r.method, r.lr) == (method, lr))
            for method in METHODS
            for lr in lrs
        }
        good = _good(task, losses.values())
        length = done[0][0].length
        unit = "minibatches" if task in tau.NETWORKS else "epochs"
        table = Table(
            title=f"{TITLES[task]}: held-out loss after {length} {unit}, by initial learning rate",
            title_justify="left",
        )
        table.add_column("optimizer")
        for lr in lrs:
            table.add_column(f"{lr:.0e}", justify="right")
        table.add_column("good", justify="right")
        for method in METHODS:
            row = [losses[method, lr] for lr in lrs]
            if any(loss is not None for loss in row):
                cells = ["" if x is None else "diverged" if math.isinf(x) else f"{x:.3f}" for x in row]
                count = sum(x is not None and x <= good for x in row)
                tried = sum(x is not None for x in row)
                table.add_row(method, *cells, f"{count} of {tried}")
        console.print(table)
    console.print(
        f"good: learning rates that reach {_GOOD:.0%} of the best improvement over knowing nothing. Means over seeds."
    )


def draw(runs: list[Run], results: Results, folder: Path) -> None:
    """One panel per task that has results."""
    runs = [run for run in runs if run.experiment in (NAME, TAU)]
    tasks = [task for task in TASKS if results.done(r for r in runs if r.task == task)]
    rows, columns = (2, len(tasks) // 2) if len(tasks) == len(TASKS) else (1, len(tasks))
    figure, axes = figures.grid(rows, columns, size=(4.6, 3.3))
    panels = [panel for row in axes for panel in row]
    for panel, task in zip(panels, tasks, strict=True):
        _panel(panel, task, results.done(r for r in runs if r.task == task))
    for row in axes:
        row[0].set_ylabel("held-out loss at the end")
    for panel in axes[-1]:
        panel.set_xlabel("initial learning rate")
    lines = {line.get_label(): line for panel in panels for line in panel.get_lines()}
    lines.pop(_NOTHING, None)
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=4, fontsize=8)
    figures.save(figure, folder / "sensitivity.png")


def _panel(panel: Axes, task: str, done: Sequence[tuple[Run, Outcome]]) -> None:
    untrained = _UNTRAINED.get(task, 0.0)
    best = min((o["loss"] for _, o in done if o["loss"] is not None), default=0.0)
    top = untrained + 0.1 * (untrained - best)
    for method, (kind, *_) in METHODS.items():
        lrs = sorted({run.lr for run, _ in done if run.method == method})
        if kind not in _DRAWN or not lrs:
            continue
        losses = [_mean(o for r, o in done if (r.method, r.lr) == (method, lr)) for lr in lrs]
        y = [top if x is None else min(x, top) for x in losses]
        panel.plot(
            lrs, y, label=method, **{**figures.style(method), "marker": "o" if method == TRAINING else "."}
        )
    panel.axhline(untrained, color="grey", linewidth=0.8, label=_NOTHING)
    panel.set(title=TITLES[task], xscale="log", xlim=(0.7 * _LRS[0], 1.4 * _LRS[-1]))
    panel.set_ylim(best - 0.05 * (untrained - best), top)


def _mean(outcomes: Iterable[Outcome]) -> float | None:
    """Mean loss; infinite if one diverged, None if there is none."""
    losses = [math.inf if o["loss"] is None else float(o["loss"]) for o in outcomes]
    return float(np.mean(losses)) if losses else None


def _good(task: str, losses: Iterable[float | None]) -> float:
    """The largest loss that counts as good."""
    untrained = _UNTRAINED.get(task, 0.0)
    best = min((loss for loss in losses if loss is not None), default=untrained)
    return untrained - _GOOD * (untrained - best)

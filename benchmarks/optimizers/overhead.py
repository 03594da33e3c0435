"""What a step of the hypergradient optimizers costs, against PyTorch's, at a million parameters."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from benchmarks.optimizers.methods import KINDS, RULES, optimizer
from benchmarks.optimizers.runs import Outcome, Results, Run, Sources

NAME = "overhead"
_NUM_PARAMETERS = 1_000_000
_NUM_TENSORS = (1, 10, 100, 1000)
_THREADS = (1, 2)
_MOST = 1.15
"""Largest ratio of a step of Adam-HD to one of `torch.optim.Adam` that is asked for."""
_BLOCK_SECONDS = 0.02
"""How long the steps take that are timed together, at least."""
_WARM_UP = 3
_REFERENCES = {"foreach": "foreach=True", "fused": "fused=True"}
"""PyTorch's other implementations, beside its default."""


def plan(*, quick: bool, seeds: int | None) -> list[Run]:
    """The runs: one per number of tensors and of threads."""
    del seeds
    if quick:
        return [Run(NAME, "10 tensors, 1 threads", "all", 1e-3, 0, 1)]
    return [
        Run(NAME, f"{tensors} tensors, {threads} threads", "all", 1e-3, 0, 21)
        for threads in _THREADS
        for tensors in _NUM_TENSORS
    ]


def work(run: Run, sources: Sources) -> Outcome:
    """Times steps of all optimizers by turns; returns seconds per step and, per optimizer, the median ratio."""
    del sources
    tensors, threads = (int(word) for word in run.task.split() if word.isdigit())
    torch.set_num_threads(threads)
    optimizers = {name: _prepared(name, tensors) for name in _names()}
    counts = {}
    for name, chosen in optimizers.items():
        _seconds(chosen, _WARM_UP)
        counts[name] = max(1, round(_BLOCK_SECONDS / _seconds(chosen, _WARM_UP)))
    found: dict[str, list[float]] = {name: [] for name in optimizers}
    for number in range(run.length):
        # Another one begins in every round.
        names = list(np.roll(list(optimizers), number))
        for name in names:
            found[name].append(_seconds(optimizers[name], counts[name]))
    ratios = {
        name: statistics.median(a / b for a, b in zip(times, found[_kind(name)], strict=True))
        for name, times in found.items()
    }
    return {
        "seconds": {name: statistics.median(times) for name, times in found.items()},
        "ratio": ratios,
    }


def show(runs: list[Run], results: Results, console: Console) -> None:
    """Prints the ratios."""
    done = results.done(runs)
    if not done:
        return
    table = Table(
        title=f"seconds per step over those of torch.optim, {_NUM_PARAMETERS:,} parameters; in brackets, ms",
        title_justify="left",
    )
    table.add_column("optimizer")
    for run, _ in done:
        table.add_column(run.task.replace(", ", "\n"), justify="right")
    for name in _names():
        cells = [f"{o['ratio'][name]:.2f} ({1e3 * o['seconds'][name]:.2f})" for _, o in done]
        table.add_row(name, *cells)
    console.print(table)
    console.print(
        f"Medians over {done[0][0].length} rounds in which they take turns. At most {_MOST} is asked of Adam-HD."
    )


def _names() -> list[str]:
    names = []
    for kind in KINDS:
        names += [f"{kind}{suffix}" for suffix in RULES]
        names += [f"{kind}, {text}" for text in _REFERENCES.values()]
    return names


def _kind(name: str) -> str:
    return name.split(",")[0].split("-")[0]


def _prepared(name: str, tensors: int) -> Optimizer:
    """An optimizer of parameters that have gradients."""
    generator = torch.Generator().manual_seed(0)
    size = _NUM_PARAMETERS // tensors
    params = [nn.Parameter(torch.randn(size, generator=generator)) for _ in range(tensors)]
    for p in params:
        p.grad = torch.randn(size, generator=generator)
    method, _, reference = name.partition(", ")
    chosen = optimizer(method, params, 1e-6)
    for group in chosen.param_groups:
        if "hypergrad_lr" in group:
            # Gradients that never change would let the learning rate run away; a step costs the same.
            group["hypergrad_lr"] = 1e-30
        for key, text in _REFERENCES.items():
            if text == reference:
                group |= {"foreach": None, key: True}
    return chosen


def _seconds(chosen: Optimizer, count: int) -> float:
    """Seconds per step."""
    started = time.perf_counter()
    for _ in range(count):
        chosen.step()
    return (time.perf_counter() - started) / count

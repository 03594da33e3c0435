"""The table of hyperoptimizer towers again: percent of the test images of MNIST that are misclassified.

Chandra, Xie, Ragan-Kelley and Meijer, "Gradient descent: the ultimate optimizer", NeurIPS 2022, arXiv 1909.13371,
table 1: 784-128-10 with tanh after both layers, minibatches of 256, 30 epochs, SGD from the learning rate 0.01, Adam
from 0.001.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from benchmarks.optimizers import mnist
from benchmarks.optimizers.runs import Outcome, Results, Run, Sources
from ppx_proposals.optim import SGDHD, AdamHD
from ppx_proposals.optim.tower import SGD, Adam, Tower

NAME = "towers"
_BATCH_SIZE = 256
_EPOCHS = 30
_SEEDS = 3
_SGD_LR, _ADAM_LR, _TOP_LR = 0.01, 0.001, 1e-5

Params = list[nn.Parameter]
_METHODS: dict[str, Callable[[Params], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=_SGD_LR),
    "SGD/SGD": lambda p: Tower(p, [SGD(lr=_SGD_LR, adapt=("lr",)), SGD(lr=_SGD_LR)]),
    "SGD-HD": lambda p: SGDHD(p, lr=_SGD_LR, hypergrad_lr=_SGD_LR),
    "Adam": lambda p: torch.optim.Adam(p, lr=_ADAM_LR),
    "Adam/SGD": lambda p: Tower(p, [Adam(lr=_ADAM_LR, adapt=("lr", "betas")), SGD(lr=_TOP_LR)]),
    "Adam-alpha/SGD": lambda p: Tower(p, [Adam(lr=_ADAM_LR, adapt=("lr",)), SGD(lr=_TOP_LR)]),
    "Adam-HD": lambda p: AdamHD(p, lr=_ADAM_LR, hypergrad_lr=_TOP_LR),
    "Adam-alpha/Adam": lambda p: Tower(p, [Adam(lr=_ADAM_LR, adapt=("lr",)), Adam(lr=_TOP_LR)]),
}
"""SGD-HD and Adam-HD are SGD/SGD and Adam-alpha/SGD, derived by hand."""
_REFERENCE = {"SGD": 8.99, "SGD/SGD": 4.81, "Adam": 4.67, "Adam/SGD": 3.03, "Adam-alpha/Adam": 3.04}
"""Percent, means of three runs; their standard deviations are 0.02 to 0.1."""


class _Classifier(nn.Module):
    """The paper's network: logits are limited by tanh, which is why plain optimizers do badly."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Linear(mnist.NUM_PIXELS, 128)
            self.second = nn.Linear(128, mnist.NUM_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(B, 10)` of images `(B, 784)`."""
        return torch.tanh(self.second(torch.tanh(self.first(x))))


def plan(*, quick: bool, seeds: int | None) -> list[Run]:
    """The runs; `seeds` of each, None for the default."""
    return [
        Run(
            NAME,
            "mlp",
            method,
            _SGD_LR if method.startswith("SGD") else _ADAM_LR,
            seed,
            1 if quick else _EPOCHS,
        )
        for seed in range(1 if quick else seeds or _SEEDS)
        for method in _METHODS
    ]


def work(run: Run, sources: Sources) -> Outcome:
    """Does a run."""
    assert sources.mnist is not None
    model = _Classifier(run.seed)
    chosen = _METHODS[run.method](list(model.parameters()))
    split = mnist.raw(sources.mnist)
    outcome = mnist.learn(model, chosen, split, epochs=run.length, batch_size=_BATCH_SIZE, seed=run.seed)
    error = outcome["error"] if not outcome["diverged"] else None
    return {"error": error, "lr": outcome["curve"]["lr"][-1:], "seconds": outcome["seconds"]}


def show(runs: list[Run], results: Results, console: Console) -> None:
    """Prints ours beside the paper's."""
    done = results.done(runs)
    if not done:
        return
    table = Table(
        title=f"MNIST, 784-128-10, tanh: test error after {done[0][0].length} epochs, percent",
        title_justify="left",
    )
    table.add_column("optimizer")
    for header in ("seeds", "ours", "paper", "learning rate at the end", "s/epoch"):
        table.add_column(header, justify="right")
    for method in _METHODS:
        found = [outcome for run, outcome in done if run.method == method and outcome["error"] is not None]
        if not found:
            continue
        errors = np.array([outcome["error"] for outcome in found])
        sd = float(errors.std(ddof=1)) if len(errors) > 1 else math.nan
        table.add_row(
            method,
            str(len(found)),
            f"{errors.mean():.2f}" + ("" if math.isnan(sd) else f" ± {sd:.2f}"),
            f"{_REFERENCE[method]:.2f}" if method in _REFERENCE else "",
            f"{np.mean([o['lr'] for o in found]):.4f}",
            f"{np.mean([o['seconds'] for o in found]) / done[0][0].length:.2f}",
        )
    console.print(table)

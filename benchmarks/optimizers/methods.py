"""The optimizers that are compared, by name, each with and without hypergradient descent on its learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from ppx_proposals.config import TrainingConfig
from ppx_proposals.optim import SGDHD, AdamHD, AdamWHD

MOMENTUM = 0.9
"""Of SGDN, which is Nesterov's (arXiv 1703.04782, section 5)."""
L2 = 1e-4
"""Weight of the L2 penalty on MNIST (arXiv 1703.04782, section 5.1)."""
ADAMW_DECAY = 1e-2
"""Decoupled weight decay of AdamW, PyTorch's default."""
ADDITIVE = {"SGD": 1e-3, "SGDN": 1e-3, "Adam": 1e-7, "AdamW": 1e-7}
"""Learning rates of the learning rate that the paper takes on MNIST, additive rule (arXiv 1703.04782, section 5.1)."""
MULTIPLICATIVE = 0.02
"""Learning rate of the learning rate, multiplicative rule (arXiv 1703.04782, section 5.1)."""
_TRAINING = TrainingConfig()


class Method(NamedTuple):
    """An optimizer, and how its learning rate follows.

    Attributes:
        kind: `"SGD"`, `"SGDN"`, `"Adam"` or `"AdamW"`.
        rule: `"additive"`, `"multiplicative"`, or None for a constant learning rate.
        lr_bounds: The learning rate is kept within these.
        hypergrad_lr: Learning rate of the learning rate; None for the paper's.
    """

    kind: str
    rule: str | None = None
    lr_bounds: tuple[float, float] = (0.0, float("inf"))
    hypergrad_lr: float | None = None


KINDS = ("SGD", "SGDN", "Adam", "AdamW")
RULES = {"": None, "-HD": "additive", "-HD multiplicative": "multiplicative"}
METHODS = {f"{kind}{suffix}": Method(kind, rule) for kind in KINDS for suffix, rule in RULES.items()}
TRAINING = "Adam-HD as training sets it"
"""What training of proposals does by default."""
METHODS[TRAINING] = Method("Adam", _TRAINING.rule, _TRAINING.lr_bounds, _TRAINING.hypergrad_lr)


def allowed(method: str, lr: float) -> bool:
    """Whether a method can start with a learning rate."""
    low, high = METHODS[method].lr_bounds
    return low <= lr <= high


def optimizer(
    method: str, params: Iterable[nn.Parameter], lr: float, *, weight_decay: float = 0.0
) -> Optimizer:
    """An optimizer by name; with a constant learning rate it is PyTorch's own.

    Args:
        method: One of `METHODS`.
        params: What it optimizes.
        lr: Its initial learning rate.
        weight_decay: Weight of the L2 penalty; AdamW has `ADAMW_DECAY` instead.
    """
    kind, rule, lr_bounds, hypergrad_lr = METHODS[method]
    settings: dict[str, Any] = {"lr": lr, "weight_decay": ADAMW_DECAY if kind == "AdamW" else weight_decay}
    if kind == "SGDN":
        settings |= {"momentum": MOMENTUM, "nesterov": True}
    plain: dict[str, type[Optimizer]] = {
        "SGD": torch.optim.SGD,
        "SGDN": torch.optim.SGD,
        "Adam": torch.optim.Adam,
        "AdamW": torch.optim.AdamW,
    }
    if rule is None:
        return plain[kind](params, **settings)
    adaptive: dict[str, type[Optimizer]] = {"SGD": SGDHD, "SGDN": SGDHD, "Adam": AdamHD, "AdamW": AdamWHD}
    if hypergrad_lr is None:
        hypergrad_lr = ADDITIVE[kind] if rule == "additive" else MULTIPLICATIVE
    return adaptive[kind](params, hypergrad_lr=hypergrad_lr, rule=rule, lr_bounds=lr_bounds, **settings)

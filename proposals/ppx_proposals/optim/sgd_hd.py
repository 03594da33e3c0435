"""Gradient descent with hypergradient descent on its learning rate (SGD-HD, arXiv 1703.04782, algorithm 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ppx_proposals.optim.hypergradient import Group, HypergradientOptimizer, Joined, check_hypergradient


class SGDHD(HypergradientOptimizer):
    """Plain gradient descent that adapts its own learning rate: D_t = -g_t.

    Args:
        params: Parameters, or dicts that define groups with settings of their own.
        lr: Initial learning rate, alpha_0.
        weight_decay: L2 penalty, added to the gradient.
        hypergrad_lr: Learning rate of the learning rate (the paper's beta: 1e-3 for the additive rule, 0.02 for the
            multiplicative one).
        rule: `"additive"` or `"multiplicative"`.
        lr_bounds: The learning rate is kept within these.

    Raises:
        ValueError: A setting is outside its domain.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.0,
        hypergrad_lr: float = 1e-3,
        rule: str = "additive",
        lr_bounds: tuple[float, float] = (0.0, float("inf")),
    ) -> None:
        check_hypergradient(lr=lr, hypergrad_lr=hypergrad_lr, rule=rule, lr_bounds=lr_bounds)
        if weight_decay < 0.0:
            raise ValueError(f"weight_decay must be >= 0, not {weight_decay}")
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "hypergrad_lr": hypergrad_lr,
            "rule": rule,
            "lr_bounds": lr_bounds,
        }
        super().__init__(params, defaults)

    def _move(self, group: Group, params: list[Tensor], gradient: Tensor, direction: Joined | None) -> None:
        target = Joined.of(params) if direction is None else direction
        torch.neg(gradient, out=target.flat)
        torch._foreach_add_(params, target.views, alpha=group["lr"])

"""Gradient descent with hypergradient descent on its learning rate (SGD-HD and SGDN-HD, arXiv 1703.04782).

Algorithms 4 and 5 of Baydin, Cornish, Martinez Rubio, Schmidt and Wood, ICLR 2018.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch.optim.optimizer import ParamsT

from ppx_proposals.optim.hypergradient import HypergradientOptimizer
from ppx_proposals.optim.joined import Joined, Run
from ppx_proposals.optim.settings import Group, HypergradientSettings, hypergradient_settings


class SGDHD(HypergradientOptimizer):
    """Gradient descent that adapts its own learning rate.

    With v_t = mu v_{t-1} + g_t, the direction D_t is -g_t, with momentum -v_t, with Nesterov's -(g_t + mu v_t). With
    `hypergrad_lr=0` it is `torch.optim.SGD` to the last bit.

    Args:
        params: Parameters, or dicts that define groups with settings of their own.
        lr: Initial learning rate, alpha_0.
        momentum: mu.
        nesterov: Whether momentum is Nesterov's.
        weight_decay: L2 penalty, added to the gradient.
        hypergrad_lr: Learning rate of the learning rate, beta; None for the paper's: 1e-3 for the additive rule, 0.02
            for the multiplicative one.
        **settings: `HypergradientSettings`.

    Raises:
        ValueError: A setting is outside its domain.
    """

    _usual_hypergrad_lr = 1e-3

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        hypergrad_lr: float | None = None,
        **settings: Unpack[HypergradientSettings],
    ) -> None:
        shared = {"lr": lr, "hypergrad_lr": hypergrad_lr, **hypergradient_settings(settings)}
        own = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, {**shared, **own})

    def _check(self, settings: Group) -> None:
        if not 0.0 <= settings["momentum"] < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), not {settings['momentum']}")
        if settings["nesterov"] and settings["momentum"] == 0.0:
            raise ValueError("nesterov needs a momentum: it must be > 0")

    def _move(self, group: Group, run: Run, direction: Joined | None) -> None:
        mu, step = group["momentum"], run.gradient
        if mu != 0.0:
            # v_t = mu v_{t-1} + g_t
            step = run.state("momentum_buffer").flat.mul_(mu).add_(run.gradient)
            if group["nesterov"]:
                into = None if direction is None else direction.flat
                step = torch.add(run.gradient, step, alpha=mu, out=into)
        if direction is not None:
            torch.neg(step, out=direction.flat)
        else:
            params = run.params
            torch._foreach_add_(params, Joined.split(step, params).views, alpha=-group["step_size"])

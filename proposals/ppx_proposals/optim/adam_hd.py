"""Adam with hypergradient descent on its learning rate (Adam-HD, arXiv 1703.04782, algorithm 6), and AdamW alike."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import ParamsT

from ppx_proposals.optim.hypergradient import HypergradientOptimizer
from ppx_proposals.optim.joined import Joined, Run
from ppx_proposals.optim.settings import Group, HypergradientSettings, hypergradient_settings


class AdamHD(HypergradientOptimizer):
    """Adam (Kingma and Ba, ICLR 2015) that adapts its own learning rate.

    D_t = -mhat_t / (sqrt(vhat_t) + eps). With `hypergrad_lr=0` it is `torch.optim.Adam` to the last bit.

    Args:
        params: Parameters, or dicts that define groups with settings of their own.
        lr: Initial learning rate, alpha_0.
        betas: Decay rates of the running averages of the gradient and of its square.
        eps: Added to the root of the squared average.
        weight_decay: L2 penalty, added to the gradient.
        hypergrad_lr: Learning rate of the learning rate, beta; None for the paper's: 1e-7 for the additive rule, 0.02
            for the multiplicative one.
        **settings: `HypergradientSettings`.

    Raises:
        ValueError: A setting is outside its domain.
    """

    _usual_hypergrad_lr = 1e-7

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        hypergrad_lr: float | None = None,
        **settings: Unpack[HypergradientSettings],
    ) -> None:
        shared = {"lr": lr, "hypergrad_lr": hypergrad_lr, **hypergradient_settings(settings)}
        super().__init__(params, {**shared, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes on saved state, also that of `torch.optim.Adam`, which counts steps in tensors."""
        super().__setstate__(state)
        for own in self.state.values():
            if "step" in own:
                own["step"] = int(own["step"])

    def _check(self, settings: Group) -> None:
        beta1, beta2 = settings["betas"]
        if not (0.0 <= beta1 < 1.0 and 0.0 <= beta2 < 1.0):
            raise ValueError(f"betas must lie in [0, 1), not {beta1, beta2}")
        if not settings["eps"] >= 0.0:
            raise ValueError(f"eps must be >= 0, not {settings['eps']}")

    def _move(self, group: Group, run: Run, direction: Joined | None) -> None:
        (beta1, beta2), eps, params = group["betas"], group["eps"], run.params
        m, v, steps = run.state("exp_avg"), run.state("exp_avg_sq"), self._advance(params)
        if direction is not None:
            _direction(run.gradient, m, v, direction, steps, group)
            return
        # m_t = beta1 m_{t-1} + (1 - beta1) g_t,   v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
        m.flat.lerp_(run.gradient, 1 - beta1)
        v.flat.mul_(beta2).addcmul_(run.gradient, run.gradient, value=1 - beta2)
        denominator = Joined.split(v.flat.sqrt(), params)
        denominator.div_([(1 - beta2**t) ** 0.5 for t in steps])
        denominator.flat.add_(eps)
        sizes = [-(group["step_size"] / (1 - beta1**t)) for t in steps]
        torch._foreach_addcdiv_(params, m.views, denominator.views, sizes)

    def _advance(self, params: list[Tensor]) -> list[int]:
        """Counts the step; returns t for every parameter, which may have joined at different steps."""
        steps = []
        for p in params:
            state = self.state[p]
            state["step"] = state.get("step", 0) + 1
            steps.append(state["step"])
        return steps


def _direction(
    gradient: Tensor, m: Joined, v: Joined, direction: Joined, steps: list[int], group: Group
) -> None:
    """Writes D_t: torch's fused Adam with a step of size 1 from 0, which takes one pass over memory."""
    direction.flat.zero_()
    joined = [direction.flat], [gradient], [m.flat], [v.flat]
    if len(set(steps)) > 1:
        joined = direction.views, Joined.split(gradient, m.views).views, m.views, v.views
    else:
        steps = steps[:1]
    # The fused kernel reads single precision, whatever the default is.
    before = [torch.full((), t - 1.0, dtype=torch.float32, device=gradient.device) for t in steps]
    beta1, beta2 = group["betas"]
    adam(
        *joined,
        [],
        before,
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=1.0,
        weight_decay=0.0,
        eps=group["eps"],
        maximize=False,
    )


class AdamWHD(AdamHD):
    """AdamW (Loshchilov and Hutter, ICLR 2019) that adapts its own learning rate.

    Weight decay is no penalty but part of the direction: D_t = -mhat_t / (sqrt(vhat_t) + eps) - weight_decay
    theta_{t-1}. With `hypergrad_lr=0` it is `torch.optim.AdamW` to the last bit.

    Args:
        params: Parameters, or dicts that define groups with settings of their own.
        lr: Initial learning rate, alpha_0.
        betas: Decay rates of the running averages of the gradient and of its square.
        eps: Added to the root of the squared average.
        weight_decay: Part of the parameters taken away per step, times alpha.
        hypergrad_lr: Learning rate of the learning rate, as for `AdamHD`.
        **settings: `HypergradientSettings`.

    Raises:
        ValueError: A setting is outside its domain.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        hypergrad_lr: float | None = None,
        **settings: Unpack[HypergradientSettings],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, hypergrad_lr=hypergrad_lr, **settings)

    def _penalised(self, group: Group, run: Run) -> Tensor:
        return run.gradient

    def _move(self, group: Group, run: Run, direction: Joined | None) -> None:
        decay = group["weight_decay"]
        if direction is None and decay != 0:
            torch._foreach_mul_(run.params, 1 - group["step_size"] * decay)
        super()._move(group, run, direction)
        if direction is not None and decay != 0:
            torch._foreach_add_(direction.views, run.params, alpha=-decay)

"""Adam with hypergradient descent on its learning rate (Adam-HD, arXiv 1703.04782, algorithm 6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ppx_proposals.optim.hypergradient import Group, HypergradientOptimizer, Joined, check_hypergradient


class AdamHD(HypergradientOptimizer):
    """Adam (Kingma and Ba, ICLR 2015) that adapts its own learning rate.

    D_t = -mhat_t / (sqrt(vhat_t) + eps). With `hypergrad_lr=0` it is `torch.optim.Adam` to the last bit.

    Args:
        params: Parameters, or dicts that define groups with settings of their own.
        lr: Initial learning rate, alpha_0.
        betas: Decay rates of the running averages of the gradient and of its square.
        eps: Added to the root of the squared average.
        weight_decay: L2 penalty, added to the gradient.
        hypergrad_lr: Learning rate of the learning rate (the paper's beta: 1e-7 for the additive rule, 0.02 for the
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
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        hypergrad_lr: float = 1e-7,
        rule: str = "additive",
        lr_bounds: tuple[float, float] = (0.0, float("inf")),
    ) -> None:
        check_hypergradient(lr=lr, hypergrad_lr=hypergrad_lr, rule=rule, lr_bounds=lr_bounds)
        if not (0.0 <= betas[0] < 1.0 and 0.0 <= betas[1] < 1.0):
            raise ValueError(f"betas must lie in [0, 1), not {betas}")
        if eps < 0.0 or weight_decay < 0.0:
            raise ValueError(f"eps and weight_decay must be >= 0, not {eps} and {weight_decay}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "hypergrad_lr": hypergrad_lr,
            "rule": rule,
            "lr_bounds": lr_bounds,
        }
        super().__init__(params, defaults)

    def _move(self, group: Group, params: list[Tensor], gradient: Tensor, direction: Joined | None) -> None:
        beta1, beta2 = group["betas"]
        m, v = self._state_of(params, "exp_avg"), self._state_of(params, "exp_avg_sq")
        steps = []
        for p in params:
            self.state[p]["step"] = self.state[p].get("step", 0) + 1
            steps.append(self.state[p]["step"])
        # m_t = beta1 m_{t-1} + (1 - beta1) g_t,   v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
        m.flat.lerp_(gradient, 1 - beta1)
        v.flat.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # sqrt(vhat_t) + eps; parameters may have joined at different steps.
        denominator = Joined.of(params) if direction is None else direction
        torch.sqrt(v.flat, out=denominator.flat)
        torch._foreach_div_(denominator.views, [(1 - beta2**t) ** 0.5 for t in steps])
        denominator.flat.add_(group["eps"])
        correction = [1 - beta1**t for t in steps]
        if direction is None:
            torch._foreach_addcdiv_(
                params, m.views, denominator.views, [-(group["lr"] / c) for c in correction]
            )
            return
        # D_t = -mhat_t / (sqrt(vhat_t) + eps)
        torch.div(m.flat, denominator.flat, out=direction.flat)
        torch._foreach_div_(direction.views, [-c for c in correction])
        torch._foreach_add_(params, direction.views, alpha=group["lr"])

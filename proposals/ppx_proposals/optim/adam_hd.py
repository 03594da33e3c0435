"""Adam with hypergradient descent on its learning rate (Adam-HD, arXiv 1703.04782, algorithm 6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ppx_proposals.optim.hypergradient import Group, HypergradientOptimizer, check_hypergradient


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

    def _move(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> list[Tensor] | None:
        beta1, beta2 = group["betas"]
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if "step" not in state:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["step"] += 1
        m = [s["exp_avg"] for s in states]
        v = [s["exp_avg_sq"] for s in states]
        # m_t = beta1 m_{t-1} + (1 - beta1) g_t,   v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
        torch._foreach_lerp_(m, grads, 1 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1 - beta2)
        correction1 = [1 - beta1 ** s["step"] for s in states]
        correction2 = [(1 - beta2 ** s["step"]) ** 0.5 for s in states]
        # sqrt(vhat_t) + eps
        denominator = list(torch._foreach_sqrt(v))
        torch._foreach_div_(denominator, correction2)
        torch._foreach_add_(denominator, group["eps"])
        torch._foreach_addcdiv_(params, m, denominator, [-(group["lr"] / c) for c in correction1])
        if group["hypergrad_lr"] == 0:
            return None
        # D_t = -mhat_t / (sqrt(vhat_t) + eps)
        directions = list(torch._foreach_div(m, denominator))
        torch._foreach_div_(directions, [-c for c in correction1])
        return directions

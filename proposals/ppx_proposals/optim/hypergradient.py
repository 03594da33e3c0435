"""Hypergradient descent: optimizers that learn their own learning rate while they run.

Baydin, Cornish, Martinez Rubio, Schmidt and Wood, "Online learning rate adaptation with hypergradient descent", ICLR
2018, arXiv 1703.04782. With g_t the gradient (weight decay included) and D_t the direction the optimizer moves in,
theta_t = theta_{t-1} + alpha_t D_t, the derivative of the loss with respect to the learning rate of the step before is
one dot product of two vectors that are at hand:

    d loss(theta_{t-1}) / d alpha_{t-1} = h_t = g_t . D_{t-1}

so the learning rate follows by gradient descent on itself, before every step (D_0 = 0, hence h_1 = 0):

    additive (eq. 5)         alpha_t = alpha_{t-1} - beta h_t
    multiplicative (eq. 8)   alpha_t = alpha_{t-1} (1 - beta h_t / (|g_t| |D_{t-1}|))

Dot products and norms run over a whole parameter group. A parameter without a gradient does not move, so its part of g
and of D is 0.

`HypergradientOptimizer` is the part that all such optimizers share; a subclass says how it moves.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

Group = dict[str, Any]
_DIRECTION = "direction"
RULES = ("additive", "multiplicative")


def check_hypergradient(*, lr: float, hypergrad_lr: float, rule: str, lr_bounds: tuple[float, float]) -> None:
    """Checks the settings all hypergradient optimizers share.

    Raises:
        ValueError: One is outside its domain.
    """
    low, high = lr_bounds
    if not 0.0 <= low <= high:
        raise ValueError(f"lr_bounds must satisfy 0 <= low <= high, not {lr_bounds}")
    if not low <= lr <= high or not math.isfinite(lr):
        raise ValueError(f"lr must be finite and within lr_bounds {lr_bounds}, not {lr}")
    if not (hypergrad_lr >= 0.0 and math.isfinite(hypergrad_lr)):
        raise ValueError(f"hypergrad_lr must be finite and >= 0, not {hypergrad_lr}")
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")


class HypergradientOptimizer(Optimizer):
    """Base of optimizers whose `param_groups[i]["lr"]` is adapted at every step; it is a float and never negative.

    Every group carries `lr`, `weight_decay` (L2, part of the gradient; `p.grad` is not touched), `hypergrad_lr` (beta
    above; 0 switches the adaptation off), `rule` and `lr_bounds`. Do not combine with a learning rate scheduler: the
    learning rate is state, not a setting.

    Args:
        params: Parameters or groups of them.
        defaults: Settings of groups that do not give their own.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Adapts the learning rate of every group, then moves its parameters.

        Args:
            closure: Evaluates the loss anew and sets gradients; optional.

        Returns:
            The closure's loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def extend_group(self, params: Iterable[Tensor], *, group: int = 0) -> None:
        """Adds parameters to an existing group, such as those of addresses seen for the first time.

        The group's learning rate and the directions of its other parameters are kept.

        Args:
            params: Leaf tensors, none of which the optimizer has yet.
            group: Number of the group.

        Raises:
            ValueError: A parameter is in a group already.
        """
        known = {id(p) for g in self.param_groups for p in g["params"]}
        new = list(params)
        if any(id(p) in known for p in new) or len({id(p) for p in new}) < len(new):
            raise ValueError("a parameter may be in one group of an optimizer only once")
        self.param_groups[group]["params"].extend(new)

    @abstractmethod
    def _move(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> list[Tensor] | None:
        """Moves parameters by `group["lr"]` times their directions.

        Args:
            group: Settings, with the adapted learning rate.
            params: Parameters that have a gradient.
            grads: Their gradients, weight decay included; not to be written to.

        Returns:
            The directions D_t, tensors that nobody writes to afterwards; may be None if `group["hypergrad_lr"]` is 0.
        """

    def _step_group(self, group: Group) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            self._forget(group["params"])
            return
        grads = [p.grad for p in params]
        if any(g.is_sparse for g in grads):
            raise ValueError("hypergradient optimizers take dense gradients; use dense embeddings")
        if group["weight_decay"] != 0:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        if group["hypergrad_lr"] != 0:
            group["lr"] = self._adapted(group, params, grads)
        directions = self._move(group, params, grads)
        if group["hypergrad_lr"] != 0 and directions is not None:
            self._forget(p for p in group["params"] if p.grad is None)
            for p, direction in zip(params, directions, strict=True):
                self.state[p][_DIRECTION] = direction

    def _adapted(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> float:
        """The learning rate after its own step of gradient descent."""
        alpha: float = group["lr"]
        beta: float = group["hypergrad_lr"]
        last = {p: d for p in group["params"] if (d := self._direction(p)) is not None}
        pairs = [(g, last[p]) for p, g in zip(params, grads, strict=True) if p in last]
        if not pairs:
            return alpha
        # h_t = g_t . D_{t-1}
        h = _total([torch.dot(g.reshape(-1), d.reshape(-1)) for g, d in pairs])
        if group["rule"] == "multiplicative":
            # 1 - beta h_t / (|g_t| |D_{t-1}|); parameters without a direction still count in |g_t|.
            norm = math.sqrt(_total([n.square() for n in torch._foreach_norm(grads)]))
            norm *= math.sqrt(_total([n.square() for n in torch._foreach_norm(list(last.values()))]))
            adapted = alpha * (1.0 - beta * h / norm) if norm > 0.0 else alpha
        else:
            adapted = alpha - beta * h
        low, high = group["lr_bounds"]
        return min(max(adapted, float(low)), float(high)) if math.isfinite(adapted) else alpha

    def _direction(self, p: Tensor) -> Tensor | None:
        direction: Tensor | None = self.state[p].get(_DIRECTION) if p in self.state else None
        return direction

    def _forget(self, params: Iterable[Tensor]) -> None:
        """Parameters that do not move have the direction 0."""
        for p in params:
            if p in self.state:
                self.state[p].pop(_DIRECTION, None)


def _total(values: list[Tensor]) -> float:
    """Sum of scalars in float64, with one synchronisation per device."""
    devices = {v.device for v in values}
    return sum(float(torch.stack([v for v in values if v.device == d]).double().sum()) for d in devices)

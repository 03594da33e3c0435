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

The arithmetic runs on the gradients and the state of all parameters laid end to end, because most networks have many
small parameters and calls cost more than sums; the state of each parameter is a view of that.

`HypergradientOptimizer` is the part that all such optimizers share; a subclass says how it moves.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

Group = dict[str, Any]
_DIRECTION = "direction"
RULES = ("additive", "multiplicative")


class Joined(NamedTuple):
    """Something of several parameters, end to end.

    Attributes:
        flat: `(total size,)`.
        views: One view of `flat` per parameter, in its shape.
    """

    flat: Tensor
    views: list[Tensor]

    @classmethod
    def of(cls, tensors: list[Tensor]) -> Joined:
        """A copy of tensors, end to end."""
        flat = torch.cat([t.reshape(-1) for t in tensors])
        parts = torch.split(flat, [t.numel() for t in tensors])
        return cls(flat, [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])


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
    above; 0 switches the adaptation off), `rule`, `lr_bounds`, and `max_grad_norm`, infinite unless it is set:
    gradients of a larger norm, taken over the group, are scaled down to it, and one that is not finite moves nothing.
    Do not combine with a learning rate scheduler: the learning rate is state, not a setting.

    Args:
        params: Parameters or groups of them.
        defaults: Settings of groups that do not give their own.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, {"max_grad_norm": math.inf, **defaults})
        self._joined: dict[tuple[str, int], Joined] = {}

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
    def _move(self, group: Group, params: list[Tensor], gradient: Tensor, direction: Joined | None) -> None:
        """Moves parameters by `group["lr"]` times their directions.

        Args:
            group: Settings, with the adapted learning rate.
            params: Parameters of one device and type that have a gradient.
            gradient: Their gradients end to end, weight decay included.
            direction: Where the directions D_t go; None if nobody needs them.
        """

    def _state_of(self, params: list[Tensor], key: str) -> Joined:
        """State of parameters end to end, zeros at first; what each has is a view of it."""
        own = [self.state[p].get(key) for p in params]
        joined = self._joined.get((key, id(params[0])))
        if (
            joined is None
            or len(joined.views) != len(own)
            or any(v is not s for v, s in zip(joined.views, own, strict=True))
        ):
            pairs = zip(own, params, strict=True)
            joined = Joined.of([torch.zeros_like(p) if s is None else s for s, p in pairs])
            for p, view in zip(params, joined.views, strict=True):
                self.state[p][key] = view
            self._joined[key, id(params[0])] = joined
        return joined

    def _step_group(self, group: Group) -> None:
        gradients = _gradients(group)
        norm = math.nan
        if gradients and (group["max_grad_norm"] < math.inf or group["rule"] == "multiplicative"):
            norm = _norm([g for _, g in gradients])
        if group["max_grad_norm"] < math.inf and gradients:
            if not math.isfinite(norm):
                return
            if norm > group["max_grad_norm"]:
                for _, g in gradients:
                    g.mul_(group["max_grad_norm"] / norm)
                norm = group["max_grad_norm"]
        if group["weight_decay"] != 0:
            for params, g in gradients:
                g.add_(Joined.of(params).flat, alpha=group["weight_decay"])
            norm = _norm([g for _, g in gradients])
        directions: list[Joined | None] = [None] * len(gradients)
        if group["hypergrad_lr"] != 0:
            directions = [self._state_of(params, _DIRECTION) for params, _ in gradients]
            group["lr"] = self._adapted(group, gradients, norm)
        for (params, g), direction in zip(gradients, directions, strict=True):
            self._move(group, params, g, direction)
        # Parameters that do not move have the direction 0.
        for p in group["params"]:
            if p.grad is None and p in self.state:
                self.state[p].pop(_DIRECTION, None)

    def _adapted(self, group: Group, gradients: list[tuple[list[Tensor], Tensor]], norm: float) -> float:
        """The learning rate after its own step of gradient descent; `norm` is |g_t|."""
        alpha: float = group["lr"]
        beta: float = group["hypergrad_lr"]
        last = [self._state_of(params, _DIRECTION).flat for params, _ in gradients]
        # h_t = g_t . D_{t-1}
        h = math.fsum(float(torch.dot(g, d)) for (_, g), d in zip(gradients, last, strict=True))
        if group["rule"] == "multiplicative":
            # 1 - beta h_t / (|g_t| |D_{t-1}|); parameters without a gradient still count in |D_{t-1}|.
            still = [p for p in group["params"] if p.grad is None and p in self.state]
            last += [d.reshape(-1) for p in still if (d := self.state[p].get(_DIRECTION)) is not None]
            norm *= _norm(last)
            adapted = alpha * (1.0 - beta * h / norm) if norm > 0.0 else alpha
        else:
            adapted = alpha - beta * h
        low, high = group["lr_bounds"]
        return min(max(adapted, float(low)), float(high)) if math.isfinite(adapted) else alpha


def _gradients(group: Group) -> list[tuple[list[Tensor], Tensor]]:
    """Parameters that have a gradient, by device and type, with a copy of their gradients end to end."""
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for p in group["params"]:
        if p.grad is not None:
            if p.grad.is_sparse:
                raise ValueError("hypergradient optimizers take dense gradients; use dense embeddings")
            kinds.setdefault((p.device, p.dtype), []).append(p)
    return [
        (params, torch.cat([p.grad.reshape(-1) for p in params if p.grad is not None]))
        for params in kinds.values()
    ]


def _norm(vectors: list[Tensor]) -> float:
    """Euclidean norm of several vectors together."""
    return math.hypot(*(float(torch.linalg.vector_norm(v)) for v in vectors))

"""Learning rate schedules, for learning rates that are not learned, and a warm-up for those that are.

`warm_up`, `poly1` and `poly2` give a `torch.optim.lr_scheduler`: call its `step()` after each `optimizer.step()`, save
its `state_dict()`, chain two with `SequentialLR`. They refuse an optimizer that adapts its own learning rate, because
both would write it, and what one writes the other wipes out.

For an alpha that is learned, `BoundWarmUp` raises the bound that alpha is kept within. It never writes alpha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler

from ppx_proposals.optim.hypergradient import HypergradientOptimizer
from ppx_proposals.optim.tower import Tower


def warm_up(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Learning rates lr0 (t + 1) / n for t = 0 .. n - 1, then lr0 (Goyal et al. 2017, arXiv 1706.02677, section 2.2).

    Args:
        optimizer: Any whose learning rate is a setting.
        steps: n, the step from which on the learning rate is the optimizer's own.

    Raises:
        ValueError: `steps` is below 1, or the optimizer learns its learning rate.
    """
    check_steps(steps)
    refuse_learned_rates(optimizer)
    return LinearLR(optimizer, start_factor=1.0 / steps, total_iters=steps - 1)


def poly1(optimizer: Optimizer, steps: int, *, end_lr: float = 0.0) -> LRScheduler:
    """Learning rates end + (lr0 - end) (1 - t/T), then end.

    Args:
        optimizer: Any whose learning rate is a setting.
        steps: T, the steps that the decay takes.
        end_lr: The last learning rate, of every group.

    Raises:
        ValueError: A setting is outside its domain, or the optimizer learns its learning rate.
    """
    return _polynomial(optimizer, steps, 1, end_lr)


def poly2(optimizer: Optimizer, steps: int, *, end_lr: float = 0.0) -> LRScheduler:
    """Learning rates end + (lr0 - end) (1 - t/T)^2, then end; otherwise as `poly1`."""
    return _polynomial(optimizer, steps, 2, end_lr)


@dataclass
class _Decay:
    """Factor of lr0 after t steps."""

    steps: int
    power: int
    end: float

    def __call__(self, t: int) -> float:
        # end / lr0 + (1 - end / lr0) (1 - t/T)^p
        left = max(0.0, 1.0 - t / self.steps)
        return self.end + (1.0 - self.end) * left**self.power


def _polynomial(optimizer: Optimizer, steps: int, power: int, end_lr: float) -> LRScheduler:
    check_steps(steps)
    refuse_learned_rates(optimizer)
    if not 0.0 <= end_lr < math.inf:
        raise ValueError(f"end_lr must be finite and >= 0, not {end_lr}")
    # Where another schedule came first, its first learning rate is in place by now and lr0 is in initial_lr.
    first = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    for number, lr in enumerate(first):
        if lr <= 0.0:
            raise ValueError(f"lr of group {number} must be > 0 to be scheduled, not {lr}")
    return LambdaLR(optimizer, [_Decay(steps, power, end_lr / lr) for lr in first])


class BoundWarmUp:
    """Warm-up of a learned alpha: its upper bound grows from its first value to the user's.

    bound_t = alpha_0 (high / alpha_0)^(t/n): alpha stays what the hypergradient makes it, but cannot run away in the
    first n steps, in which gradients are large and say little about later ones. Call `step()` after each
    `optimizer.step()`. Save its `state_dict()` beside the optimizer's.

    Args:
        optimizer: A hypergradient optimizer, whose groups have `lr_bounds` with a finite upper end and an `lr` > 0.
        steps: n.

    Raises:
        ValueError: The optimizer does not learn its learning rate, or a setting is outside its domain.
    """

    def __init__(self, optimizer: Optimizer, steps: int) -> None:
        inner = innermost(optimizer)
        if not isinstance(inner, HypergradientOptimizer):
            raise ValueError(
                f"{type(inner).__name__} has no lr_bounds that a warm-up could raise; use schedules.warm_up"
            )
        check_steps(steps)
        for number, group in enumerate(inner.param_groups):
            if not (group["lr"] > 0.0 and group["lr_bounds"][1] < math.inf):
                raise ValueError(
                    f"group {number} has lr {group['lr']} and lr_bounds {group['lr_bounds']}: a warm-up needs lr > 0"
                    " and a finite upper bound; give lr_bounds=(0.0, largest)"
                )
        self._optimizer = inner
        self._steps = steps
        self._done = 0
        self._first = [float(group["lr"]) for group in inner.param_groups]
        self._last = [float(group["lr_bounds"][1]) for group in inner.param_groups]
        self._bound()

    def step(self) -> None:
        """Raises the bounds by one step."""
        self._done += 1
        self._bound()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {"steps": self._steps, "done": self._done, "first": self._first, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another stopped.

        Args:
            state: What `state_dict` gave.

        Raises:
            ValueError: It was saved with another number of parameter groups.
        """
        if len(state["first"]) != len(self._first):
            raise ValueError(
                f"the state is of {len(state['first'])} parameter groups, the optimizer has {len(self._first)};"
                " add the groups before loading"
            )
        self._steps, self._done = state["steps"], state["done"]
        self._first, self._last = list(state["first"]), list(state["last"])
        self._bound()

    def _bound(self) -> None:
        if self._done > self._steps:
            return
        part = self._done / self._steps
        for group, first, last in zip(self._optimizer.param_groups, self._first, self._last, strict=False):
            low = group["lr_bounds"][0]
            # alpha_0 (high / alpha_0)^(t/n), and exactly the user's bound in the end
            high = last if part == 1.0 else first * (last / first) ** part
            group["lr_bounds"] = (low, high)


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer that moves the parameters, where others such as Lookahead are wrapped around it."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def refuse_learned_rates(optimizer: Optimizer) -> None:
    """Checks that no parameter group adapts its own learning rate.

    Raises:
        ValueError: One does.
    """
    inner = innermost(optimizer)
    if isinstance(inner, Tower) and "lr" in inner.levels[0].adapted:
        raise ValueError(
            'the Tower adapts "lr", which a schedule would overwrite; take "lr" out of adapt to schedule it'
        )
    if not isinstance(inner, HypergradientOptimizer):
        return
    for number, group in enumerate(inner.param_groups):
        if group["hypergrad_lr"] != 0.0:
            raise ValueError(
                f"group {number} of {type(inner).__name__} learns its lr (hypergrad_lr={group['hypergrad_lr']}), which"
                " a schedule would overwrite; set hypergrad_lr=0 to schedule it, or use schedules.BoundWarmUp, or"
                " settle=(alpha_inf, T) for one that settles"
            )


def check_steps(steps: int) -> None:
    """Checks a number of steps.

    Raises:
        ValueError: It is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")

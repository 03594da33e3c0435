"""Lookahead (Zhang, Lucas, Hinton and Ba, NeurIPS 2019, arXiv 1907.08610) around any optimizer.

Every k steps of the inner optimizer (the fast weights theta) the slow weights phi follow a part of the way, and the
fast ones start anew from there (algorithm 1):

    phi <- phi + a (theta - phi),   theta <- phi

With hypergradient descent the last step before such a sync moved theta by alpha_t D_t, so the weights at which the next
gradient is taken depend on alpha_t through a alpha_t D_t only. The direction that the inner optimizer keeps is
therefore scaled by a at a sync; then h_{t+1} = g_{t+1} . (a D_t) is the derivative, which it would exceed 1/a times.

The arithmetic and the state are `pytorch_optimizer.Lookahead`'s, which needs every parameter from the start on and
leaves out those that have no gradient at the sync. Here parameters may join later, and all are synced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_optimizer
import torch
from torch import Tensor
from torch.optim import Optimizer

from ppx_proposals.optim.hypergradient import HypergradientOptimizer
from ppx_proposals.optim.settings import Group
from ppx_proposals.optim.tower import Tower


class Lookahead(pytorch_optimizer.Lookahead):
    """Slow weights that follow an optimizer's.

    `param_groups` are the inner optimizer's, so the learning rate is read there as always. Every group counts its own
    steps. A parameter that joins later starts its slow weights where it joins, and is synced with its group.

    Args:
        optimizer: What makes the fast steps.
        k: Steps between two syncs.
        alpha: a above, the part of the way that the slow weights follow; not a learning rate.

    Raises:
        ValueError: A setting is outside its domain.
        TypeError: The optimizer is a tower that adapts something, or another Lookahead.
    """

    def __init__(self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        if k < 1 or k != int(k):
            raise ValueError(f"k must be a whole number of steps, at least 1, not {k}")
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"alpha must lie in (0, 1], not {alpha}")
        if isinstance(optimizer, pytorch_optimizer.Lookahead):
            raise TypeError(
                "one Lookahead cannot be put around another: both would count steps in the same groups"
            )
        if isinstance(optimizer, Tower) and optimizer.levels[0].adapted:
            raise TypeError(
                f"Lookahead cannot be put around a Tower that adapts {', '.join(optimizer.levels[0].adapted)}: its"
                " derivative would be of the weights before a sync; use SGDHD or AdamHD, for which it stays exact"
            )
        super().__init__(optimizer, k=k, alpha=alpha)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Makes one step of the inner optimizer, and syncs the groups whose turn it is.

        Args:
            closure: Evaluates the loss anew and sets gradients; optional.

        Returns:
            The closure's loss.
        """
        self._begin_slow_weights()
        loss: float | None = super().step(closure)
        return loss

    @torch.no_grad()
    def update(self, group: Group) -> None:
        """Syncs the slow and the fast weights of a group.

        Args:
            group: One of `param_groups`.
        """
        params: list[Tensor] = group["params"]
        slow = [self.state[p]["slow_params"] for p in params]
        # phi <- phi + a (theta - phi), theta <- phi
        torch._foreach_lerp_(params, slow, 1.0 - self.alpha)
        torch._foreach_copy_(slow, params)
        if isinstance(self.optimizer, HypergradientOptimizer):
            states = [self.optimizer.state[p] for p in params if p in self.optimizer.state]
            directions = [state["direction"] for state in states if "direction" in state]
            if directions:
                # d theta / d alpha_t = a D_t
                torch._foreach_mul_(directions, self.alpha)

    def extend_group(self, params: Iterable[Tensor], *, group: int = 0) -> None:
        """Adds parameters to an existing group, as `HypergradientOptimizer.extend_group` does.

        Args:
            params: Leaf tensors, none of which the optimizer has yet.
            group: Number of the group.

        Raises:
            ValueError: A parameter is in a group already, or the inner optimizer cannot extend a group.
        """
        if not isinstance(self.optimizer, HypergradientOptimizer):
            raise ValueError(f"{type(self.optimizer).__name__} has no extend_group; use add_param_group")
        self.optimizer.extend_group(params, group=group)
        self._begin_slow_weights()

    def state_dict(self) -> dict[str, Any]:
        """State of the inner optimizer and the slow weights."""
        self._begin_slow_weights()
        state: dict[str, Any] = super().state_dict()
        return state

    def __getstate__(self) -> dict[str, Any]:
        """What a copy starts from."""
        return {**super().__getstate__(), "defaults": self.defaults}  # type: ignore[no-untyped-call]

    def _begin_slow_weights(self) -> None:
        """Gives parameters that joined since the last step their slow weights."""
        for group in self.param_groups:
            self.init_group(group)

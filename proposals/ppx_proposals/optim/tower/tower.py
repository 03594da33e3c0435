"""Hyperoptimizer towers: level 0 moves the parameters, level k + 1 moves hyperparameters of level k.

Chandra, Xie, Ragan-Kelley and Meijer, "Gradient descent: the ultimate optimizer", NeurIPS 2022, arXiv 1909.13371. With
theta_t = u(theta_{t-1}, g_t; phi_t) the step of level 0 and phi_t its hyperparameters, the next gradient g_{t+1} gives

    d loss(theta_t) / d phi_t = (d theta_t / d phi_t)^T g_{t+1}

and so on up the tower, because phi_t came out of the step of level 1. Everything before step t is held fixed. Only the
graph of the update is needed, never that of the loss: parameters stay leaves, nothing is differentiated twice, and
what is kept from one step to the next does not grow. At every step the hyperparameters move first, the highest level
before all others, then the parameters; before the first step the hypergradient is 0.

The state holds what the last update was made from, so that the graph can be built again after loading; for a tower that
adapts only the learning rate this is the direction of the last step, one tensor per parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ppx_proposals.optim.growing import extend
from ppx_proposals.optim.learned import Learned, unmark
from ppx_proposals.optim.tower import chain as chains
from ppx_proposals.optim.tower.chain import Chain, Group
from ppx_proposals.optim.tower.levels import Hypers, Level, Memory, read, write


class _Update(NamedTuple):
    """The last update of a group, as a graph.

    Attributes:
        chain: Its hyperparameters.
        leaves: Values of the hyperparameters of level 0, `(H_0,)`, for each device and type.
        edges: Where each parameter left the graph.
    """

    chain: Chain
    leaves: dict[tuple[torch.device, torch.dtype], Tensor]
    edges: dict[Tensor, GradientEdge]


class Tower(Optimizer):
    """An optimizer whose hyperparameters are moved by an optimizer, whose hyperparameters are moved by an optimizer...

    `param_groups[i]["lr"]` and its like are the current values, floats. Those that are adapted are state, not
    settings: what a scheduler writes there is refused, `set_hyperparameters` is for users. Each parameter group has a
    tower of its own and may begin with other settings of level 0. A parameter without a gradient does not move and has
    no part in the hypergradient. If the hypergradient is not finite, no hyperparameter moves.

    Hypergradients are derivatives of the loss that made `p.grad`; weight decay is no part of it.

    Args:
        params: Parameters, or dicts that define groups with settings of their own.
        levels: What moves the parameters; what moves the hyperparameters it names in `adapt`; and so on.

    Raises:
        ValueError: A level below the highest adapts nothing, or the highest adapts something.
        TypeError: A level is none of `ppx_proposals.optim.tower`.
    """

    def __init__(self, params: ParamsT, levels: Sequence[Level]) -> None:
        self.levels = tuple(levels)
        if not self.levels:
            raise ValueError("a tower needs at least one level, such as Adam(lr=1e-3)")
        for k, level in enumerate(self.levels):
            if not isinstance(level, Level):
                raise TypeError(
                    f"level {k} is a {type(level).__module__}.{type(level).__name__}; take SGD, Adam, AdamW, RMSprop"
                    " or AdaGrad of ppx_proposals.optim.tower"
                )
        for k, level in enumerate(self.levels[:-1]):
            if not level.adapt:
                raise ValueError(
                    f"level {k} ({type(level).__name__}) adapts nothing, so the level above has nothing to move; "
                    'name hyperparameters, such as adapt=("lr",)'
                )
        if self.levels[-1].adapt:
            top = f"level {len(self.levels) - 1} ({type(self.levels[-1]).__name__})"
            raise ValueError(f"{top} adapts {self.levels[-1].adapt}, but no level is above it; add one")
        self._updates: dict[int, _Update] = {}
        self._learned = Learned("set_hyperparameters({name}=...)")
        super().__init__(params, self.levels[0].settings())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group, with a tower of its own.

        Args:
            param_group: `params`, and settings of level 0 that differ.

        Raises:
            ValueError: A setting is outside its domain.
        """
        settings = self.levels[0].settings()
        own: dict[str, Any] = {name: param_group.get(name, settings[name]) for name in settings}
        replace(self.levels[0], **own)
        super().add_param_group({"levels": chains.initial(self.levels), **param_group})

    def extend_group(self, params: Iterable[Tensor], *, group: int = 0) -> None:
        """Adds parameters to an existing group, such as those of addresses seen for the first time.

        Args:
            params: Leaf tensors, none of which the optimizer has yet.
            group: Number of the group.

        Raises:
            ValueError: A parameter is in a group already, or is no leaf.
        """
        extend(self.param_groups, params, group=group)

    def hyperparameters(self, group: int = 0) -> list[dict[str, float]]:
        """The current hyperparameters of a group, one dict per level.

        Args:
            group: Number of the group.
        """
        settings = [chains.settings_of(self.param_groups[group], k) for k in range(len(self.levels))]
        pairs = zip(settings, self.levels, strict=True)
        return [{name: read(s, name) for name in level.names} for s, level in pairs]

    def set_hyperparameters(self, *, group: int = 0, **values: float) -> None:
        """Sets hyperparameters of level 0, adapted or not; they count from the next step on.

        Args:
            group: Number of the group.
            **values: By name, as `hyperparameters` shows them: `lr`, `beta1`, `weight_decay`, ...

        Raises:
            ValueError: There is no such hyperparameter, or a value is outside its domain.
        """
        settings = self.param_groups[group]
        new = {name: settings[name] for name in self.levels[0].settings()}
        for name, value in values.items():
            if name not in self.levels[0].names:
                raise ValueError(
                    f"{type(self.levels[0]).__name__} has no {name!r}; it has {', '.join(self.levels[0].names)}"
                )
            write(new, name, float(value))
        replace(self.levels[0], **new)
        settings.update(new)
        self._learned.forget(group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a saved state.

        Args:
            state_dict: Of a tower of the same levels.

        Raises:
            ValueError: It is of another tower.
        """
        mine = [(level["rule"], level["adapted"]) for level in chains.initial(self.levels)]
        for group in state_dict["param_groups"]:
            theirs = [(level["rule"], level["adapted"]) for level in group.get("levels", ())]
            if theirs != mine:
                raise ValueError(
                    f"the state is of the tower {theirs}, this one is {mine}; build the same levels"
                )
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "levels": self.levels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Graphs are no part of the state; they are built again from it.
        super().__setstate__(state)
        self._updates = {}
        self._learned = Learned("set_hyperparameters({name}=...)")
        if "lr" in self.levels[0].adapted:
            for group in self.param_groups:
                unmark(group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Moves the hyperparameters of every group, then its parameters.

        Args:
            closure: Evaluates the loss anew and sets gradients; optional.

        Returns:
            The closure's loss.

        Raises:
            ValueError: A gradient is sparse, a parameter is complex, or somebody else writes a hyperparameter that is
                adapted; nothing has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            self._learned.check(number, group, self._adapted(group))
            for p in group["params"]:
                if p.grad is not None and (p.grad.is_sparse or p.is_complex()):
                    raise ValueError(
                        "towers take dense, real gradients; use dense embeddings, view_as_real parameters"
                    )
        for index, group in enumerate(self.param_groups):
            self._step_group(index, group)
            self._learned.leave(index, self._adapted(group))
        return loss

    def _adapted(self, group: Group) -> dict[str, float]:
        """The current values that level 1 moves, by name."""
        return {name: read(group, name) for name in self.levels[0].adapted}

    def _step_group(self, index: int, group: Group) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        chain = self._advanced(index, group, params)
        update = _Update(chain, {}, {})
        hypers: dict[tuple[torch.device, torch.dtype], Hypers] = {}
        for p in params:
            kind = _kind(p)
            if kind not in hypers:
                hypers[kind] = self._hypers(group, kind, update)
            self._move(group, p, hypers[kind], update.edges)
        # The derivative of a step that a parameter did not make is 0.
        for p in group["params"]:
            if p.grad is None and p in self.state:
                self.state[p].pop("last", None)
        self._updates[index] = update

    def _advanced(self, index: int, group: Group, params: list[Tensor]) -> Chain:
        """The hyperparameters for this step."""
        if len(self.levels) == 1:
            return Chain([], ())
        update = self._updates.pop(index, None) or self._rebuilt(group)
        moved = [p for p in params if p in update.edges]
        total = torch.zeros(len(update.chain.values), dtype=update.chain.raws[0].dtype)
        if moved:
            # (d theta / d phi)^T g
            parts = torch.autograd.grad(
                [update.edges[p] for p in moved],
                list(update.leaves.values()),
                [p.grad for p in moved],
                materialize_grads=True,
            )
            for part in parts:
                total += part.to(total)
        return chains.advanced(self.levels, group, update.chain, hypergradient=total)

    def _rebuilt(self, group: Group) -> _Update:
        """The graph of the last update, from the state."""
        precise = any(p.dtype == torch.float64 for p in group["params"])
        chain = chains.current(self.levels, group, torch.float64 if precise else torch.float32)
        update = _Update(chain, {}, {})
        hypers: dict[tuple[torch.device, torch.dtype], Hypers] = {}
        for p in group["params"]:
            last = self.state[p].get("last") if p in self.state else None
            if last is not None:
                kind = _kind(p)
                if kind not in hypers:
                    hypers[kind] = self._hypers(group, kind, update)
                self._traced(p, last, hypers[kind], edges=update.edges, time=self.state[p]["step"])
        return update

    def _hypers(self, group: Group, kind: tuple[torch.device, torch.dtype], update: _Update) -> Hypers:
        """Hyperparameters of level 0 on a device; those that are adapted are leaves of the update's graph."""
        if not update.chain.values:
            return self.levels[0].hypers(group, {})
        leaf = torch.stack(update.chain.values).detach().to(*kind).requires_grad_()
        update.leaves[kind] = leaf
        with torch.enable_grad():
            adapted = dict(zip(self.levels[0].adapted, leaf.unbind(), strict=True))
        return self.levels[0].hypers(group, adapted)

    def _move(self, group: Group, p: Tensor, hypers: Hypers, edges: dict[Tensor, GradientEdge]) -> None:
        """Moves one parameter."""
        assert p.grad is not None
        level, state = self.levels[0], self.state[p]
        time = state.get("step", 0) + 1
        memory = {name: x for name, x in state.items() if name not in ("step", "last")}
        decays = group["weight_decay"] != 0.0 or "weight_decay" in level.adapted
        last: dict[str, Any] = {}
        if level.outer.issuperset(level.adapted):
            direction, memory = level.direction(
                _wide(p.detach()), _wide(p.grad), _wide_each(memory), hypers=hypers, time=time
            )
            direction, memory = direction.to(p.dtype), {name: x.to(p.dtype) for name, x in memory.items()}
            # What is kept may not change with p.grad.
            last["direction"] = direction.clone() if direction is p.grad and level.adapted else direction
            keeps_start = decays and "weight_decay" in level.outer
        else:
            last.update(gradient=p.grad.clone(), memory=memory)
            keeps_start = decays
        if keeps_start and level.adapted:
            last["at"] = p.detach().clone()
        new, averages = self._traced(p, last, hypers, edges=edges, time=time)
        p.copy_(new)
        state.update(step=time, **(averages or memory))
        if level.adapted:
            state["last"] = last

    def _traced(
        self,
        p: Tensor,
        last: dict[str, Any],
        hypers: Hypers,
        *,
        edges: dict[Tensor, GradientEdge],
        time: int,
    ) -> tuple[Tensor, Memory]:
        """Where an update leads, and what level 0 then remembers; its graph goes to the edges."""
        level, at = self.levels[0], _wide(last.get("at", p.detach()))
        memory: Memory = {}
        with torch.enable_grad():
            if "direction" in last:
                direction = _wide(last["direction"])
            else:
                direction, memory = level.direction(
                    at, _wide(last["gradient"]), _wide_each(last["memory"]), hypers=hypers, time=time
                )
            new = level.moved(at, direction, hypers).to(p.dtype)
        if new.requires_grad:
            edges[p] = get_gradient_edge(new)
        return new.detach(), {name: x.detach().to(p.dtype) for name, x in memory.items()}


def _kind(p: Tensor) -> tuple[torch.device, torch.dtype]:
    """Where the hyperparameters of a parameter are, and their type."""
    return p.device, torch.float64 if p.dtype == torch.float64 else torch.float32


def _wide(x: Tensor) -> Tensor:
    """A tensor in single precision at least: 1 - beta and sums over a parameter are beyond half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _wide_each(memory: Memory) -> Memory:
    return {name: _wide(x) for name, x in memory.items()}

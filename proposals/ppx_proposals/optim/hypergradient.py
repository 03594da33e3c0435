"""Hypergradient descent: optimizers that learn their own learning rate while they run.

Baydin, Cornish, Martinez Rubio, Schmidt and Wood, "Online learning rate adaptation with hypergradient descent", ICLR
2018, arXiv 1703.04782. With g_t the gradient (L2 penalty included) and D_t the direction the optimizer moves in,
theta_t = theta_{t-1} + alpha_t D_t, the derivative of the loss with respect to the learning rate of the step before is
one dot product of two vectors that are at hand:

    d loss(theta_{t-1}) / d alpha_{t-1} = h_t = g_t . D_{t-1}

so the learning rate follows by gradient descent on itself, before every step (D_0 = 0, hence h_1 = 0):

    additive (eq. 5)         alpha_t = alpha_{t-1} - beta h_t
    multiplicative (eq. 8)   alpha_t = alpha_{t-1} (1 - beta h_t / (|g_t| |D_{t-1}|))

Dot products and norms run over a whole parameter group, or over all groups. A parameter without a gradient does not
move, so its part of g and of D is 0. Learning rates that settle (section 5): the step has the size

    gamma_t = delta(t) alpha_t + (1 - delta(t)) alpha_inf,   delta(t) = 1 / (1 + (t / T)^2)

for which t delta(t) -> 0, as convergence asks for; h_t is then the derivative with respect to gamma_{t-1}.

`HypergradientOptimizer` is the part that all such optimizers share; a subclass says in which direction it moves.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT
from torch.utils.hooks import RemovableHandle

from ppx_proposals.optim.growing import extend
from ppx_proposals.optim.joined import Joined, Layout, Run
from ppx_proposals.optim.learned import Learned, unmark
from ppx_proposals.optim.settings import (
    MULTIPLICATIVE_BETA,
    SHARED,
    Group,
    check_settings,
    refuse_not_offered,
)

Transform = Callable[[list[Tensor], list[Tensor]], None]
"""Called with all parameters that have a gradient, and with one tensor for each, to be changed in place."""
_DIRECTION = "direction"


class _Work(NamedTuple):
    """What one group does in one step."""

    group: Group
    layouts: list[Layout]
    runs: list[Run]


class HypergradientOptimizer(Optimizer):
    """Base of optimizers whose `param_groups[i]["lr"]` is adapted at every step; it is a float and never negative.

    Every group carries `lr`, `weight_decay`, and what `settings.hypergradient_settings` describes; `p.grad` is not
    touched. State per parameter: `direction` is D_{t-1}, a view of one tensor for many parameters, to be changed only
    in place. The learning rate is state, not a setting: what a scheduler writes is refused, `set_lr` is for users.

    With DistributedDataParallel every process sees the reduced gradients and so learns the same alpha. On a GPU the
    step waits for the dot product of every group, or once if all share alpha, because alpha is a float; and for the
    norm of every group that has a `max_grad_norm`.

    Args:
        params: Parameters or groups of them.
        defaults: Settings of groups that do not give their own.

    Raises:
        ValueError: A setting is outside its domain.
    """

    _usual_hypergrad_lr: float
    """beta of the paper for the additive rule."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._clear()
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes on saved state; whatever was laid out is laid out anew."""
        self._layouts: dict[int, tuple[list[Tensor], list[Layout]]] = {}
        if not hasattr(self, "_gradient_transforms"):
            self._clear()
        self._learned.forget()
        super().__setstate__(state)
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
            group.setdefault("step_size", group["lr"])
            self._choose_hypergrad_lr(group)
            if group["hypergrad_lr"] != 0:
                unmark(group)

    def _choose_hypergrad_lr(self, settings: Group) -> None:
        if settings["hypergrad_lr"] is None:
            multiplicative = settings["rule"] == "multiplicative"
            settings["hypergrad_lr"] = MULTIPLICATIVE_BETA if multiplicative else self._usual_hypergrad_lr

    def _clear(self) -> None:
        self._layouts = {}
        self._learned = Learned("set_lr(...)")
        self._gradient_transforms: OrderedDict[int, Transform] = OrderedDict()
        self._direction_transforms: OrderedDict[int, Transform] = OrderedDict()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, with settings of its own where it gives them.

        Args:
            param_group: `{"params": ..., setting: value}`.

        Raises:
            ValueError: A setting is outside its domain, or differs from the other groups' where all share one alpha.
            TypeError: It is one of torch's that is not offered here.
        """
        refuse_not_offered(param_group)
        settings = {**self.defaults, **param_group}
        if settings["scope"] == "global" and self.param_groups:
            shared = {key: self.param_groups[0][key] for key in (*SHARED, "num_steps")}
            settings.update({**shared, **param_group})
        self._choose_hypergrad_lr(settings)
        settings["lr"] = settings["step_size"] = float(settings["lr"])
        check_settings(settings, self.param_groups)
        self._check(settings)
        super().add_param_group(settings)

    def extend_group(self, params: Iterable[Tensor], *, group: int = 0) -> None:
        """Adds parameters to an existing group, such as those of addresses seen for the first time.

        The group's learning rate and the directions of its other parameters are kept.

        Args:
            params: Leaf tensors, none of which the optimizer has yet.
            group: Number of the group.

        Raises:
            ValueError: A parameter is in a group already, or is not a leaf.
        """
        extend(self.param_groups, params, group=group)

    def set_lr(self, lr: float, *, group: int | None = None) -> None:
        """Sets alpha, which is learned from there on; for a restart, say.

        Args:
            lr: The learning rate, within `lr_bounds`.
            group: Number of the group; None for all.

        Raises:
            ValueError: It is outside `lr_bounds`, or of one group of several that share one alpha.
        """
        if group is not None and len(self.param_groups) > 1 and self.param_groups[0]["scope"] == "global":
            raise ValueError('with scope="global" all groups share one alpha; leave `group` out')
        numbers = range(len(self.param_groups)) if group is None else (group,)
        for number in numbers:
            low, high = self.param_groups[number]["lr_bounds"]
            if not low <= lr <= high or not math.isfinite(lr):
                raise ValueError(
                    f"lr must be finite and within lr_bounds {low, high} of group {number}, not {lr}"
                )
        for number in numbers:
            self.param_groups[number]["lr"] = self.param_groups[number]["step_size"] = float(lr)
            self._learned.forget(number)

    def register_gradient_transform(self, hook: Transform) -> RemovableHandle:
        """Adds what changes the gradient, in place, after h_t was taken and before the direction is made from it.

        Args:
            hook: Called once per step with all parameters that have a gradient, and with their gradients.

        Returns:
            A handle whose `remove()` takes the hook off again.
        """
        return _registered(self._gradient_transforms, hook)

    def register_direction_transform(self, hook: Transform) -> RemovableHandle:
        """Adds what changes the direction D_t, in place, before parameters move along it.

        Args:
            hook: Called once per step with all parameters that have a gradient, and with their directions.

        Returns:
            A handle whose `remove()` takes the hook off again.
        """
        return _registered(self._direction_transforms, hook)

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

        Raises:
            ValueError: A gradient is sparse or complex, or somebody else writes a learning rate that is learned;
                nothing has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            _check_gradients(number, group["params"])
            self._learned.check(number, group, _alpha(group))
        groups = [self._begin(number, group) for number, group in enumerate(self.param_groups)]
        works = [work for work in groups if work is not None]
        if works and works[0].group["scope"] == "global":
            self._adapt(works, self.param_groups)
        else:
            for work in works:
                self._adapt([work], [work.group])
        for number, group in enumerate(self.param_groups):
            self._learned.leave(number, _alpha(group))
        self._transform_gradients(works)
        self._move_all(works)
        return loss

    @abstractmethod
    def _check(self, settings: Group) -> None:
        """Raises a ValueError if a setting that the subclass knows is outside its domain."""

    @abstractmethod
    def _move(self, group: Group, run: Run, direction: Joined | None) -> None:
        """Moves parameters by `group["step_size"]` times their directions.

        Args:
            group: Settings, with the adapted learning rate.
            run: The parameters, with their gradients.
            direction: None if nobody needs the directions; else where D_t goes, and parameters are left to the caller.
        """

    def _penalised(self, group: Group, run: Run) -> Tensor:
        """The gradient of the loss with its L2 penalty, weight_decay |theta|^2 / 2."""
        if group["weight_decay"] == 0:
            return run.gradient
        return torch.add(run.gradient, run.values(), alpha=group["weight_decay"])

    def _begin(self, number: int, group: Group) -> _Work | None:
        """Gradients of a group, clipped and with their penalty; None if the group does not move."""
        layouts = self._lay_out(number, group)
        work = _Work(group, layouts, [run for layout in layouts for run in layout.runs()])
        largest = group["max_grad_norm"]
        if largest < math.inf and work.runs:
            norm = math.hypot(*_floats([_norm(run.gradient) for run in work.runs]))
            if not math.isfinite(norm):
                return None
            if norm > largest:
                for run in work.runs:
                    run.gradient = run.gradient * (largest / norm)
        for run in work.runs:
            run.gradient = self._penalised(group, run)
        return work

    def _lay_out(self, number: int, group: Group) -> list[Layout]:
        """The layouts of a group, made anew when its parameters or their state are others than at the last step.

        The order is that of the group: sums are rounded alike whenever a parameter had its first gradient, so that an
        optimizer whose state is loaded goes on as the one that was saved.
        """
        params = [p for p in group["params"] if p.grad is not None or p in self.state]
        laid, layouts = self._layouts.get(number, ([], []))
        same = len(laid) == len(params) and all(p is q for p, q in zip(params, laid, strict=True))
        if not (same and all(layout.holds(self.state) for layout in layouts)):
            kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
            for p in params:
                kinds.setdefault((p.device, p.dtype), []).append(p)
            layouts = [Layout(alike, self.state) for alike in kinds.values()]
            self._layouts[number] = params, layouts
        return layouts

    def _adapt(self, works: list[_Work], groups: list[Group]) -> None:
        """Gives groups that share a learning rate its next value, after its own step of gradient descent.

        Args:
            works: What those of them do that move.
            groups: All of them.
        """
        group = groups[0]
        alpha, beta = group["lr"], group["hypergrad_lr"]
        runs = [run for work in works for run in work.runs]
        if beta != 0 and runs:
            # h_t = g_t . D_{t-1}
            pairs = [(run.gradient, run.state(_DIRECTION).flat) for run in runs]
            if group["rule"] == "multiplicative":
                # Parameters without a gradient still count in |D_{t-1}|.
                still = [d for work in works for layout in work.layouts for d in layout.still(_DIRECTION)]
                scalars = [s for g, d in pairs for s in (_dot(g, d), _norm(g), _norm(d))]
                values = _floats(scalars + [_norm(d) for d in still])
                count = 3 * len(pairs)
                h = sum(values[:count:3])
                # 1 - beta h_t / (|g_t| |D_{t-1}|)
                scale = math.hypot(*values[1:count:3]) * math.hypot(*values[2:count:3], *values[count:])
                adapted = alpha * (1.0 - beta * h / scale) if scale > 0.0 else alpha
            else:
                adapted = alpha - beta * sum(_floats([_dot(g, d) for g, d in pairs]))
            low, high = group["lr_bounds"]
            if math.isfinite(adapted):
                alpha = min(max(adapted, float(low)), float(high))
        for group in groups:
            group["lr"] = group["step_size"] = alpha
            if group["settle"] is not None:
                limit, steps = group["settle"]
                group["num_steps"] += 1
                # gamma_t = delta(t) alpha_t + (1 - delta(t)) alpha_inf
                delta = 1.0 / (1.0 + (group["num_steps"] / steps) ** 2)
                group["step_size"] = delta * alpha + (1.0 - delta) * limit

    def _transform_gradients(self, works: list[_Work]) -> None:
        if not self._gradient_transforms:
            return
        runs = [run for work in works for run in work.runs]
        gradients = [Joined.split(run.gradient.clone(), run.params) for run in runs]
        for transform in self._gradient_transforms.values():
            transform([p for run in runs for p in run.params], [v for g in gradients for v in g.views])
        for run, gradient in zip(runs, gradients, strict=True):
            run.gradient = gradient.flat

    def _move_all(self, works: list[_Work]) -> None:
        later: list[tuple[float, list[Tensor], list[Tensor]]] = []
        for work in works:
            needed = work.group["hypergrad_lr"] != 0 or bool(self._direction_transforms)
            step_size = work.group["step_size"]
            if not needed:
                # A direction of long ago is none to learn from when learning goes on.
                for layout in work.layouts:
                    layout.drop(_DIRECTION)
            for run in work.runs:
                direction = run.state(_DIRECTION) if needed else None
                self._move(work.group, run, direction)
                if self._direction_transforms and direction is not None:
                    later.append((step_size, run.params, direction.views))
                elif direction is not None:
                    torch._foreach_add_(run.params, direction.views, alpha=step_size)
        for transform in self._direction_transforms.values():
            transform(
                [p for _, params, _ in later for p in params], [d for *_, views in later for d in views]
            )
        for step_size, params, views in later:
            torch._foreach_add_(params, views, alpha=step_size)
        for layout in (layout for work in works for layout in work.layouts):
            # Parameters that do not move have the direction 0.
            if _DIRECTION in layout:
                for still in layout.still(_DIRECTION):
                    still.zero_()


def _registered(hooks: OrderedDict[int, Transform], hook: Transform) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


def _alpha(group: Group) -> dict[str, float]:
    """What a group learns."""
    return {"lr": group["lr"]} if group["hypergrad_lr"] != 0 else {}


def _check_gradients(number: int, params: list[Tensor]) -> None:
    for place, p in enumerate(params):
        if p.grad is None:
            continue
        which = f"parameter {place} of group {number}, shape {tuple(p.shape)},"
        if p.grad.is_sparse:
            raise ValueError(f"{which} has a sparse gradient; make its embedding with sparse=False")
        if p.grad.is_complex():
            raise ValueError(f"{which} is complex; hold it as torch.view_as_real does")


def _dot(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()
    return torch.dot(a, b)


def _norm(a: Tensor) -> Tensor:
    wider = torch.float32 if a.dtype in (torch.float16, torch.bfloat16) else None
    norm: Tensor = torch.linalg.vector_norm(a, dtype=wider)
    return norm


def _floats(scalars: list[Tensor]) -> list[float]:
    """Values of tensors, waiting once per device and type."""
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, s in enumerate(scalars):
        kinds.setdefault((s.device, s.dtype), []).append(place)
    values = [0.0] * len(scalars)
    for places in kinds.values():
        for place, value in zip(places, torch.stack([scalars[i] for i in places]).tolist(), strict=True):
            values[place] = value
    return values

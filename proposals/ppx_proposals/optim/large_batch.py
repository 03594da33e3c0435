"""Layer-wise step sizes for large batches: LARC and LAMB, around an optimizer that is there already.

With large batches, and learning rates to match, the layer in which the gradient is largest beside its weights diverges
first. Both methods give every layer (every parameter tensor) a step in proportion to the norm of its weights.

LARC (You, Gitman and Ginsburg 2017, arXiv 1708.03888, eq. 6) multiplies the gradient, penalty included, by the layer's

    lambda = eta |theta| / (|grad L| + w |theta|),   w the weight decay,

in the form `"scale"`: theta moves by alpha lambda (grad L + w theta); in the form `"clip"`, by min(lambda, alpha) of
it. LAMB (You et al., ICLR 2020, arXiv 1904.00962, algorithm 2) rescales the step, for AdamW -alpha (r + w theta):

    theta <- theta - alpha phi(|theta|) / |r + w theta| (r + w theta),   phi(z) = min(max(z, low), high)

**Learned learning rates.** Neither lambda nor the ratio of LAMB depends on alpha, so a hypergradient optimizer that
keeps the rescaled direction learns from the exact derivative. In the form `"clip"` a layer with lambda < alpha does not
depend on alpha: its direction counts as 0. That holds for gradient descent without momentum; others are refused.

**Small parameters.** By default layers are the parameters of two dimensions or more. A bias starts at 0, where lambda
is 0, so that it could never leave; LAMB's reference code leaves out biases and normalisations. Parameters left out, and
layers whose norm or gradient is 0, move as without LAMB or `"clip"`, and in the form `"scale"` by alpha eta, as if
|theta| = |grad L|, so that one alpha suits all.

Neither keeps any state: there is nothing to save, and after loading a checkpoint they are attached again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ppx_proposals.optim.adam_hd import AdamWHD
from ppx_proposals.optim.hypergradient import HypergradientOptimizer
from ppx_proposals.optim.schedules import innermost
from ppx_proposals.optim.settings import Group
from ppx_proposals.optim.tower import Tower

Layers = Callable[[Tensor], bool]
"""Whether a parameter is a layer with a step size of its own."""
FORMS = ("scale", "clip")
_SCALED: WeakSet[Optimizer] = WeakSet()
"""Optimizers that have a LARC: a second one would scale, and put back, what the first has scaled."""


def is_matrix(p: Tensor) -> bool:
    """Whether a parameter has two dimensions or more, as weights have, and biases and normalisations have not."""
    return p.ndim > 1


class LARC:
    """Layer-wise rates for the gradient, as long as it is attached to an optimizer.

    It suits SGD. Adam divides by the size of its gradients, so that a factor common to all of them cancels; use LAMB.

    A hypergradient optimizer's `p.grad` is not touched. Another optimizer finds rescaled ones, and afterwards the
    gradients are the old ones again (with automatic mixed precision, unscale before the step). Its `weight_decay` is
    taken to be a penalty unless its groups say `decoupled_weight_decay`.

    Args:
        optimizer: Any dense one; if others are wrapped around it, the innermost is taken.
        trust: eta, the largest relative change of a layer when alpha is 1 (`"scale"`) or large (`"clip"`). The default
            is SimCLR's (`EETA_DEFAULT` of its `lars_optimizer.py`).
        form: `"scale"` or `"clip"`.
        layers: Which parameters have a rate of their own.

    Raises:
        ValueError: A setting is outside its domain, `"clip"` meets a learned alpha that it cannot serve, or there is
            a LARC already.
        TypeError: The optimizer is a tower that adapts something; its derivative would not see the rates.
    """

    def __init__(
        self, optimizer: Optimizer, trust: float = 0.001, *, form: str = "scale", layers: Layers = is_matrix
    ) -> None:
        if not trust > 0.0:
            raise ValueError(f"trust must be > 0, not {trust}")
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
        inner = _accepted(optimizer, "LARC")
        if inner in _SCALED:
            raise ValueError(f"this {type(inner).__name__} has a LARC already; remove() that one first")
        self._trust, self._form, self._layers = trust, form, layers
        self._left_out = trust if form == "scale" else 1.0
        self._optimizer = inner
        self._clipped: list[tuple[Tensor, Tensor]] = []
        self._own: list[tuple[Tensor, Tensor]] = []
        self._handles: list[RemovableHandle] = []
        if isinstance(inner, HypergradientOptimizer):
            if form == "clip":
                self._check_clip()
                self._handles.append(inner.register_step_pre_hook(lambda *_: self._check_clip()))
                self._handles.append(inner.register_step_post_hook(lambda *_: self._forget_clipped()))
            self._handles.append(inner.register_gradient_transform(self._transform))
        else:
            self._handles.append(inner.register_step_pre_hook(self._before))
            self._handles.append(inner.register_step_post_hook(lambda *_: self._restore()))
        _SCALED.add(inner)

    def remove(self) -> None:
        """Detaches it; the optimizer goes on without."""
        for handle in self._handles:
            handle.remove()
        _SCALED.discard(self._optimizer)

    def _factors(
        self, layers: list[Tensor], gradients: list[Tensor], *, decay: float, lr: float | Tensor
    ) -> list[Tensor]:
        """What the gradients of layers of one device and type are multiplied by; gradients without their penalty."""
        weights = _norms(layers)
        below = _norms(gradients) + decay * weights
        # lambda = eta |theta| / (|grad L| + w |theta|)
        rates = self._trust * weights / below
        # "clip": alpha min(lambda / alpha, 1) = min(lambda, alpha)
        factors = rates if self._form == "scale" else (rates / lr).clamp(max=1.0)
        return list(torch.where((weights > 0) & (below > 0), factors, self._left_out).unbind())

    def _transform(self, params: list[Tensor], gradients: list[Tensor]) -> None:
        """Rescales the gradients, penalty included, of a hypergradient optimizer."""
        for group, places in _alike(self._optimizer, params):
            chosen = [i for i in places if self._layers(params[i])]
            for i in set(places).difference(chosen):
                gradients[i].mul_(self._left_out)
            if not chosen:
                continue
            layers, own = [params[i] for i in chosen], [gradients[i] for i in chosen]
            decay = _penalty(self._optimizer, group)
            bare = own if decay == 0 else list(torch._foreach_sub(own, layers, alpha=decay))
            factors = self._factors(layers, bare, decay=decay, lr=group["step_size"])
            torch._foreach_mul_(own, factors)
            if self._form == "clip" and group["hypergrad_lr"] != 0:
                self._clipped += zip(layers, [factor >= 1.0 for factor in factors], strict=True)

    def _forget_clipped(self) -> None:
        """A layer that moved by lambda does not depend on alpha, so that its direction counts as 0."""
        for p, follows in self._clipped:
            self._optimizer.state[p]["direction"].mul_(follows)
        self._clipped.clear()

    def _check_clip(self) -> None:
        for number, group in enumerate(self._optimizer.param_groups):
            if group["hypergrad_lr"] != 0 and group.get("momentum") != 0:
                raise ValueError(
                    f"group {number} of {type(self._optimizer).__name__} learns its lr and has a memory of gradients,"
                    ' for which the form "clip" has no derivative at hand; use form="scale", hypergrad_lr=0, or SGDHD'
                    " without momentum"
                )

    def _before(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Rescales gradients before a step, or where its closure makes them."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
        if closure is None:
            self._rescale()
            return None

        def rescaled() -> Any:
            loss = closure()
            self._rescale()
            return loss

        return (args[0], rescaled, *args[2:]), {k: v for k, v in kwargs.items() if k != "closure"}

    @torch.no_grad()
    def _rescale(self) -> None:
        params = [p for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(p.grad.is_sparse for p in params if p.grad is not None):
            raise ValueError("LARC takes dense gradients; make embeddings with sparse=False")
        self._own = [(p, p.grad) for p in params if p.grad is not None]
        for group, places in _alike(self._optimizer, params):
            decay = _penalty(self._optimizer, group)
            sign = -1.0 if group.get("maximize", False) else 1.0
            chosen = [i for i in places if self._layers(params[i])]
            factors: dict[int, Tensor | float] = dict.fromkeys(places, self._left_out)
            if chosen:
                layers, own = [params[i] for i in chosen], [self._own[i][1] for i in chosen]
                factors.update(
                    zip(chosen, self._factors(layers, own, decay=decay, lr=group["lr"]), strict=True)
                )
            for i, factor in factors.items():
                p, own_gradient = self._own[i]
                # The optimizer adds w theta itself: lambda grad L + (lambda - 1) w theta.
                p.grad = own_gradient * factor
                if decay != 0:
                    p.grad += p * (sign * decay * (factor - 1.0))

    def _restore(self) -> None:
        for p, own in self._own:
            p.grad = own
        self._own.clear()


class LAMB:
    """Layer-wise rescaled steps, as long as it is attached to an optimizer.

    Around `AdamWHD` or `torch.optim.AdamW` it is LAMB, with the corrections for bias of the paper's algorithm; around
    others it rescales their steps alike. The learning rate then is the relative change of a layer per step. Around an
    optimizer that is no hypergradient optimizer it keeps a copy of the parameters during a step.

    Args:
        optimizer: Any; if others are wrapped around it, the innermost is taken.
        norm_bounds: low and high of phi. The paper leaves them open; by default phi(z) = z.
        layers: Which parameters are rescaled.

    Raises:
        ValueError: A setting is outside its domain.
        TypeError: The optimizer is a tower that adapts something; its derivative would not see the ratios.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        norm_bounds: tuple[float, float] = (0.0, float("inf")),
        *,
        layers: Layers = is_matrix,
    ) -> None:
        low, high = norm_bounds
        if not 0.0 <= low <= high or high == 0.0:
            raise ValueError(f"norm_bounds must satisfy 0 <= low <= high and high > 0, not {norm_bounds}")
        inner = _accepted(optimizer, "LAMB")
        self._optimizer, self._bounds, self._layers = inner, (low, high), layers
        self._before: list[tuple[Tensor, Tensor]] = []
        if isinstance(inner, HypergradientOptimizer):
            self._handles = [inner.register_direction_transform(self._transform)]
        else:
            self._handles = [
                inner.register_step_pre_hook(lambda *_: self._remember()),
                inner.register_step_post_hook(lambda *_: self._rescale()),
            ]

    def remove(self) -> None:
        """Detaches it; the optimizer goes on without."""
        for handle in self._handles:
            handle.remove()

    def _ratios(self, weights: Tensor, steps: Tensor) -> Tensor:
        """phi(|theta|) / |D|, `(layers,)`; 1 where either is 0."""
        phi = weights.clamp(*self._bounds)
        return torch.where((phi > 0) & (steps > 0), phi / steps, 1.0)

    def _transform(self, params: list[Tensor], directions: list[Tensor]) -> None:
        """Rescales the directions of a hypergradient optimizer."""
        for _, places in _alike(self._optimizer, params):
            chosen = [i for i in places if self._layers(params[i])]
            if chosen:
                layers, own = [params[i] for i in chosen], [directions[i] for i in chosen]
                torch._foreach_mul_(own, list(self._ratios(_norms(layers), _norms(own)).unbind()))

    @torch.no_grad()
    def _remember(self) -> None:
        params = [p for group in self._optimizer.param_groups for p in group["params"] if self._layers(p)]
        self._before = [(p, p.clone()) for p in params]

    @torch.no_grad()
    def _rescale(self) -> None:
        for group, places in _alike(self._optimizer, [p for p, _ in self._before]):
            params, before = [self._before[i][0] for i in places], [self._before[i][1] for i in places]
            # |D| = |theta_t - theta_{t-1}| / alpha, the difference being made where theta is
            torch._foreach_sub_(params, before)
            ratios = self._ratios(_norms(before), _norms(params) / group["lr"])
            torch._foreach_mul_(params, list(ratios.unbind()))
            torch._foreach_add_(params, before)
        self._before.clear()


def _accepted(optimizer: Optimizer, what: str) -> Optimizer:
    """The optimizer to attach to."""
    inner = innermost(optimizer)
    if isinstance(inner, Tower) and inner.levels[0].adapted:
        raise TypeError(
            f"{what} cannot be attached to a Tower that adapts {', '.join(inner.levels[0].adapted)}: its derivative"
            " would be of the step without it; use SGDHD or AdamWHD, for which it stays exact"
        )
    return inner


def _alike(optimizer: Optimizer, params: list[Tensor]) -> list[tuple[Group, list[int]]]:
    """Places, in a list of parameters, of those of one group, device and type."""
    numbers = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
    kinds: dict[tuple[int, torch.device, torch.dtype], list[int]] = {}
    for place, p in enumerate(params):
        kinds.setdefault((numbers[id(p)], p.device, p.dtype), []).append(place)
    return [(optimizer.param_groups[number], places) for (number, *_), places in kinds.items()]


def _penalty(optimizer: Optimizer, group: Group) -> float:
    """The weight decay w that an optimizer adds to its gradient as w theta."""
    decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, AdamWHD))
    return 0.0 if decoupled else float(group.get("weight_decay", 0.0))


def _norms(tensors: list[Tensor]) -> Tensor:
    """Euclidean norms of tensors of one device and type, `(n,)`, in single precision at least."""
    wide = torch.float32 if tensors[0].dtype in (torch.float16, torch.bfloat16) else None
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=wide))

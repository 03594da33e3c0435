"""Towers as their papers write them, with plain autograd through everything: what towers are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ppx_proposals.optim.tower import SGD, AdaGrad, Adam, AdamW, Level, RMSprop, Tower

F64 = torch.float64
SHAPES = ((3, 2), (4,), (1,))


def make_params(dtype: torch.dtype = F64) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(s, generator=g, dtype=dtype)) for s in SHAPES]


def loss_of(params: list[Tensor], step: int) -> Tensor:
    """Neither quadratic nor separable, and different at every step."""
    flat = torch.cat([p.reshape(-1) for p in params])
    target = torch.linspace(-1, 1, flat.numel(), dtype=flat.dtype)
    return ((flat - target) ** 2 * (1 + 0.3 * step)).sum() + 0.1 * (flat[1:] * flat[:-1]).sin().sum() ** 2


# The updates as their papers write them, with plain autograd: what a tower is compared with.


def _by_the_book(level: Level, w: Tensor, g: Tensor, mem: dict[str, Any], h: dict[str, Any]) -> Tensor:
    t = mem["t"] = mem.get("t", 0) + 1
    old = {k: v.detach() if isinstance(v, Tensor) else v for k, v in mem.items()}
    zero = torch.zeros_like(w)
    if isinstance(level, AdamW):
        w = w - h["lr"] * h["weight_decay"] * w
    else:
        g = g + h["weight_decay"] * w
    if isinstance(level, SGD):
        mem["v"] = g if t == 1 else h["momentum"] * old["v"] + g
        return w - h["lr"] * (g + h["momentum"] * mem["v"] if level.nesterov else mem["v"])
    if isinstance(level, Adam):
        mem["m"] = h["beta1"] * old.get("m", zero) + (1 - h["beta1"]) * g
        mem["v"] = h["beta2"] * old.get("v", zero) + (1 - h["beta2"]) * g**2
        vhat = mem["v"] / (1 - h["beta2"] ** t)
        # The root of 0 has no derivative; a gradient that has always been 0 moves nothing.
        root = torch.where(vhat > 0, torch.where(vhat > 0, vhat, 1.0).sqrt(), 0.0)
        return w - h["lr"] * (mem["m"] / (1 - h["beta1"] ** t)) / (root + level.eps)
    if isinstance(level, RMSprop):
        mem["s"] = h["alpha"] * old.get("s", zero) + (1 - h["alpha"]) * g**2
    else:
        assert isinstance(level, AdaGrad)
        mem["s"] = old.get("s", zero) + g**2
    root = torch.where(mem["s"] > 0, torch.where(mem["s"] > 0, mem["s"], 1.0).sqrt(), 0.0)
    return w - h["lr"] * g / (root + level.eps)


def _squashed(name: str) -> bool:
    return name in ("beta1", "beta2", "alpha")


class ByTheBook:
    """A tower that keeps the whole graph from its hyperparameters to the loss, and differentiates the loss itself."""

    def __init__(self, params: list[nn.Parameter], levels: list[Level]) -> None:
        self.levels = levels
        self.theta: list[Tensor] = [p.detach().clone().requires_grad_() for p in params]
        self.memory: list[dict[str, Any]] = [{} for _ in params]
        self.settings = [{**lv.settings(), **_pair(lv)} for lv in levels]
        self.raws: list[list[Tensor]] = []
        for lv, s in zip(levels, self.settings, strict=True):
            x = [torch.tensor(s[n], dtype=F64) for n in lv.adapted]
            self.raws.append(
                [(v.logit() / 2 if _squashed(n) else v) for n, v in zip(lv.adapted, x, strict=True)]
            )
        self.raws = [[r.requires_grad_() for r in row] for row in self.raws]
        self.upper: list[list[dict[str, Any]]] = [[{} for _ in row] for row in self.raws]

    def hypers(self, k: int) -> dict[str, Any]:
        pairs = zip(self.levels[k].adapted, self.raws[k], strict=True)
        return {**self.settings[k], **{n: (r.tanh() + 1) / 2 if _squashed(n) else r for n, r in pairs}}

    def step(self, loss: Callable[[list[Tensor]], Tensor], missing: int | None = None) -> None:
        theta = [t.detach() if i == missing else t for i, t in enumerate(self.theta)]
        known = [t for i, t in enumerate(theta) if i != missing]
        flat = [r for row in self.raws for r in row]
        grads = torch.autograd.grad(loss(theta), known + flat, allow_unused=True)
        g_theta = list(grads[: len(known)])
        g_flat = [torch.zeros(()) if g is None else g for g in grads[len(known) :]]
        for k in reversed(range(len(self.levels) - 1)):
            at = sum(len(row) for row in self.raws[:k])
            g_row, above = g_flat[at : at + len(self.raws[k])], self.hypers(k + 1)
            rows = zip(self.raws[k], g_row, self.upper[k], strict=True)
            row = [_by_the_book(self.levels[k + 1], r.detach(), g, m, above) for r, g, m in rows]
            self.raws[k] = [r if r.requires_grad else r.requires_grad_() for r in row]
        h = self.hypers(0)
        for i, t in enumerate(theta):
            if i == missing:
                self.theta[i] = t.detach().requires_grad_()
            else:
                g = g_theta.pop(0)
                assert g is not None
                new = _by_the_book(self.levels[0], t.detach(), g, self.memory[i], h)
                self.theta[i] = new if new.requires_grad else new.requires_grad_()

    def numbers(self) -> list[float]:
        return [float(self.hypers(k)[n].detach()) for k, lv in enumerate(self.levels) for n in lv.adapted]


def _pair(level: Level) -> dict[str, float]:
    betas = level.settings().get("betas")
    return {} if betas is None else {"beta1": betas[0], "beta2": betas[1]}


def numbers_of(tower: Tower, group: int = 0) -> list[float]:
    hypers = tower.hyperparameters(group)
    return [h[n] for h, level in zip(hypers, tower.levels, strict=True) for n in level.adapted]


def train(tower: Tower, params: list[nn.Parameter], steps: range, missing: tuple[int, ...] = ()) -> None:
    for step in steps:
        tower.zero_grad()
        loss_of(list(params), step).backward()
        if step in missing:
            params[1].grad = None
        tower.step()


SETTINGS: dict[str, list[Level]] = {
    "sgd": [SGD(0.01, adapt=("lr",)), SGD(1e-4)],
    "sgd decay": [SGD(0.01, weight_decay=0.2, adapt=("lr", "weight_decay")), SGD(1e-4)],
    "fixed decay": [SGD(0.01, momentum=0.5, weight_decay=0.2, adapt=("momentum",)), SGD(1e-3)],
    "heavy ball": [SGD(0.01, momentum=0.5, adapt=("lr",)), SGD(1e-4)],
    "momentum": [SGD(0.01, momentum=0.5, adapt=("lr", "momentum")), SGD(1e-4)],
    "nesterov": [
        SGD(0.01, momentum=0.5, nesterov=True, weight_decay=0.1, adapt=("lr", "momentum", "weight_decay")),
        SGD(1e-4),
    ],
    "adam lr": [Adam(0.02, adapt=("lr",)), SGD(1e-4)],
    "adam lr, decay": [Adam(0.02, weight_decay=0.3, adapt=("lr",)), SGD(1e-4)],
    "adam": [Adam(0.02, betas=(0.8, 0.95), adapt=("lr", "betas")), SGD(1e-4)],
    "adam decay": [Adam(0.02, weight_decay=0.3, eps=1e-3, adapt=("weight_decay", "beta2")), SGD(1e-3)],
    "adamw": [AdamW(0.02, weight_decay=0.3, adapt=("lr", "weight_decay")), SGD(1e-4)],
    "adamw all": [AdamW(0.02, weight_decay=0.3, adapt=("weight_decay", "lr", "beta1", "beta2")), SGD(1e-4)],
    "rmsprop": [RMSprop(0.01, alpha=0.9, weight_decay=0.1, adapt=("lr", "alpha", "weight_decay")), SGD(1e-4)],
    "adagrad": [AdaGrad(0.1, weight_decay=0.1, adapt=("lr", "weight_decay")), SGD(1e-3)],
    "adam by adam": [Adam(0.02, adapt=("lr", "betas")), Adam(1e-3)],
    "by rmsprop": [SGD(0.01, adapt=("lr",)), RMSprop(1e-4)],
    "by adagrad": [SGD(0.01, adapt=("lr",)), AdaGrad(1e-3)],
    "three": [
        SGD(0.01, momentum=0.5, adapt=("lr", "momentum")),
        SGD(1e-5, momentum=0.3, adapt=("lr", "momentum")),
        SGD(1e-10),
    ],
    "three, momentum": [
        SGD(0.01, momentum=0.5, adapt=("lr", "momentum")),
        SGD(1e-5, momentum=0.3, adapt=("momentum",)),
        SGD(1e-3),
    ],
    "four, momentum": [
        Adam(0.02, adapt=("lr", "betas")),
        RMSprop(1e-3, adapt=("lr", "alpha")),
        SGD(1e-7, momentum=0.5, nesterov=True, adapt=("momentum",)),
        SGD(0.1),
    ],
    "three adams": [
        Adam(0.02, adapt=("lr", "betas")),
        Adam(1e-3, betas=(0.7, 0.9), adapt=("lr", "betas")),
        Adam(1e-4),
    ],
    "four": [
        AdamW(0.02, adapt=("lr", "betas", "weight_decay")),
        RMSprop(1e-3, adapt=("lr", "alpha")),
        SGD(1e-7, momentum=0.5, nesterov=True, adapt=("lr", "momentum")),
        SGD(1e-14),
    ],
}

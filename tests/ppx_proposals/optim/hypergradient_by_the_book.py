"""Hypergradient optimizers from their definitions, one parameter after the other, for the tests of the real ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim import SGDHD, AdamHD, AdamWHD, HypergradientOptimizer


def some_loss(params: list[Tensor], target: Tensor) -> Tensor:
    return torch.stack(
        [((p - target[: p.numel()].reshape(p.shape)) ** 2 * (1 + p.detach().abs())).sum() for p in params]
    ).sum()


def some_params(seed: int, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=g, dtype=dtype)) for s in ((3, 2), (4,), (1,))]


VARIANTS: dict[str, tuple[type[HypergradientOptimizer], dict[str, Any]]] = {
    "SGD": (SGDHD, {}),
    "SGD with a penalty": (SGDHD, {"weight_decay": 0.3}),
    "SGD with momentum": (SGDHD, {"momentum": 0.7, "weight_decay": 0.1}),
    "SGDN": (SGDHD, {"momentum": 0.7, "nesterov": True}),
    "SGDN with a penalty": (SGDHD, {"momentum": 0.7, "nesterov": True, "weight_decay": 0.1}),
    "Adam": (AdamHD, {"betas": (0.8, 0.95), "eps": 1e-3}),
    "Adam with a penalty": (AdamHD, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}),
    "AdamW": (AdamWHD, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}),
}
each_variant = pytest.mark.parametrize(("kind", "settings"), VARIANTS.values(), ids=VARIANTS)


class Definition:
    """A hypergradient optimizer from its definition, one parameter after the other."""

    def __init__(
        self, params: list[Tensor], kind: type[HypergradientOptimizer], settings: dict[str, Any]
    ) -> None:
        self.theta = [p.detach().clone() for p in params]
        self.kind = kind
        self.settings = {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False, **settings}
        self.history: list[list[Tensor]] = [[] for _ in params]
        self.last = [torch.zeros_like(p) for p in params]

    def penalised(self, gradients: list[Tensor | None]) -> list[Tensor | None]:
        decay = 0.0 if self.kind is AdamWHD else self.settings["weight_decay"]
        return [None if g is None else g + decay * p for g, p in zip(gradients, self.theta, strict=True)]

    def h(self, gradients: list[Tensor | None]) -> list[float]:
        """g_t . D_{t-1} of each parameter."""
        pairs = zip(self.penalised(gradients), self.last, strict=True)
        return [0.0 if g is None else float((g * d).sum()) for g, d in pairs]

    def directions(self, gradients: list[Tensor | None]) -> list[Tensor]:
        """D_t; the history of the gradients is enough to make it."""
        made = []
        for i, g in enumerate(self.penalised(gradients)):
            if g is None:
                made.append(torch.zeros_like(self.theta[i]))
                continue
            self.history[i].append(g)
            made.append(self._sgd(i) if self.kind is SGDHD else self._adam(i))
        return made

    def _sgd(self, i: int) -> Tensor:
        mu, v = self.settings["momentum"], torch.zeros_like(self.theta[i])
        for g in self.history[i]:
            v = mu * v + g
        return -(self.history[i][-1] + mu * v) if self.settings["nesterov"] else -v

    def _adam(self, i: int) -> Tensor:
        (beta1, beta2), t = self.settings["betas"], len(self.history[i])
        m = v = torch.zeros_like(self.theta[i])
        for g in self.history[i]:
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        d = -(m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + self.settings["eps"])
        return d - self.settings["weight_decay"] * self.theta[i] if self.kind is AdamWHD else d

    def move(self, gradients: list[Tensor | None], alphas: list[float]) -> None:
        self.last = self.directions(gradients)
        self.theta = [p + a * d for p, a, d in zip(self.theta, alphas, self.last, strict=True)]

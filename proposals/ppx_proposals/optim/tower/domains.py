"""Where hyperparameters may lie, and the raw coordinate in which a level moves them.

| hyperparameter | raw coordinate | kept in |
|---|---|---|
| lr, weight_decay | the value | [0, inf) |
| momentum | the value | [0, 1] |
| beta1, beta2, alpha | atanh(2 value - 1), so that value = (tanh(raw) + 1) / 2 | [1e-6, 1 - 1e-6] |

The transform of the decay rates is that of Chandra et al. (NeurIPS 2022, arXiv 1909.13371). A raw coordinate that
leaves its domain is put back on the border; a hyperparameter there still gets its derivative, so that it can return.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Domain(NamedTuple):
    """Domain of a hyperparameter.

    Attributes:
        low: Smallest value.
        high: Largest value.
        raw: From the value to the raw coordinate.
        value: From the raw coordinate to the value; differentiable.
    """

    low: float
    high: float
    raw: Callable[[float], float]
    value: Callable[[Tensor], Tensor]


def _plain(low: float, high: float) -> Domain:
    return Domain(low, high, lambda value: value, lambda raw: raw)


# 1 - 1e-6 is as near to 1 as single precision resolves 1 - beta to some percent, which corrects Adam's bias.
_DECAY = Domain(1e-6, 1 - 1e-6, lambda value: math.atanh(2 * value - 1), lambda raw: (raw.tanh() + 1) / 2)

DOMAINS = {
    "lr": _plain(0.0, math.inf),
    "weight_decay": _plain(0.0, math.inf),
    "momentum": _plain(0.0, 1.0),
    "beta1": _DECAY,
    "beta2": _DECAY,
    "alpha": _DECAY,
}


def raw(name: str, value: float) -> float:
    """The raw coordinate of a value, which is put back on the border of its domain."""
    domain = DOMAINS[name]
    return domain.raw(min(max(value, domain.low), domain.high))


def values(names: Sequence[str], raw: Tensor) -> tuple[Tensor, ...]:
    """The values of hyperparameters at raw coordinates `(H,)`: a scalar each, differentiable."""
    return tuple(DOMAINS[name].value(r) for name, r in zip(names, raw.unbind(), strict=True))


def floats(names: Sequence[str], raw: Tensor) -> list[float]:
    """The values of hyperparameters at raw coordinates `(H,)`, within their domains though raw ones are rounded."""
    with torch.no_grad():
        pairs = zip(names, values(names, raw), strict=True)
        return [min(max(float(v), DOMAINS[name].low), DOMAINS[name].high) for name, v in pairs]


def kept(names: Sequence[str], raw: Tensor) -> Tensor:
    """Raw coordinates `(H,)`, put back on the border of their domains; differentiable."""
    low = [DOMAINS[name].raw(DOMAINS[name].low) for name in names]
    high = [DOMAINS[name].raw(DOMAINS[name].high) for name in names]
    return raw.clamp(raw.new_tensor(low), raw.new_tensor(high))

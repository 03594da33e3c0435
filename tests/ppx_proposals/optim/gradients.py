"""Gradients of a module as one vector, for tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def gradients_of(module: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    """Gradients of all parameters that have one, end to end, `(total size,)`."""
    module.zero_grad()
    loss().backward()
    return torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])

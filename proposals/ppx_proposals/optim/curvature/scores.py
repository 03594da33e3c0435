"""Scores for `KFAC.fisher`: functions of a model's outputs whose gradients make up the Fisher information.

    F = E_x E_{y ~ p(y | x)} [grad log p(y | x) grad log p(y | x)^T]

The expectation over x is over the samples at hand. That over y is estimated by one target per sample, drawn from what
the model says (`sampled_*`, as Martens and Grosse 2015, section 5), or written as a sum (`exact_*`, a backward pass for
every output). Letters: N samples, C categories.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sampled_categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Log probabilities `(N,)` of categories that logits `(N, ..., C)` give; those of one sample are summed."""
    log_probs = torch.log_softmax(logits, dim=-1).flatten(0, -2)
    drawn = torch.multinomial(log_probs.detach().exp(), 1, generator=generator)
    return log_probs.gather(1, drawn).reshape(len(logits), -1).sum(dim=1)


def sampled_normal(mean: Tensor, generator: torch.Generator) -> Tensor:
    """Log densities `(N,)`, without the constant, of targets from N(mean, I), mean `(N, ...)`.

    This model makes -log p half of the squared error, summed over outputs.
    """
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    target = mean.detach() + noise
    return -0.5 * (mean - target).square().reshape(len(mean), -1).sum(dim=1)


def exact_categorical(logits: Tensor) -> tuple[Tensor, ...]:
    """C scores `(N,)`, of logits `(N, C)`: F = sum_c p_c grad log p_c grad log p_c^T."""
    log_probs = torch.log_softmax(logits, dim=-1)
    return (log_probs.detach().mul(0.5).exp() * log_probs).unbind(dim=1)


def exact_normal(mean: Tensor) -> tuple[Tensor, ...]:
    """C scores `(N,)`, of means `(N, C)` of N(mean, I): F = sum_c grad mean_c grad mean_c^T."""
    return mean.unbind(dim=1)

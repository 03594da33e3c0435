"""Hyperoptimizer towers: optimizers whose hyperparameters are moved by optimizers, to any height (arXiv 1909.13371)."""

from __future__ import annotations

from ppx_proposals.optim.tower.levels import SGD, AdaGrad, Adam, AdamW, Level, RMSprop
from ppx_proposals.optim.tower.tower import Tower

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Level", "RMSprop", "Tower"]

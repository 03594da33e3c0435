"""Optimizers whose learning rate adapts itself; ordinary `torch.optim.Optimizer`s, usable for any network."""

from __future__ import annotations

from ppx_proposals.optim.adam_hd import AdamHD, AdamWHD
from ppx_proposals.optim.hypergradient import HypergradientOptimizer
from ppx_proposals.optim.settings import HypergradientSettings
from ppx_proposals.optim.sgd_hd import SGDHD

__all__ = ["SGDHD", "AdamHD", "AdamWHD", "HypergradientOptimizer", "HypergradientSettings"]

"""Randomized automatic differentiation: layers that save a tenth of their input, for unbiased gradients."""

from __future__ import annotations

from ppx_proposals.optim.randomized.comparison import Row, compare, table
from ppx_proposals.optim.randomized.layers import (
    MaskReLU,
    RADConv1d,
    RADConv2d,
    RADConv3d,
    RADLinear,
    Randomization,
    randomize,
    sketched,
)
from ppx_proposals.optim.randomized.memory import MemoryUse, memory_use
from ppx_proposals.optim.randomized.sketches import PROJECTIONS

__all__ = [
    "PROJECTIONS",
    "MaskReLU",
    "MemoryUse",
    "RADConv1d",
    "RADConv2d",
    "RADConv3d",
    "RADLinear",
    "Randomization",
    "Row",
    "compare",
    "memory_use",
    "randomize",
    "sketched",
    "table",
]

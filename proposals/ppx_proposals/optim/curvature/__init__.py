"""Preconditioners for the weights of Linear, Conv and LSTM layers, for any optimizer: FOOF and K-FAC."""

from __future__ import annotations

from ppx_proposals.optim.curvature.foof import FOOF
from ppx_proposals.optim.curvature.kfac import KFAC
from ppx_proposals.optim.curvature.preconditioner import Preconditioner
from ppx_proposals.optim.curvature.scores import (
    exact_categorical,
    exact_normal,
    sampled_categorical,
    sampled_normal,
)

__all__ = [
    "FOOF",
    "KFAC",
    "Preconditioner",
    "exact_categorical",
    "exact_normal",
    "sampled_categorical",
    "sampled_normal",
]

"""Proposal networks for inference compilation: the only part of the project that imports torch.

`train` learns a `Proposal` from prior traces of a simulator; `Proposal.guide` makes it steer executions.
"""

from __future__ import annotations

from ppx_proposals.config import NetworkConfig, TrainingConfig
from ppx_proposals.guide import NetworkGuide
from ppx_proposals.proposal import Coverage, Proposal, TrainingState, TrainingStep
from ppx_proposals.speculation import SpeculativeNetworkGuide
from ppx_proposals.training import TrainingReport, train

__all__ = [
    "Coverage",
    "NetworkConfig",
    "NetworkGuide",
    "Proposal",
    "SpeculativeNetworkGuide",
    "TrainingConfig",
    "TrainingReport",
    "TrainingState",
    "TrainingStep",
    "train",
]

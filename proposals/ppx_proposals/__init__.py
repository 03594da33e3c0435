"""Proposal networks for inference compilation: the only part of the project that imports torch.

`train` learns a `Proposal` from prior traces of a simulator; `Proposal.guide` makes it steer executions. The
optimizers in `ppx_proposals.optim` need nothing else of the project: what is named here is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppx_proposals.config import NetworkConfig, TrainingConfig
    from ppx_proposals.guide import NetworkGuide
    from ppx_proposals.proposal import Coverage, Proposal, TrainingState, TrainingStep
    from ppx_proposals.speculation import SpeculativeNetworkGuide
    from ppx_proposals.training import TrainingReport, train
    from ppx_proposals.tuning import SimulatorTuning, TrainingTuning

__all__ = [
    "Coverage",
    "NetworkConfig",
    "NetworkGuide",
    "Proposal",
    "SimulatorTuning",
    "SpeculativeNetworkGuide",
    "TrainingConfig",
    "TrainingReport",
    "TrainingState",
    "TrainingStep",
    "TrainingTuning",
    "train",
]

_MODULES = {
    "config": ("NetworkConfig", "TrainingConfig"),
    "guide": ("NetworkGuide",),
    "proposal": ("Coverage", "Proposal", "TrainingState", "TrainingStep"),
    "speculation": ("SpeculativeNetworkGuide",),
    "training": ("TrainingReport", "train"),
    "tuning": ("SimulatorTuning", "TrainingTuning"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"ppx_proposals.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

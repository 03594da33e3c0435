"""Bayesian inference over every random choice of a simulator that runs in its own process and language.

    with Simulator(["./tau_decay"], num_workers=2) as sim:
        proposal = train(sim, observed=["calorimeter"], num_traces=200_000, seed=1)
        posterior = inference_compilation(sim, {"calorimeter": image}, proposal=proposal, num_traces=5_000)
        print(posterior["px"].mean(), posterior.ess)

`train`, `inference_compilation`, `Proposal` and the configs need torch, which is imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppx_inference.diagnostics import TrustWarning
from ppx_inference.importance import importance_sampling
from ppx_inference.lightweight import lightweight_mh
from ppx_inference.marginal import Marginal
from ppx_inference.posterior import Posterior, SummaryRow
from ppx_inference.progress import Progress, ProgressReport, quiet
from ppx_inference.provenance import Provenance
from ppx_inference.random_walk import random_walk_mh
from ppx_inference.simulator import Simulator
from ppx_server.executor import FailurePolicy

if TYPE_CHECKING:
    from ppx_inference.compilation import (
        NetworkConfig,
        Proposal,
        TrainingConfig,
        inference_compilation,
        train,
    )

__all__ = [
    "FailurePolicy",
    "Marginal",
    "NetworkConfig",
    "Posterior",
    "Progress",
    "ProgressReport",
    "Proposal",
    "Provenance",
    "Simulator",
    "SummaryRow",
    "TrainingConfig",
    "TrustWarning",
    "importance_sampling",
    "inference_compilation",
    "lightweight_mh",
    "quiet",
    "random_walk_mh",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in ("NetworkConfig", "Proposal", "TrainingConfig", "inference_compilation", "train"):
        from ppx_inference import compilation

        return getattr(compilation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Evolution strategies: gradients through a black box or a long run; PES, PES-A and truncated ES."""

from __future__ import annotations

from ppx_proposals.optim.evolution.members import Start, State, Unroll, each_member, each_start
from ppx_proposals.optim.evolution.strategies import (
    PES,
    PESA,
    Estimate,
    EvolutionStrategy,
    NonFiniteLossError,
    TruncatedES,
)

__all__ = [
    "PES",
    "PESA",
    "Estimate",
    "EvolutionStrategy",
    "NonFiniteLossError",
    "Start",
    "State",
    "TruncatedES",
    "Unroll",
    "each_member",
    "each_start",
]

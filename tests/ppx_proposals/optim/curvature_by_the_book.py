"""What the tests of FOOF and K-FAC share: numbers, and the factors that a preconditioner holds."""

from __future__ import annotations

import torch
from torch import Tensor

from ppx_proposals.optim.curvature import Preconditioner

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def factors(preconditioner: Preconditioner) -> dict[str, Tensor]:
    """All factors, after what was seen is taken in."""
    preconditioner.precondition([], [])
    state = preconditioner.state_dict()
    return {
        f"{kind} {name}": saved["memory"] / saved["mass"]
        for kind in set(state) - {"num_steps"}
        for name, saved in state[kind].items()
        if saved
    }

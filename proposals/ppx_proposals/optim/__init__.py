"""Optimizers that set their own hyperparameters, and what goes around them; usable for any PyTorch model.

Nothing here needs the rest of the project. The hypergradient optimizers are imported at once, all else when it is used:
names below, and the modules `tower` (levels of towers), `schedules`, `curvature`, `evolution`, `randomized` and
`stability` for the names that come with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ppx_proposals.optim.adam_hd import AdamHD, AdamWHD
from ppx_proposals.optim.hypergradient import HypergradientOptimizer
from ppx_proposals.optim.settings import HypergradientSettings
from ppx_proposals.optim.sgd_hd import SGDHD

if TYPE_CHECKING:
    from ppx_proposals.optim.curvature import FOOF, KFAC
    from ppx_proposals.optim.evolution import PES, PESA, TruncatedES
    from ppx_proposals.optim.large_batch import LAMB, LARC
    from ppx_proposals.optim.lookahead import Lookahead
    from ppx_proposals.optim.randomized import randomize
    from ppx_proposals.optim.stability import lyapunov, recommend
    from ppx_proposals.optim.tower import Tower

__all__ = [
    "FOOF",
    "KFAC",
    "LAMB",
    "LARC",
    "PES",
    "PESA",
    "SGDHD",
    "AdamHD",
    "AdamWHD",
    "HypergradientOptimizer",
    "HypergradientSettings",
    "Lookahead",
    "Tower",
    "TruncatedES",
    "lyapunov",
    "randomize",
    "recommend",
]

_MODULES = {
    "curvature": ("FOOF", "KFAC"),
    "evolution": ("PES", "PESA", "TruncatedES"),
    "large_batch": ("LAMB", "LARC"),
    "lookahead": ("Lookahead",),
    "randomized": ("randomize",),
    "stability": ("lyapunov", "recommend"),
    "tower": ("Tower",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"ppx_proposals.optim.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Settings that all hypergradient optimizers share, and their domains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

Group = dict[str, Any]
RULES = ("additive", "multiplicative")
MULTIPLICATIVE_BETA = 0.02
"""beta of the paper for the multiplicative rule."""
SCOPES = ("group", "global")
NOT_OFFERED = ("amsgrad", "maximize", "dampening", "foreach", "fused", "capturable", "differentiable")
"""Settings that optimizers of torch.optim take and these do not."""
SHARED = ("lr", "hypergrad_lr", "rule", "lr_bounds", "scope", "settle")


class HypergradientSettings(TypedDict, total=False):
    """Settings that all hypergradient optimizers take by keyword.

    Attributes:
        rule: `"additive"` or `"multiplicative"`.
        lr_bounds: The learning rate is kept within these.
        scope: `"group"`: every parameter group learns its own alpha; `"global"`: all groups share one.
        settle: `(alpha_inf, T)`: step sizes go from alpha_t to alpha_inf within some T steps; None: they do not.
        max_grad_norm: Gradients of a larger norm, taken over the group, are scaled down to it, and one that is not
            finite moves nothing.
    """

    rule: str
    lr_bounds: tuple[float, float]
    scope: str
    settle: tuple[float, float] | None
    max_grad_norm: float


def hypergradient_settings(given: HypergradientSettings) -> dict[str, Any]:
    """All shared settings: those that the user gave, and the defaults of the others.

    Raises:
        TypeError: There is no such setting.
    """
    refuse_not_offered(given)
    known = HypergradientSettings.__annotations__
    for name in given:
        if name not in known:
            raise TypeError(
                f"there is no setting {name!r}; besides the optimizer's own there are {', '.join(known)}"
            )
    return {
        "rule": "additive",
        "lr_bounds": (0.0, math.inf),
        "scope": "group",
        "settle": None,
        "max_grad_norm": math.inf,
        "num_steps": 0,
        **given,
    }


def refuse_not_offered(given: Mapping[str, Any]) -> None:
    """Refuses what torch's optimizers take and these do not, also in the settings of one group.

    Raises:
        TypeError: It is among the settings.
    """
    for name in NOT_OFFERED:
        if name in given:
            raise TypeError(
                f"hypergradient optimizers have no {name!r}, which torch.optim has; leave it out"
                + (" and minimise the negative loss" if name == "maximize" else "")
            )


def check_settings(settings: Group, groups: list[Group]) -> None:
    """Checks the settings of a new parameter group.

    Args:
        settings: Its settings.
        groups: The groups that there are.

    Raises:
        ValueError: A setting is outside its domain, or groups that share one alpha differ in what it depends on.
    """
    lr, hypergrad_lr, (low, high) = settings["lr"], settings["hypergrad_lr"], settings["lr_bounds"]
    if not 0.0 <= low <= high:
        raise ValueError(f"lr_bounds must satisfy 0 <= low <= high, not {low, high}")
    if not low <= lr <= high or not math.isfinite(lr):
        raise ValueError(f"lr must be finite and within lr_bounds {low, high}, not {lr}")
    if not (hypergrad_lr >= 0.0 and math.isfinite(hypergrad_lr)):
        raise ValueError(f"hypergrad_lr must be finite and >= 0, not {hypergrad_lr}")
    if settings["rule"] not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, not {settings['rule']!r}")
    if settings["scope"] not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}, not {settings['scope']!r}")
    if not settings["max_grad_norm"] > 0.0:
        raise ValueError(f"max_grad_norm must be > 0, not {settings['max_grad_norm']}")
    if not settings["weight_decay"] >= 0.0:
        raise ValueError(f"weight_decay must be >= 0, not {settings['weight_decay']}")
    if settings["settle"] is not None:
        limit, steps = settings["settle"]
        if not (low <= limit <= high and steps > 0.0):
            raise ValueError(f"settle must be (alpha_inf within lr_bounds, T > 0), not {limit, steps}")
    for key in SHARED:
        if groups and "global" in (settings["scope"], groups[0]["scope"]) and settings[key] != groups[0][key]:
            raise ValueError(
                f'with scope="global" all groups must have the same {key}, not {groups[0][key]} and {settings[key]}'
            )

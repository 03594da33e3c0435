"""The upper part of a tower: how the hyperparameters of one parameter group move each other.

The state of level k is a dict in `group["levels"][k]`, of plain numbers:

    rule, settings    its name, and its hyperparameters (those of level 0 are in the group itself, as in torch.optim)
    adapted, raw      names and raw coordinates of the hyperparameters that level k + 1 moves
    memory, time      what level k + 1 remembers of them
    last              from what (at, gradient, memory) level k + 1 last moved them

`last` is what it takes to build the graph of that move again, so an optimizer resumes where its state was saved, to the
last bit. All of this is a handful of numbers, computed on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppx_proposals.optim.tower import domains
from ppx_proposals.optim.tower.levels import Hypers, Level, Settings, read, write

Group = dict[str, Any]


class Chain(NamedTuple):
    """The current hyperparameters of a group, with the graph of how they came about.

    Attributes:
        raws: Raw coordinates of the adapted hyperparameters of each level, `(H_k,)`; level k depends on all above it.
        values: The values of those of level 0, scalars.
    """

    raws: list[Tensor]
    values: tuple[Tensor, ...]


def initial(levels: Sequence[Level]) -> list[dict[str, Any]]:
    """State of the levels of a group that has not moved yet."""
    return [
        {
            "rule": type(level).__name__,
            "settings": level.settings() if k else {},
            "adapted": list(level.adapted),
        }
        for k, level in enumerate(levels)
    ]


def settings_of(group: Group, k: int) -> Settings:
    """Where the hyperparameters of level k are."""
    settings: Settings = group["levels"][k]["settings"] if k else group
    return settings


def current(levels: Sequence[Level], group: Group, dtype: torch.dtype) -> Chain:
    """The chain of a group, built again from its state."""
    raws: list[Tensor] = []
    with torch.enable_grad():
        for k in reversed(range(len(levels) - 1)):
            state = group["levels"][k]
            raw = _raw(group, k, dtype)
            if state.get("last") is not None:
                last = {name: torch.tensor(numbers, dtype=dtype) for name, numbers in state["last"].items()}
                at, gradient = last.pop("at"), last.pop("gradient")
                above = _hypers(levels, group, k + 1, raws)
                raw, _ = _moved(levels, k, at, gradient, memory=last, above=above, time=state["time"])
            raws.insert(0, raw if raw.requires_grad else raw.requires_grad_())
        values = domains.values(group["levels"][0]["adapted"], raws[0]) if raws else ()
    return Chain(raws, values)


def advanced(levels: Sequence[Level], group: Group, chain: Chain, *, hypergradient: Tensor) -> Chain:
    """Moves the hyperparameters of all levels, the highest first, and writes them to the state of the group.

    If anything would become infinite or NaN, all stay as they are.

    Args:
        levels: The tower.
        group: The parameter group.
        chain: How its hyperparameters came about; used up.
        hypergradient: d loss / d values of level 0, `(H_0,)`.

    Returns:
        The chain of the hyperparameters as they are now.
    """
    dtype = hypergradient.dtype
    # d loss / d raw_k = (d values / d raw_k)^T d loss / d values, for all levels at once.
    gradients = torch.autograd.grad(
        chain.values, chain.raws, list(hypergradient.unbind()), materialize_grads=True
    )
    raws: list[Tensor] = []
    states: list[dict[str, Any]] = []
    with torch.enable_grad():
        for k in reversed(range(len(levels) - 1)):
            old = group["levels"][k]
            at, time = _raw(group, k, dtype), old.get("time", 0) + 1
            memory = {name: torch.tensor(x, dtype=dtype) for name, x in old.get("memory", {}).items()}
            above = _hypers(levels, group, k + 1, raws)
            raw, new = _moved(levels, k, at, gradients[k], memory=memory, above=above, time=time)
            raws.insert(0, raw if raw.requires_grad else raw.requires_grad_())
            if not all(bool(x.isfinite().all()) for x in (gradients[k], raw, *new.values())):
                for state in group["levels"]:
                    state["last"] = None
                return current(levels, group, dtype)
            last = {"at": at, "gradient": gradients[k], **memory}
            states.insert(0, {"raw": raw.tolist(), "memory": _lists(new), "time": time, "last": _lists(last)})
        values = domains.values(group["levels"][0]["adapted"], raws[0])
    for k, state in enumerate(states):
        group["levels"][k].update(state)
        names = group["levels"][k]["adapted"]
        for name, value in zip(names, domains.floats(names, raws[k]), strict=True):
            write(settings_of(group, k), name, value)
    return Chain(raws, values)


def _raw(group: Group, k: int, dtype: torch.dtype) -> Tensor:
    """Raw coordinates `(H_k,)` of level k; a value that the user has set since counts."""
    names = group["levels"][k]["adapted"]
    settings = settings_of(group, k)
    numbers: list[float] = group["levels"][k].get("raw") or [0.0] * len(names)
    shown = domains.floats(names, torch.tensor(numbers, dtype=dtype))
    wanted = [read(settings, name) for name in names]
    return torch.tensor(
        [
            number if value == before else domains.raw(name, value)
            for name, number, before, value in zip(names, numbers, shown, wanted, strict=True)
        ],
        dtype=dtype,
    )


def _hypers(levels: Sequence[Level], group: Group, k: int, raws: list[Tensor]) -> Hypers:
    """Hyperparameters of level k, given the raw coordinates of the levels from k up."""
    names = group["levels"][k]["adapted"]
    adapted = dict(zip(names, domains.values(names, raws[0]), strict=True)) if names else {}
    return levels[k].hypers(settings_of(group, k), adapted)


def _moved(
    levels: Sequence[Level],
    k: int,
    at: Tensor,
    gradient: Tensor,
    *,
    memory: dict[str, Tensor],
    above: Hypers,
    time: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Raw coordinates of level k after a step of level k + 1, and what that one remembers."""
    direction, memory = levels[k + 1].direction(at, gradient, memory, hypers=above, time=time)
    return domains.kept(levels[k].adapted, levels[k + 1].moved(at, direction, above)), memory


def _lists(tensors: dict[str, Tensor]) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in tensors.items()}

"""Parameter groups that grow while a network trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor


def extend(groups: Sequence[dict[str, Any]], params: Iterable[Tensor], *, group: int) -> None:
    """Adds parameters to a group of an optimizer.

    Args:
        groups: Its groups.
        params: Leaf tensors, none of which the optimizer has yet.
        group: Number of the group that grows.

    Raises:
        ValueError: A parameter is in a group already, or is no leaf; nothing has changed then.
    """
    new = list(params)
    ids = {id(p) for p in new}
    if len(ids) < len(new) or not ids.isdisjoint(id(p) for g in groups for p in g["params"]):
        raise ValueError("a parameter may be in one group of an optimizer only once")
    for p in new:
        if not (p.is_leaf or p.retains_grad):  # as torch.optim asks
            raise ValueError(
                f"a tensor of shape {tuple(p.shape)} is computed from others; add the parameters it is made of"
            )
    groups[group]["params"].extend(new)

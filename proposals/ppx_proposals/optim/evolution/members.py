"""Members of an evolution strategy: what they execute, and their states, one row each.

Letters: B rows of a batch of members, D elements of all parameters together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

State = Any
"""Tensors `(B, ...)`, one row per member; or dicts, lists and tuples of such."""
Unroll = Callable[[Tensor, State, Tensor], tuple[State, Tensor]]
"""`unroll(params, state, seeds)` for parameters `(B, D)` and seeds `(B,)` gives the new state and losses `(B,)`."""
Start = Callable[[Tensor], State]
"""`start(seeds)` for seeds `(B,)` gives the state at the start of an episode."""


def each_member(unroll: Callable[[Tensor, State, int], tuple[State, Tensor]]) -> Unroll:
    """Makes an unroll of batches out of one that knows a single member.

    Args:
        unroll: `unroll(params, state, seed)` for parameters `(D,)`, tensors without the leading dimension and an int
            gives the new state and the loss, a number.
    """

    def batched(params: Tensor, state: State, seeds: Tensor) -> tuple[State, Tensor]:
        done = [
            unroll(params[row], map_state(lambda t, row=row: t[row], state), seed)
            for row, seed in enumerate(seeds.tolist())
        ]
        losses = torch.stack([torch.as_tensor(loss, dtype=params.dtype) for _, loss in done])
        return _stacked([new for new, _ in done]), losses

    return batched


def each_start(start: Callable[[int], State]) -> Start:
    """Makes a start of batches out of one that knows a single member; see `each_member`."""
    return lambda seeds: _stacked([start(seed) for seed in seeds.tolist()])


def _stacked(states: list[State]) -> State:
    return map_state(lambda *tensors: torch.stack(tensors), *states)


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Applies a function to the tensors of states of one structure.

    Raises:
        ValueError: Their structures differ, or something in them is not a tensor.
    """
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    if isinstance(first, dict):
        if any(s.keys() != first.keys() for s in states):
            raise ValueError(f"states differ in their keys: {[sorted(map(str, s)) for s in states]}")
        return {key: map_state(function, *(s[key] for s in states)) for key in first}
    if isinstance(first, list | tuple):
        if any(len(s) != len(first) for s in states):
            raise ValueError(f"states differ in their lengths: {[len(s) for s in states]}")
        parts = [map_state(function, *parts) for parts in zip(*states, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    raise ValueError(f"a state is tensors, or dicts, lists and tuples of them, not {type(first).__name__}")


def checked_rows(tensor: Tensor, rows: int) -> Tensor:
    """The tensor, if it has that many rows.

    Raises:
        ValueError: It has another number.
    """
    if tensor.ndim == 0 or len(tensor) != rows:
        raise ValueError(
            f"tensors of the state of {rows} members need {rows} rows; one has shape {tuple(tensor.shape)}"
        )
    return tensor

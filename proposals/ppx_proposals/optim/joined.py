"""State of many parameters laid end to end: most networks have many small ones, and calls cost more than sums.

A `Layout` holds the state of the parameters of one device and type in one tensor per kind of state; what
`optimizer.state[p]` has are views of it. In one step the parameters that have a gradient form `Run`s, stretches of
neighbours on which arithmetic is one call. A parameter of `_ALONE` elements or more is a run of its own, because
copying its gradient would cost more than the call.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ALONE = 1 << 18

State = MutableMapping[Tensor, dict[str, Any]]


class Joined(NamedTuple):
    """Something of several parameters, end to end.

    Attributes:
        flat: `(total size,)`.
        views: One view of `flat` per parameter, in its shape.
    """

    flat: Tensor
    views: list[Tensor]

    @classmethod
    def of(cls, tensors: list[Tensor]) -> Joined:
        """A copy of tensors, end to end."""
        return cls.split(torch.cat([t.reshape(-1) for t in tensors]), tensors)

    @classmethod
    def split(cls, flat: Tensor, like: list[Tensor]) -> Joined:
        """Views of `flat` in the shapes of others."""
        parts = torch.split(flat, [t.numel() for t in like])
        return cls(flat, [part.view(t.shape) for part, t in zip(parts, like, strict=True)])

    def div_(self, divisors: list[float]) -> None:
        """Divides what each parameter has by a number of its own."""
        if len(set(divisors)) == 1:
            # Not `div_`, which on a GPU multiplies by the reciprocal, and so rounds otherwise than torch.optim.
            torch._foreach_div_([self.flat], divisors[0])
        else:
            torch._foreach_div_(self.views, divisors)


class Layout:
    """Parameters of one device and type, and their state end to end.

    Args:
        params: The parameters, in the order in which they are laid.
        state: State by parameter and key, which gets views of what is laid here.
    """

    def __init__(self, params: list[Tensor], state: State) -> None:
        self.params = params
        self._state = state
        self._joined: dict[str, Joined] = {}
        self._offsets = [0]
        for p in params:
            self._offsets.append(self._offsets[-1] + p.numel())

    def __contains__(self, key: str) -> bool:
        return key in self._joined

    def holds(self, state: State) -> bool:
        """Whether the state is what is laid here; whoever owns an optimizer may have put another in its place."""
        return state is self._state and all(
            state.get(p, {}).get(key) is view
            for key, joined in self._joined.items()
            for p, view in zip(self.params, joined.views, strict=True)
        )

    def drop(self, key: str) -> None:
        """Forgets state."""
        self._joined.pop(key, None)
        for p in self.params:
            self._state.get(p, {}).pop(key, None)

    def whole(self, key: str) -> Joined:
        """State of all parameters, zeros at first."""
        if key not in self._joined:
            own = [self._state[p].get(key) for p in self.params]
            pairs = zip(own, self.params, strict=True)
            joined = Joined.of([torch.zeros_like(p) if s is None else s for s, p in pairs])
            for p, view in zip(self.params, joined.views, strict=True):
                self._state[p][key] = view
            self._joined[key] = joined
        return self._joined[key]

    def part(self, key: str, first: int, last: int) -> Joined:
        """State of the parameters from number `first` to before number `last`."""
        flat, views = self.whole(key)
        return Joined(flat[self._offsets[first] : self._offsets[last]], views[first:last])

    def runs(self) -> Iterator[Run]:
        """The stretches of parameters that have a gradient."""
        first, params = 0, self.params
        while first < len(params):
            last = first + 1
            if params[first].grad is not None:
                if params[first].numel() < _ALONE:
                    while last < len(params) and _joins(params[last]):
                        last += 1
                yield Run(self, first, last, _end_to_end(params[first:last]))
            first = last

    def still(self, key: str) -> list[Tensor]:
        """State of each parameter that has no gradient, flat."""
        return [
            self.part(key, number, number + 1).flat for number, p in enumerate(self.params) if p.grad is None
        ]


@dataclass
class Run:
    """Neighbouring parameters that all have a gradient.

    Attributes:
        layout: Where they are.
        first: Number of the first.
        last: Number after the last.
        gradient: `(total size,)`. It may be the memory of `p.grad`: never changed in place, but replaced.
    """

    layout: Layout
    first: int
    last: int
    gradient: Tensor

    @property
    def params(self) -> list[Tensor]:
        """The parameters."""
        return self.layout.params[self.first : self.last]

    def state(self, key: str) -> Joined:
        """Their state, zeros at first; change it in place."""
        return self.layout.part(key, self.first, self.last)

    def values(self) -> Tensor:
        """The parameters themselves, `(total size,)`, to be read only."""
        params = [p.detach().reshape(-1) for p in self.params]
        return params[0] if len(params) == 1 else torch.cat(params)


def _joins(p: Tensor) -> bool:
    return p.grad is not None and p.numel() < _ALONE


def _end_to_end(params: list[Tensor]) -> Tensor:
    gradients = [p.grad.reshape(-1) for p in params if p.grad is not None]
    return gradients[0] if len(gradients) == 1 else torch.cat(gradients)

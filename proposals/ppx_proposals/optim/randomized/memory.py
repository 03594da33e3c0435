"""Bytes of the tensors that live while a gradient is computed, on any device, whoever holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing import reductions
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryUse(NamedTuple):
    """Bytes of tensors that did not exist before.

    Attributes:
        saved: Between the forward and the backward pass.
        peak: The most at any time.
    """

    saved: int
    peak: int


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts storages that operations made and that live. Looks after every operation, so what lives shorter, such as
    workspaces, is not seen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._made: dict[int, tuple[Any, int]] = {}
        self._found: dict[int, Any] = {}

    def bytes(self) -> int:
        """Bytes that live now."""
        self._made = {k: v for k, v in self._made.items() if not v[0].expired()}
        return sum(size for _, size in self._made.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # What an operation is given and none has made was there before.
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._made:
                self._found.setdefault(storage._cdata, _weak(storage))
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._found and storage._cdata not in self._made:
                self._made[storage._cdata] = _weak(storage), storage.nbytes()
        self.peak = max(self.peak, self.bytes())
        return result


def _weak(storage: torch.UntypedStorage) -> Any:
    """Tells when a storage has gone; keeps its address from being used again."""
    return reductions.StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def memory_use(loss: Callable[[], Tensor]) -> MemoryUse:
    """Measures a forward and a backward pass; gradients are counted, unless the parameter had one before.

    Args:
        loss: Computes the loss.
    """
    with _Live() as live, torch.enable_grad():
        value = loss()
        saved = live.bytes()
        value.backward()  # type: ignore[no-untyped-call]
    return MemoryUse(saved, live.peak)

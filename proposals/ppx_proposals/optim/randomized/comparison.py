"""What randomized layers save and cost on a network at hand, beside what else saves memory."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Collection, Sequence
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from ppx_proposals.optim.randomized.layers import randomize
from ppx_proposals.optim.randomized.memory import memory_use
from ppx_proposals.optim.randomized.sketches import PROJECTIONS

Loss = Callable[[Tensor, Tensor], Tensor]
_Gradient = Callable[[Tensor, Tensor], Tensor]


class Row(NamedTuple):
    """One way to compute a gradient.

    Attributes:
        method: Which.
        saved: Bytes between the forward and the backward pass, see `memory_use`.
        peak: Bytes at most; the parameters' gradients, which all methods need, are not counted.
        seconds: Wall clock of both passes, the median of a few.
        noise: Root mean square of |g' - g| / |g| over draws, where g is the exact gradient of the batch.
    """

    method: str
    saved: int
    peak: int
    seconds: float
    noise: float


def compare(
    network: nn.Sequential,
    batch: tuple[Tensor, Tensor],
    loss: Loss,
    *,
    keep: float = 0.1,
    skip: Collection[str] = (),
    draws: int = 10,
) -> list[Row]:
    """Compares the exact gradient, activation checkpointing, accumulation, randomized layers, and a smaller batch.

    Accumulation adds up the gradients of the parts of the batch, one after the other: exact for a mean over the batch.

    Args:
        network: A plain one; it is copied.
        batch: Inputs and targets, `(B, ...)` each.
        loss: Mean loss, of the network's output and the targets.
        keep: Kept of the inputs of layers, and of the batch by accumulation and the last method.
        skip: Layers that stay exact, see `randomize`.
        draws: Random gradients per method.

    Returns:
        The rows; the global generator decides on the draws.
    """
    x, y = batch
    small = max(1, round(keep * len(x)))
    segments = max(2, round(math.sqrt(len(network))))
    masks = [name for name, layer in network.named_modules() if type(layer) is not nn.ReLU and name]

    def plain(model: nn.Module) -> _Gradient:
        return lambda x, y: loss(model(x), y)

    def checkpointed(x: Tensor, y: Tensor) -> Tensor:
        output = checkpoint_sequential(model, segments, x, use_reentrant=False)  # type: ignore[no-untyped-call]
        return loss(output, y)

    def accumulated(x: Tensor, y: Tensor) -> Tensor:
        last, *parts = zip(torch.split(x, small), torch.split(y, small), strict=True)
        for part_x, part_y in parts:
            (loss(model(part_x), part_y) * (len(part_x) / len(x))).backward()  # type: ignore[no-untyped-call]
        return loss(model(last[0]), last[1]) * (len(last[0]) / len(x))

    model = copy.deepcopy(network).train()
    rows = [_row("exact", model, plain(model), draws=1, batches=[batch])]
    exact = _gradient(model)
    rows.append(_row("checkpointing", model, checkpointed, draws=1, batches=[batch], exact=exact))
    rows.append(_row("accumulation", model, accumulated, draws=1, batches=[batch], exact=exact))
    if any(type(layer) is nn.ReLU for layer in network.modules()):
        model = randomize(copy.deepcopy(network).train(), keep, skip=masks)
        rows.append(_row("ReLU masks", model, plain(model), draws=1, batches=[batch], exact=exact))
    for name in PROJECTIONS:
        model = randomize(copy.deepcopy(network).train(), keep, skip=skip, projection=name)
        rows.append(_row(name, model, plain(model), draws=draws, batches=[batch], exact=exact))
    model = copy.deepcopy(network).train()
    chosen = [torch.randperm(len(x))[:small].to(x.device) for _ in range(draws)]
    parts = [(x[i], y[i]) for i in chosen]
    rows.append(_row(f"batch of {small}", model, plain(model), draws=draws, batches=parts, exact=exact))
    return rows


def _row(
    method: str,
    model: nn.Module,
    loss: _Gradient,
    *,
    draws: int,
    batches: Sequence[tuple[Tensor, Tensor]],
    exact: Tensor | None = None,
) -> Row:
    """Measures memory once, then time and noise over draws."""
    # Gradients that are there already are no memory of the method.
    loss(*batches[0]).backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=False)
    use = memory_use(lambda: loss(*batches[0]))
    seconds, errors = [], []
    for draw in range(max(draws, 3)):
        model.zero_grad()
        start = _now(batches[0][0])
        loss(*batches[draw % len(batches)]).backward()  # type: ignore[no-untyped-call]
        seconds.append(_now(batches[0][0]) - start)
        if exact is not None:
            errors.append(float(((_gradient(model) - exact).norm() / exact.norm()) ** 2))
    noise = math.sqrt(sum(errors) / len(errors)) if errors else 0.0
    return Row(method, use.saved, use.peak, median(seconds), noise)


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


def _now(like: Tensor) -> float:
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
    return time.perf_counter()


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| method | saved, MB | peak, MB | s | noise |", "|---|---|---|---|---|"]
    lines += [
        f"| {r.method} | {r.saved / 1e6:.1f} | {r.peak / 1e6:.1f} | {r.seconds:.3f} | {r.noise:.2g} |"
        for r in rows
    ]
    return "\n".join(lines)

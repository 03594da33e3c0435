"""Sketches: what randomized layers save of their input instead of the input.

A sketch of a tensor x of n entries has n / m numbers, and can be expanded to a tensor of the same shape whose mean over
the random numbers is x. Three ways to make one, `PROJECTIONS`:

    sample      of m entries that lie side by side one, i, is kept, each with probability 1 / m:  m x_i e_i
    magnitude   the same with probability |x_i| / s, where s = sum_j |x_j| over the m:            sign(x_i) s e_i
    rademacher  B rows are multiplied by R / sqrt(r), (B, r) signs, r = B / m:                    R R^T x / r

The first and the last are P P^T x with E[P P^T] = 1 (Oktay, McGreivy, Aduol, Beatson and Adams, "Randomized automatic
differentiation", ICLR 2021, arXiv 2007.10412, random matrix injection), and P is made anew from the seed when it is
needed. In the second P depends on x (importance sampling, Horvitz and Thompson 1952); it also saves i, one byte. It has
the least variance of all ways to keep one of m that do not know the gradient they will meet, and none at all where at
most one of m is not 0.

Variances of a sum g . x^ over fixed g, with a_i = g_i x_i, per group of m entries (per r for rademacher):

    sample      m sum a_i^2 - (sum a_i)^2
    magnitude   s sum g_i^2 |x_i| - (sum a_i)^2
    rademacher  (sum g_i^2 sum x_i^2 + (sum a_i)^2 - 2 sum a_i^2) / r      over the B rows of one column
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LARGEST_GROUP = 256
"""Entries of which one is kept: its number must fit a byte."""
_CHUNK = 2**19
"""Entries looked at together, so that working space is small beside what is saved, and stays in the cache."""
SEEDS = 2**32
"""torch's generator on the CPU looks at 32 bits of a seed."""


class Sketch(NamedTuple):
    """What is saved of a tensor.

    Attributes:
        values: The numbers kept.
        place: Which of its group each one is, unless the seed tells.
        seed: Seed of the random numbers.
        group: m.
        shape: Of the tensor.
    """

    values: Tensor
    place: Tensor | None
    seed: int
    group: int
    shape: torch.Size


class Projection(NamedTuple):
    """A way to make sketches: from a tensor, m and a seed; and back."""

    pack: Callable[[Tensor, int, int], Sketch]
    unpack: Callable[[Sketch], Tensor]


def _generator(device: torch.device, seed: int) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)


def _grouped(x: Tensor, group: int) -> Iterator[Tensor]:
    """Entries in groups, `(up to _CHUNK / m, m)` at a time; zeros fill the very last one."""
    for part in torch.split(x.reshape(-1), _CHUNK // group * group):
        yield functional.pad(part, (0, -part.numel() % group)).view(-1, group)


def _scattered(sketch: Sketch, places: Iterator[Tensor]) -> Tensor:
    """The kept numbers at their places among zeros."""
    size = math.prod(sketch.shape)
    groups = sketch.values.new_zeros(len(sketch.values), sketch.group)
    parts = (torch.split(t, _CHUNK // sketch.group) for t in (groups, sketch.values))
    for part, values, place in zip(*parts, places, strict=True):
        part.scatter_(1, place.long()[:, None], values[:, None])
    return groups.view(-1)[:size].view(sketch.shape)


def _sampled(count: int, group: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """Uniform places, as many at a time as `_grouped` gives groups."""
    generator, most = _generator(device, seed), _CHUNK // group
    for first in range(0, count, most):
        yield torch.randint(group, (min(most, count - first),), generator=generator, device=device)


def _pack_sample(x: Tensor, group: int, seed: int) -> Sketch:
    places = _sampled(-(-x.numel() // group), group, seed, x.device)
    # m x_i
    pairs = zip(_grouped(x, group), places, strict=True)
    values = torch.cat([groups.gather(1, place[:, None])[:, 0].mul_(group) for groups, place in pairs])
    return Sketch(values, None, seed, group, x.shape)


def _unpack_sample(sketch: Sketch) -> Tensor:
    values = sketch.values
    return _scattered(sketch, _sampled(len(values), sketch.group, sketch.seed, values.device))


def _pack_magnitude(x: Tensor, group: int, seed: int) -> Sketch:
    generator = _generator(x.device, seed)
    values, places = [], []
    for groups in _grouped(x, group):
        # Half precision would round small probabilities away.
        upto = groups.abs().to(torch.promote_types(x.dtype, torch.float32)).cumsum_(1)
        total = upto[:, -1:]
        u = torch.rand(total.shape, dtype=total.dtype, generator=generator, device=x.device)
        # The first i with |x_1| + .. + |x_i| > u s; 0 <= u < 1, but u s may be rounded to s.
        place = (upto <= u.mul_(total)).sum(1, dtype=torch.uint8).clamp_max_(group - 1)
        # sign(x_i) s
        values.append(groups.gather(1, place.long()[:, None]).sign_().mul_(total)[:, 0])
        places.append(place)
    return Sketch(torch.cat(values), torch.cat(places), seed, group, x.shape)


def _unpack_magnitude(sketch: Sketch) -> Tensor:
    assert sketch.place is not None
    return _scattered(sketch, iter(torch.split(sketch.place, _CHUNK // sketch.group)))


def _signs(rows: int, group: int, seed: int, like: Tensor) -> Tensor:
    """R, `(B, r)`."""
    rank = -(-rows // group)
    generator = _generator(like.device, seed)
    return (
        torch.randint(2, (rows, rank), generator=generator, device=like.device).to(like.dtype).mul_(2).sub_(1)
    )


def _pack_rademacher(x: Tensor, group: int, seed: int) -> Sketch:
    signs = _signs(len(x), group, seed, x)
    # R^T x / r
    values = (signs.mT @ x.reshape(len(x), -1)).div_(max(signs.shape[1], 1))
    return Sketch(values, None, seed, group, x.shape)


def _unpack_rademacher(sketch: Sketch) -> Tensor:
    signs = _signs(sketch.shape[0], sketch.group, sketch.seed, sketch.values)
    return (signs @ sketch.values).view(sketch.shape)


PROJECTIONS = {
    "sample": Projection(_pack_sample, _unpack_sample),
    "magnitude": Projection(_pack_magnitude, _unpack_magnitude),
    "rademacher": Projection(_pack_rademacher, _unpack_rademacher),
}
"""Ways to make sketches, by name."""

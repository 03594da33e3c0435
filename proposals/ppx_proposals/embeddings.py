"""Embeddings: of observations (dense layers and 3D convolutions), and tables of rows that grow while training.

Letters: B observations, F flat numbers, E embedding size, W row width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ppx_proposals.config import NetworkConfig

_SMALLEST_GRID = 3
"""Grids of this extent or less go to the dense layer: halving once more loses where things are."""
BLOCK = 64
"""Rows that a table grows by: a parameter of an optimizer cannot change its size, so tables are lists of blocks."""


class GrowingTable(nn.Module):
    """Learnt rows, numbered from 1; row 0 is zero.

    Initial values depend on the seed and the row alone, not on when rows are added.

    Args:
        width: W.
        scale: Standard deviation of the initial values.
        seed: Seed of the initial values.
    """

    def __init__(self, width: int, *, scale: float, seed: int) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ParameterList()
        self._scale, self._seed = scale, seed
        self.register_buffer("zero", torch.zeros(1, width), persistent=False)

    zero: Tensor

    def grow(self, num_rows: int) -> list[nn.Parameter]:
        """Makes room for rows 1 to `num_rows`; returns the new blocks."""
        new = []
        while len(self.blocks) * BLOCK < num_rows:
            # torch's generator on the CPU reads 32 bits of its seed.
            (seed,) = np.random.SeedSequence([self._seed, len(self.blocks)]).generate_state(1)
            generator = torch.Generator().manual_seed(int(seed))
            values = torch.randn(BLOCK, self.width, generator=generator) * self._scale
            new.append(nn.Parameter(values.to(self.zero.device)))
            self.blocks.append(new[-1])
        return new

    def forward(self) -> Tensor:
        """All rows, `(1 + room, W)`."""
        return torch.cat([self.zero, *self.blocks])


class GridEmbedding(nn.Module):
    """3D convolutions of stride 2, each with more channels, then a dense layer; fits any grid.

    Args:
        shape: Depth, height and width of the grid.
        channels: Output channels of the convolutions; fewer are used where the grid gets too small.
        size: E.
    """

    def __init__(self, shape: Sequence[int], channels: Sequence[int], size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        current, extent = 2, list(shape)
        for number, width in enumerate(channels):
            if number and max(extent) <= _SMALLEST_GRID:
                break
            layers += [nn.Conv3d(current, width, 3, stride=2, padding=1), nn.SiLU()]
            current, extent = width, [(n + 1) // 2 for n in extent]
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Sequential(
            nn.Linear(current * extent[0] * extent[1] * extent[2], 2 * size), nn.SiLU()
        )
        self.last = nn.Sequential(nn.Linear(2 * size, size), nn.SiLU())

    def forward(self, grid: Tensor) -> Tensor:
        """Embeds `(B, 2, D, H, W)` as `(B, E)`."""
        embedded: Tensor = self.last(self.dense(self.layers(grid).flatten(1)))
        return embedded


class ObservationEmbedding(nn.Module):
    """Embeds the flat part and every grid, side by side.

    Args:
        flat_size: F; 0 if there is no flat part.
        grid_shapes: Shapes of the grids.
        config: Sizes.
    """

    def __init__(self, flat_size: int, grid_shapes: Sequence[Sequence[int]], config: NetworkConfig) -> None:
        super().__init__()
        size = config.observation_size
        self.flat = (
            nn.Sequential(nn.Linear(flat_size, 2 * size), nn.SiLU(), nn.Linear(2 * size, size), nn.SiLU())
            if flat_size
            else None
        )
        self.grids = nn.ModuleList(GridEmbedding(shape, config.grid_channels, size) for shape in grid_shapes)
        self.size = size * ((flat_size > 0) + len(grid_shapes))

    def forward(self, flat: Tensor, grids: Sequence[Tensor]) -> Tensor:
        """Embeds `(B, F)` and `(B, 2, D, H, W)` each, as `(B, size)`."""
        parts = [] if self.flat is None else [self.flat(flat)]
        parts += [embed(grid) for embed, grid in zip(self.grids, grids, strict=True)]
        return torch.cat(parts, dim=1)

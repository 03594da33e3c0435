"""What layers multiply their weights by: inputs and output gradients as rows, one row per product with the weight.

Letters: B samples, g groups, R rows, I inputs and O outputs of one group, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
_MOST = 1 << 24
"""Most numbers of a convolution's patches to have in memory at once (64 MiB in float32)."""


class Block(NamedTuple):
    """Parameters that are preconditioned together: a weight, as `(g, O, I)`, and its bias as one more column.

    Attributes:
        name: The weight's name in the model.
        weight: Of any shape whose first dimension is g O.
        bias: `(g O,)` or None.
        groups: g.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    groups: int

    def same_as(self, other: Block) -> Block:
        """Itself, after a check that another use of the weight is of the same kind.

        Raises:
            ValueError: It is not.
        """
        if self.bias is not other.bias or self.groups != other.groups:
            raise ValueError(
                f"{self.name} is used with different biases or groups; give all its uses the same"
            )
        return self

    def num_inputs(self, bias: Tensor | None) -> int:
        """I, or I + 1 with a bias."""
        return self.weight.numel() // len(self.weight) + (bias is not None)

    def with_bias(self, rows: Tensor) -> Tensor:
        """Inputs `(g, R, I)` with the coordinate 1 that the bias is the weight of, `(g, R, I + 1)`."""
        return rows if self.bias is None else functional.pad(rows, (0, 1), value=1.0)

    def matrix(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Things shaped like weight and bias as one matrix, `(g, O, I)` or `(g, O, I + 1)`."""
        matrix = weight.reshape(self.groups, len(weight) // self.groups, -1)
        return matrix if bias is None else torch.cat([matrix, bias.reshape(self.groups, -1, 1)], dim=2)


def linear_rows(x: Tensor) -> Tensor:
    """Inputs or outputs of a dense layer, `(..., n)`, as `(1, R, n)`."""
    return x.reshape(1, -1, x.shape[-1])


def conv_output_rows(conv: Conv, x: Tensor) -> Tensor:
    """Outputs of a convolution, `(B, g O, ...)` or `(g O, ...)`, as `(g, R, O)`: a row per sample and position."""
    x = x if x.dim() == conv.weight.dim() else x[None]
    # (B, g O, positions) -> (g, B, positions, O)
    x = x.reshape(len(x), conv.groups, -1, *x.shape[2:]).movedim(2, -1).transpose(0, 1)
    return x.flatten(1, -2)


def conv_input_rows(conv: Conv, x: Tensor) -> Iterator[Tensor]:
    """Patches of a convolution's inputs, `(B, C, ...)` or `(C, ...)`, as `(g, R, C / g * kernel)`, in parts.

    A row per sample and position of the kernel, in the order of the weight (Grosse and Martens 2016, arXiv 1602.01573:
    the convolution is the product of weight and patches).
    """
    x = x if x.dim() == conv.weight.dim() else x[None]
    x = _padded(conv, x)
    spatial = range(2, x.dim())
    for dim, size, stride, dilation in zip(
        spatial, conv.kernel_size, conv.stride, conv.dilation, strict=True
    ):
        x = x.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    # (B, C, positions, kernel) -> (g, B, positions, C / g, kernel)
    x = torch.stack(x.chunk(conv.groups, dim=1)) if conv.groups > 1 else x[None]
    x = x.movedim(2, 2 + len(conv.kernel_size))
    for part in torch.split(x, max(1, _MOST // max(1, x[:, :1].numel())), dim=1):
        rows = part.flatten(1, len(conv.kernel_size) + 1)
        yield rows.reshape(conv.groups, rows.shape[1], -1)


def _padded(conv: Conv, x: Tensor) -> Tensor:
    """Inputs with the border that the convolution gives them."""
    sides: list[int] = []
    for number in reversed(range(len(conv.kernel_size))):
        if conv.padding == "valid":
            low = high = 0
        elif conv.padding == "same":
            total = conv.dilation[number] * (conv.kernel_size[number] - 1)
            low, high = total // 2, total - total // 2
        else:
            low = high = int(conv.padding[number])
        sides += [low, high]
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return functional.pad(x, sides, mode=mode) if any(sides) else x

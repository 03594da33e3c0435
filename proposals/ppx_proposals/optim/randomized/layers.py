"""Layers that save a sketch of their input for the backward pass, and the conversion of networks to them.

Of y = x W^T + b the backward pass needs x for the gradient of W only:

    dL/db = sum_n g_n        dL/dx = g W        dL/dW = g^T x

so with a sketch in place of x the first two are what they were, to the last bit, and the third, linear in the sketch,
has the right mean (Oktay et al. 2021, arXiv 2007.10412). The same holds for convolutions. It does not hold for what
is not linear: a sketch in place of the input of a ReLU or SiLU gives a gradient with another mean. Hooks on saved
tensors (`torch.autograd.graph.saved_tensors_hooks`) therefore enclose one linear operation at a time, and let its
weight pass.

Why hooks and not an `autograd.Function` that multiplies the sketch itself: the backward pass stays PyTorch's own, bit
for bit, on every device and for every convolution; and the entries that are kept lie scattered over the input, where
a product of fewer terms would need them in whole rows, which is a smaller batch by another name. The price: while the
backward pass is at a layer, that layer's input is there in full, zeros and all; one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from ppx_proposals.optim.randomized.sketches import LARGEST_GROUP, PROJECTIONS, SEEDS, Sketch

Operation = Callable[[Tensor, Tensor, Tensor | None], Tensor]
_Module = TypeVar("_Module", bound=nn.Module)


class Randomization(NamedTuple):
    """How inputs are sketched.

    Attributes:
        group: m, entries of the input per number saved; 1 saves the input.
        projection: Name of one of `PROJECTIONS`.
        generator: On the CPU; source of the seeds. None is torch's global one.
    """

    group: int
    projection: str
    generator: torch.Generator | None

    @classmethod
    def of(cls, keep: float, projection: str, generator: torch.Generator | None) -> Randomization:
        """Checks the settings.

        Raises:
            ValueError: One is outside its domain.
        """
        if not 1.0 / LARGEST_GROUP <= keep <= 1.0:
            raise ValueError(f"keep must lie in [1/{LARGEST_GROUP}, 1], not {keep}")
        if projection not in PROJECTIONS:
            raise ValueError(f"projection must be one of {', '.join(PROJECTIONS)}, not {projection!r}")
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(
                f"generator must be on the CPU, whatever the layer is on, not {generator.device}"
            )
        return cls(round(1.0 / keep), projection, generator)

    def seed(self) -> int:
        """A new seed."""
        return int(torch.randint(SEEDS, (), generator=self.generator))


class _Whole(NamedTuple):
    """A tensor saved as it is, and its version, since autograd does not look after tensors that hooks have seen."""

    tensor: Tensor
    version: int


def sketched(
    operation: Operation, x: Tensor, weight: Tensor, *, bias: Tensor | None, randomization: Randomization
) -> Tensor:
    """Applies a linear operation that saves a sketch of x.

    Args:
        operation: Linear in x; of `x, weight, bias`; saves nothing but x, padded or not, and the weight or views of it.
        x: Input.
        weight: Weight.
        bias: Bias, if any.
        randomization: How x is sketched.

    Returns:
        What the operation returns, unchanged. Differentiable once.
    """
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        # Autocast would hide the weight behind a copy of its own.
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    # The graph keeps the hooks: they must not hold x.
    storage, seed, projection = _storage(weight), randomization.seed(), PROJECTIONS[randomization.projection]
    group = randomization.group

    def pack(saved: Tensor) -> _Whole | Sketch:
        if _storage(saved) == storage:
            return _Whole(saved, saved._version)
        return projection.pack(saved, group, seed)

    def unpack(packed: _Whole | Sketch) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a randomized layer is differentiable once: its input is gone; for second derivatives call backward "
                "without create_graph, or make the layer exact with keep=1 or eval()"
            )
        if isinstance(packed, Sketch):
            return projection.unpack(packed)
        if packed.tensor._version != packed.version:
            raise RuntimeError(
                f"the weight of a randomized layer, shape {tuple(packed.tensor.shape)}, was changed in place between "
                "its forward and its backward pass; call the optimizer's step after backward"
            )
        return packed.tensor

    with saved_tensors_hooks(pack, unpack):
        return operation(x, weight, bias)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Randomized(nn.Module):
    """What the layers below share; `randomization` says how inputs are sketched."""

    randomization: Randomization

    def _is_exact(self, x: Tensor) -> bool:
        unused = not (self.training and torch.is_grad_enabled())
        return unused or self.randomization.group == 1 or x.numel() == 0

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, keep=1/{self.randomization.group} ({self.randomization.projection})"


class RADLinear(_Randomized, nn.Linear):
    """`nn.Linear` that saves a sketch of its input; exact if `keep` is 1, in `eval()` and without gradients.

    Args:
        in_features: Size of an input.
        out_features: Size of an output.
        keep: Numbers saved per entry of the input; rounded to one in m.
        bias: Whether there is one.
        projection: Name of one of `PROJECTIONS`.
        generator: On the CPU; source of the seeds. None is torch's global one, as for dropout.
        **kwargs: `device` and `dtype`.

    Raises:
        ValueError: A setting is outside its domain.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        keep: float = 0.1,
        *,
        bias: bool = True,
        projection: str = "magnitude",
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        randomization = Randomization.of(keep, projection, generator)
        super().__init__(in_features, out_features, bias=bias, **kwargs)
        self.randomization = randomization

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        if self._is_exact(x):
            return super().forward(x)
        # As a matrix, of which a product saves no copy.
        rows = x.reshape(-1, self.in_features)
        y = sketched(functional.linear, rows, self.weight, bias=self.bias, randomization=self.randomization)
        return y.view(*x.shape[:-1], self.out_features)


class _RandomizedConv(_Randomized):
    """A convolution that saves a sketch of its input."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    _conv_forward: Operation

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *,
        keep: float = 0.1,
        projection: str = "magnitude",
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        randomization = Randomization.of(keep, projection, generator)
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        self.randomization = randomization

    def forward(self, x: Tensor) -> Tensor:
        if self._is_exact(x):
            return self._conv_forward(x, self.weight, self.bias)
        return sketched(self._conv_forward, x, self.weight, bias=self.bias, randomization=self.randomization)


class RADConv1d(_RandomizedConv, nn.Conv1d):  # type: ignore[misc]
    """`nn.Conv1d` that saves a sketch of its input; arguments of both, see `RADLinear`."""


class RADConv2d(_RandomizedConv, nn.Conv2d):  # type: ignore[misc]
    """`nn.Conv2d` that saves a sketch of its input; arguments of both, see `RADLinear`."""


class RADConv3d(_RandomizedConv, nn.Conv3d):  # type: ignore[misc]
    """`nn.Conv3d` that saves a sketch of its input; arguments of both, see `RADLinear`."""


class _MaskedReLU(torch.autograd.Function):
    """max(x, 0), of which eight entries' signs are saved per byte."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.relu()
        # As torch's: where y is NaN the gradient passes.
        ctx.save_for_backward(packed_bits(~(y <= 0)))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (bits,) = ctx.saved_tensors
        grad = grads[0]
        return grad.masked_fill(~unpacked_bits(bits, grad.shape), 0.0)


class MaskReLU(nn.ReLU):
    """`nn.ReLU` that saves one bit per entry; the gradient is exact. Never in place."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return functional.relu(x)
        y: Tensor = _MaskedReLU.apply(x)  # type: ignore[no-untyped-call]
        return y


def packed_bits(mask: Tensor) -> Tensor:
    """A mask of n entries as `(n / 8,)` bytes."""
    flat = mask.reshape(-1).view(torch.uint8)
    flat = functional.pad(flat, (0, -flat.numel() % 8))
    # Eight 0s and 1s side by side are one integer; its product with 0x..80402010 08040201 holds them in the top byte.
    return ((flat.view(torch.int64) * _GATHER >> 56) & 0xFF).to(torch.uint8)


_GATHER = 0x0102040810204080
"""sum_i 2^(56 - 7 i): takes bit 8 i to bit 56 + i; no other term reaches the top byte, and no two meet below it."""


def unpacked_bits(bits: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `packed_bits`."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    flat = bits[:, None].bitwise_right_shift(places).bitwise_and_(1).view(torch.bool).view(-1)
    return flat[: shape.numel()].view(shape)


_RANDOMIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: RADLinear,
    nn.Conv1d: RADConv1d,
    nn.Conv2d: RADConv2d,
    nn.Conv3d: RADConv3d,
}


def randomize(
    module: _Module,
    keep: float = 0.1,
    *,
    skip: Collection[str] = (),
    projection: str = "magnitude",
    generator: torch.Generator | None = None,
) -> _Module:
    """Converts the Linear, Conv and ReLU layers of a network, in place.

    The layers stay the objects they are, with their parameters, hooks and names: optimizers that have the parameters
    stay valid, and state_dicts are those of the plain network. Called again it changes `keep`; 1 makes all exact. What
    is not converted, and stays exact: subclasses of these layers, and weights that are used without calling their
    layer (`sketched` is for those).

    Args:
        module: The network.
        keep: Numbers saved per entry of an input; rounded to one in m.
        skip: Names, as in `named_modules`, of layers left as they are; the first one, say, whose input is the data,
            which is in memory anyway.
        projection: Name of one of `PROJECTIONS`.
        generator: On the CPU; source of the seeds of all layers. None is torch's global one.

    Returns:
        `module`.

    Raises:
        ValueError: A setting is outside its domain, or there is nothing to convert.
    """
    randomization = Randomization.of(keep, projection, generator)
    layers = dict(module.named_modules())
    if unknown := set(skip) - layers.keys():
        raise ValueError(f"skip names no module of the network: {', '.join(map(repr, sorted(unknown)))}")
    chosen = [layer for name, layer in layers.items() if name not in skip]
    linear = [layer for layer in chosen if type(layer) in (*_RANDOMIZED, *_RANDOMIZED.values())]
    relus = [layer for layer in chosen if type(layer) is nn.ReLU]
    if not linear and not relus:
        raise ValueError("the network has no nn.Linear, nn.Conv or nn.ReLU layer that could be randomized")
    for layer in linear:
        layer.__class__ = _RANDOMIZED.get(type(layer), type(layer))
        layer.randomization = randomization
    for layer in relus:
        layer.__class__ = MaskReLU
    return module

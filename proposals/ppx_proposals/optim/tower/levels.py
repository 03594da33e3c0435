"""The levels of a tower: pure update rules, differentiable with respect to their hyperparameters.

A level moves a tensor theta in two parts:

    D, memory = direction(theta, gradient, memory)
    theta     = moved(theta, D) = theta - lr D

Nothing is changed in place. Hyperparameters are floats, or scalar tensors if a level above adapts them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ppx_proposals.optim.tower.domains import DOMAINS

Settings = dict[str, Any]
Memory = dict[str, Tensor]


class Hypers:
    """The hyperparameters of a level during one step.

    Args:
        numbers: By name, a float or a scalar tensor.
        flags: Names of settings that are switched on.
    """

    def __init__(self, numbers: Mapping[str, float | Tensor], flags: frozenset[str] = frozenset()) -> None:
        self._numbers = numbers
        self._corrections: dict[tuple[str, int], float | Tensor] = {}
        self.flags = flags

    def __getitem__(self, name: str) -> Any:
        return self._numbers[name]

    def correction(self, name: str, time: int) -> Any:
        """1 - beta^t, what a running average over t steps that began at 0 lacks; precise for beta near 1."""
        if (name, time) not in self._corrections:
            beta = self._numbers[name]
            self._corrections[name, time] = (
                1.0 - beta**time if isinstance(beta, float) else -torch.expm1(time * torch.log(beta))
            )
        return self._corrections[name, time]


def read(settings: Settings, name: str) -> float:
    """A hyperparameter in settings spelled as in torch.optim (`betas` is a pair)."""
    return float(settings["betas"][int(name[-1]) - 1] if name in _BETAS else settings[name])


def write(settings: Settings, name: str, value: float) -> None:
    """Sets a hyperparameter in settings spelled as in torch.optim."""
    if name in _BETAS:
        betas = list(settings["betas"])
        betas[int(name[-1]) - 1] = value
        settings["betas"] = tuple(betas)
    else:
        settings[name] = value


_BETAS = ("beta1", "beta2")


@dataclass(frozen=True)
class Level(ABC):
    """Base of the levels of a tower.

    Args:
        lr: Learning rate.
        adapt: Names of the hyperparameters that the level above moves; `"betas"` means beta1 and beta2.
        weight_decay: L2 penalty, added to the gradient that the level works with (not to the loss whose derivative the
            level above follows).

    Raises:
        ValueError: A setting is outside its domain, or `adapt` names something the level does not have.
        TypeError: `adapt` is a string.
    """

    names: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")
    #: Hyperparameters that `direction` does not depend on.
    outer: ClassVar[frozenset[str]] = frozenset({"lr"})

    lr: float
    _: KW_ONLY
    adapt: tuple[str, ...] = ()
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        settings = self.settings()
        kind = type(self).__name__
        if isinstance(self.adapt, str):
            raise TypeError(f"{kind}: adapt is a tuple of names; write adapt=({self.adapt!r},)")
        for name in self.adapted:
            if name not in self.names:
                raise ValueError(f"{kind} cannot adapt {name!r}; it has {', '.join(self.names)}")
        for name in self.names:
            value, domain = read(settings, name), DOMAINS[name]
            low, high = (
                (domain.low, domain.high) if name in self.adapted else (min(domain.low, 0.0), domain.high)
            )
            if not low <= value <= high or not math.isfinite(value):
                remedy = f"; {name} is adapted, so begin inside" if name in self.adapted else ""
                raise ValueError(f"{kind}: {name} must be finite and in [{low}, {high}], not {value}{remedy}")
        if not settings.get("eps", 0.0) >= 0.0:
            raise ValueError(f"{kind}: eps must be >= 0, not {settings['eps']}")

    @property
    def adapted(self) -> tuple[str, ...]:
        """Names of the adapted hyperparameters, one each, in the order of `adapt`."""
        each = [_BETAS if name == "betas" else (name,) for name in self.adapt]
        return tuple(dict.fromkeys(name for names in each for name in names))

    def settings(self) -> Settings:
        """Everything but `adapt`, as a torch.optim optimizer keeps it in a parameter group."""
        return {name: value for name, value in asdict(self).items() if name != "adapt"}

    def hypers(self, settings: Settings, adapted: Mapping[str, Tensor]) -> Hypers:
        """Hyperparameters for a step: those that are adapted as tensors, the others from the settings."""
        numbers: dict[str, float | Tensor] = {name: read(settings, name) for name in self.names}
        numbers["eps"] = float(settings.get("eps", 0.0))
        numbers.update(adapted)
        return Hypers(numbers, frozenset(k for k, v in settings.items() if v is True))

    @abstractmethod
    def direction(
        self, at: Tensor, gradient: Tensor, memory: Memory, *, hypers: Hypers, time: int
    ) -> tuple[Tensor, Memory]:
        """What the learning rate multiplies.

        Args:
            at: The tensor to move.
            gradient: In its shape.
            memory: What the last call returned; empty at first.
            hypers: Hyperparameters.
            time: Number of this step, from 1.

        Returns:
            The direction D and the new memory, both in the shape of the tensor.
        """

    def moved(self, at: Tensor, direction: Tensor, hypers: Hypers) -> Tensor:
        """The tensor after the step: theta_t = theta_{t-1} - lr D_t."""
        new: Tensor = at - direction * hypers["lr"]
        return new


@dataclass(frozen=True)
class SGD(Level):
    """Gradient descent, as torch.optim.SGD with `dampening=0`.

    Args:
        lr: Learning rate.
        adapt: Any of `"lr"`, `"momentum"`, `"weight_decay"`.
        weight_decay: L2 penalty.
        momentum: mu, in [0, 1].
        nesterov: Nesterov's momentum.
    """

    names: ClassVar[tuple[str, ...]] = ("lr", "momentum", "weight_decay")

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0.0 and "momentum" not in self.adapt:
            raise ValueError("SGD: nesterov needs momentum > 0, or momentum in adapt")

    def direction(
        self, at: Tensor, gradient: Tensor, memory: Memory, *, hypers: Hypers, time: int
    ) -> tuple[Tensor, Memory]:
        g, mu = _decayed(at, gradient, hypers), hypers["momentum"]
        if _is_zero(mu):
            return g, {}
        # v_t = mu v_{t-1} + g_t,   v_1 = g_1
        v = memory["momentum_buffer"] * mu + g if memory else g.clone()
        # D_t = v_t, or g_t + mu v_t
        return (v * mu + g if "nesterov" in hypers.flags else v), {"momentum_buffer": v}


@dataclass(frozen=True)
class Adam(Level):
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1), as torch.optim.Adam.

    Args:
        lr: Learning rate.
        adapt: Any of `"lr"`, `"betas"` (or `"beta1"`, `"beta2"`), `"weight_decay"`.
        weight_decay: L2 penalty.
        betas: Decay rates of the running averages of the gradient and of its square.
        eps: Added to the root of the squared average.
    """

    names: ClassVar[tuple[str, ...]] = ("lr", "beta1", "beta2", "weight_decay")

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def direction(
        self, at: Tensor, gradient: Tensor, memory: Memory, *, hypers: Hypers, time: int
    ) -> tuple[Tensor, Memory]:
        return _adam(_decayed(at, gradient, hypers), memory, hypers, time)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay is no part of the gradient (Loshchilov and Hutter, ICLR 2019), as torch.optim.AdamW.

    Args:
        lr: Learning rate.
        adapt: Any of `"lr"`, `"betas"` (or `"beta1"`, `"beta2"`), `"weight_decay"`.
        weight_decay: The tensor shrinks by the factor 1 - lr weight_decay at each step.
        betas: Decay rates of the running averages of the gradient and of its square.
        eps: Added to the root of the squared average.
    """

    outer: ClassVar[frozenset[str]] = frozenset({"lr", "weight_decay"})

    weight_decay: float = 1e-2

    def direction(
        self, at: Tensor, gradient: Tensor, memory: Memory, *, hypers: Hypers, time: int
    ) -> tuple[Tensor, Memory]:
        return _adam(gradient, memory, hypers, time)

    def moved(self, at: Tensor, direction: Tensor, hypers: Hypers) -> Tensor:
        """The tensor after the step: theta_t = (1 - lr w) theta_{t-1} - lr D_t."""
        decay = hypers["weight_decay"]
        return super().moved(at if _is_zero(decay) else at * (1 - hypers["lr"] * decay), direction, hypers)


@dataclass(frozen=True)
class RMSprop(Level):
    """RMSprop (Tieleman and Hinton, 2012), as torch.optim.RMSprop without momentum.

    Args:
        lr: Learning rate.
        adapt: Any of `"lr"`, `"alpha"`, `"weight_decay"`.
        weight_decay: L2 penalty.
        alpha: Decay rate of the running average of the squared gradient.
        eps: Added to the root of the average.
    """

    names: ClassVar[tuple[str, ...]] = ("lr", "alpha", "weight_decay")

    alpha: float = 0.99
    eps: float = 1e-8

    def direction(
        self, at: Tensor, gradient: Tensor, memory: Memory, *, hypers: Hypers, time: int
    ) -> tuple[Tensor, Memory]:
        g = _decayed(at, gradient, hypers)
        # s_t = alpha s_{t-1} + (1 - alpha) g_t^2,   D_t = g_t / (sqrt(s_t) + eps)
        s = _average(memory.get("square_avg"), g * g, hypers["alpha"])
        return _normalized(g, s, 1.0, hypers["eps"]), {"square_avg": s}


@dataclass(frozen=True)
class AdaGrad(Level):
    """AdaGrad (Duchi, Hazan and Singer, JMLR 2011), as torch.optim.Adagrad.

    Args:
        lr: Learning rate.
        adapt: Any of `"lr"`, `"weight_decay"`.
        weight_decay: L2 penalty.
        eps: Added to the root of the sum.
    """

    eps: float = 1e-10

    def direction(
        self, at: Tensor, gradient: Tensor, memory: Memory, *, hypers: Hypers, time: int
    ) -> tuple[Tensor, Memory]:
        g = _decayed(at, gradient, hypers)
        # s_t = s_{t-1} + g_t^2,   D_t = g_t / (sqrt(s_t) + eps)
        s = memory["sum"] + g * g if memory else g * g
        return _normalized(g, s, 1.0, hypers["eps"]), {"sum": s}


class _Normalized(torch.autograd.Function):
    """x / (scale sqrt(square) + eps), with the derivative 0 where the square is 0.

    A squared average is 0 only if all gradients were, whatever the hyperparameters; so its derivative is 0 as well.
    One function rather than four, because these are most of what differentiating a step costs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, square: Tensor, scale: Tensor | float, eps: Tensor | float) -> Tensor:
        root = square.sqrt()
        divisor = (root * scale).add_(eps)
        normalized = x / divisor
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(root, divisor, normalized)
            ctx.scale = scale
        return normalized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        root, divisor, normalized = ctx.saved_tensors
        of_x = gradients[0] / divisor
        # d / d divisor = -x / divisor^2
        of_divisor = (of_x * normalized).neg_()
        _, square, scale, eps = ctx.needs_input_grad
        of_square = (of_divisor * ctx.scale).div_(2 * root).masked_fill_(root == 0, 0.0) if square else None
        of_scale = (of_divisor * root).sum() if scale else None
        return of_x, of_square, of_scale, of_divisor.sum() if eps else None


def _normalized(x: Tensor, square: Tensor, scale: Tensor | float, eps: Tensor | float) -> Tensor:
    normalized: Tensor = _Normalized.apply(x, square, scale, eps)  # type: ignore[no-untyped-call]
    return normalized


def _is_zero(hyper: float | Tensor) -> bool:
    """Whether a hyperparameter is 0 for good."""
    return isinstance(hyper, float) and hyper == 0.0


def _decayed(at: Tensor, gradient: Tensor, hypers: Hypers) -> Tensor:
    """The gradient with that of the L2 penalty: g + w theta."""
    decay = hypers["weight_decay"]
    decayed: Tensor = gradient if _is_zero(decay) else gradient + at * decay
    return decayed


def _average(old: Tensor | None, new: Tensor, decay: float | Tensor) -> Tensor:
    """Running average, from 0: decay old + (1 - decay) new."""
    if old is None:
        return new * (1 - decay)
    # Written as new + decay (old - new), which has one product to differentiate.
    if isinstance(decay, float):
        return torch.lerp(old, new, 1 - decay)
    return torch.addcmul(new, old - new, decay)


def _adam(g: Tensor, memory: Memory, hypers: Hypers, time: int) -> tuple[Tensor, Memory]:
    # m_t = beta1 m_{t-1} + (1 - beta1) g_t,   v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
    m = _average(memory.get("exp_avg"), g, hypers["beta1"])
    v = _average(memory.get("exp_avg_sq"), g * g, hypers["beta2"])
    # D_t = mhat_t / (sqrt(vhat_t) + eps),   mhat_t = m_t / (1 - beta1^t),   vhat_t = v_t / (1 - beta2^t)
    c1, c2 = hypers.correction("beta1", time), hypers.correction("beta2", time)
    return _normalized(m, v, c1 / c2**0.5, hypers["eps"] * c1), {"exp_avg": m, "exp_avg_sq": v}

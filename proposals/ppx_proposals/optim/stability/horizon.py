"""How noisy the gradient of an unrolled loss is, against the number of steps, for backpropagation and for ES.

In a chaotic recurrence the mean gradient over random numbers stays of moderate size while its variance grows like
exp(2 lambda T); the variance of evolution strategies stays bounded, because they look at losses only (Metz et al. 2021,
arXiv 2111.05803). This measures both on the user's own loss. `ppx_proposals.optim` has evolution
strategies to train with; here is only one antithetic pair per seed, to compare:

    g_ES = (L(theta + sigma e) - L(theta - sigma e)) / (2 sigma) e,   e ~ N(0, I)

Letters: H horizons, S seeds, P numbers in theta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
UnrolledLoss = Callable[[Tensor, int, int], Tensor]
"""`loss(theta, horizon, seed)`: a scalar. The seed fixes all random numbers."""


@dataclass(frozen=True, eq=False)
class GradientSpread:
    """The gradient over seeds, at H horizons.

    Attributes:
        variance: `(H,)` sum over the numbers of theta of their variance over seeds; inf if a gradient was not finite.
        mean_norm: `(H,)` norm of the mean gradient.
        signal: `(H,)` squared norm of the mean gradient, without the part that the noise adds, over `variance`: one
            gradient tells more than noise above 1. At least 0.
    """

    variance: Floats
    mean_norm: Floats
    signal: Floats


@dataclass(frozen=True, eq=False)
class HorizonStudy:
    """Gradients by backpropagation and by evolution strategies against the horizon.

    Attributes:
        horizons: `(H,)`, rising.
        num_seeds: S.
        sigma: Standard deviation of the perturbations of evolution strategies.
        pathwise: Gradients through the recurrence.
        evolution: Gradients from one antithetic pair per seed.
        growth: Half the slope of log variance over the horizon, nats per step, for `pathwise`: how fast the size of
            gradients grows. NaN where fewer than two variances are finite and above 0.
        growth_error: Standard error of `growth` from the residuals of the fit; NaN for fewer than three.
    """

    horizons: NDArray[np.int64]
    num_seeds: int
    sigma: float
    pathwise: GradientSpread
    evolution: GradientSpread
    growth: float
    growth_error: float

    def __str__(self) -> str:
        lines = [f"{'steps':>8} {'variance':>12} {'signal':>10} {'ES variance':>12} {'signal':>10}"]
        columns = zip(
            self.horizons.tolist(),
            self.pathwise.variance.tolist(),
            self.pathwise.signal.tolist(),
            self.evolution.variance.tolist(),
            self.evolution.signal.tolist(),
            strict=True,
        )
        lines += [f"{t:8d} {v:12.4g} {s:10.3g} {ev:12.4g} {es:10.3g}" for t, v, s, ev, es in columns]
        lines.append(f"gradients grow by {self.growth:.4f} +- {self.growth_error:.4f} nats per step")
        return "\n".join(lines)


def gradient_horizon(
    loss: UnrolledLoss, theta: Tensor, horizons: Sequence[int], *, sigma: float, num_seeds: int = 64
) -> HorizonStudy:
    """Variance over seeds of the gradient of an unrolled loss, for several numbers of steps.

    It takes S backward passes and 2 S losses more per horizon, and memory for S gradients.

    Args:
        loss: The loss; see `UnrolledLoss`. Seeds are 0 to `num_seeds - 1`.
        theta: Where the gradient is taken, of any shape. For a module, join its parameters with
            `torch.nn.utils.parameters_to_vector` and run it with `torch.func.functional_call`.
        horizons: Numbers of steps, each at least 1.
        sigma: Standard deviation of the perturbations of evolution strategies.
        num_seeds: S, at least 2.

    Raises:
        ValueError: An argument is outside its domain, or the loss is no scalar.
    """
    if num_seeds < 2 or not sigma > 0 or not horizons or min(horizons) < 1:
        raise ValueError(
            f"num_seeds is {num_seeds} and must be >= 2, sigma is {sigma} and must be > 0, horizons are {horizons} and "
            f"must be >= 1"
        )
    steps = np.unique(np.asarray(horizons, np.int64))
    pathwise, evolution = [], []
    for horizon in steps.tolist():
        pathwise.append(_spread([_pathwise(loss, theta, horizon, seed) for seed in range(num_seeds)]))
        evolution.append(
            _spread([_evolution(loss, theta, horizon, seed, sigma) for seed in range(num_seeds)])
        )
    growth, error = _growth(steps, np.array([one[0] for one in pathwise]))
    return HorizonStudy(steps, num_seeds, sigma, _joined(pathwise), _joined(evolution), growth, error)


def plot_horizon(study: HorizonStudy, axes: Axes | None = None) -> Axes:
    """Draws gradient variance against the horizon, both axes logarithmic.

    Args:
        study: What to draw.
        axes: Where; by default new axes of a new figure.
    """
    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.subplots()[1]
    axes.plot(study.horizons, study.pathwise.variance, "o-", label="backpropagation")
    axes.plot(study.horizons, study.evolution.variance, "s--", label=f"ES, sigma = {study.sigma:g}")
    axes.set(xscale="log", yscale="log", xlabel="steps", ylabel="gradient variance over seeds")
    axes.legend()
    return axes


def _pathwise(loss: UnrolledLoss, theta: Tensor, horizon: int, seed: int) -> Tensor:
    at = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = loss(at, horizon, seed)
        if value.numel() != 1:
            raise ValueError(f"the loss has shape {tuple(value.shape)}; it must be a scalar")
        (gradient,) = torch.autograd.grad(value, at, allow_unused=True, materialize_grads=True)
    return gradient.flatten().double()


def _evolution(loss: UnrolledLoss, theta: Tensor, horizon: int, seed: int, sigma: float) -> Tensor:
    generator = torch.Generator(theta.device).manual_seed(seed)
    noise = torch.randn(theta.shape, dtype=theta.dtype, device=theta.device, generator=generator)
    with torch.no_grad():
        start = theta.detach()
        up, down = (loss(start + sign * sigma * noise, horizon, seed) for sign in (1.0, -1.0))
    # (L(theta + sigma e) - L(theta - sigma e)) / (2 sigma) e
    return ((up - down) / (2 * sigma) * noise).flatten().double()


def _spread(gradients: list[Tensor]) -> tuple[float, float, float]:
    """Variance, norm of the mean, and signal, of gradients `(P,)`."""
    together = torch.stack(gradients)
    mean = together.mean(0)
    variance, norm = float(together.var(0).sum()), float(mean.norm())
    if not (math.isfinite(variance) and math.isfinite(norm)):
        return math.inf, math.inf, 0.0
    # E |mean|^2 = |E g|^2 + variance / S
    signal = norm**2 - variance / len(gradients)
    return variance, norm, max(signal, 0.0) / variance if variance else math.inf


def _joined(parts: list[tuple[float, float, float]]) -> GradientSpread:
    return GradientSpread(*(np.array(column) for column in zip(*parts, strict=True)))


def _growth(steps: NDArray[np.int64], variance: Floats) -> tuple[float, float]:
    """Half the slope of log variance over steps by least squares, and its standard error."""
    good = np.isfinite(variance) & (variance > 0)
    x, y = steps[good].astype(float), np.log(variance[good])
    if len(x) < 2:
        return math.nan, math.nan
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    if len(x) == 2:
        return slope / 2, math.nan
    residual = y - y.mean() - slope * centred
    error = math.sqrt(float(residual @ residual) / (len(x) - 2) / float(centred @ centred))
    return slope / 2, error / 2

"""Is the learning rate too large for the curvature? The largest eigenvalue of the Hessian, times alpha.

Gradient descent on a quadratic diverges along a direction of curvature lambda exactly where alpha lambda > 2. Networks
trained on whole data sets work themselves up to that edge and stay there (Cohen, Kaur, Li, Kolter and Talwalkar 2021,
arXiv 2103.00065); Adam does so for the curvature divided by its own denominator, with threshold
2 (1 + beta1) / (1 - beta1) (Cohen et al. 2022, arXiv 2207.14484). With minibatches training stays below, so
a value above the threshold is a warning, and one below is no promise.

The eigenvalue comes from the Lanczos recursion on products of the Hessian with vectors, with all vectors kept
orthogonal. Letters: P numbers in the parameters, m products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor
from torch.autograd.graph import Node
from torch.optim import Optimizer

Closure = Callable[[], Tensor]
"""Computes the loss of fixed data at the parameters as they are; no backward pass."""
Product = Callable[[Tensor], Tensor]
"""A vector `(P,)` to the Hessian's product with it."""


class MakesProducts(Protocol):
    """`hessian_product` or `difference_product`."""

    def __call__(self, closure: Closure, params: Sequence[Tensor]) -> Product:
        """The Hessian of the closure at the parameters."""


@dataclass(frozen=True)
class Curvature:
    """The largest eigenvalue of a Hessian.

    Attributes:
        value: The eigenvalue, positive or not.
        residual: An eigenvalue is at most this far from `value`.
        num_products: Products with vectors that it took.
    """

    value: float
    residual: float
    num_products: int


def largest_curvature(
    closure: Closure,
    params: Sequence[Tensor],
    *,
    preconditioner: Tensor | None = None,
    product: MakesProducts | None = None,
    max_products: int = 50,
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> Curvature:
    """The largest eigenvalue of the loss's Hessian at the parameters; memory for m vectors.

    Args:
        closure: The loss; see `Closure`.
        params: Parameters, of one device and dtype.
        preconditioner: `(P,)` positive, by which the Hessian is divided, such as `adam_preconditioner`.
        product: How the Hessian is multiplied: `hessian_product`, the default, or `difference_product`.
        max_products: m at most.
        tolerance: Stops where the residual is below this share of the value.
        generator: Draws the first vector; by default one with seed 0.

    Raises:
        ValueError: There are no parameters, or frozen ones, the preconditioner does not fit, the loss is no scalar, or
            a product is not finite.
    """
    params = list(params)
    if frozen := [tuple(p.shape) for p in params if not p.requires_grad]:
        raise ValueError(f"parameters of shapes {frozen} are frozen; give those that learn")
    size = sum(p.numel() for p in params)
    if not size or max_products < 1:
        raise ValueError(f"{size} parameters and {max_products} products at most; both must be >= 1")
    like = params[0].detach()
    if preconditioner is not None and (
        preconditioner.shape != (size,) or not bool((preconditioner > 0).all())
    ):
        raise ValueError(
            f"the preconditioner has shape {tuple(preconditioner.shape)}; give ({size},), all > 0"
        )
    times = (product or hessian_product)(closure, params)
    # P^{-1} H has the eigenvalues of the symmetric P^{-1/2} H P^{-1/2}.
    root = like.new_ones(()) if preconditioner is None else preconditioner.rsqrt()
    if generator is None:
        generator = torch.Generator(like.device).manual_seed(0)
    vector = torch.randn(size, dtype=like.dtype, device=like.device, generator=generator)
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    off: list[float] = []
    while True:
        image = root * times(root * basis[-1])
        diagonal.append(float(image @ basis[-1]))
        if not math.isfinite(diagonal[-1]):
            raise ValueError(
                "the Hessian's product with a vector is not finite; is the loss, at these parameters?"
            )
        for _ in range(2):  # once leaves what rounding mixed in; twice is enough (Parlett 1998, section 6.9)
            for other in basis:
                image = image - (other @ image) * other
        off.append(float(image.norm()))
        values, vectors = eigh_tridiagonal(diagonal, off[:-1])
        # |H y - value y| = off_m |last component|: an eigenvalue is at most that far (Parlett 1998, section 13.2).
        value, residual = float(values[-1]), off[-1] * abs(float(vectors[-1, -1]))
        done = residual <= tolerance * abs(value) or len(basis) == min(max_products, size)
        if done or off[-1] <= torch.finfo(like.dtype).eps * max(abs(values[0]), abs(values[-1])):
            return Curvature(value, residual, len(basis))
        basis.append(image / off[-1])


def hessian_product(closure: Closure, params: Sequence[Tensor]) -> Product:
    """Exact products, by differentiating the gradient; the graph is made once and kept.

    The loss must be differentiable twice, which the fused recurrent kernels of GPUs and our proposal network's on CPUs
    are not: take `difference_product` there.

    Raises:
        RuntimeError: An operation cannot be differentiated twice.
    """
    with torch.enable_grad(), _advised():
        loss = closure()
        if loss.numel() != 1:
            raise ValueError(f"the loss has shape {tuple(loss.shape)}; it must be a scalar")
        # An operation that is `once_differentiable` marks its gradient only if what comes from above has one.
        above = torch.ones_like(loss).requires_grad_()
        gradients = torch.autograd.grad(
            loss, params, above, create_graph=True, allow_unused=True, materialize_grads=True
        )
        flat = torch.cat([g.reshape(-1) for g in gradients])
        _check_differentiable(flat)

    def times(vector: Tensor) -> Tensor:
        if not flat.requires_grad:  # the loss depends on none of the parameters
            return torch.zeros_like(vector)
        with _advised():
            parts = torch.autograd.grad(
                flat, params, vector, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        return torch.cat([p.reshape(-1) for p in parts])

    return times


@contextmanager
def _advised() -> Iterator[None]:
    """Adds the remedy to errors of torch where something cannot be differentiated twice."""
    try:
        yield
    except RuntimeError as error:
        error.add_note("if the loss cannot be differentiated twice, pass product=difference_product")
        raise


def _check_differentiable(gradient: Tensor) -> None:
    """Looks for the marks of `once_differentiable`, which autograd would take for constants."""
    seen: set[Node] = set()
    ahead = [gradient.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("the loss has an operation that can be differentiated once only")
        seen.add(node)
        ahead += [before for before, _ in node.next_functions]


def difference_product(closure: Closure, params: Sequence[Tensor]) -> Product:
    """Products by central differences of the gradient, H v ~ (g(theta + h v) - g(theta - h v)) / (2 h).

    The parameters are moved in place and put back to the last bit; `closure` must not draw random numbers.
    """
    # Truncation h^2 against rounding eps / h: the cube root balances them (Nocedal and Wright 2006, section 8.1).
    epsilon = torch.finfo(params[0].dtype).eps ** (1 / 3)
    sizes = [p.numel() for p in params]
    norm = math.sqrt(sum(float(p.detach().square().sum()) for p in params))

    def gradient() -> Tensor:
        with torch.enable_grad():
            parts = torch.autograd.grad(closure(), params, allow_unused=True, materialize_grads=True)
        return torch.cat([p.reshape(-1) for p in parts])

    def times(vector: Tensor) -> Tensor:
        length = float(vector.norm())
        if length == 0.0:
            return torch.zeros_like(vector)
        h = epsilon * max(norm, 1.0) / length
        kept = [p.detach().clone() for p in params]
        try:
            found = []
            for sign in (h, -h):
                with torch.no_grad():
                    for p, old, part in zip(params, kept, torch.split(vector, sizes), strict=True):
                        p.copy_(old + sign * part.view_as(p))
                found.append(gradient())
        finally:
            with torch.no_grad():
                for p, old in zip(params, kept, strict=True):
                    p.copy_(old)
        difference: Tensor = (found[0] - found[1]) / (2 * h)
        return difference

    return times


def adam_preconditioner(optimizer: Optimizer, params: Sequence[Tensor]) -> Tensor:
    """What Adam divides the gradient by, `(P,)`: (1 - beta1^t) (sqrt(vhat_t) + eps).

    Args:
        optimizer: `torch.optim.Adam`, `AdamW` or `AdamHD`, after a step.
        params: Parameters of it, in the order in which `largest_curvature` gets them.

    Raises:
        ValueError: A parameter is not the optimizer's, or was not stepped yet.
    """
    group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
    parts = []
    for p in params:
        state = optimizer.state.get(p, {})
        if p not in group_of or "exp_avg_sq" not in state:
            raise ValueError(
                f"a parameter of shape {tuple(p.shape)} has no second moment in {type(optimizer).__name__}; give the "
                f"parameters of an Adam after its first step"
            )
        (beta1, beta2), eps, t = group_of[p]["betas"], group_of[p]["eps"], float(state["step"])
        denominator = (state["exp_avg_sq"] / (1 - beta2**t)).sqrt() + eps
        parts.append(((1 - beta1**t) * denominator).reshape(-1))
    return torch.cat(parts)


@dataclass(frozen=True)
class StepStability:
    """A learning rate against the curvature.

    Attributes:
        alpha: The learning rate.
        curvature: Largest (preconditioned) curvature.
        threshold: Largest alpha times curvature at which a quadratic does not diverge.
    """

    alpha: float
    curvature: float
    threshold: float

    @property
    def product(self) -> float:
        """alpha times curvature."""
        return self.alpha * self.curvature

    @property
    def stable(self) -> bool:
        """Whether the product is below the threshold."""
        return self.product < self.threshold

    def __str__(self) -> str:
        word = "below" if self.stable else "not below"
        return f"alpha x curvature = {self.product:.3g}, {word} {self.threshold:.3g}"


def descent_threshold(momentum: float = 0.0) -> float:
    """Largest alpha times curvature for gradient descent: 2 (1 + momentum), with torch's (Polyak's) momentum."""
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must lie in [0, 1), not {momentum}")
    # Cohen et al. 2021 (arXiv 2103.00065), appendix B.
    return 2.0 * (1.0 + momentum)


def adam_threshold(beta1: float = 0.9) -> float:
    """Largest alpha times preconditioned curvature for Adam: 2 (1 + beta1) / (1 - beta1), 38 by default."""
    if not 0.0 <= beta1 < 1.0:
        raise ValueError(f"beta1 must lie in [0, 1), not {beta1}")
    # Cohen et al. 2022 (arXiv 2207.14484): heavy ball whose momentum is an average.
    return 2.0 * (1.0 + beta1) / (1.0 - beta1)

"""The largest curvature, and on which side of the threshold descent diverges."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim.adam_hd import AdamHD
from ppx_proposals.optim.stability import (
    Growth,
    StepStability,
    Verdict,
    adam_preconditioner,
    adam_threshold,
    descent_threshold,
    difference_product,
    hessian_product,
    largest_curvature,
    recommend,
)


def quadratic(seed: int = 0) -> tuple[Tensor, list[nn.Parameter], Callable[[], Tensor]]:
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(12, 12, generator=g, dtype=torch.float64)
    hessian = root @ root.T / 4
    params = [nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64)) for s in ((2, 3), (6,))]

    def loss() -> Tensor:
        x = torch.cat([p.reshape(-1) for p in params])
        return 0.5 * x @ hessian @ x

    return hessian, params, loss


@pytest.mark.parametrize("product", [hessian_product, difference_product])
def test_curvature_of_a_quadratic_is_exact(product: Callable) -> None:
    hessian, params, loss = quadratic()
    before = [p.detach().clone() for p in params]
    found = largest_curvature(loss, params, product=product, tolerance=1e-9)
    exact = float(torch.linalg.eigvalsh(hessian)[-1])
    rel = 1e-10 if product is hessian_product else 1e-7
    assert found.value == pytest.approx(exact, rel=rel)
    assert found.num_products <= 12
    for p, old in zip(params, before, strict=True):
        assert torch.equal(p, old)
        assert p.grad is None
    # What it says of its error holds, also where it stops early.
    early = largest_curvature(loss, params, product=product, max_products=3, tolerance=0.0)
    distance = float((torch.linalg.eigvalsh(hessian) - early.value).abs().min())
    assert early.num_products == 3
    assert 1e-6 < distance <= early.residual * (1 + 1e-6)


def test_curvature_takes_the_largest_not_the_largest_in_size() -> None:
    p = nn.Parameter(torch.ones(3, dtype=torch.float64))
    weight = torch.tensor([-5.0, 1.0, 2.0]).double()
    assert largest_curvature(lambda: 0.5 * (weight * p * p).sum(), [p]).value == pytest.approx(2.0)
    assert largest_curvature(lambda: p.sum(), [p]).value == 0.0
    unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert largest_curvature(lambda: (p * p).sum(), [unused, p]).value == pytest.approx(2.0)
    with pytest.raises(ValueError, match="not finite"):
        largest_curvature(lambda: (p * p).sum() * math.inf, [p])
    with pytest.raises(ValueError, match="preconditioner"):
        largest_curvature(lambda: (p * p).sum(), [p], preconditioner=torch.ones(2))
    with pytest.raises(ValueError, match="must be a scalar"):
        largest_curvature(lambda: p * p, [p])
    with pytest.raises(ValueError, match="are frozen"):
        largest_curvature(lambda: (p * p).sum(), [p, torch.ones(2, dtype=torch.float64)])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("share", "diverges"), [(0.99, False), (1.01, True)])
def test_gradient_descent_diverges_on_the_right_side(momentum: float, share: float, diverges: bool) -> None:
    _, params, loss = quadratic()
    curvature = largest_curvature(loss, params, tolerance=1e-9).value
    threshold = descent_threshold(momentum)
    verdict = StepStability(share * threshold / curvature, curvature, threshold)
    assert verdict.stable == (not diverges)
    optimizer = torch.optim.SGD(params, lr=verdict.alpha, momentum=momentum)
    first = loss().item()
    for _ in range(2000):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert (loss().item() > 10 * first) == diverges
    rate = Growth(Verdict.SMOOTH, 0.0, 0.1, 5, 0, 9, 1e-9, "linear")
    assert bool(recommend(1, exponents=rate, stability=verdict).warnings) == diverges


@pytest.mark.slow
@pytest.mark.parametrize(("lr", "at_the_edge"), [(0.2, True), (0.02, False)])
def test_training_settles_at_the_edge(lr: float, at_the_edge: bool) -> None:
    """Progressive sharpening and the edge of stability (Cohen et al. 2021, figure 1), on a small network."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(100, 20, generator=g), torch.randn(100, 1, generator=g)
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    params = list(network.parameters())
    optimizer = torch.optim.SGD(params, lr=lr)

    def loss() -> Tensor:
        return 0.5 * ((network(x) - y) ** 2).mean()

    start = lr * largest_curvature(loss, params, tolerance=1e-2).value
    for _ in range(1000):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    end = lr * largest_curvature(loss, params, tolerance=1e-2).value
    assert start < 0.6
    assert (1.9 < end < 2.2) == at_the_edge
    assert end > 2 * start


@pytest.mark.parametrize("make", [torch.optim.Adam, AdamHD])
@pytest.mark.parametrize(("share", "diverges"), [(0.99, False), (1.01, True)])
def test_adam_diverges_on_the_right_side_of_its_own_threshold(
    make: Callable, share: float, diverges: bool
) -> None:
    """The threshold is that of Adam with its denominator held fixed."""
    _, params, loss = quadratic()
    settings = {"hypergrad_lr": 0.0} if make is AdamHD else {}
    optimizer = make(params, lr=0.0, betas=(0.9, 0.999), **settings)
    for _ in range(300):  # at rest: moments settle, the parameters stay
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    scale = adam_preconditioner(optimizer, params)
    expected = torch.cat([p.grad.abs().reshape(-1) for p in params]) + 1e-8
    torch.testing.assert_close(scale, expected, rtol=1e-9, atol=0)
    curvature = largest_curvature(loss, params, preconditioner=scale, tolerance=1e-9).value
    threshold = adam_threshold(0.9)
    assert threshold == pytest.approx(38.0)
    alpha = share * threshold / curvature
    # Adam with its denominator held at `scale`: m <- 0.9 m + 0.1 g, x <- x - alpha m / scale.
    moment = torch.zeros_like(scale)
    first = loss().item()
    for _ in range(2000):
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), params)])
        moment = 0.9 * moment + 0.1 * gradient
        with torch.no_grad():
            for p, move in zip(params, (alpha * moment / scale).split([6, 6]), strict=True):
                p -= move.view_as(p)
    assert (loss().item() > 10 * first) == diverges


def test_error_of_a_loss_that_is_not_twice_differentiable_says_what_to_do() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x * x).sum()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            return 2 * grad * ctx.saved_tensors[0]

    p = nn.Parameter(torch.ones(3, dtype=torch.float64))
    for loss in (
        lambda: Square.apply(p),
        lambda: Square.apply(p) ** 2,
        lambda: Square.apply(p) + (p**3).sum(),
    ):
        with pytest.raises(RuntimeError, match="once only") as caught:
            largest_curvature(loss, [p])
        assert "product=difference_product" in caught.value.__notes__[0]
    value = largest_curvature(lambda: Square.apply(p) ** 2, [p], product=difference_product).value
    assert value == pytest.approx(36.0, rel=1e-8)  # of 4 |p|^2 I + 8 p p^T


def test_preconditioner_needs_moments() -> None:
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="first step"):
        adam_preconditioner(torch.optim.Adam([p]), [p])
    with pytest.raises(ValueError, match="momentum"):
        descent_threshold(1.0)
    with pytest.raises(ValueError, match="beta1"):
        adam_threshold(-0.1)

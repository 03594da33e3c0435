"""Hypergradient optimizers: the hypergradient is autograd's derivative, and everything around it behaves."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim import SGDHD, AdamHD, HypergradientOptimizer


def _loss(params: list[Tensor], target: Tensor) -> Tensor:
    return torch.stack(
        [((p - target[: p.numel()].reshape(p.shape)) ** 2 * (1 + p.detach().abs())).sum() for p in params]
    ).sum()


def _params(seed: int, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=g, dtype=dtype)) for s in ((3, 2), (4,), (1,))]


def _adam_direction(grads: list[Tensor], betas: tuple[float, float], eps: float) -> Tensor:
    """-mhat / (sqrt(vhat) + eps) after the given gradients, from the definition."""
    m = v = torch.zeros_like(grads[0])
    for g in grads:
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
    t = len(grads)
    return -(m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("missing", [None, 1])
def test_hypergradient_is_derivative_with_respect_to_previous_alpha(
    weight_decay: float, missing: int | None
) -> None:
    """alpha_t - alpha_{t-1} = -beta d loss(theta_{t-1}) / d alpha_{t-1}, loss with its penalty, group by group."""
    betas, eps, beta = (0.8, 0.95), 1e-3, 1e-3
    target = torch.linspace(-1, 1, 6, dtype=torch.float64)
    params = _params(0)
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}]
    optimizer = AdamHD(groups, lr=0.01, betas=betas, eps=eps, weight_decay=weight_decay, hypergrad_lr=beta)
    history: list[list[Tensor]] = [[] for _ in params]
    before: list[Tensor] = []
    moved = [False] * len(params)
    for step in range(6):
        optimizer.zero_grad()
        _loss(list(params), target).backward()
        if missing is not None and step in (2, 4):
            params[missing].grad = None
        old = [float(g["lr"]) for g in optimizer.param_groups]
        if step:
            # theta_{t-1} as a function of alpha_{t-1}, everything before it held fixed.
            alphas = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in old]
            which = [0, 0, 1]
            theta = [
                b + alphas[which[i]] * _adam_direction(history[i], betas, eps) if moved[i] else b
                for i, b in enumerate(before)
            ]
            for a, b in zip(theta, params, strict=True):
                torch.testing.assert_close(a, b.detach(), rtol=1e-12, atol=1e-14)
            counted = [t for i, t in enumerate(theta) if params[i].grad is not None]
            offsets = [i for i in range(3) if params[i].grad is not None]
            loss = torch.zeros((), dtype=torch.float64)
            for i, t in zip(offsets, counted, strict=True):
                curvature = 1 + params[i].detach().abs()
                loss = loss + ((t - target[: t.numel()].reshape(t.shape)) ** 2 * curvature).sum()
                loss = loss + 0.5 * weight_decay * (t**2).sum()
            h = torch.autograd.grad(loss, alphas, allow_unused=True)
            expected = [a - beta * (0.0 if d is None else float(d)) for a, d in zip(old, h, strict=True)]
        else:
            expected = old
        before = [p.detach().clone() for p in params]
        for i, p in enumerate(params):
            moved[i] = p.grad is not None
            if p.grad is not None:
                history[i].append(p.grad.detach() + weight_decay * p.detach())
        optimizer.step()
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(expected, rel=1e-12)
    assert all(isinstance(g["lr"], float) for g in optimizer.param_groups)
    assert optimizer.param_groups[0]["lr"] != 0.01


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_hypergradient_it_is_adam_to_the_last_bit(weight_decay: float, dtype: torch.dtype) -> None:
    target = torch.linspace(-1, 1, 6, dtype=dtype)
    ours, theirs = _params(3, dtype), _params(3, dtype)
    optimizers = (
        AdamHD(ours, lr=3e-2, weight_decay=weight_decay, hypergrad_lr=0.0),
        torch.optim.Adam(theirs, lr=3e-2, weight_decay=weight_decay),
    )
    for step in range(30):
        for params, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            _loss(list(params), target).backward()
            if step % 5 == 2:
                params[1].grad = None
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_sgd_without_hypergradient_is_sgd() -> None:
    target = torch.linspace(-1, 1, 6, dtype=torch.float64)
    ours, theirs = _params(4), _params(4)
    for params, optimizer in (
        (ours, SGDHD(ours, lr=0.01, weight_decay=0.1, hypergrad_lr=0.0)),
        (theirs, torch.optim.SGD(theirs, lr=0.01, weight_decay=0.1)),
    ):
        for _ in range(10):
            optimizer.zero_grad()
            _loss(list(params), target).backward()
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def _run(optimizer: torch.optim.Optimizer, x: nn.Parameter, steps: int) -> float:
    scales = torch.linspace(0.5, 2.0, x.numel(), dtype=x.dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 0.5 * (scales * x**2).sum()
        loss.backward()
        optimizer.step()
    return float((0.5 * (scales * x**2).sum()).detach())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (AdamHD, {"hypergrad_lr": 1e-4}),
        (AdamHD, {"hypergrad_lr": 0.05, "rule": "multiplicative"}),
        (SGDHD, {"hypergrad_lr": 1e-3}),
        (SGDHD, {"hypergrad_lr": 0.05, "rule": "multiplicative"}),
    ],
)
def test_bad_learning_rate_is_repaired(
    kind: type[HypergradientOptimizer], settings: dict[str, object]
) -> None:
    """From a learning rate a thousand times too small, the loss falls where the plain optimizer stands still."""
    losses = []
    for own in (settings, {**settings, "hypergrad_lr": 0.0}):
        x = nn.Parameter(torch.ones(10, dtype=torch.float64))
        optimizer = kind([x], lr=1e-5, **own)  # type: ignore[call-arg]
        losses.append(_run(optimizer, x, 300))
    assert losses[0] < 0.05 * losses[1]


def test_alpha_is_never_negative_and_stays_within_bounds() -> None:
    x = nn.Parameter(torch.ones(3))
    optimizer = SGDHD([x], lr=0.5, hypergrad_lr=10.0, lr_bounds=(0.0, 0.7))
    for sign in (1.0, -1.0, 1.0, 1.0, 1.0, -1.0):
        x.grad = torch.full((3,), sign)
        optimizer.step()
        assert 0.0 <= optimizer.param_groups[0]["lr"] <= 0.7


def test_gradient_that_is_not_finite_leaves_alpha() -> None:
    x = nn.Parameter(torch.ones(3))
    optimizer = AdamHD([x], lr=0.1, hypergrad_lr=0.1)
    for value in (1.0, float("nan")):
        x.grad = torch.full((3,), value)
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_large_gradients_are_scaled_down_over_the_group() -> None:
    target = torch.linspace(-1, 1, 6, dtype=torch.float64)
    ours, theirs = _params(6), _params(6)
    optimizers = AdamHD(ours, hypergrad_lr=1e-4), AdamHD(theirs, hypergrad_lr=1e-4)
    optimizers[0].param_groups[0]["max_grad_norm"] = 0.5
    for _ in range(5):
        for params, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            _loss(list(params), target).backward()
        before = [p.grad.clone() for p in ours if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        for optimizer in optimizers:
            optimizer.step()
        assert all(torch.equal(p.grad, b) for p, b in zip(ours, before, strict=True) if p.grad is not None)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)  # torch adds 1e-6 to the norm
    assert optimizers[0].param_groups[0]["lr"] == pytest.approx(optimizers[1].param_groups[0]["lr"], rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_with_a_largest_norm_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    x = nn.Parameter(torch.ones(3))
    optimizer = AdamHD([x], lr=0.1, hypergrad_lr=0.1)
    optimizer.param_groups[0]["max_grad_norm"] = 1.0
    x.grad = torch.ones(3)
    optimizer.step()
    value, state = x.detach().clone(), copy.deepcopy(optimizer.state_dict())
    x.grad = torch.tensor([1.0, bad, 1.0])
    optimizer.step()
    assert torch.equal(x, value)
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    assert all(
        torch.equal(torch.as_tensor(v), torch.as_tensor(state["state"][0][k]))
        for k, v in after["state"][0].items()
    )


def test_gradient_is_not_changed_by_weight_decay() -> None:
    x = nn.Parameter(torch.ones(3))
    x.grad = torch.full((3,), 2.0)
    AdamHD([x], weight_decay=0.5).step()
    assert torch.equal(x.grad, torch.full((3,), 2.0))


def test_resume_is_identical() -> None:
    x = nn.Parameter(torch.ones(10))
    optimizer = AdamHD([x], lr=1e-3, hypergrad_lr=1e-5, weight_decay=0.01)
    _run(optimizer, x, 10)
    state, y = copy.deepcopy(optimizer.state_dict()), nn.Parameter(x.detach().clone())
    resumed = AdamHD([y], lr=0.7)
    resumed.load_state_dict(state)
    _run(optimizer, x, 10)
    _run(resumed, y, 10)
    assert torch.equal(x, y)
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_group_can_grow_without_losing_its_state() -> None:
    """A run whose group grows by a parameter that never gets a gradient is the run without it."""
    x, y, extra = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(2))
    plain, growing = (AdamHD([p], lr=1e-3, hypergrad_lr=1e-4) for p in (x, y))
    _run(plain, x, 5)
    _run(growing, y, 5)
    growing.extend_group([extra])
    _run(plain, x, 5)
    _run(growing, y, 5)
    assert torch.equal(x, y)
    assert growing.param_groups[0]["lr"] == plain.param_groups[0]["lr"] > 1e-3
    assert torch.equal(extra, torch.ones(2))
    with pytest.raises(ValueError, match="only once"):
        growing.extend_group([extra])


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": -1.0},
        {"hypergrad_lr": -1.0},
        {"rule": "other"},
        {"betas": (1.0, 0.9)},
        {"lr_bounds": (0.1, 0.01)},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        AdamHD([nn.Parameter(torch.ones(1))], **settings)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif("PPX_MNIST" not in os.environ, reason="PPX_MNIST does not name an mnist.npz")
@pytest.mark.parametrize(
    ("kind", "beta", "train", "validation"), [(SGDHD, 1e-3, 0.4170, 0.3158), (AdamHD, 1e-7, 0.4207, 0.2953)]
)
def test_mnist_logistic_regression_first_epoch(
    kind: type[HypergradientOptimizer], beta: float, train: float, validation: float
) -> None:
    """Reference: the authors' code on the 50k / 10k split, batch 128, alpha_0 1e-3, L2 1e-4."""
    with np.load(Path(os.environ["PPX_MNIST"])) as arrays:
        images = torch.from_numpy(arrays["x_train"].reshape(-1, 784).astype(np.float32)) / 255.0
        labels = torch.from_numpy(arrays["y_train"].astype(np.int64))
    images = (images - 0.1307) / 0.3081
    torch.manual_seed(1)
    model = nn.Linear(784, 10)
    optimizer = kind(model.parameters(), lr=1e-3, weight_decay=1e-4, hypergrad_lr=beta)  # type: ignore[call-arg]
    losses = []
    for rows in torch.randperm(50_000).split(128):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        held_out = float(nn.functional.cross_entropy(model(images[50_000:]), labels[50_000:]))
    assert np.mean(losses) == pytest.approx(train, abs=0.03)  # depends on the initial weights
    assert held_out == pytest.approx(validation, abs=0.005)

"""LARC and LAMB: the papers' steps, and a hypergradient that is autograd's derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ppx_proposals.optim.adam_hd import AdamHD, AdamWHD
from ppx_proposals.optim.large_batch import LAMB, LARC
from ppx_proposals.optim.lookahead import Lookahead
from ppx_proposals.optim.sgd_hd import SGDHD
from ppx_proposals.optim.tower import SGD, Adam, Tower

_BETAS, _EPS = (0.8, 0.95), 1e-3


def _params(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Two matrices, a bias, and a matrix that starts at 0."""
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(s, generator=g, dtype=torch.float64) for s in ((3, 2), (2, 2), (4,))]
    return [nn.Parameter(x.to(dtype)) for x in (*made, torch.zeros(2, 3))]


def _loss(values: list[Tensor]) -> Tensor:
    return torch.stack(
        [(torch.cosh(v - 0.3) * torch.arange(1, v.numel() + 1).view_as(v)).sum() for v in values]
    ).sum()


def _backward(params: list[nn.Parameter], without: int | None = None) -> None:
    for p in params:
        p.grad = None
    _loss([p.double() for p in params]).backward()
    if without is not None:
        params[without].grad = None


def _larc_gradient(p: Tensor, g: Tensor, *, trust: float, decay: float, cap: Tensor | None) -> Tensor:
    """Equation 6 of LARS, from the definition; `cap` is alpha for the form "clip".

    Returns:
        The rescaled gradient, penalty included; for "clip" it stands for alpha times that.
    """
    full = g + decay * p
    theta, grad = p.norm(), g.norm()
    usual = p.ndim > 1 and float(theta) > 0
    rate = trust * theta / (grad + decay * theta) if usual else torch.tensor(trust, dtype=p.dtype)
    if cap is None:
        return rate * full
    return torch.minimum(rate, cap) * full if usual else cap * full


def _adam_direction(grads: list[Tensor]) -> Tensor:
    m = v = torch.zeros_like(grads[0])
    for g in grads:
        m, v = _BETAS[0] * m + (1 - _BETAS[0]) * g, _BETAS[1] * v + (1 - _BETAS[1]) * g * g
    t = len(grads)
    return -(m / (1 - _BETAS[0] ** t)) / ((v / (1 - _BETAS[1] ** t)).sqrt() + _EPS)


def _lamb_direction(p: Tensor, grads: list[Tensor], decay: float, bounds: tuple[float, float]) -> Tensor:
    """Algorithm 2 of LAMB, from the definition."""
    d = _adam_direction(grads) - decay * p
    phi = p.norm().clamp(*bounds)
    return d * (phi / d.norm()) if p.ndim > 1 and float(phi) > 0 else d


Step = Callable[[Tensor, list[Tensor], Tensor], Tensor]
"""What a parameter becomes, given itself, its gradients so far and alpha."""


def _check_hypergradient(optimizer: Optimizer, params: list[nn.Parameter], step: Step, decay: float) -> None:
    """Asserts the parameters' values, and alpha_t - alpha_{t-1} = -beta d loss(theta_{t-1}) / d alpha_{t-1}."""
    beta = float(optimizer.param_groups[0]["hypergrad_lr"])
    first = old = float(optimizer.param_groups[0]["lr"])
    history: list[list[Tensor]] = [[] for _ in params]
    before, moved = [p.detach().clone() for p in params], [False] * len(params)
    for t in range(7):
        _backward(params, without={3: 0, 5: 2}.get(t))
        alpha = torch.tensor(old, dtype=torch.float64, requires_grad=True)
        theta = [step(b, history[i], alpha) if moved[i] else b for i, b in enumerate(before)]
        for a, p in zip(theta, params, strict=True):
            torch.testing.assert_close(a.detach(), p.detach(), rtol=1e-11, atol=1e-13)
        counted = [a for a, p in zip(theta, params, strict=True) if p.grad is not None]
        loss = _loss(counted) + 0.5 * decay * torch.stack([(a**2).sum() for a in counted]).sum()
        h = torch.autograd.grad(loss, alpha, allow_unused=True)[0] if loss.requires_grad else None
        before = [p.detach().clone() for p in params]
        moved = [p.grad is not None for p in params]
        for own, p in zip(history, params, strict=True):
            own += [] if p.grad is None else [p.grad.clone()]
        kept = [None if p.grad is None else p.grad.clone() for p in params]
        optimizer.step()
        for k, p in zip(kept, params, strict=True):
            assert p.grad is None if k is None else torch.equal(k, p.grad)  # type: ignore[arg-type]
        expected = old - beta * (0.0 if h is None else float(h))
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(expected, rel=1e-11)
        old = float(optimizer.param_groups[0]["lr"])
    assert (old != first) == (beta != 0)


@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("make", ["SGDHD", "SGD"])
def test_larc_scale(decay: float, make: str) -> None:
    params = _params()
    optimizer: Any = torch.optim.SGD(params, lr=0.5, weight_decay=decay)
    optimizer.param_groups[0]["hypergrad_lr"] = 0.0
    if make == "SGDHD":
        optimizer = SGDHD(params, lr=0.5, weight_decay=decay, hypergrad_lr=1e-3)
    LARC(optimizer, 0.02)

    def step(p: Tensor, grads: list[Tensor], alpha: Tensor) -> Tensor:
        return p - alpha * _larc_gradient(p, grads[-1], trust=0.02, decay=decay, cap=None)

    _check_hypergradient(optimizer, params, step, decay)


@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("lr", [1e-4, 2e-3, 0.05])
@pytest.mark.parametrize("make", ["SGDHD", "SGD"])
def test_larc_clip(decay: float, lr: float, make: str) -> None:
    """With no layer clipped, some, and all that can be."""
    params = _params()
    optimizer: Any = torch.optim.SGD(params, lr=lr, weight_decay=decay)
    optimizer.param_groups[0]["hypergrad_lr"] = 0.0
    if make == "SGDHD":
        optimizer = SGDHD(params, lr=lr, weight_decay=decay, hypergrad_lr=1e-7)
    LARC(optimizer, 0.02, form="clip")

    def step(p: Tensor, grads: list[Tensor], alpha: Tensor) -> Tensor:
        return p - _larc_gradient(p, grads[-1], trust=0.02, decay=decay, cap=alpha)

    _check_hypergradient(optimizer, params, step, decay)


@pytest.mark.parametrize("bounds", [(0.0, float("inf")), (0.5, 1.5)])
@pytest.mark.parametrize("make", ["AdamWHD", "AdamW"])
def test_lamb(bounds: tuple[float, float], make: str) -> None:
    params, decay = _params(), 0.1
    settings: dict[str, Any] = {"lr": 0.01, "betas": _BETAS, "eps": _EPS, "weight_decay": decay}
    optimizer: Any = torch.optim.AdamW(params, **settings)
    optimizer.param_groups[0]["hypergrad_lr"] = 0.0
    if make == "AdamWHD":
        optimizer = AdamWHD(params, **settings, hypergrad_lr=1e-6)
    LAMB(optimizer, bounds)

    def step(p: Tensor, grads: list[Tensor], alpha: Tensor) -> Tensor:
        return p + alpha * _lamb_direction(p, grads, decay, bounds)

    _check_hypergradient(optimizer, params, step, decay=0.0)


def test_lamb_of_hypergradient_optimizers_matches_pytorch_optimizer() -> None:
    """Theirs does not correct for bias and caps norms at 10; with betas of 0 and that cap both are the same."""
    from pytorch_optimizer import Lamb

    ours, theirs = _params(2)[:2], _params(2)[:2]
    own = AdamWHD(ours, lr=0.01, betas=(0.0, 0.0), eps=1e-12, weight_decay=0.1, hypergrad_lr=0.0)
    LAMB(own, (0.0, 10.0))
    other = Lamb(theirs, lr=0.01, betas=(0.0, 0.0), eps=1e-12, weight_decay=0.1, weight_decouple=False)
    for _ in range(10):
        for params, optimizer in ((ours, own), (theirs, other)):
            _backward(params)
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


class _Late:
    """Wrong: rescales gradients before the step, so that h is taken from rescaled ones."""

    def __init__(self, optimizer: Optimizer, params: list[nn.Parameter]) -> None:
        self._larc = LARC(torch.optim.SGD(params, lr=1.0), 0.02)
        optimizer.register_step_pre_hook(lambda *_: self._larc._rescale())
        optimizer.register_step_post_hook(lambda *_: self._larc._restore())


def test_check_rejects_a_hypergradient_of_rescaled_gradients() -> None:
    params = _params()
    optimizer = SGDHD(params, lr=0.5, hypergrad_lr=1e-3)
    _Late(optimizer, params)

    def step(p: Tensor, grads: list[Tensor], alpha: Tensor) -> Tensor:
        return p - alpha * _larc_gradient(p, grads[-1], trust=0.02, decay=0.0, cap=None)

    with pytest.raises(AssertionError):
        _check_hypergradient(optimizer, params, step, 0.0)


def test_check_rejects_a_clipped_direction_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LARC, "_forget_clipped", lambda self: self._clipped.clear())
    with pytest.raises(AssertionError):
        test_larc_clip(0.0, 2e-3, "SGDHD")


def test_check_rejects_lamb_without_its_ratio_in_the_direction() -> None:
    params, decay = _params(), 0.1
    optimizer = AdamWHD(params, lr=0.01, betas=_BETAS, eps=_EPS, weight_decay=decay, hypergrad_lr=1e-6)
    lamb = LAMB(torch.optim.SGD(params, lr=0.01))  # rescales what moved, after the step
    optimizer.register_step_pre_hook(lambda *_: lamb._remember())
    optimizer.register_step_post_hook(lambda *_: lamb._rescale())

    def step(p: Tensor, grads: list[Tensor], alpha: Tensor) -> Tensor:
        return p + alpha * _lamb_direction(p, grads, decay, (0.0, float("inf")))

    with pytest.raises(AssertionError):
        _check_hypergradient(optimizer, params, step, decay=0.0)


@pytest.mark.parametrize("attach", [LARC, LAMB])
@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.AdamW(p, lr=0.01), lambda p: AdamWHD(p, lr=0.01, hypergrad_lr=1e-6)]
)
def test_removed_it_leaves_no_trace(
    attach: Callable[[Optimizer], LARC | LAMB], make: Callable[[list[nn.Parameter]], Optimizer]
) -> None:
    with_it, without = _params(1), _params(1)
    optimizer, plain = make(with_it), make(without)
    attached = attach(optimizer)
    assert optimizer.state_dict() == plain.state_dict()
    attached.remove()
    for _ in range(3):
        for params, each in ((with_it, optimizer), (without, plain)):
            _backward(params)
            each.step()
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))


@pytest.mark.parametrize("attach", [LARC, LAMB])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, AdamWHD])
def test_mixed_types_and_a_closure(attach: Callable[[Optimizer], object], kind: type[Optimizer]) -> None:
    """A closure's gradients count, layers of other types move as they would alone, and gradients are as they were."""
    single, double = _params(1, torch.float32), _params(1)
    alone = _params(1, torch.float32)
    optimizers = kind([*single, *double], lr=0.01), kind(alone, lr=0.01)  # type: ignore[call-arg]
    for optimizer in optimizers:
        optimizer.param_groups[0]["hypergrad_lr"] = 0.0
        attach(optimizer)

    def closure() -> float:
        for params in (single, double, alone):
            _backward(params)
        return 3.0

    for _ in range(3):
        assert [optimizer.step(closure) for optimizer in optimizers] == [3.0, 3.0]
    fresh = [p.grad.clone() for p in alone if p.grad is not None]
    closure()
    for optimizer in optimizers:
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(single, alone, strict=True))
    assert not all(torch.equal(a, p.grad) for a, p in zip(fresh, alone, strict=True) if p.grad is not None)
    assert all(p.dtype == torch.float32 for p in single)


def test_half_precision_norms_do_not_overflow() -> None:
    """2^20 weights of 1 with gradients of 1: their sum of squares is far beyond the largest half."""
    x = nn.Parameter(torch.ones(1024, 1024, dtype=torch.float16))
    for kind in (torch.optim.SGD, SGDHD):
        optimizer = kind([x], lr=1.0)
        larc = LARC(optimizer, 0.5)
        x.data.fill_(1.0)
        x.grad = torch.ones_like(x)
        optimizer.step()
        larc.remove()
        assert bool((x == 0.5).all())


def test_all_parameters_can_be_layers() -> None:
    bias = nn.Parameter(torch.full((4,), 2.0))
    bias.grad = torch.ones(4)
    optimizer = torch.optim.SGD([bias], lr=1.0)
    LARC(optimizer, 0.1, layers=lambda p: True)
    optimizer.step()
    torch.testing.assert_close(bias.detach(), torch.full((4,), 1.8))  # lambda = 0.1 |2| / |1|


def test_maximize_of_torch_moves_the_other_way() -> None:
    up, down = _params(3), _params(3)
    optimizers = [
        torch.optim.SGD(p, lr=0.1, weight_decay=0.2, maximize=m) for p, m in ((up, True), (down, False))
    ]
    for optimizer in optimizers:
        LARC(optimizer, 0.1)
    for p, sign in ((up, -1.0), (down, 1.0)):
        _backward(p)
        for x in p:
            assert x.grad is not None
            x.grad *= sign
    for optimizer in optimizers:
        optimizer.step()
    for a, b in zip(up, down, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_through_lookahead_it_reaches_the_optimizer_inside() -> None:
    wrapped, inside = _params(5), _params(5)
    optimizers = [Lookahead(AdamWHD(p, lr=0.01, hypergrad_lr=1e-6), 2) for p in (wrapped, inside)]
    LAMB(optimizers[0])
    LAMB(optimizers[1].optimizer)
    for _ in range(4):
        for params, optimizer in zip((wrapped, inside), optimizers, strict=True):
            _backward(params)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(wrapped, inside, strict=True))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: LARC(SGDHD(p), 0.0), ValueError, "trust must"),
        (lambda p: LARC(SGDHD(p), form="other"), ValueError, "form must"),
        (lambda p: LAMB(SGDHD(p), (2.0, 1.0)), ValueError, "norm_bounds must"),
        (lambda p: LARC(SGDHD(p, momentum=0.9), form="clip"), ValueError, 'use form="scale"'),
        (lambda p: LARC(AdamHD(p), form="clip"), ValueError, "AdamHD learns its lr"),
        (
            lambda p: LARC(Tower(p, [Adam(lr=0.1, adapt=("lr",)), SGD(lr=1e-5)])),
            TypeError,
            "Tower that adapts lr",
        ),
        (
            lambda p: LAMB(Tower(p, [Adam(lr=0.1, adapt=("lr",)), SGD(lr=1e-5)])),
            TypeError,
            "Tower that adapts lr",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(
    make: Callable[[list[nn.Parameter]], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make([nn.Parameter(torch.ones(2, 2))])


def test_clip_is_refused_when_momentum_comes_later() -> None:
    params = _params()
    optimizer = SGDHD(params, momentum=0.9, hypergrad_lr=0.0)
    LARC(optimizer, form="clip")
    _backward(params)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["hypergrad_lr"] = 1e-3
    with pytest.raises(ValueError, match="without momentum"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    LARC(optimizer)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        optimizer.step()


_SIZES = (50, 32, 32, 10)


def _trained(make: Callable[[list[nn.Parameter]], Optimizer], scales: tuple[float, ...]) -> float:
    """Loss after 50 batches of 2048 of a perceptron whose layers are `scale * weight`, the same function at first."""
    g = torch.Generator().manual_seed(0)
    shapes = zip(_SIZES, _SIZES[1:], scales, strict=False)
    weights = [nn.Parameter(torch.randn(o, i, generator=g) * (2 / i) ** 0.5 / c) for i, o, c in shapes]
    optimizer, teacher = make(weights), torch.randn(_SIZES[0], _SIZES[-1], generator=g)
    for _ in range(50):
        x = torch.randn(2048, _SIZES[0], generator=g)
        hidden = x
        for number, (weight, scale) in enumerate(zip(weights, scales, strict=True)):
            hidden = scale * (hidden @ weight.T)
            hidden = torch.relu(hidden) if number < 2 else hidden
        loss = nn.functional.cross_entropy(hidden, (x @ teacher).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.slow
def test_larc_trains_badly_scaled_layers_with_large_batches() -> None:
    """It does not notice the scales; here every rate of gradient descent ends worse."""

    def larc(params: list[nn.Parameter]) -> Optimizer:
        optimizer = torch.optim.SGD(params, lr=10.0, momentum=0.9)
        LARC(optimizer)
        return optimizer

    def plain(lr: float) -> Callable[[list[nn.Parameter]], Optimizer]:
        return lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9)

    even, uneven = (1.0, 1.0, 1.0), (30.0, 1.0, 1 / 30)
    rates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    with_it = _trained(larc, uneven)
    assert with_it == pytest.approx(_trained(larc, even), rel=1e-3)
    assert with_it < 0.8 * min(_trained(plain(lr), uneven) for lr in rates)


def test_a_second_larc_is_refused_until_the_first_is_removed() -> None:
    x = nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.SGD([x], lr=1.0)
    first = LARC(optimizer)
    with pytest.raises(ValueError, match=r"this SGD has a LARC already; remove\(\) that one first"):
        LARC(optimizer)
    first.remove()
    LARC(optimizer)
    x.grad = torch.ones_like(x)
    optimizer.step()
    torch.testing.assert_close(x.detach(), torch.full((2, 2), 0.999))

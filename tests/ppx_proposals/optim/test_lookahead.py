"""Lookahead: the algorithm of the paper, and a hypergradient that is autograd's derivative across a sync."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ppx_proposals.optim.adam_hd import AdamHD
from ppx_proposals.optim.lookahead import Lookahead
from ppx_proposals.optim.sgd_hd import SGDHD
from ppx_proposals.optim.tower import SGD, Adam, Tower

_BETAS, _EPS, _DECAY = (0.8, 0.95), 1e-3, 0.1
_PULL = 0.3


def _params(seed: int = 0) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64)) for s in ((3, 2), (4,), (1,))]


def _loss(values: list[Tensor]) -> Tensor:
    return torch.stack(
        [(torch.cosh(v) * torch.arange(1, v.numel() + 1).view_as(v)).sum() for v in values]
    ).sum()


def _backward(params: list[nn.Parameter], optimizer: Optimizer, without: int | None = None) -> None:
    optimizer.zero_grad()
    _loss(list(params)).backward()
    if without is not None:
        params[without].grad = None


def _adam_direction(grads: list[Tensor]) -> Tensor:
    """-mhat / (sqrt(vhat) + eps) after the given gradients, from the definition."""
    m = v = torch.zeros_like(grads[0])
    for g in grads:
        m, v = _BETAS[0] * m + (1 - _BETAS[0]) * g, _BETAS[1] * v + (1 - _BETAS[1]) * g * g
    t = len(grads)
    return -(m / (1 - _BETAS[0] ** t)) / ((v / (1 - _BETAS[1] ** t)).sqrt() + _EPS)


def _check_hypergradient(wrap: Callable[[Optimizer], Optimizer], k: int, missing: dict[int, int]) -> None:
    """Asserts alpha_t - alpha_{t-1} = -beta d loss(theta_{t-1}) / d alpha_{t-1} at every step of a run.

    Args:
        wrap: Makes a Lookahead with `_PULL` and `k`.
        k: Its period.
        missing: Which parameter has no gradient, by step.
    """
    beta = 1e-4
    params = _params()
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}]
    optimizer = wrap(AdamHD(groups, lr=0.01, betas=_BETAS, eps=_EPS, weight_decay=_DECAY, hypergrad_lr=beta))
    history: list[list[Tensor]] = [[] for _ in params]
    slow = [p.detach().clone() for p in params]
    before, moved = slow, [False] * len(params)
    for step in range(4 * k + 1):
        _backward(params, optimizer, missing.get(step))
        old = [float(g["lr"]) for g in optimizer.param_groups]
        alphas = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in old]
        # theta_{t-1} as a function of alpha_{t-1}: a step of Adam, and a sync every k steps
        theta = [
            b + alphas[i // 2] * _adam_direction(history[i]) if moved[i] else b for i, b in enumerate(before)
        ]
        if step and step % k == 0:
            theta = [phi + _PULL * (t - phi) for phi, t in zip(slow, theta, strict=True)]
            slow = [t.detach() for t in theta]
        for a, p in zip(theta, params, strict=True):
            torch.testing.assert_close(a.detach(), p.detach(), rtol=1e-12, atol=1e-14)
        counted = [t for t, p in zip(theta, params, strict=True) if p.grad is not None]
        loss = _loss(counted) + 0.5 * _DECAY * torch.stack([(t**2).sum() for t in counted]).sum()
        h = torch.autograd.grad(loss, alphas, allow_unused=True) if step else (None, None)
        before = [p.detach().clone() for p in params]
        for i, p in enumerate(params):
            moved[i] = p.grad is not None
            if p.grad is not None:
                history[i].append(p.grad.detach() + _DECAY * p.detach())
        optimizer.step()
        expected = [a - beta * (0.0 if d is None else float(d)) for a, d in zip(old, h, strict=True)]
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(expected, rel=1e-12)
    assert optimizer.param_groups[0]["lr"] != 0.01


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("missing", [{}, {2: 0, 3: 1}, {5: 0, 8: 1}])
def test_hypergradient_is_derivative_across_syncs(k: int, missing: dict[int, int]) -> None:
    _check_hypergradient(lambda inner: Lookahead(inner, k, _PULL), k, missing)


def test_check_rejects_a_direction_that_is_not_scaled() -> None:
    with pytest.raises(AssertionError):
        _check_hypergradient(
            lambda inner: pytorch_optimizer.Lookahead(inner, k=3, alpha=_PULL), 3, missing={}
        )


def _transcribed(params: list[nn.Parameter], lr: float, k: int, steps: int) -> list[Tensor]:
    """Algorithm 1 of the paper around plain gradient descent."""
    slow = [p.detach().clone() for p in params]
    for _ in range(steps // k):
        fast = [s.clone().requires_grad_() for s in slow]
        for _ in range(k):
            grads = torch.autograd.grad(_loss(list(fast)), fast)
            fast = [(f - lr * g).detach().requires_grad_() for f, g in zip(fast, grads, strict=True)]
        slow = [s + _PULL * (f.detach() - s) for s, f in zip(slow, fast, strict=True)]
    return slow


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, lr=0.01), lambda p: SGDHD(p, lr=0.01, hypergrad_lr=0.0)]
)
def test_it_is_the_algorithm_of_the_paper(make: Callable[[list[nn.Parameter]], Optimizer]) -> None:
    params = _params(1)
    expected = _transcribed(params, 0.01, 3, 12)
    optimizer = Lookahead(make(params), 3, _PULL)
    for _ in range(12):
        _backward(params, optimizer)
        optimizer.step()
    for p, e in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), e, rtol=1e-13, atol=1e-15)


def test_parameter_without_a_gradient_is_synced() -> None:
    p, q = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = Lookahead(torch.optim.SGD([p, q], lr=1.0), 2, 0.5)
    for step in range(2):
        p.grad, q.grad = -torch.ones(2), -torch.ones(2) if step == 0 else None
        optimizer.step()
    assert p.tolist() == [1.0, 1.0]
    assert q.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("through", ["wrapper", "inner"])
def test_parameters_may_join_later(through: str) -> None:
    """They start from where they join, and the others do not notice."""
    p, q, alone = (nn.Parameter(torch.full((n,), v)) for n, v in ((2, 0.0), (3, 10.0), (2, 0.0)))
    inner = AdamHD([p], lr=0.1, hypergrad_lr=0.0)
    optimizer = Lookahead(inner, 2, 0.5)
    reference = Lookahead(AdamHD([alone], lr=0.1, hypergrad_lr=0.0), 2, 0.5)
    for step in range(4):
        if step == 1:
            (optimizer if through == "wrapper" else inner).extend_group([q])
        assert len(optimizer.state_dict()["lookahead_state"]) == (1 if step == 0 else 2)
        p.grad = alone.grad = -torch.ones(2)
        q.grad = -torch.ones(3) if step else None
        optimizer.step()
        reference.step()
    assert torch.equal(p, alone)
    # One step of 0.1 and a sync, then two steps and a sync; Adam's steps under a constant gradient have size lr.
    torch.testing.assert_close(q.detach(), torch.full((3,), 10.15))


def test_resume_through_a_file_is_identical() -> None:
    params = _params(2)
    optimizer = Lookahead(AdamHD(params, lr=1e-2, hypergrad_lr=1e-4), 4, _PULL)
    for _ in range(6):
        _backward(params, optimizer)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = Lookahead(AdamHD(others, lr=0.3), 4, _PULL)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(7):
        for own, which in ((params, optimizer), (others, resumed)):
            _backward(own, which)
            which.step()
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] != 1e-2


def test_copy_goes_on_as_the_original() -> None:
    model = nn.ParameterList(_params(3))
    optimizer = Lookahead(SGDHD(model.parameters(), lr=1e-3, hypergrad_lr=1e-6), 2, _PULL)
    _backward(list(model), optimizer)
    optimizer.step()
    twin, other = copy.deepcopy((model, optimizer))
    for own, which in ((model, optimizer), (twin, other)):
        for _ in range(3):
            _backward(list(own), which)
            which.step()
    assert all(torch.equal(a, b) for a, b in zip(model, twin, strict=True))


def test_closure_is_evaluated_once_and_its_loss_returned() -> None:
    params = _params(4)
    optimizer = Lookahead(SGDHD(params, lr=1e-3), 2)

    def closure() -> float:
        _backward(params, optimizer)
        return 7.0

    assert optimizer.step(closure) == 7.0
    assert optimizer.step() is None


@pytest.mark.parametrize("settings", [{"k": 0}, {"k": 2.5}, {"alpha": 0.0}, {"alpha": 1.5}])
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Lookahead(SGDHD([nn.Parameter(torch.ones(1))]), **settings)  # type: ignore[arg-type]


def test_a_group_that_cannot_grow_says_so() -> None:
    optimizer = Lookahead(torch.optim.SGD([nn.Parameter(torch.ones(1))]))
    with pytest.raises(ValueError, match="add_param_group"):
        optimizer.extend_group([nn.Parameter(torch.ones(1))])
    extra = nn.Parameter(torch.ones(1))
    optimizer.add_param_group({"params": [extra]})
    assert len(optimizer.state_dict()["lookahead_state"]) == 2


def test_tower_that_adapts_is_refused_and_one_that_does_not_is_an_optimizer() -> None:
    x = nn.Parameter(torch.ones(1))
    with pytest.raises(TypeError, match="a Tower that adapts lr"):
        Lookahead(Tower([x], [Adam(lr=0.1, adapt=("lr",)), SGD(lr=1e-5)]))
    assert Lookahead(Tower([x], [Adam(lr=0.1)])).param_groups[0]["lr"] == 0.1


def test_another_lookahead_is_refused() -> None:
    """Its counts of steps are in the groups, which would be counted twice."""
    with pytest.raises(TypeError, match="one Lookahead cannot be put around another"):
        Lookahead(Lookahead(SGDHD(_params())))

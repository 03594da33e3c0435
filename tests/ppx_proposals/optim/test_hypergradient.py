"""Hypergradient optimizers: the hypergradient is autograd's derivative, and everything around it behaves."""

from __future__ import annotations

import copy
import io
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim import SGDHD, AdamHD, AdamWHD, HypergradientOptimizer


def _loss(params: list[Tensor], target: Tensor) -> Tensor:
    return torch.stack(
        [((p - target[: p.numel()].reshape(p.shape)) ** 2 * (1 + p.detach().abs())).sum() for p in params]
    ).sum()


def _params(seed: int, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=g, dtype=dtype)) for s in ((3, 2), (4,), (1,))]


VARIANTS: dict[str, tuple[type[HypergradientOptimizer], dict[str, Any]]] = {
    "SGD": (SGDHD, {}),
    "SGD with a penalty": (SGDHD, {"weight_decay": 0.3}),
    "SGD with momentum": (SGDHD, {"momentum": 0.7, "weight_decay": 0.1}),
    "SGDN": (SGDHD, {"momentum": 0.7, "nesterov": True}),
    "SGDN with a penalty": (SGDHD, {"momentum": 0.7, "nesterov": True, "weight_decay": 0.1}),
    "Adam": (AdamHD, {"betas": (0.8, 0.95), "eps": 1e-3}),
    "Adam with a penalty": (AdamHD, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}),
    "AdamW": (AdamWHD, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}),
}
each_variant = pytest.mark.parametrize(("kind", "settings"), VARIANTS.values(), ids=VARIANTS)


class _Definition:
    """A hypergradient optimizer from its definition, one parameter after the other."""

    def __init__(
        self, params: list[Tensor], kind: type[HypergradientOptimizer], settings: dict[str, Any]
    ) -> None:
        self.theta = [p.detach().clone() for p in params]
        self.kind = kind
        self.settings = {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False, **settings}
        self.history: list[list[Tensor]] = [[] for _ in params]
        self.last = [torch.zeros_like(p) for p in params]

    def penalised(self, gradients: list[Tensor | None]) -> list[Tensor | None]:
        decay = 0.0 if self.kind is AdamWHD else self.settings["weight_decay"]
        return [None if g is None else g + decay * p for g, p in zip(gradients, self.theta, strict=True)]

    def h(self, gradients: list[Tensor | None]) -> list[float]:
        """g_t . D_{t-1} of each parameter."""
        pairs = zip(self.penalised(gradients), self.last, strict=True)
        return [0.0 if g is None else float((g * d).sum()) for g, d in pairs]

    def directions(self, gradients: list[Tensor | None]) -> list[Tensor]:
        """D_t; the history of the gradients is enough to make it."""
        made = []
        for i, g in enumerate(self.penalised(gradients)):
            if g is None:
                made.append(torch.zeros_like(self.theta[i]))
                continue
            self.history[i].append(g)
            made.append(self._sgd(i) if self.kind is SGDHD else self._adam(i))
        return made

    def _sgd(self, i: int) -> Tensor:
        mu, v = self.settings["momentum"], torch.zeros_like(self.theta[i])
        for g in self.history[i]:
            v = mu * v + g
        return -(self.history[i][-1] + mu * v) if self.settings["nesterov"] else -v

    def _adam(self, i: int) -> Tensor:
        (beta1, beta2), t = self.settings["betas"], len(self.history[i])
        m = v = torch.zeros_like(self.theta[i])
        for g in self.history[i]:
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        d = -(m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + self.settings["eps"])
        return d - self.settings["weight_decay"] * self.theta[i] if self.kind is AdamWHD else d

    def move(self, gradients: list[Tensor | None], alphas: list[float]) -> None:
        self.last = self.directions(gradients)
        self.theta = [p + a * d for p, a, d in zip(self.theta, alphas, self.last, strict=True)]


@each_variant
@pytest.mark.parametrize("missing", [None, 1])
def test_hypergradient_is_the_derivative_with_respect_to_the_previous_alpha(
    kind: type[HypergradientOptimizer], settings: dict[str, Any], missing: int | None
) -> None:
    """alpha_t - alpha_{t-1} = -beta d loss(theta_{t-1}) / d alpha_{t-1}, the loss with its penalty, group by group."""
    beta, group_of = 1e-5, [0, 0, 1]
    target = torch.linspace(-1, 1, 6, dtype=torch.float64)
    params = _params(0)
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}]
    optimizer = kind(groups, lr=0.01, hypergrad_lr=beta, **settings)  # type: ignore[call-arg]
    definition = _Definition(list(params), kind, settings)
    penalty = 0.0 if kind is AdamWHD else settings.get("weight_decay", 0.0)
    for step in range(6):
        present = [i for i in range(3) if i != missing or step not in (2, 4)]
        old = [float(g["lr"]) for g in optimizer.param_groups]
        # theta_{t-1} as a function of alpha_{t-1}, everything before it held fixed.
        alphas = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in old]
        loss = torch.zeros((), dtype=torch.float64)
        for i in present:
            alpha = alphas[group_of[i]]
            theta = params[i].detach() + (alpha - alpha.detach()) * definition.last[i]
            curvature = 1 + params[i].detach().abs()
            loss = loss + ((theta - target[: theta.numel()].reshape(theta.shape)) ** 2 * curvature).sum()
            loss = loss + 0.5 * penalty * (theta**2).sum()
        derivatives = torch.autograd.grad(loss, alphas, materialize_grads=True)
        optimizer.zero_grad()
        _loss(list(params), target).backward()
        for i in set(range(3)) - set(present):
            params[i].grad = None
        definition.theta = [p.detach().clone() for p in params]
        gradients = [None if p.grad is None else p.grad.clone() for p in params]
        optimizer.step()
        expected = [a - beta * float(d) for a, d in zip(old, derivatives, strict=True)]
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(expected, rel=1e-12)
        definition.move(gradients, [optimizer.param_groups[group_of[i]]["lr"] for i in range(3)])
        for a, b in zip(definition.theta, params, strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-11, atol=1e-13)
    assert all(isinstance(g["lr"], float) for g in optimizer.param_groups)
    assert optimizer.param_groups[0]["lr"] != 0.01


@each_variant
@pytest.mark.parametrize("rule", ["additive", "multiplicative"])
@pytest.mark.parametrize("scope", ["group", "global"])
def test_whichever_gradients_are_missing_the_definition_is_followed(
    kind: type[HypergradientOptimizer],
    settings: dict[str, Any],
    rule: str,
    scope: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many parameters, one of them large, gradients that come and go, and parameters that join on the way."""
    monkeypatch.setattr("ppx_proposals.optim.joined._ALONE", 7)
    g = torch.Generator().manual_seed(7)
    sizes = [3, 1, 7, 5, 2, 4]
    params = [nn.Parameter(torch.randn(n, generator=g, dtype=torch.float64)) for n in sizes]
    beta = 1e-6 if rule == "additive" else 0.05
    optimizer = kind(
        [{"params": params[:3]}, {"params": params[3:5]}],
        lr=0.01,
        hypergrad_lr=beta,
        rule=rule,
        scope=scope,
        **settings,
    )  # type: ignore[call-arg]
    group_of = [0, 0, 0, 1, 1, 1]
    definition, alpha = _Definition(list(params), kind, settings), [0.01, 0.01]
    for step in range(12):
        if step == 4:
            optimizer.extend_group(params[5:], group=1)
        there = torch.rand(6, generator=g) < 0.7
        gradients: list[Tensor | None] = []
        for i, p in enumerate(params):
            seen = bool(there[i]) and (i < 5 or step >= 4)
            p.grad = torch.randn(p.shape, generator=g, dtype=p.dtype) if seen else None
            gradients.append(p.grad)
        h, penalised = definition.h(gradients), definition.penalised(gradients)
        for group in range(2):
            members = [i for i in range(6) if scope == "global" or group_of[i] == group]
            if all(gradients[i] is None for i in members):
                continue
            change = math.fsum(h[i] for i in members)
            if rule == "multiplicative":
                norm_g = math.sqrt(
                    sum(float((x**2).sum()) for i in members if (x := penalised[i]) is not None)
                )
                norm_d = math.sqrt(sum(float((definition.last[i] ** 2).sum()) for i in members))
                change = alpha[group] * change / (norm_g * norm_d) if norm_g * norm_d > 0 else 0.0
            alpha[group] = max(alpha[group] - beta * change, 0.0)
        optimizer.step()
        definition.move(gradients, [alpha[group_of[i]] for i in range(6)])
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(alpha, rel=1e-10)
        for a, b in zip(definition.theta, params, strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-9, atol=1e-11)
    assert alpha[0] != 0.01


TORCH: dict[str, tuple[type[HypergradientOptimizer], type[torch.optim.Optimizer], dict[str, Any]]] = {
    "SGD": (SGDHD, torch.optim.SGD, {}),
    "SGD with a penalty": (SGDHD, torch.optim.SGD, {"weight_decay": 0.1}),
    "SGD with momentum": (SGDHD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "SGDN": (SGDHD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "Adam": (AdamHD, torch.optim.Adam, {}),
    "Adam with a penalty": (AdamHD, torch.optim.Adam, {"weight_decay": 0.1}),
    "AdamW": (AdamWHD, torch.optim.AdamW, {"weight_decay": 0.1}),
}


@pytest.mark.parametrize(("kind", "reference", "settings"), TORCH.values(), ids=TORCH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_hypergradient_it_is_the_optimizer_of_torch_to_the_last_bit(
    kind: type[HypergradientOptimizer],
    reference: type[torch.optim.Optimizer],
    settings: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    g = torch.Generator().manual_seed(3)
    shapes = ((3, 2), (4,), (520, 520), (1,), (17,))
    ours, theirs = [], []
    for shape in shapes:
        values = torch.randn(shape, generator=g, dtype=dtype)
        ours.append(nn.Parameter(values.clone()))
        theirs.append(nn.Parameter(values.clone()))
    optimizers = (
        kind(ours, lr=3e-2, hypergrad_lr=0.0, **settings),  # type: ignore[call-arg]
        reference(theirs, lr=3e-2, **settings),  # type: ignore[call-arg]
    )
    for step in range(10):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(a.shape, generator=g, dtype=dtype)
            missing = i == 1 and step % 5 == 2
            a.grad, b.grad = (None, None) if missing else (gradient.clone(), gradient.clone())
        for optimizer in optimizers:
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


def test_gradients_that_overflow_on_the_way_leave_alpha() -> None:
    """Dot products of opposite infinities in different groups of parameters have no sum."""
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = SGDHD([{"params": [p]} for p in params], lr=0.1, hypergrad_lr=0.1, scope="global")
    for second in (1e30, -1e30):
        params[0].grad, params[1].grad = torch.tensor([1e30]), torch.tensor([second])
        optimizer.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.1]


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


@each_variant
def test_resume_is_identical(kind: type[HypergradientOptimizer], settings: dict[str, Any]) -> None:
    settings = {**settings, "hypergrad_lr": 1e-5, "settle": (1e-3, 15.0)}
    x = nn.Parameter(torch.ones(10))
    optimizer = kind([x], lr=1e-3, **settings)  # type: ignore[call-arg]
    _run(optimizer, x, 10)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    y = nn.Parameter(x.detach().clone())
    resumed = kind([y], lr=0.7)  # type: ignore[call-arg]
    resumed.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    z, copied = copy.deepcopy((x, optimizer))
    for p, o in ((x, optimizer), (y, resumed), (z, copied)):
        _run(o, p, 10)
    assert torch.equal(x, y)
    assert torch.equal(x, z)
    assert resumed.param_groups[0]["lr"] == copied.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_state_without_the_settings_of_today_is_completed_with_the_defaults() -> None:
    x, y = nn.Parameter(torch.ones(10)), nn.Parameter(torch.ones(10))
    optimizer = AdamHD([x], rule="multiplicative")
    state = optimizer.state_dict()
    for key in ("scope", "settle", "num_steps", "step_size", "hypergrad_lr"):
        del state["param_groups"][0][key]
    resumed = AdamHD([y], rule="multiplicative")
    resumed.load_state_dict(state)
    _run(optimizer, x, 5)
    _run(resumed, y, 5)
    assert torch.equal(x, y)
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] != 1e-3


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
    ("kind", "settings"),
    [
        (AdamHD, {"lr": -1.0}),
        (AdamHD, {"lr": math.nan}),
        (AdamHD, {"hypergrad_lr": -1.0}),
        (AdamHD, {"rule": "other"}),
        (AdamHD, {"scope": "other"}),
        (AdamHD, {"betas": (1.0, 0.9)}),
        (AdamHD, {"eps": -1.0}),
        (AdamHD, {"weight_decay": -1.0}),
        (AdamHD, {"lr_bounds": (0.1, 0.01)}),
        (AdamHD, {"settle": (0.1, 0.0)}),
        (AdamHD, {"settle": (0.1, 10.0), "lr_bounds": (0.0, 0.01)}),
        (AdamHD, {"max_grad_norm": 0.0}),
        (SGDHD, {"momentum": 1.0}),
        (SGDHD, {"nesterov": True}),
    ],
)
def test_bad_settings_are_refused(kind: type[HypergradientOptimizer], settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        kind([nn.Parameter(torch.ones(1))], **settings)  # type: ignore[call-arg]
    groups = [
        {"params": [nn.Parameter(torch.ones(1))]},
        {"params": [nn.Parameter(torch.ones(1))], **settings},
    ]
    with pytest.raises(ValueError, match="must"):
        kind(groups)  # type: ignore[call-arg]


def test_the_rule_chooses_the_usual_learning_rate_of_the_learning_rate() -> None:
    params = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = SGDHD([{"params": params[:1]}, {"params": params[1:], "rule": "multiplicative"}])
    assert [g["hypergrad_lr"] for g in optimizer.param_groups] == [1e-3, 0.02]


def test_groups_that_share_alpha_must_agree_and_new_ones_take_it_on() -> None:
    params = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    with pytest.raises(ValueError, match="same lr"):
        SGDHD([{"params": params[:1]}, {"params": params[1:], "lr": 0.5}], scope="global")
    with pytest.raises(ValueError, match="same scope"):
        SGDHD([{"params": params[:1]}, {"params": params[1:], "scope": "global"}])
    optimizer = SGDHD([{"params": params[:1]}, {"params": params[1:2]}], lr=0.1, scope="global")
    for _ in range(3):
        for p in params[:2]:
            p.grad = torch.ones(2)
        optimizer.step()
    learnt = optimizer.param_groups[0]["lr"]
    optimizer.add_param_group({"params": params[2:]})
    assert [g["lr"] for g in optimizer.param_groups] == [learnt] * 3
    assert learnt > 0.1


def test_step_sizes_settle() -> None:
    """gamma_t = delta(t) alpha_t + (1 - delta(t)) alpha_inf with delta(t) = 1 / (1 + (t / T)^2)."""
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = SGDHD([x], lr=0.1, hypergrad_lr=1e-3, settle=(0.03, 5.0))
    at, alpha = 0.0, 0.1
    for t in range(1, 50):
        x.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        alpha += 0.001 * (t > 1)  # h_t = 1 . -1
        delta = 1 / (1 + (t / 5) ** 2)
        at -= delta * alpha + (1 - delta) * 0.03
        assert optimizer.param_groups[0]["lr"] == pytest.approx(alpha, rel=1e-12)
        assert float(x.detach()) == pytest.approx(at, rel=1e-12)
    assert optimizer.param_groups[0]["step_size"] == pytest.approx(0.03, rel=0.2)


@pytest.mark.parametrize("kind", [SGDHD, AdamHD, AdamWHD])
def test_sparse_and_complex_gradients_are_refused_before_anything_moves(
    kind: type[HypergradientOptimizer],
) -> None:
    x, table = nn.Parameter(torch.ones(2)), nn.Embedding(4, 2, sparse=True)
    optimizer = kind([{"params": [x]}, {"params": table.parameters()}])  # type: ignore[call-arg]
    x.grad = torch.ones(2)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"parameter 0 of group 1, shape \(4, 2\), has a sparse gradient"):
        optimizer.step()
    assert torch.equal(x, torch.ones(2))
    assert not optimizer.state
    z = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    z.grad = torch.ones_like(z)
    with pytest.raises(ValueError, match="view_as_real"):
        kind([z]).step()  # type: ignore[call-arg]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_learns_the_alpha_of_single_precision(dtype: torch.dtype) -> None:
    """A dot product of many terms is not summed in half precision."""
    alphas = []
    for kind in (dtype, torch.float32):
        x = nn.Parameter(torch.zeros(5000, dtype=kind))
        optimizer = SGDHD([x], lr=0.1, hypergrad_lr=1e-5)
        for _ in range(3):
            x.grad = torch.ones_like(x)
            optimizer.step()
        alphas.append(optimizer.param_groups[0]["lr"])
    assert alphas[0] == pytest.approx(alphas[1], rel=1e-6)
    assert alphas[0] > 0.15


def test_parameters_that_are_not_contiguous_move_alike() -> None:
    values = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    moved = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = nn.Parameter(values.clone().to(memory_format=memory_format))
        optimizer = AdamHD([x], lr=0.01, hypergrad_lr=1e-4)
        for _ in range(5):
            optimizer.zero_grad()
            (x**4).sum().backward()
            optimizer.step()
        moved.append(x.detach())
    assert torch.equal(moved[0], moved[1])


@each_variant
@pytest.mark.parametrize("what", ["gradient", "direction"])
def test_transforms_leave_the_hypergradient_the_derivative(
    kind: type[HypergradientOptimizer], settings: dict[str, Any], what: str
) -> None:
    """The gradient is transformed after h was taken from it; D, which h needs next, is what was moved along."""
    beta = 1e-8
    x = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    optimizer = kind([x], lr=2e-3, hypergrad_lr=beta, **settings)  # type: ignore[call-arg]
    factors = torch.tensor([0.2, 3.0, 1.0], dtype=torch.float64)

    def transform(params: list[Tensor], tensors: list[Tensor]) -> None:
        assert params == [x]
        tensors[0].mul_(factors)

    handle = getattr(optimizer, f"register_{what}_transform")(transform)
    penalty = 0.0 if kind is AdamWHD else settings.get("weight_decay", 0.0)
    moved = torch.zeros_like(x)
    for _ in range(5):
        alpha = torch.tensor(optimizer.param_groups[0]["lr"], dtype=torch.float64, requires_grad=True)
        theta = x.detach() + (alpha / alpha.detach() - 1) * moved
        loss = (theta**4).sum()
        (h,) = torch.autograd.grad(loss + 0.5 * penalty * (theta**2).sum(), alpha)
        x.grad = 4 * x.detach() ** 3
        before = x.detach().clone()
        optimizer.step()
        moved = x.detach() - before
        change = optimizer.param_groups[0]["lr"] - float(alpha.detach())
        assert change == pytest.approx(-beta * float(h), rel=1e-8, abs=1e-18)
    handle.remove()
    before, x.grad = x.detach().clone(), torch.ones_like(x)
    plain = nn.Parameter(before.clone())
    plain.grad = torch.ones_like(plain)
    twin = kind([plain])  # type: ignore[call-arg]
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step()
    twin.step()
    assert torch.equal(x, plain)


def test_transforms_see_all_parameters_of_all_groups_at_once() -> None:
    params = [nn.Parameter(torch.ones(n)) for n in (300_000, 2, 3)]
    optimizer = AdamHD([{"params": params[:2]}, {"params": params[2:]}])
    seen: list[list[torch.Size]] = []
    for register in (optimizer.register_gradient_transform, optimizer.register_direction_transform):
        register(lambda params, tensors: seen.append([t.shape for t in tensors]))
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert seen == [[p.shape for p in params]] * 2
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in params if p.grad is not None)


_DDP = """
import os, sys, torch
from torch import nn
from ppx_proposals.optim import AdamHD
rank, size, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
if size > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
torch.manual_seed(0)
model, x = nn.Linear(4, 1).double(), torch.randn(8, 4, dtype=torch.float64)
wrapped = nn.parallel.DistributedDataParallel(model) if size > 1 else model
optimizer = AdamHD(model.parameters(), lr=0.01, hypergrad_lr=1e-3)
for _ in range(5):
    optimizer.zero_grad()
    ((wrapped(x[rank::size]) - 1) ** 2).mean().backward()
    optimizer.step()
print(repr(optimizer.param_groups[0]["lr"]), flush=True)
if size > 1:
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_with_several_processes_all_learn_the_alpha_of_one(tmp_path: Path) -> None:
    """DistributedDataParallel reduces the gradients before h is taken from them."""

    def learnt(size: int) -> list[float]:
        file = str(tmp_path / f"rendezvous{size}")
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _DDP, str(rank), str(size), file], stdout=subprocess.PIPE, text=True
            )
            for rank in range(size)
        ]
        return [float(process.communicate(timeout=100)[0]) for process in processes]

    (alone,), together = learnt(1), learnt(2)
    assert together[0] == together[1]
    assert together[0] == pytest.approx(alone, rel=1e-12)
    assert alone > 0.01


@pytest.mark.slow
@pytest.mark.skipif("PPX_MNIST" not in os.environ, reason="PPX_MNIST does not name an mnist.npz")
@pytest.mark.parametrize(
    ("kind", "settings", "train", "validation"),
    [
        (SGDHD, {}, 0.4170, 0.3158),
        (SGDHD, {"momentum": 0.9, "nesterov": True}, 0.3609, 0.2792),
        (AdamHD, {}, 0.4207, 0.2953),
    ],
)
def test_mnist_logistic_regression_first_epoch(
    kind: type[HypergradientOptimizer], settings: dict[str, Any], train: float, validation: float
) -> None:
    """Reference: the authors' code on the 50k / 10k split, batch 128, alpha_0 1e-3, L2 1e-4."""
    with np.load(Path(os.environ["PPX_MNIST"])) as arrays:
        images = torch.from_numpy(arrays["x_train"].reshape(-1, 784).astype(np.float32)) / 255.0
        labels = torch.from_numpy(arrays["y_train"].astype(np.int64))
    images = (images - 0.1307) / 0.3081
    torch.manual_seed(1)
    model = nn.Linear(784, 10)
    optimizer = kind(model.parameters(), lr=1e-3, weight_decay=1e-4, **settings)  # type: ignore[call-arg]
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

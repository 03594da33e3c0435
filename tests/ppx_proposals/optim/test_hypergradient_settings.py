"""Hypergradient optimizers: bounds, groups, resuming, growth, and what is refused."""

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ppx_proposals.optim import SGDHD, AdamHD, AdamWHD, HypergradientOptimizer
from tests.ppx_proposals.optim.hypergradient_by_the_book import (
    each_variant,
    some_loss,
    some_params,
)


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
    ours, theirs = some_params(6), some_params(6)
    optimizers = AdamHD(ours, hypergrad_lr=1e-4), AdamHD(theirs, hypergrad_lr=1e-4)
    optimizers[0].param_groups[0]["max_grad_norm"] = 0.5
    for _ in range(5):
        for params, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            some_loss(list(params), target).backward()
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

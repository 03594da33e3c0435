"""Towers as optimizers among others: state, growth, memory, and what values hyperparameters may take."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim.tower import SGD, Adam, Tower
from tests.ppx_proposals.optim.tower_by_the_book import (
    F64,
    SETTINGS,
    loss_of,
    make_params,
    train,
)


def _lstm() -> tuple[nn.LSTM, Tensor]:
    torch.manual_seed(1)
    return nn.LSTM(3, 4, num_layers=2), torch.randn(5, 2, 3)


@pytest.mark.parametrize("name", ["momentum", "adam lr", "adam", "adamw all", "three adams", "four"])
def test_resumes_to_the_last_bit(name: str) -> None:
    params = make_params(torch.float32)
    tower = Tower(params, SETTINGS[name])
    train(tower, params, range(4), missing=(1, 3))
    file = io.BytesIO()
    torch.save(tower.state_dict(), file)
    file.seek(0)
    others = make_params(torch.float32)
    resumed = Tower(others, SETTINGS[name])
    train(resumed, others, range(2))
    with torch.no_grad():
        for q, p in zip(others, params, strict=True):
            q.copy_(p)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    copied, twins = copy.deepcopy((tower, params))
    for each, those in ((tower, params), (resumed, others), (copied, twins)):
        train(each, those, range(4, 9))
    for p, q, r in zip(params, others, twins, strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)
    assert tower.hyperparameters() == resumed.hyperparameters() == copied.hyperparameters()


def test_resuming_without_the_last_update_differs() -> None:
    """What the comparison above would say if the state lacked something."""
    params = make_params()
    tower = Tower(params, SETTINGS["adam"])
    train(tower, params, range(4))
    state = copy.deepcopy(tower.state_dict())
    for entry in state["state"].values():
        del entry["last"]
    others = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = Tower(others, SETTINGS["adam"])
    resumed.load_state_dict(state)
    train(tower, params, range(4, 9))
    train(resumed, others, range(4, 9))
    assert tower.hyperparameters() != resumed.hyperparameters()


def test_refuses_the_state_of_another_tower() -> None:
    tower = Tower(make_params(), SETTINGS["adam"])
    before = copy.deepcopy(tower.state_dict())
    for other in ("adam lr", "three adams", "sgd"):
        with pytest.raises(ValueError, match="build the same levels"):
            tower.load_state_dict(Tower(make_params(), SETTINGS[other]).state_dict())
    with pytest.raises(ValueError, match="build the same levels"):
        tower.load_state_dict(torch.optim.Adam(make_params()).state_dict())
    assert tower.state_dict() == before


def test_lstm_keeps_its_flat_weights() -> None:
    net, x = _lstm()
    before = [(p.data_ptr(), p.detach().clone()) for p in net.parameters()]
    tower = Tower(net.parameters(), SETTINGS["three adams"])
    first = last = 0.0
    for step in range(30):
        tower.zero_grad()
        loss = (net(x)[0] - 0.3).square().mean()
        loss.backward()
        tower.step()
        first, last = (float(loss.detach()) if step == 0 else first), float(loss.detach())
    assert last < 0.5 * first
    for p, (address, start) in zip(net.parameters(), before, strict=True):
        assert p.is_leaf
        assert p.data_ptr() == address
        assert not torch.equal(p, start)


def test_grows_without_disturbing_what_is_there() -> None:
    """New parameters join with fresh averages; at their first step they say nothing about the hyperparameters."""
    levels = SETTINGS["adam"]
    params, alone = make_params(), make_params()
    tower, reference = Tower(params[:2], levels), Tower(alone[:2], levels)
    train(tower, params, range(3))
    train(reference, alone, range(3))
    tower.extend_group([params[2]])
    with pytest.raises(ValueError, match="only once"):
        tower.extend_group([params[2]])
    tower.zero_grad()
    loss_of(list(params), 3).backward()
    for p, q in zip(params, alone, strict=True):
        q.grad = None if p.grad is None else p.grad.clone()
    tower.step()
    reference.step()
    assert tower.hyperparameters() == reference.hyperparameters()
    assert tower.state[params[2]]["step"] == 1
    train(tower, params, range(4, 6))
    tower.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=F64))], "lr": 0.5})
    assert tower.hyperparameters(1)[0]["lr"] == 0.5
    train(tower, params, range(6, 8))


def _live() -> int:
    gc.collect()
    return sum(issubclass(type(x), Tensor) for x in gc.get_objects())


def _nodes(tower: Tower) -> int:
    """Nodes of all graphs that the tower keeps."""
    todo: list[Any] = []
    for update in tower._updates.values():
        todo += [edge.node for edge in update.edges.values()] + [
            r.grad_fn for r in update.chain.raws if r.grad_fn
        ]
    seen = set()
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += [n for n, _ in node.next_functions if n is not None]
    return len(seen)


@pytest.mark.parametrize("name", ["sgd", "adam", "four"])
def test_what_is_kept_does_not_grow(name: str) -> None:
    params = make_params()
    tower = Tower(params, SETTINGS[name])
    train(tower, params, range(5))
    tensors, nodes = _live(), _nodes(tower)
    train(tower, params, range(5, 25))
    assert _live() == tensors
    assert _nodes(tower) == nodes > 0


def test_gradients_are_left_alone_and_may_be_reused() -> None:
    """`zero_grad(set_to_none=False)` writes into the same tensors; the graph must not see that."""
    for levels in SETTINGS.values():
        params, others = make_params(), make_params()
        tower, other = Tower(params, levels), Tower(others, levels)
        for step in range(4):
            tower.zero_grad(set_to_none=False)
            other.zero_grad()
            loss_of(list(params), step).backward()
            loss_of(list(others), step).backward()
            before = [p.grad.clone() for p in params if p.grad is not None]
            tower.step()
            other.step()
            assert all(
                torch.equal(p.grad, b) for p, b in zip(params, before, strict=True) if p.grad is not None
            )
        assert tower.hyperparameters() == other.hyperparameters()


def test_closure_and_hooks() -> None:
    params = make_params()
    tower = Tower(params, SETTINGS["sgd"])
    calls: list[str] = []
    tower.register_step_pre_hook(lambda *_: calls.append("before"))
    tower.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> float:
        tower.zero_grad()
        loss = loss_of(list(params), 0)
        loss.backward()
        calls.append("closure")
        return float(loss.detach())

    expected = float(loss_of(list(params), 0).detach())
    assert tower.step(closure) == expected
    assert calls == ["before", "closure", "after"]


# Values.


@pytest.mark.parametrize("name", ["sgd", "adam", "three adams"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_hyperparameter_becomes_nan(name: str, bad: float) -> None:
    params = make_params()
    tower = Tower(params, SETTINGS[name])
    train(tower, params, range(3))
    before = tower.hyperparameters()
    tower.zero_grad()
    loss_of(list(params), 3).backward()
    assert params[0].grad is not None
    params[0].grad.fill_(bad)
    kept = params[0].detach().clone()
    tower.step()
    assert tower.hyperparameters() == before
    # The user's repair: the parameter and its averages as before the accident.
    with torch.no_grad():
        params[0].copy_(kept)
    tower.state[params[0]].clear()
    train(tower, params, range(4, 7))
    after = tower.hyperparameters()
    assert after != before
    assert all(x == x and abs(x) < float("inf") for level in after for x in level.values())


def test_hyperparameters_stay_in_their_domains_and_come_back() -> None:
    p = nn.Parameter(torch.zeros(1))
    tower = Tower([p], [SGD(0.1, momentum=0.5, adapt=("lr", "momentum")), SGD(1.0)])
    seen = []
    for g in (1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        p.grad = torch.tensor([g])
        tower.step()
        seen.append(tower.hyperparameters()[0])
    assert {0.0, 1.0} & {h["momentum"] for h in seen}
    assert min(h["lr"] for h in seen) == 0.0
    assert seen[-1]["lr"] > 0.0
    assert all(h["lr"] >= 0.0 and 0.0 <= h["momentum"] <= 1.0 for h in seen)


def test_decay_rates_stay_where_adam_is_finite() -> None:
    """Steps of 100 in the raw coordinate reach the border at once; parameters stay finite."""
    p = nn.Parameter(torch.ones(3))
    tower = Tower([p], [Adam(0.01, adapt=("betas",)), Adam(100.0)])
    g = torch.Generator().manual_seed(0)
    borders = set()
    for _ in range(40):
        p.grad = torch.randn(3, generator=g)
        tower.step()
        borders.update(tower.param_groups[0]["betas"])
    assert bool(p.isfinite().all())
    assert min(borders) == pytest.approx(1e-6, rel=0.05)
    assert min(borders) >= 1e-6
    assert 1 - max(borders) == pytest.approx(1e-6, rel=0.05)
    assert max(borders) <= 1 - 1e-6


def test_groups_show_floats_and_what_the_user_sets_counts() -> None:
    params = make_params()
    tower = Tower(params, SETTINGS["adam"])
    train(tower, params, range(3))
    assert type(tower.param_groups[0]["lr"]) is float
    assert tower.hyperparameters()[0]["beta1"] == tower.param_groups[0]["betas"][0] != 0.8
    tower.set_hyperparameters(lr=0.5, beta1=0.6, beta2=0.7)
    train(tower, params, range(3, 4))
    hypers = tower.hyperparameters()[0]
    assert hypers["lr"] == pytest.approx(0.5, abs=0.05)
    assert (hypers["beta1"], hypers["beta2"]) == (pytest.approx(0.6, abs=0.05), pytest.approx(0.7, abs=0.05))


def test_what_the_user_sets_counts_though_the_hypergradient_is_nan() -> None:
    a, b = make_params()[:2]
    tower = Tower([a, b], [SGD(0.01, adapt=("lr",)), SGD(1e-4, adapt=("lr",)), SGD(1e-6)])
    train(tower, [a, b], range(3))
    tower.set_hyperparameters(lr=0.5)
    before = b.detach().clone()
    a.grad, b.grad = torch.full_like(a, float("nan")), torch.ones_like(b)
    tower.step()
    assert tower.param_groups[0]["lr"] == 0.5
    assert torch.equal(b, before - 0.5)


def test_a_gradient_that_has_always_been_zero_is_no_harm() -> None:
    """The root in Adam's denominator has no derivative at 0."""
    for name in ("adam", "adam decay", "rmsprop", "adagrad", "three adams"):
        p = nn.Parameter(torch.zeros(2, dtype=F64))
        tower = Tower([p], SETTINGS[name])
        for step in range(4):
            p.grad = torch.tensor([0.0, 1.0 + step], dtype=F64)
            tower.step()
        assert float(p.detach()[0]) == 0.0
        assert tower.hyperparameters()[0] != Tower([p], SETTINGS[name]).hyperparameters()[0]


def test_low_precision_and_mixed_types() -> None:
    params = [nn.Parameter(torch.ones(3, dtype=d)) for d in (torch.bfloat16, torch.float32, F64)]
    tower = Tower(params, SETTINGS["adam"])
    for _ in range(3):
        for p in params:
            p.grad = p.detach().clone()
        tower.step()
    assert [p.dtype for p in params] == [torch.bfloat16, torch.float32, F64]
    assert all(bool((p < 1).all()) for p in params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-0.1), "lr must be"),
        (lambda: SGD(float("nan")), "lr must be"),
        (lambda: SGD(0.1, momentum=1.5), "momentum must be"),
        (lambda: SGD(0.1, nesterov=True), "nesterov needs"),
        (lambda: SGD(0.1, adapt=("betas",)), "cannot adapt 'beta1'"),
        (lambda: Adam(0.1, betas=(0.9, 1.0)), "beta2 must be"),
        (lambda: Adam(0.1, betas=(0.0, 0.9), adapt=("betas",)), "begin inside"),
        (lambda: Adam(0.1, eps=-1.0), "eps must be"),
        (lambda: Adam(0.1, weight_decay=-1.0), "weight_decay must be"),
        (lambda: Tower(make_params(), []), "at least one level"),
        (lambda: Tower(make_params(), [SGD(0.1), SGD(0.1)]), "adapts nothing"),
        (lambda: Tower(make_params(), [SGD(0.1, adapt=("lr",))]), "no level is above"),
        (lambda: Tower([{"params": make_params(), "lr": -1.0}], SETTINGS["sgd"]), "lr must be"),
    ],
)
def test_refuses_what_makes_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_sparse_gradients_before_anything_moves() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    dense = nn.Parameter(torch.ones(2))
    tower = Tower([dense, *table.parameters()], SETTINGS["sgd"])
    (table(torch.tensor([1])) * dense).sum().backward()
    with pytest.raises(ValueError, match="dense"):
        tower.step()
    assert torch.equal(dense, torch.ones(2))


@pytest.mark.slow
def test_a_tower_repairs_a_learning_rate_a_thousand_times_too_small() -> None:
    losses = {}
    for levels in ([Adam(1e-6)], [Adam(1e-6, adapt=("lr", "betas")), Adam(1e-4)]):
        net, x = _lstm()
        tower = Tower(net.parameters(), levels)
        for _ in range(500):
            tower.zero_grad()
            loss = (net(x)[0] - 0.3).square().mean()
            loss.backward()
            tower.step()
        losses[len(levels)] = float(loss.detach())
    assert losses[2] < 0.1 * losses[1]


def test_what_is_no_level_is_refused() -> None:
    x = nn.Parameter(torch.ones(1))
    with pytest.raises(TypeError, match=r"level 0 is a torch\.optim\.adam\.Adam; take SGD"):
        Tower([x], [torch.optim.Adam([x])])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"write adapt=\('lr',\)"):
        Adam(lr=0.1, adapt="lr")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="computed from others"):
        Tower([x], [SGD(lr=0.1)]).extend_group([x * 2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("adapt", [("lr",), ("lr", "betas")])
def test_half_precision_learns_the_hyperparameters_of_single_precision(
    dtype: torch.dtype, adapt: tuple[str, ...]
) -> None:
    """Neither 1 - beta nor a sum over a parameter, here of more than half precision can hold, is rounded to it."""
    learnt = []
    for kind in (dtype, torch.float32):
        x = nn.Parameter(torch.ones(400, dtype=kind))
        tower = Tower([x], [Adam(lr=0.01, adapt=adapt), SGD(lr=1e-8)])
        for step in range(8):
            if step == 5:
                again = Tower([x], tower.levels)
                again.load_state_dict(copy.deepcopy(tower.state_dict()))
                tower = again
            x.grad = torch.full_like(x, 200.0 if step % 3 else 100.0)
            tower.step()
        assert x.dtype == tower.state[x]["exp_avg"].dtype == kind
        learnt.append(list(tower.hyperparameters()[0].values()))
    moved = [value - start for value, start in zip(learnt[1], (0.01, 0.9, 0.999, 0.0), strict=True)]
    for half, single, change in zip(*learnt, moved, strict=True):
        assert half == pytest.approx(single, abs=0.05 * abs(change) + 1e-6)
    assert abs(moved[0]) > 1e-3


@pytest.mark.parametrize("name", ["StepLR", "ReduceLROnPlateau", "by hand"])
def test_whatever_writes_an_adapted_hyperparameter_is_refused(name: str) -> None:
    a, b = make_params()[:2]
    tower = Tower([a, b], [Adam(0.01, adapt=("lr", "betas")), SGD(1e-4)])
    if name == "StepLR":
        torch.optim.lr_scheduler.StepLR(tower, 1)
    else:
        train(tower, [a, b], range(3))
    rate = tower.param_groups[0]["lr"]
    if name == "ReduceLROnPlateau":
        torch.optim.lr_scheduler.ReduceLROnPlateau(tower, patience=0).step(float("inf"))
    if name == "by hand":
        tower.param_groups[0]["betas"] = (0.5, 0.5)
    before = b.detach().clone()
    with pytest.raises(ValueError, match="scheduler"):
        train(tower, [a, b], range(3, 4))
    assert torch.equal(b, before)
    if name != "StepLR":
        tower.set_hyperparameters(lr=rate, beta1=0.9, beta2=0.99)
        train(tower, [a, b], range(3, 4))
    with pytest.raises(ValueError, match="Adam has no 'momentum'; it has lr, "):
        tower.set_hyperparameters(momentum=0.5)


def test_a_rate_that_a_tower_does_not_adapt_may_be_scheduled() -> None:
    a, b = make_params()[:2]
    tower = Tower([a, b], [SGD(0.01, 0.5, adapt=("momentum",)), SGD(1e-4)])
    schedule = torch.optim.lr_scheduler.StepLR(tower, 1, gamma=0.5)
    train(tower, [a, b], range(2))
    schedule.step()
    train(tower, [a, b], range(2, 4))
    assert tower.param_groups[0]["lr"] == 0.005

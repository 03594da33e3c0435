"""Schedules: the learning rates are those of their formulas, and a learned one is left alone."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from ppx_proposals.optim.adam_hd import AdamHD
from ppx_proposals.optim.lookahead import Lookahead
from ppx_proposals.optim.schedules import BoundWarmUp, poly1, poly2, warm_up
from ppx_proposals.optim.sgd_hd import SGDHD
from ppx_proposals.optim.tower import SGD, Adam, Tower


def _sgd(*lrs: float) -> Optimizer:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in lrs], lr=1.0)


def _rates(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[list[float]]:
    rates = []
    for _ in range(steps):
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


def _through_a_file(state: dict[str, object]) -> dict[str, object]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, object] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("steps", [1, 4])
def test_warm_up_is_linear(steps: int) -> None:
    optimizer = _sgd(0.4, 2.0)
    rates = _rates(optimizer, warm_up(optimizer, steps), 7)
    for t, (a, b) in enumerate(rates):
        assert a == pytest.approx(0.4 * min(1.0, (t + 1) / steps), rel=1e-12)
        assert b == pytest.approx(2.0 * min(1.0, (t + 1) / steps), rel=1e-12)


@pytest.mark.parametrize(("make", "power"), [(poly1, 1), (poly2, 2)])
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_polynomial_decay_of_every_group(make: Callable[..., LRScheduler], power: int, end: float) -> None:
    optimizer = _sgd(0.4, 2.0)
    rates = _rates(optimizer, make(optimizer, 5, end_lr=end), 8)
    for t, row in enumerate(rates):
        left = max(0.0, 1.0 - t / 5)
        assert row == pytest.approx(
            [end + (lr - end) * left**power for lr in (0.4, 2.0)], rel=1e-12, abs=1e-15
        )


def test_warm_up_and_decay_in_sequence() -> None:
    optimizer = _sgd(0.4)
    schedule = SequentialLR(
        optimizer, [warm_up(optimizer, 4), poly2(optimizer, 6, end_lr=0.1)], milestones=[4]
    )
    rates = [row[0] for row in _rates(optimizer, schedule, 12)]
    expected = [0.1, 0.2, 0.3, 0.4] + [0.1 + 0.3 * max(0.0, 1.0 - t / 6) ** 2 for t in range(8)]
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("make", [warm_up, poly1, poly2])
def test_resume_is_identical(make: Callable[..., LRScheduler]) -> None:
    first, second = _sgd(0.4, 2.0), _sgd(0.1, 0.1)
    schedule = make(first, 6)
    _rates(first, schedule, 3)
    resumed = make(second, 9)
    second.load_state_dict(_through_a_file(first.state_dict()))
    resumed.load_state_dict(_through_a_file(schedule.state_dict()))
    assert _rates(first, schedule, 8) == _rates(second, resumed, 8)


@pytest.mark.parametrize("make", [warm_up, poly1, poly2])
def test_a_learned_rate_is_not_scheduled(make: Callable[..., LRScheduler]) -> None:
    learned, fixed = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups = [{"params": [fixed], "hypergrad_lr": 0.0}, {"params": [learned]}]
    optimizer = AdamHD(groups, lr=0.5, hypergrad_lr=1e-4)
    for wrapped in (optimizer, Lookahead(optimizer)):
        with pytest.raises(ValueError, match=r"group 1 of AdamHD learns its lr.*hypergrad_lr=0"):
            make(wrapped, 3)
    assert "initial_lr" not in optimizer.param_groups[0]
    assert optimizer.param_groups[1]["lr"] == 0.5
    optimizer.param_groups[1]["hypergrad_lr"] = 0.0
    assert len(_rates(optimizer, make(optimizer, 3), 2)) == 2


def test_a_tower_that_adapts_its_rate_is_not_scheduled() -> None:
    for adapt, refused in ((("lr",), True), (("weight_decay",), False)):
        tower = Tower(
            [nn.Parameter(torch.ones(1))], [Adam(lr=0.1, weight_decay=0.01, adapt=adapt), SGD(lr=1e-5)]
        )
        if refused:
            with pytest.raises(ValueError, match='Tower adapts "lr"'):
                poly1(tower, 3)
        else:
            poly1(tower, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: warm_up(_sgd(1.0), 0), "steps must"),
        (lambda: poly1(_sgd(1.0), -1), "steps must"),
        (lambda: poly2(_sgd(1.0), 2, end_lr=-0.1), "end_lr must"),
        (lambda: poly1(_sgd(1.0, 0.0), 2), "lr of group 1 must"),
        (lambda: BoundWarmUp(_sgd(1.0), 2), "SGD has no lr_bounds"),
        (lambda: BoundWarmUp(SGDHD([nn.Parameter(torch.ones(1))], lr=0.1), 2), "finite upper bound"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _bounded(lr: float = 0.01) -> tuple[nn.Parameter, SGDHD]:
    x = nn.Parameter(torch.ones(2, dtype=torch.float64))
    return x, SGDHD([x], lr=lr, hypergrad_lr=1.0, lr_bounds=(0.0, 0.16))


def _push(x: nn.Parameter, optimizer: Optimizer, warm: BoundWarmUp | None, steps: int) -> list[float]:
    """Learning rates under a gradient that always asks for a larger one."""
    rates = []
    for _ in range(steps):
        x.grad = torch.ones_like(x)
        optimizer.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
        if warm is not None:
            warm.step()
    return rates


def test_bound_grows_and_alpha_within_it_is_learned() -> None:
    x, optimizer = _bounded()
    rates = _push(x, optimizer, BoundWarmUp(optimizer, 4), 7)
    # h_1 = 0, then every step wants far more than the bound 0.01 * 16^(t/4) allows.
    assert rates == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.16, 0.16], rel=1e-12)
    assert optimizer.param_groups[0]["lr_bounds"] == (0.0, 0.16)
    unbound = _push(*_bounded(), None, 3)
    assert unbound[1] == 0.16  # without the warm-up alpha runs to the bound at once


def test_bound_does_not_touch_an_alpha_below_it() -> None:
    pairs = _bounded(), _bounded()
    warm = BoundWarmUp(pairs[1][1], 50)
    for t in range(20):
        for x, optimizer in pairs:
            optimizer.param_groups[0]["hypergrad_lr"] = 1e-4
            x.grad = torch.full_like(x, (-1.0) ** t)  # turns around at every step, which asks for less
            optimizer.step()
        warm.step()
    assert torch.equal(pairs[0][0], pairs[1][0])
    assert pairs[0][1].param_groups[0]["lr"] == pairs[1][1].param_groups[0]["lr"] < 0.01


def test_bound_warm_up_resumes_identically() -> None:
    x, optimizer = _bounded()
    warm = BoundWarmUp(optimizer, 6)
    _push(x, optimizer, warm, 3)
    y, other = _bounded(0.005)
    y.data.copy_(x.data)
    resumed = BoundWarmUp(other, 2)
    other.load_state_dict(_through_a_file(optimizer.state_dict()))
    resumed.load_state_dict(_through_a_file(warm.state_dict()))
    assert _push(x, optimizer, warm, 6) == _push(y, other, resumed, 6)
    assert torch.equal(x, y)

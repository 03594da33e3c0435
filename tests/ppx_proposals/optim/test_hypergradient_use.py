"""Hypergradient optimizers in the hands of others: states that are loaded, emptied or replaced, groups that change."""

from __future__ import annotations

import copy
import io
import math
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim import SGDHD, AdamHD, AdamWHD, HypergradientOptimizer


def _params(*shapes: tuple[int, ...], seed: int = 0) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=g)) for shape in shapes]


def _clones(params: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach().clone()) for p in params]


def _feed(
    params: list[nn.Parameter], *others: list[nn.Parameter], step: int, missing: tuple[int, ...] = ()
) -> None:
    """Gives parameters, and others like them, the gradients of a step."""
    g = torch.Generator().manual_seed(step)
    for i, alike in enumerate(zip(params, *others, strict=True)):
        gradient = torch.randn(alike[0].shape, generator=g)
        for p in alike:
            p.grad = None if i in missing else gradient.clone()


@pytest.mark.parametrize("seed", range(4))
def test_resume_is_identical_whenever_a_parameter_had_its_first_gradient(seed: int) -> None:
    """Sums over parameters are rounded in the same order before and after loading."""
    params = _params((50, 30), (40,), (), (0,), (501,), seed=seed)
    optimizer = AdamHD(params[:4], hypergrad_lr=1e-4, max_grad_norm=10.0)
    _feed(params, step=0, missing=(0, 1))
    optimizer.step()
    optimizer.extend_group(params[4:])
    _feed(params, step=1, missing=(1,))
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    others = _clones(params)
    resumed = AdamHD(others)
    resumed.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for step in range(2, 8):
        _feed(params, others, step=step)
        optimizer.step()
        resumed.step()
        assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
    assert optimizer.param_groups[0]["lr"] != 1e-3


def test_a_shared_alpha_stays_shared_when_one_group_does_not_move() -> None:
    params = _params((3,), (4,))
    optimizer = SGDHD(
        [{"params": [p]} for p in params],
        lr=0.1,
        hypergrad_lr=0.01,
        scope="global",
        max_grad_norm=5.0,
        settle=(0.01, 3.0),
    )
    learnt = []
    for bad in (None, None, 0, 1, None):
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, math.nan if i == bad else 1.0)
        optimizer.step()
        ours, theirs = ((g["lr"], g["step_size"], g["num_steps"]) for g in optimizer.param_groups)
        assert ours == theirs
        learnt.append(ours[0])
    # h = -7 if both groups move, -4 or -3 if one does; what was learnt while the other stood still is not forgotten.
    assert learnt == pytest.approx([0.1, 0.17, 0.21, 0.24, 0.31])


def test_a_group_that_joins_a_shared_alpha_takes_on_what_is_shared() -> None:
    params = _params((3,), (4,))
    optimizer = SGDHD(params[:1], lr=0.1, hypergrad_lr=0.01, scope="global", settle=(0.01, 3.0))
    optimizer.param_groups[0]["lr_bounds"] = (0.0, 0.5)
    for _ in range(3):
        params[0].grad = torch.ones(3)
        optimizer.step()
    optimizer.add_param_group({"params": params[1:]})
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    first, second = ({k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups)
    assert first == second
    assert first["num_steps"] == 4


def test_a_shared_alpha_is_kept_within_the_bounds_of_the_first_group() -> None:
    params = _params((3,), (4,))
    optimizer = SGDHD([{"params": [p]} for p in params], lr=0.1, hypergrad_lr=1.0, scope="global")
    optimizer.param_groups[0]["lr_bounds"] = (0.0, 0.2)
    for _ in range(3):
        params[1].grad = torch.ones(4)
        optimizer.step()
    for bad in (math.nan, 1.0):  # with a largest norm, the first group stands still
        optimizer.param_groups[0]["max_grad_norm"] = 1.0
        params[0].grad = torch.full((3,), bad)
        optimizer.step()
        assert [g["lr"] for g in optimizer.param_groups] == [0.2, 0.2]


@pytest.mark.parametrize("kind", [SGDHD, AdamHD, AdamWHD])
def test_a_pause_in_learning_leaves_no_direction_to_learn_from(kind: type[HypergradientOptimizer]) -> None:
    (p,) = _params((3,))
    optimizer = kind([p], lr=0.1, hypergrad_lr=0.01)  # type: ignore[call-arg]
    group = optimizer.param_groups[0]
    for beta, sign in ((0.01, 1.0), (0.0, -1.0), (0.01, -1.0)):
        group["hypergrad_lr"] = beta
        p.grad = torch.full((3,), sign)
        optimizer.step()
    # The direction of the first step is not that of the last, whose direction was not kept.
    assert group["lr"] == 0.1
    optimizer.step()
    assert group["lr"] != 0.1


@pytest.mark.parametrize("how", ["another", "cleared", "of one parameter", "one tensor"])
def test_state_that_is_emptied_is_begun_anew(how: str) -> None:
    params = _params((3,), (4,))
    optimizer = AdamHD(params, hypergrad_lr=1e-4)
    _feed(params, step=0)
    optimizer.step()
    if how == "another":
        optimizer.state = defaultdict(dict)
    elif how == "cleared":
        optimizer.state.clear()
    elif how == "of one parameter":
        optimizer.state[params[0]] = {}
    else:
        optimizer.state[params[0]]["exp_avg"] = torch.zeros(3)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    # m_1 = (1 - beta1) g_1
    torch.testing.assert_close(optimizer.state[params[0]]["exp_avg"], torch.full((3,), 0.1))
    assert optimizer.state[params[0]]["step"] == (2 if how == "one tensor" else 1)


def test_a_parameter_that_is_taken_out_of_its_group_does_not_move() -> None:
    params = _params((3,), (4,))
    optimizer = AdamHD(params, hypergrad_lr=1e-4)
    _feed(params, step=0)
    optimizer.step()
    optimizer.param_groups[0]["params"].pop()
    before = params[1].detach().clone()
    optimizer.step()
    assert torch.equal(params[1], before)


def test_a_parameter_can_be_replaced_by_a_larger_one_with_its_state() -> None:
    params = _params((3,), (4,))
    optimizer = AdamHD(params, hypergrad_lr=1e-4)
    _feed(params, step=0)
    optimizer.step()
    state = optimizer.state.pop(params[0])
    larger = nn.Parameter(torch.cat([params[0].detach(), torch.ones(2)]))
    for key in ("exp_avg", "exp_avg_sq", "direction"):
        state[key] = torch.cat([state[key], torch.zeros(2)])
    optimizer.state[larger] = state
    optimizer.param_groups[0]["params"][0] = larger
    larger.grad = torch.ones(5)
    before = state["exp_avg"].clone()
    optimizer.step()
    torch.testing.assert_close(optimizer.state[larger]["exp_avg"], 0.9 * before + 0.1)
    assert set(optimizer.state) == {larger, params[1]}
    optimizer.state_dict()


@pytest.mark.parametrize(
    ("kind", "reference"),
    [(SGDHD, torch.optim.SGD), (AdamHD, torch.optim.Adam), (AdamWHD, torch.optim.AdamW)],
)
def test_goes_on_from_the_state_of_the_optimizer_of_torch(
    kind: type[HypergradientOptimizer], reference: type[torch.optim.Optimizer]
) -> None:
    params = _params((3, 2), (4,))
    theirs = reference(params, lr=0.01, **({"momentum": 0.9} if kind is SGDHD else {}))  # type: ignore[call-arg]
    for step in range(3):
        _feed(params, step=step, missing=(1,) if step == 0 else ())
        theirs.step()
    others = _clones(params)
    ours = kind(others, hypergrad_lr=0.0)  # type: ignore[call-arg]
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for step in range(3, 6):
        _feed(params, others, step=step)
        theirs.step()
        ours.step()
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
    ours.param_groups[0]["hypergrad_lr"] = 1e-4
    for _ in range(2):
        ours.step()
    assert ours.param_groups[0]["lr"] != 0.01


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_steps_are_counted_precisely_whatever_the_default_precision(default: torch.dtype) -> None:
    (p,) = params = _params((3,))
    optimizer = AdamHD(params, betas=(0.9, 0.9999), hypergrad_lr=1e-12)
    p.grad = torch.ones(3)
    optimizer.step()
    # The kernel is given t - 1 = 261, which half precision of eight digits would round.
    optimizer.state[p]["step"] = 261
    m, v = (optimizer.state[p][key].clone() for key in ("exp_avg", "exp_avg_sq"))
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        optimizer.step()
    finally:
        torch.set_default_dtype(before)
    m, v = 0.9 * m + 0.1, 0.9999 * v + 0.0001
    expected = -(m / (1 - 0.9**262)) / ((v / (1 - 0.9999**262)).sqrt() + 1e-8)
    torch.testing.assert_close(optimizer.state[p]["direction"], expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("kind", [SGDHD, AdamHD, AdamWHD])
def test_settings_that_do_not_exist_are_refused(kind: type[HypergradientOptimizer]) -> None:
    with pytest.raises(TypeError, match=r"no setting 'bounds'; besides .* lr_bounds"):
        kind(_params((3,)), bounds=(0.0, 1.0))  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["amsgrad", "maximize", "dampening", "foreach", "fused", "capturable"])
def test_settings_of_torch_that_are_not_offered_are_refused_by_name(name: str) -> None:
    for kind in (SGDHD, AdamHD, AdamWHD):
        with pytest.raises(TypeError, match=f"have no '{name}', which torch.optim has; leave it out"):
            kind(_params((3,)), **{name: True})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"have no '{name}'"):
            kind([{"params": _params((3,)), name: True}])


def test_a_group_is_extended_by_leaves_only() -> None:
    (p,) = params = _params((3,))
    optimizer = AdamHD(params)
    made: Tensor = p * 2
    with pytest.raises(ValueError, match=r"shape \(3,\) is computed from others; add the parameters"):
        optimizer.extend_group([nn.Parameter(torch.ones(1)), made])
    assert len(optimizer.param_groups[0]["params"]) == 1


def test_a_scheduler_of_a_learned_rate_is_refused_before_anything_moves() -> None:
    x = nn.Parameter(torch.ones(2))
    x.grad = torch.ones(2)
    learning, constant = AdamHD([x]), AdamHD([nn.Parameter(torch.ones(2))], hypergrad_lr=0.0)
    torch.optim.lr_scheduler.StepLR(learning, 10)
    with pytest.raises(ValueError, match="scheduler is at work on group 0, which learns its own"):
        learning.step()
    assert torch.equal(x, torch.ones(2))
    schedule = torch.optim.lr_scheduler.StepLR(constant, 1, gamma=0.5)
    constant.step()
    schedule.step()
    assert constant.param_groups[0]["lr"] == 5e-4
    # What a schedule left in a state is no schedule: torch.optim.Adam's run goes on with a rate that is learned.
    learning.load_state_dict(
        constant.state_dict() | {"param_groups": [learning.state_dict()["param_groups"][0]]}
    )
    learning.step()


def _plateau(optimizer: torch.optim.Optimizer) -> None:
    torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.1).step(math.inf)


def _by_hand(optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[1]["lr"] *= 0.5  # as schedulers of other packages do


@pytest.mark.parametrize("write", [_plateau, _by_hand])
@pytest.mark.parametrize("kind", [SGDHD, AdamHD, AdamWHD])
def test_whatever_writes_a_learned_rate_is_refused(
    kind: type[HypergradientOptimizer], write: Callable[[torch.optim.Optimizer], None]
) -> None:
    params = _params((3,), (2,))
    optimizer = kind([{"params": params[:1], "hypergrad_lr": 0.0}, {"params": params[1:]}])
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.step()
    before = [p.detach().clone() for p in params]
    rate = optimizer.param_groups[1]["lr"]
    write(optimizer)
    with pytest.raises(ValueError, match=r"lr of group 1 is learned, but .* became .* set it by set_lr"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    optimizer.set_lr(rate)
    optimizer.step()
    optimizer.param_groups[1]["hypergrad_lr"] = 0.0  # now it is a setting
    write(optimizer)
    optimizer.step()


def test_a_learned_rate_is_set_by_name() -> None:
    params = _params((3,), (2,))
    optimizer = AdamHD([{"params": params[:1]}, {"params": params[1:]}], lr_bounds=(0.0, 0.5))
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.set_lr(0.25, group=1)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 0.25]
    optimizer.step()
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.25, abs=1e-3)
    with pytest.raises(ValueError, match=r"within lr_bounds \(0.0, 0.5\) of group 0, not 1"):
        optimizer.set_lr(1.0)
    shared = AdamHD([{"params": _params((3,))}, {"params": _params((2,))}], scope="global")
    with pytest.raises(ValueError, match="all groups share one alpha"):
        shared.set_lr(0.1, group=0)
    shared.set_lr(0.1)
    assert {group["lr"] for group in shared.param_groups} == {0.1}

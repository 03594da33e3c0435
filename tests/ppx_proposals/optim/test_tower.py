"""Towers: the hypergradient is autograd's derivative at any height, and other implementations agree."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim.adam_hd import AdamHD
from ppx_proposals.optim.sgd_hd import SGDHD
from ppx_proposals.optim.tower import SGD, AdaGrad, Adam, AdamW, Level, RMSprop, Tower
from tests.ppx_proposals.optim.tower_by_the_book import (
    F64,
    SETTINGS,
    ByTheBook,
    loss_of,
    make_params,
    numbers_of,
    train,
)

EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.mark.parametrize("missing", [(), (2, 5)])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_hypergradient_is_the_derivative_of_the_loss(name: str, missing: tuple[int, ...]) -> None:
    """Step by step, as if the graph from the hyperparameters to the loss had been kept and differentiated."""
    levels, params = SETTINGS[name], make_params()
    tower, book = Tower(params, levels), ByTheBook(params, levels)
    start = numbers_of(tower)
    for step in range(8):
        train(tower, params, range(step, step + 1), missing)
        book.step(lambda theta, step=step: loss_of(theta, step), 1 if step in missing else None)
        torch.testing.assert_close(numbers_of(tower), book.numbers(), **EXACT)
        torch.testing.assert_close([p.detach() for p in params], [t.detach() for t in book.theta], **EXACT)
    # What has hardly moved would be right whatever its derivative: compare the moves too.
    pairs = zip(numbers_of(tower), book.numbers(), start, strict=True)
    ours, theirs = zip(*((a - s, b - s) for a, b, s in pairs), strict=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=3e-15)
    assert name == "four" or min(abs(x) for x in ours) > 1e-10
    assert all(p.is_leaf for p in params)


def test_another_level_fails_the_same_comparison() -> None:
    params = make_params()
    tower = Tower(params, [SGD(0.01, momentum=0.5, adapt=("lr", "momentum")), SGD(1e-4)])
    nesterov = SGD(0.01, momentum=0.5, nesterov=True, adapt=("lr", "momentum"))
    book = ByTheBook(params, [nesterov, SGD(1e-4)])
    for step in range(4):
        train(tower, params, range(step, step + 1))
        book.step(lambda theta, step=step: loss_of(theta, step))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(numbers_of(tower), book.numbers(), **EXACT)


def test_each_group_has_a_tower_of_its_own() -> None:
    """A group that begins with other settings moves as it would alone."""
    levels = [Adam(0.02, adapt=("lr", "betas")), SGD(1e-4)]
    params, a, b = make_params(), make_params(), make_params()
    together = Tower(
        [{"params": params[:1]}, {"params": params[1:], "lr": 0.05, "betas": (0.7, 0.9)}], levels
    )
    first = Tower(a[:1], levels)
    second = Tower(b[1:], [Adam(0.05, betas=(0.7, 0.9), adapt=("lr", "betas")), SGD(1e-4)])
    for step in range(6):
        together.zero_grad()
        loss_of(list(params), step).backward()
        for p, q, r in zip(params, a, b, strict=True):
            q.grad, r.grad = p.grad, p.grad
        for tower in (together, first, second):
            tower.step()
    assert together.hyperparameters(0) == first.hyperparameters()
    assert together.hyperparameters(1) == second.hyperparameters()
    assert together.hyperparameters(0) != together.hyperparameters(1)


# Against other implementations.


def _close(params: list[nn.Parameter], others: list[nn.Parameter]) -> None:
    torch.testing.assert_close([p.detach() for p in params], [p.detach() for p in others], **EXACT)


@pytest.mark.parametrize(
    ("level", "make"),
    [
        (SGD(0.01, momentum=0.9, nesterov=True, weight_decay=0.1), torch.optim.SGD),
        (Adam(0.01, betas=(0.8, 0.99), weight_decay=0.1), torch.optim.Adam),
        (AdamW(0.01, weight_decay=0.1), torch.optim.AdamW),
        (RMSprop(0.01, alpha=0.9, weight_decay=0.1), torch.optim.RMSprop),
        (AdaGrad(0.01, weight_decay=0.1), torch.optim.Adagrad),
    ],
)
def test_one_level_is_the_optimizer_of_torch(
    level: Level, make: Callable[..., torch.optim.Optimizer]
) -> None:
    ours, theirs = make_params(), make_params()
    tower, optimizer = Tower(ours, [level]), make(theirs, **level.settings())
    for step in range(10):
        for params, each in ((ours, tower), (theirs, optimizer)):
            each.zero_grad()
            loss_of(list(params), step).backward()
            each.step()
    _close(ours, theirs)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_sgd_on_the_learning_rate_is_hypergradient_descent(weight_decay: float) -> None:
    """SGD-HD and Adam-HD with the additive rule (arXiv 1703.04782), whose loss includes the penalty."""
    hd = {"weight_decay": weight_decay, "hypergrad_lr": 1e-4}
    for level, make in (
        (SGD(0.01, adapt=("lr",)), lambda p: SGDHD(p, 0.01, **hd)),
        (Adam(0.01, adapt=("lr",)), lambda p: AdamHD(p, 0.01, **hd)),
    ):
        ours, theirs = make_params(), make_params()
        tower, optimizer = Tower(ours, [level, SGD(1e-4)]), make(theirs)
        for step in range(10):
            tower.zero_grad()
            optimizer.zero_grad()
            penalty = torch.stack([(p**2).sum() for p in ours]).sum() * weight_decay / 2
            (loss_of(list(ours), step) + penalty).backward()
            loss_of(list(theirs), step).backward()
            tower.step()
            optimizer.step()
        _close(ours, theirs)
        alpha = optimizer.param_groups[0]["lr"]
        assert alpha != 0.01
        assert tower.param_groups[0]["lr"] == pytest.approx(alpha, rel=1e-10)


@pytest.fixture
def gdtuo() -> Any:
    return pytest.importorskip("gradient_descent_the_ultimate_optimizer.gdtuo")


def _with_the_authors(
    tower_of: Callable[[Any], Tower], optimizer: Any, gdtuo: Any
) -> list[tuple[Tensor, Tensor]]:
    """Parameters after 20 steps: ours, and those of the authors' package."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3))
    wrapped = gdtuo.ModuleWrapper(copy.deepcopy(net), optimizer=optimizer)
    wrapped.initialize()
    tower = tower_of(net.parameters())
    x, y = torch.randn(50, 5), torch.randn(50, 3)
    for _ in range(20):
        tower.zero_grad()
        ((net(x) - y) ** 2).mean().backward()
        tower.step()
        wrapped.begin()
        loss = ((wrapped.forward(x) - y) ** 2).mean()
        wrapped.zero_grad()
        loss.backward()
        wrapped.step()
    return list(zip(net.parameters(), wrapped.parameters.values(), strict=True))


@pytest.mark.parametrize("height", [1, 2, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_towers_are_those_of_the_authors_to_the_last_bit(
    height: int, momentum: float, gdtuo: Any
) -> None:
    """Learning rates and momenta adapted, single precision; `gradient-descent-the-ultimate-optimizer` 1.0."""
    rates = (0.05, 0.02, 0.001)[:height]
    names = ("lr", "momentum") if momentum else ("lr",)
    levels = [SGD(lr, momentum=momentum, adapt=names) for lr in rates]
    levels[-1] = SGD(rates[-1], momentum=momentum)
    theirs = gdtuo.NoOpOptimizer()
    for lr in reversed(rates):
        theirs = gdtuo.SGD(lr, momentum, optimizer=theirs)
    pairs = _with_the_authors(lambda params: Tower(params, levels), theirs, gdtuo)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_bit_identity_is_lost_by_the_smallest_change(gdtuo: Any) -> None:
    theirs = gdtuo.SGD(0.05, optimizer=gdtuo.SGD(0.02))
    levels = [SGD(0.05, adapt=("lr",)), SGD(0.02001)]
    pairs = _with_the_authors(lambda params: Tower(params, levels), theirs, gdtuo)
    assert not all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("height", [2, 3])
def test_adam_towers_are_those_of_the_authors_to_rounding(height: int, gdtuo: Any) -> None:
    """Their squared average begins at eps, not at 0: here both are too small to matter."""
    if height == 2:
        theirs = gdtuo.Adam(0.02, log_eps=-30.0, optimizer=gdtuo.SGD(1e-4))
        levels: list[Level] = [Adam(0.02, eps=1e-30, adapt=("lr", "betas")), SGD(1e-4)]
    else:
        upper = gdtuo.AdamBaydin(1e-3, log_eps=-30.0, optimizer=gdtuo.SGD(1e-4))
        theirs = gdtuo.AdamBaydin(0.02, log_eps=-30.0, optimizer=upper)
        levels = [Adam(lr, eps=1e-30, adapt=("lr",)) for lr in (0.02, 1e-3)]
        levels.append(SGD(1e-4))
    pairs = _with_the_authors(lambda params: Tower(params, levels), theirs, gdtuo)
    for ours, other in pairs:
        torch.testing.assert_close(ours.detach(), other.detach(), rtol=1e-8, atol=1e-10)

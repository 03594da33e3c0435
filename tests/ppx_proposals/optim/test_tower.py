"""Towers: the hypergradient is autograd's derivative at any height, and everything around it behaves."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim.adam_hd import AdamHD
from ppx_proposals.optim.sgd_hd import SGDHD
from ppx_proposals.optim.tower import SGD, AdaGrad, Adam, AdamW, Level, RMSprop, Tower

F64 = torch.float64
EXACT = {"rtol": 1e-9, "atol": 1e-12}
SHAPES = ((3, 2), (4,), (1,))


def _params(dtype: torch.dtype = F64) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(s, generator=g, dtype=dtype)) for s in SHAPES]


def _loss(params: list[Tensor], step: int) -> Tensor:
    """Neither quadratic nor separable, and different at every step."""
    flat = torch.cat([p.reshape(-1) for p in params])
    target = torch.linspace(-1, 1, flat.numel(), dtype=flat.dtype)
    return ((flat - target) ** 2 * (1 + 0.3 * step)).sum() + 0.1 * (flat[1:] * flat[:-1]).sin().sum() ** 2


# The updates as their papers write them, with plain autograd: what a tower is compared with.


def _by_the_book(level: Level, w: Tensor, g: Tensor, mem: dict[str, Any], h: dict[str, Any]) -> Tensor:
    t = mem["t"] = mem.get("t", 0) + 1
    old = {k: v.detach() if isinstance(v, Tensor) else v for k, v in mem.items()}
    zero = torch.zeros_like(w)
    if isinstance(level, AdamW):
        w = w - h["lr"] * h["weight_decay"] * w
    else:
        g = g + h["weight_decay"] * w
    if isinstance(level, SGD):
        mem["v"] = g if t == 1 else h["momentum"] * old["v"] + g
        return w - h["lr"] * (g + h["momentum"] * mem["v"] if level.nesterov else mem["v"])
    if isinstance(level, Adam):
        mem["m"] = h["beta1"] * old.get("m", zero) + (1 - h["beta1"]) * g
        mem["v"] = h["beta2"] * old.get("v", zero) + (1 - h["beta2"]) * g**2
        vhat = mem["v"] / (1 - h["beta2"] ** t)
        # The root of 0 has no derivative; a gradient that has always been 0 moves nothing.
        root = torch.where(vhat > 0, torch.where(vhat > 0, vhat, 1.0).sqrt(), 0.0)
        return w - h["lr"] * (mem["m"] / (1 - h["beta1"] ** t)) / (root + level.eps)
    if isinstance(level, RMSprop):
        mem["s"] = h["alpha"] * old.get("s", zero) + (1 - h["alpha"]) * g**2
    else:
        assert isinstance(level, AdaGrad)
        mem["s"] = old.get("s", zero) + g**2
    root = torch.where(mem["s"] > 0, torch.where(mem["s"] > 0, mem["s"], 1.0).sqrt(), 0.0)
    return w - h["lr"] * g / (root + level.eps)


def _squashed(name: str) -> bool:
    return name in ("beta1", "beta2", "alpha")


class ByTheBook:
    """A tower that keeps the whole graph from its hyperparameters to the loss, and differentiates the loss itself."""

    def __init__(self, params: list[nn.Parameter], levels: list[Level]) -> None:
        self.levels = levels
        self.theta: list[Tensor] = [p.detach().clone().requires_grad_() for p in params]
        self.memory: list[dict[str, Any]] = [{} for _ in params]
        self.settings = [{**lv.settings(), **_pair(lv)} for lv in levels]
        self.raws: list[list[Tensor]] = []
        for lv, s in zip(levels, self.settings, strict=True):
            x = [torch.tensor(s[n], dtype=F64) for n in lv.adapted]
            self.raws.append(
                [(v.logit() / 2 if _squashed(n) else v) for n, v in zip(lv.adapted, x, strict=True)]
            )
        self.raws = [[r.requires_grad_() for r in row] for row in self.raws]
        self.upper: list[list[dict[str, Any]]] = [[{} for _ in row] for row in self.raws]

    def hypers(self, k: int) -> dict[str, Any]:
        pairs = zip(self.levels[k].adapted, self.raws[k], strict=True)
        return {**self.settings[k], **{n: (r.tanh() + 1) / 2 if _squashed(n) else r for n, r in pairs}}

    def step(self, loss: Callable[[list[Tensor]], Tensor], missing: int | None = None) -> None:
        theta = [t.detach() if i == missing else t for i, t in enumerate(self.theta)]
        known = [t for i, t in enumerate(theta) if i != missing]
        flat = [r for row in self.raws for r in row]
        grads = torch.autograd.grad(loss(theta), known + flat, allow_unused=True)
        g_theta = list(grads[: len(known)])
        g_flat = [torch.zeros(()) if g is None else g for g in grads[len(known) :]]
        for k in reversed(range(len(self.levels) - 1)):
            at = sum(len(row) for row in self.raws[:k])
            g_row, above = g_flat[at : at + len(self.raws[k])], self.hypers(k + 1)
            rows = zip(self.raws[k], g_row, self.upper[k], strict=True)
            row = [_by_the_book(self.levels[k + 1], r.detach(), g, m, above) for r, g, m in rows]
            self.raws[k] = [r if r.requires_grad else r.requires_grad_() for r in row]
        h = self.hypers(0)
        for i, t in enumerate(theta):
            if i == missing:
                self.theta[i] = t.detach().requires_grad_()
            else:
                g = g_theta.pop(0)
                assert g is not None
                new = _by_the_book(self.levels[0], t.detach(), g, self.memory[i], h)
                self.theta[i] = new if new.requires_grad else new.requires_grad_()

    def numbers(self) -> list[float]:
        return [float(self.hypers(k)[n].detach()) for k, lv in enumerate(self.levels) for n in lv.adapted]


def _pair(level: Level) -> dict[str, float]:
    betas = level.settings().get("betas")
    return {} if betas is None else {"beta1": betas[0], "beta2": betas[1]}


def _numbers(tower: Tower, group: int = 0) -> list[float]:
    hypers = tower.hyperparameters(group)
    return [h[n] for h, level in zip(hypers, tower.levels, strict=True) for n in level.adapted]


def _train(tower: Tower, params: list[nn.Parameter], steps: range, missing: tuple[int, ...] = ()) -> None:
    for step in steps:
        tower.zero_grad()
        _loss(list(params), step).backward()
        if step in missing:
            params[1].grad = None
        tower.step()


SETTINGS: dict[str, list[Level]] = {
    "sgd": [SGD(0.01, adapt=("lr",)), SGD(1e-4)],
    "sgd decay": [SGD(0.01, weight_decay=0.2, adapt=("lr", "weight_decay")), SGD(1e-4)],
    "fixed decay": [SGD(0.01, momentum=0.5, weight_decay=0.2, adapt=("momentum",)), SGD(1e-3)],
    "momentum": [SGD(0.01, momentum=0.5, adapt=("lr", "momentum")), SGD(1e-4)],
    "nesterov": [
        SGD(0.01, momentum=0.5, nesterov=True, weight_decay=0.1, adapt=("lr", "momentum", "weight_decay")),
        SGD(1e-4),
    ],
    "adam lr": [Adam(0.02, adapt=("lr",)), SGD(1e-4)],
    "adam": [Adam(0.02, betas=(0.8, 0.95), adapt=("lr", "betas")), SGD(1e-4)],
    "adam decay": [Adam(0.02, weight_decay=0.3, eps=1e-3, adapt=("weight_decay", "beta2")), SGD(1e-3)],
    "adamw": [AdamW(0.02, weight_decay=0.3, adapt=("lr", "weight_decay")), SGD(1e-4)],
    "adamw all": [AdamW(0.02, weight_decay=0.3, adapt=("weight_decay", "lr", "beta1", "beta2")), SGD(1e-4)],
    "rmsprop": [RMSprop(0.01, alpha=0.9, weight_decay=0.1, adapt=("lr", "alpha", "weight_decay")), SGD(1e-4)],
    "adagrad": [AdaGrad(0.1, weight_decay=0.1, adapt=("lr", "weight_decay")), SGD(1e-3)],
    "adam by adam": [Adam(0.02, adapt=("lr", "betas")), Adam(1e-3)],
    "by rmsprop": [SGD(0.01, adapt=("lr",)), RMSprop(1e-4)],
    "by adagrad": [SGD(0.01, adapt=("lr",)), AdaGrad(1e-3)],
    "three": [
        SGD(0.01, momentum=0.5, adapt=("lr", "momentum")),
        SGD(1e-5, momentum=0.3, adapt=("lr", "momentum")),
        SGD(1e-10),
    ],
    "three, momentum": [
        SGD(0.01, momentum=0.5, adapt=("lr", "momentum")),
        SGD(1e-5, momentum=0.3, adapt=("momentum",)),
        SGD(1e-3),
    ],
    "four, momentum": [
        Adam(0.02, adapt=("lr", "betas")),
        RMSprop(1e-3, adapt=("lr", "alpha")),
        SGD(1e-7, momentum=0.5, nesterov=True, adapt=("momentum",)),
        SGD(0.1),
    ],
    "three adams": [
        Adam(0.02, adapt=("lr", "betas")),
        Adam(1e-3, betas=(0.7, 0.9), adapt=("lr", "betas")),
        Adam(1e-4),
    ],
    "four": [
        AdamW(0.02, adapt=("lr", "betas", "weight_decay")),
        RMSprop(1e-3, adapt=("lr", "alpha")),
        SGD(1e-7, momentum=0.5, nesterov=True, adapt=("lr", "momentum")),
        SGD(1e-14),
    ],
}


@pytest.mark.parametrize("missing", [(), (2, 5)])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_hypergradient_is_the_derivative_of_the_loss(name: str, missing: tuple[int, ...]) -> None:
    """Step by step, as if the graph from the hyperparameters to the loss had been kept and differentiated."""
    levels, params = SETTINGS[name], _params()
    tower, book = Tower(params, levels), ByTheBook(params, levels)
    start = _numbers(tower)
    for step in range(8):
        _train(tower, params, range(step, step + 1), missing)
        book.step(lambda theta, step=step: _loss(theta, step), 1 if step in missing else None)
        torch.testing.assert_close(_numbers(tower), book.numbers(), **EXACT)
        torch.testing.assert_close([p.detach() for p in params], [t.detach() for t in book.theta], **EXACT)
    # What has hardly moved would be right whatever its derivative: compare the moves too.
    pairs = zip(_numbers(tower), book.numbers(), start, strict=True)
    ours, theirs = zip(*((a - s, b - s) for a, b, s in pairs), strict=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=3e-15)
    assert name == "four" or min(abs(x) for x in ours) > 1e-10
    assert all(p.is_leaf for p in params)


def test_another_level_fails_the_same_comparison() -> None:
    params = _params()
    tower = Tower(params, [SGD(0.01, momentum=0.5, adapt=("lr", "momentum")), SGD(1e-4)])
    nesterov = SGD(0.01, momentum=0.5, nesterov=True, adapt=("lr", "momentum"))
    book = ByTheBook(params, [nesterov, SGD(1e-4)])
    for step in range(4):
        _train(tower, params, range(step, step + 1))
        book.step(lambda theta, step=step: _loss(theta, step))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(_numbers(tower), book.numbers(), **EXACT)


def test_each_group_has_a_tower_of_its_own() -> None:
    """A group that begins with other settings moves as it would alone."""
    levels = [Adam(0.02, adapt=("lr", "betas")), SGD(1e-4)]
    params, a, b = _params(), _params(), _params()
    together = Tower(
        [{"params": params[:1]}, {"params": params[1:], "lr": 0.05, "betas": (0.7, 0.9)}], levels
    )
    first = Tower(a[:1], levels)
    second = Tower(b[1:], [Adam(0.05, betas=(0.7, 0.9), adapt=("lr", "betas")), SGD(1e-4)])
    for step in range(6):
        together.zero_grad()
        _loss(list(params), step).backward()
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
    ours, theirs = _params(), _params()
    tower, optimizer = Tower(ours, [level]), make(theirs, **level.settings())
    for step in range(10):
        for params, each in ((ours, tower), (theirs, optimizer)):
            each.zero_grad()
            _loss(list(params), step).backward()
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
        ours, theirs = _params(), _params()
        tower, optimizer = Tower(ours, [level, SGD(1e-4)]), make(theirs)
        for step in range(10):
            tower.zero_grad()
            optimizer.zero_grad()
            penalty = torch.stack([(p**2).sum() for p in ours]).sum() * weight_decay / 2
            (_loss(list(ours), step) + penalty).backward()
            _loss(list(theirs), step).backward()
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


# As an optimizer among others.


def _lstm() -> tuple[nn.LSTM, Tensor]:
    torch.manual_seed(1)
    return nn.LSTM(3, 4, num_layers=2), torch.randn(5, 2, 3)


@pytest.mark.parametrize("name", ["momentum", "adam lr", "adam", "adamw all", "three adams", "four"])
def test_resumes_to_the_last_bit(name: str) -> None:
    params = _params(torch.float32)
    tower = Tower(params, SETTINGS[name])
    _train(tower, params, range(4))
    file = io.BytesIO()
    torch.save(tower.state_dict(), file)
    file.seek(0)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = Tower(others, SETTINGS[name])
    resumed.load_state_dict(torch.load(file, weights_only=True))
    twins = copy.deepcopy(params)
    copied = Tower(twins, SETTINGS[name])
    copied.load_state_dict(copy.deepcopy(tower).state_dict())
    for each, those in ((tower, params), (resumed, others), (copied, twins)):
        _train(each, those, range(4, 9))
    for p, q, r in zip(params, others, twins, strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)
    assert tower.hyperparameters() == resumed.hyperparameters() == copied.hyperparameters()


def test_resuming_without_the_last_update_differs() -> None:
    """What the comparison above would say if the state lacked something."""
    params = _params()
    tower = Tower(params, SETTINGS["adam"])
    _train(tower, params, range(4))
    state = copy.deepcopy(tower.state_dict())
    for entry in state["state"].values():
        del entry["last"]
    others = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = Tower(others, SETTINGS["adam"])
    resumed.load_state_dict(state)
    _train(tower, params, range(4, 9))
    _train(resumed, others, range(4, 9))
    assert tower.hyperparameters() != resumed.hyperparameters()


def test_refuses_the_state_of_another_tower() -> None:
    tower = Tower(_params(), SETTINGS["adam"])
    before = copy.deepcopy(tower.state_dict())
    for other in ("adam lr", "three adams", "sgd"):
        with pytest.raises(ValueError, match="build the same levels"):
            tower.load_state_dict(Tower(_params(), SETTINGS[other]).state_dict())
    with pytest.raises(ValueError, match="build the same levels"):
        tower.load_state_dict(torch.optim.Adam(_params()).state_dict())
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
    params, alone = _params(), _params()
    tower, reference = Tower(params[:2], levels), Tower(alone[:2], levels)
    _train(tower, params, range(3))
    _train(reference, alone, range(3))
    tower.extend_group([params[2]])
    with pytest.raises(ValueError, match="only once"):
        tower.extend_group([params[2]])
    tower.zero_grad()
    _loss(list(params), 3).backward()
    for p, q in zip(params, alone, strict=True):
        q.grad = None if p.grad is None else p.grad.clone()
    tower.step()
    reference.step()
    assert tower.hyperparameters() == reference.hyperparameters()
    assert tower.state[params[2]]["step"] == 1
    _train(tower, params, range(4, 6))
    tower.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=F64))], "lr": 0.5})
    assert tower.hyperparameters(1)[0]["lr"] == 0.5
    _train(tower, params, range(6, 8))


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
    params = _params()
    tower = Tower(params, SETTINGS[name])
    _train(tower, params, range(5))
    tensors, nodes = _live(), _nodes(tower)
    _train(tower, params, range(5, 25))
    assert _live() == tensors
    assert _nodes(tower) == nodes > 0


def test_gradients_are_left_alone_and_may_be_reused() -> None:
    """`zero_grad(set_to_none=False)` writes into the same tensors; the graph must not see that."""
    for levels in SETTINGS.values():
        params, others = _params(), _params()
        tower, other = Tower(params, levels), Tower(others, levels)
        for step in range(4):
            tower.zero_grad(set_to_none=False)
            other.zero_grad()
            _loss(list(params), step).backward()
            _loss(list(others), step).backward()
            before = [p.grad.clone() for p in params if p.grad is not None]
            tower.step()
            other.step()
            assert all(
                torch.equal(p.grad, b) for p, b in zip(params, before, strict=True) if p.grad is not None
            )
        assert tower.hyperparameters() == other.hyperparameters()


def test_closure_and_hooks() -> None:
    params = _params()
    tower = Tower(params, SETTINGS["sgd"])
    calls: list[str] = []
    tower.register_step_pre_hook(lambda *_: calls.append("before"))
    tower.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> float:
        tower.zero_grad()
        loss = _loss(list(params), 0)
        loss.backward()
        calls.append("closure")
        return float(loss.detach())

    expected = float(_loss(list(params), 0).detach())
    assert tower.step(closure) == expected
    assert calls == ["before", "closure", "after"]


# Values.


@pytest.mark.parametrize("name", ["sgd", "adam", "three adams"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_hyperparameter_becomes_nan(name: str, bad: float) -> None:
    params = _params()
    tower = Tower(params, SETTINGS[name])
    _train(tower, params, range(3))
    before = tower.hyperparameters()
    tower.zero_grad()
    _loss(list(params), 3).backward()
    assert params[0].grad is not None
    params[0].grad.fill_(bad)
    kept = params[0].detach().clone()
    tower.step()
    assert tower.hyperparameters() == before
    # The user's repair: the parameter and its averages as before the accident.
    with torch.no_grad():
        params[0].copy_(kept)
    tower.state[params[0]].clear()
    _train(tower, params, range(4, 7))
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
    params = _params()
    tower = Tower(params, SETTINGS["adam"])
    _train(tower, params, range(3))
    assert type(tower.param_groups[0]["lr"]) is float
    assert tower.hyperparameters()[0]["beta1"] == tower.param_groups[0]["betas"][0] != 0.8
    tower.param_groups[0]["lr"], tower.param_groups[0]["betas"] = 0.5, (0.6, 0.7)
    _train(tower, params, range(3, 4))
    hypers = tower.hyperparameters()[0]
    assert hypers["lr"] == pytest.approx(0.5, abs=0.05)
    assert (hypers["beta1"], hypers["beta2"]) == (pytest.approx(0.6, abs=0.05), pytest.approx(0.7, abs=0.05))


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
        (lambda: Tower(_params(), []), "at least one level"),
        (lambda: Tower(_params(), [SGD(0.1), SGD(0.1)]), "adapts nothing"),
        (lambda: Tower(_params(), [SGD(0.1, adapt=("lr",))]), "no level is above"),
        (lambda: Tower([{"params": _params(), "lr": -1.0}], SETTINGS["sgd"]), "lr must be"),
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

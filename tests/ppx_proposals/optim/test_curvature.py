"""FOOF and K-FAC: Newton's step where they should be it, with any optimizer, and everything around it behaves."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.optim.adam_hd import AdamHD
from ppx_proposals.optim.curvature import FOOF, KFAC, Preconditioner, exact_normal
from ppx_proposals.optim.hypergradient import HypergradientOptimizer
from ppx_proposals.optim.sgd_hd import SGDHD

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, summed over outputs, in the mean over samples: -log N(target; output, I)."""
    return 0.5 * (output - target).square().sum(1).mean()


def step(
    model: nn.Module, preconditioner: Preconditioner, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> float:
    optimizer.zero_grad()
    output = model(x)
    if isinstance(preconditioner, KFAC) and preconditioner.due:
        preconditioner.fisher(*exact_normal(output))
    loss = half_squares(output, y)
    torch.autograd.backward(loss)
    optimizer.step()
    return float(loss.detach())


def least_squares(x: Tensor, y: Tensor, bias: bool) -> Tensor:
    """Fitted values."""
    rows = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1) if bias else x
    solution: Tensor = torch.linalg.lstsq(rows, y, rcond=1e-6, driver="gelsd").solution
    return rows @ solution


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [FOOF, KFAC])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, SGDHD])
def test_one_step_of_linear_regression_is_newtons(kind: Any, bias: bool, optimizer: Any) -> None:
    model = nn.Linear(4, 3, bias=bias, dtype=DOUBLE)
    x, y = normal(20, 4) * torch.tensor([1.0, 10.0, 100.0, 0.1], dtype=DOUBLE), normal(20, 3, seed=1)
    preconditioner = kind(model, 0.0)
    preconditioner.attach(chosen := optimizer(model.parameters(), lr=1.0))
    step(model, preconditioner, chosen, x, y)
    torch.testing.assert_close(model(x), least_squares(x, y, bias))


def test_without_preconditioner_one_step_is_not_newtons() -> None:
    model = nn.Linear(4, 3, dtype=DOUBLE)
    x, y = normal(20, 4), normal(20, 3, seed=1)
    foof, optimizer = FOOF(model, 0.0), torch.optim.SGD(model.parameters(), lr=1.0)
    step(model, foof, optimizer, x, y)
    assert not torch.allclose(model(x), least_squares(x, y, True), rtol=1e-2)


@pytest.mark.parametrize("kind", [FOOF, KFAC])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_directions_without_data_are_left_alone(kind: Any, dtype: torch.dtype) -> None:
    """Inputs of rank 2 of 4, damping 0: fitted values are those of least squares and nothing else moves."""
    model = nn.Linear(4, 2, dtype=dtype)
    before = model.weight.detach().clone()
    x, y = (normal(20, 2) @ normal(2, 4, seed=2)).to(dtype), normal(20, 2, seed=1).to(dtype)
    preconditioner, optimizer = kind(model, 0.0), torch.optim.SGD(model.parameters(), lr=1.0)
    preconditioner.attach(optimizer)
    step(model, preconditioner, optimizer, x, y)
    tolerance = 1e-4 if dtype is torch.float32 else 1e-9
    torch.testing.assert_close(
        model(x).double(), least_squares(x.double(), y.double(), True), rtol=tolerance, atol=tolerance
    )
    null = torch.linalg.svd(x.double()).Vh[2:]
    moved = (model.weight - before).double() @ null.mT
    assert moved.abs().max() < tolerance


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_foof_step_is_its_definition(damping: float) -> None:
    """V minimises 1/R sum |V a + eta e|^2 + lambda |V|^2, at a hidden layer; solved as a least squares problem."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y, eta = normal(30, 3), normal(30, 2, seed=1), 0.1
    a = model[:2](x).detach()
    z = model[2](a).detach().requires_grad_()
    e = 30 * torch.autograd.grad(half_squares(model[3:](z), y), z)[0]
    before = torch.cat([model[2].weight, model[2].bias[:, None]], 1).detach().clone()
    foof, optimizer = FOOF(model, damping), torch.optim.SGD(model.parameters(), lr=eta)
    foof.attach(optimizer)
    step(model, foof, optimizer, x, y)
    moved = torch.cat([model[2].weight, model[2].bias[:, None]], 1).detach() - before
    rows = torch.cat([a, torch.ones(30, 1, dtype=DOUBLE)], 1)
    penalty = (30 * damping) ** 0.5 * torch.eye(5, dtype=DOUBLE)
    system = torch.cat([rows, penalty])
    for target, same in ((-eta * e, True), (-eta * e / 30, False)):
        wanted = torch.cat([target, torch.zeros(5, 4, dtype=DOUBLE)])
        solution = torch.linalg.lstsq(system, wanted).solution
        assert torch.allclose(moved, solution.mT, rtol=1e-8, atol=1e-12) is same


def test_kfac_step_is_the_damped_kronecker_product() -> None:
    """The gradient as a vector, times the inverse of (G + sqrt(lambda) / pi) x (A + pi sqrt(lambda)) written out."""
    model = nn.Linear(3, 2, dtype=DOUBLE)
    x, y, root = normal(10, 3), normal(10, 2, seed=1), 0.2**0.5
    kfac, optimizer = KFAC(model, 0.2), torch.optim.SGD(model.parameters(), lr=1.0)
    kfac.attach(optimizer)
    before = torch.cat([model.weight, model.bias[:, None]], 1).detach().clone()
    output = model(x)
    kfac.fisher((output**2).sum(1))
    torch.autograd.backward(half_squares(output, y))
    assert model.weight.grad is not None
    assert model.bias.grad is not None
    gradient = torch.cat([model.weight.grad, model.bias.grad[:, None]], 1)
    optimizer.step()
    rows = torch.cat([x, torch.ones(10, 1, dtype=DOUBLE)], 1)
    g = 2 * output.detach()
    a_factor, g_factor = rows.mT @ rows / 10, g.mT @ g / 10
    pi = float((a_factor.trace() / 4 / (g_factor.trace() / 2)).sqrt())
    damped = [a_factor + pi * root * torch.eye(4), g_factor + root / pi * torch.eye(2)]
    moved = (before - torch.cat([model.weight, model.bias[:, None]], 1)).detach().reshape(-1)
    torch.testing.assert_close(
        torch.linalg.solve(torch.kron(damped[1], damped[0]), gradient.reshape(-1)), moved
    )
    plain = torch.linalg.solve(torch.kron(g_factor, a_factor) + 0.2 * torch.eye(8), gradient.reshape(-1))
    assert not torch.allclose(plain, moved, rtol=1e-2)


class _Outside:
    """The wrong way: gradients preconditioned before the step, so that h_t is not made of the raw one."""

    def __init__(self, preconditioner: Preconditioner) -> None:
        self.preconditioner = preconditioner

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.register_step_pre_hook(self._put_in)

    def _put_in(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        params = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        self.preconditioner.precondition(params, [p.grad for p in params])


@pytest.mark.parametrize("kind", ["SGDHD", "AdamHD"])
@pytest.mark.parametrize("inside", [True, False])
def test_hypergradient_is_the_derivative_with_respect_to_alpha(kind: str, inside: bool) -> None:
    """alpha_t - alpha_{t-1} = -beta d loss / d alpha_{t-1} along the preconditioned direction, by autograd."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    names, beta = [n for n, _ in model.named_parameters()], 1e-3
    optimizer: HypergradientOptimizer
    if kind == "SGDHD":
        optimizer = SGDHD(model.parameters(), lr=0.01, hypergrad_lr=beta)
    else:
        optimizer = AdamHD(model.parameters(), lr=0.01, hypergrad_lr=beta)
    foof = FOOF(model, 0.1, decay=0.5)
    (foof if inside else _Outside(foof)).attach(optimizer)
    exact = []
    before: dict[str, Tensor] = {}
    for number in range(5):
        x, y = normal(12, 3, seed=number), normal(12, 2, seed=10 + number)
        alpha = torch.tensor(optimizer.param_groups[0]["lr"], dtype=DOUBLE, requires_grad=True)
        expected = float(alpha.detach())
        if before:
            # theta_{t-1} as a function of alpha_{t-1}, with the direction that was moved along.
            own = dict(model.named_parameters())
            line = {n: before[n] + alpha * (own[n].detach() - before[n]) / alpha.detach() for n in names}
            loss = half_squares(torch.func.functional_call(model, line, (x,)), y)
            expected -= beta * float(torch.autograd.grad(loss, alpha)[0])
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        step(model, foof, optimizer, x, y)
        exact.append(abs(optimizer.param_groups[0]["lr"] - expected) < 1e-10 * abs(expected))
    assert exact[0]
    assert all(exact) is inside
    assert optimizer.param_groups[0]["lr"] != 0.01


@pytest.mark.parametrize("kind", [torch.optim.Adam, SGDHD])
def test_gradients_are_raw_before_and_after_the_step(kind: Any) -> None:
    model = nn.Linear(3, 2, dtype=DOUBLE)
    optimizer = kind(model.parameters(), lr=0.1)
    FOOF(model, 0.1).attach(optimizer)
    torch.autograd.backward(half_squares(model(normal(5, 3)), normal(5, 2)))
    raw = [p.grad for p in model.parameters()]
    copies = [g.clone() for g in raw if g is not None]
    optimizer.step()
    for p, g, c in zip(model.parameters(), raw, copies, strict=True):
        assert p.grad is g
        assert torch.equal(c, p.grad)


def test_other_parameters_and_layers_that_did_not_run_are_left_as_they_are() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.frozen = (nn.Linear(3, 3) for _ in range(3))
            self.norm = nn.LayerNorm(3)
            self.frozen.weight.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            mixed: Tensor = self.norm(self.frozen(self.used(x)))
            return mixed

    model = Net().double()
    foof = FOOF(model, 0.1)
    model(normal(5, 3))
    params = list(model.parameters())
    gradients = [torch.ones_like(p) for p in params]
    foof.precondition(params, gradients)
    changed = {n for (n, _), g in zip(model.named_parameters(), gradients, strict=True) if not (g == 1).all()}
    assert changed == {"used.weight", "used.bias"}


def test_weight_without_bias_gradient_has_a_factor_of_its_own() -> None:
    model = nn.Linear(3, 2, dtype=DOUBLE)
    x, g = normal(9, 3), normal(2, 3, seed=1)
    foof = FOOF(model, 0.2)
    model(x)
    gradient = g.clone()
    foof.precondition([model.weight], [gradient])
    expected = torch.linalg.solve(x.mT @ x / 9 + 0.2 * torch.eye(3), g.mT).mT
    torch.testing.assert_close(gradient, expected)


def test_only_passes_that_a_step_may_follow_count() -> None:
    model = nn.Linear(3, 2)
    foof = FOOF(model, 0.1)
    model.eval()
    model(torch.ones(5, 3))
    model.train()
    with torch.no_grad():
        model(torch.ones(5, 3))
    copy.deepcopy(model)(torch.ones(5, 3))
    foof.precondition([], [])
    assert foof.state_dict()["inputs"] == {}
    model(torch.ones(5, 3))
    foof.precondition([], [])
    assert list(foof.state_dict()["inputs"]) == ["weight"]


def test_factors_are_averages_with_bias_correction_at_every_second_step() -> None:
    model = nn.Linear(3, 2, bias=False, dtype=DOUBLE)
    foof, optimizer = FOOF(model, 0.1, decay=0.9, update_every=2), torch.optim.SGD(model.parameters(), lr=0.0)
    foof.attach(optimizer)
    moments = []
    for number in range(5):
        x = normal(7, 3, seed=number)
        assert foof.due is (number % 2 == 0)
        step(model, foof, optimizer, x, normal(7, 2))
        moments.append(x.mT @ x / 7)
    weights = [0.9**2, 0.9, 1.0]
    expected = sum(w * m for w, m in zip(weights, moments[::2], strict=True)) / sum(weights)
    saved = foof.state_dict()["inputs"]["weight"]
    torch.testing.assert_close(saved["memory"][0] / saved["mass"], expected)


def test_minibatch_that_is_not_finite_does_not_spoil_the_factors() -> None:
    model = nn.Linear(3, 2, dtype=DOUBLE)
    foof = FOOF(model, 0.1)
    model(normal(7, 3))
    foof.precondition([], [])
    before = foof.state_dict()
    model(torch.full((7, 3), torch.inf, dtype=DOUBLE))
    foof.precondition([], [])
    assert torch.equal(foof.state_dict()["inputs"]["weight"]["memory"], before["inputs"]["weight"]["memory"])


def test_layers_added_later_are_watched_once_told() -> None:
    model = nn.Sequential(nn.Linear(3, 3)).double()
    foof, optimizer = FOOF(model, 0.1), SGDHD(model.parameters(), lr=0.1)
    foof.attach(optimizer)
    for number in range(2):
        step(model, foof, optimizer, normal(5, 3, seed=number), normal(5, 3))
    model.append(nn.Linear(3, 2).double())
    optimizer.extend_group(model[1].parameters())
    foof.extend()
    foof.extend()
    step(model, foof, optimizer, normal(5, 3), normal(5, 2))
    assert list(foof.state_dict()["inputs"]) == ["0.weight", "1.weight"]
    assert len(model[0]._forward_hooks) == len(model[1]._forward_hooks) == 1
    foof.close()
    assert not model[0]._forward_hooks
    assert not model[1]._forward_hooks
    before = model[0].weight.detach().clone()
    output = model(normal(5, 3))
    optimizer.zero_grad()
    torch.autograd.backward(output.sum())
    optimizer.step()
    alpha, gradient = optimizer.param_groups[0]["lr"], model[0].weight.grad
    torch.testing.assert_close(before - alpha * gradient, model[0].weight)


@pytest.mark.parametrize("kind", [FOOF, KFAC])
def test_resumed_training_is_the_same_to_the_last_bit(kind: Any) -> None:
    def made() -> tuple[nn.Module, Preconditioner, AdamHD]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        preconditioner, optimizer = kind(model, 0.1, update_every=2), AdamHD(model.parameters(), lr=0.01)
        preconditioner.attach(optimizer)
        return model, preconditioner, optimizer

    whole, parts = made(), made()
    for number in range(7):
        x, y = normal(8, 3, seed=number), normal(8, 2, seed=20 + number)
        step(*whole, x, y)
        step(*parts, x, y)
        if number == 3:
            file = io.BytesIO()
            torch.save([part.state_dict() for part in parts], file)
            file.seek(0)
            parts = made()
            for part, state in zip(parts, torch.load(file, weights_only=True), strict=True):
                part.load_state_dict(state)
    for a, b in zip(whole[0].parameters(), parts[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_states_that_do_not_fit_are_refused() -> None:
    model = nn.Linear(3, 2)
    foof, kfac = FOOF(model, 0.1), KFAC(nn.Linear(3, 2), 0.1)
    with pytest.raises(ValueError, match="no state of FOOF"):
        foof.load_state_dict(kfac.state_dict())
    other = FOOF(nn.Sequential(model), 0.1)
    model(torch.ones(2, 3))
    other.precondition([], [])
    with pytest.raises(ValueError, match=r"no 0\.weight"):
        foof.load_state_dict(other.state_dict())
    wider = nn.Linear(5, 2)
    wide = FOOF(wider, 0.1)
    wider(torch.ones(2, 5))
    wide.precondition([], [])
    with pytest.raises(ValueError, match="inputs of weight"):
        foof.load_state_dict(wide.state_dict())

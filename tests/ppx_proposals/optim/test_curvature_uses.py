"""Preconditioning where layers are not called as modules, what is refused, and that it helps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from ppx_proposals.batching import PackedSteps
from ppx_proposals.config import NetworkConfig
from ppx_proposals.heads import HeadInput
from ppx_proposals.lstm import packed_lstm
from ppx_proposals.network import ProposalNetwork
from ppx_proposals.optim.curvature import FOOF, KFAC, Preconditioner, sampled_categorical, sampled_normal
from ppx_proposals.optim.sgd_hd import SGDHD
from tests.ppx_proposals.optim.curvature_by_the_book import DOUBLE, factors, normal


def steps() -> PackedSteps:
    """Three traces of 3, 3 and 2 continuous draws."""
    s = 8
    none, order = torch.zeros(0, dtype=torch.int64), torch.arange(s)
    return PackedSteps(
        num_traces=3,
        batch_sizes=torch.tensor([3, 3, 2]),
        row=np.arange(s),
        flat=normal(3, 4),
        grids=(),
        trace=order % 3,
        address=1 + order // 3,
        previous_address=order // 3,
        previous_category=torch.zeros(s, dtype=torch.int64),
        previous_z=normal(s),
        features=normal(s, 3),
        continuous=order,
        ordered=none,
        categorical=none,
        z=normal(s, seed=2),
        z_low=none.double(),
        z_high=none.double(),
        category=none,
        first_category=none,
        num_categories=none,
        log_probs=torch.zeros(0, 0, dtype=DOUBLE),
    )


@pytest.fixture
def network() -> ProposalNetwork:
    config = NetworkConfig(lstm_size=6, head_size=5, mixture_components=2, address_size=3, observation_size=4)
    network = ProposalNetwork(4, (), config)
    network.grow(3, 0)
    return network.double()


def telling(monkeypatch: pytest.MonkeyPatch, preconditioner: Preconditioner) -> None:
    """Has the network tell what it multiplies its weights by where it does not call its layers."""

    def lstm(lstm: nn.LSTM, constant: Tensor, x: Tensor, batch_sizes: Tensor, sequence: Tensor) -> Tensor:
        h = packed_lstm(lstm, constant, x, batch_sizes, sequence)
        inputs = PackedSequence(torch.cat([constant[sequence], x], dim=1), batch_sizes)
        preconditioner.observe_lstm(lstm, inputs, h)
        return h

    def layer(inputs: HeadInput, linear: nn.Linear) -> Tensor:
        outputs = split_layer(inputs, linear)
        rows = torch.cat([inputs.state, inputs.observed[inputs.trace], inputs.current], dim=1)
        preconditioner.observe(linear.weight, rows, linear.bias, outputs=outputs)
        return outputs

    split_layer = HeadInput.layer
    monkeypatch.setattr("ppx_proposals.network.packed_lstm", lstm)
    monkeypatch.setattr(HeadInput, "layer", layer)


def calling(monkeypatch: pytest.MonkeyPatch, preconditioner: Preconditioner) -> None:
    """Has the network call its layers, so that hooks see everything."""

    def lstm(lstm: nn.LSTM, constant: Tensor, x: Tensor, batch_sizes: Tensor, sequence: Tensor) -> Tensor:
        output: Tensor = lstm(PackedSequence(torch.cat([constant[sequence], x], dim=1), batch_sizes))[0].data
        return output

    def layer(inputs: HeadInput, linear: nn.Linear) -> Tensor:
        output: Tensor = linear(
            torch.cat([inputs.state, inputs.observed[inputs.trace], inputs.current], dim=1)
        )
        return output

    monkeypatch.setattr("ppx_proposals.network.packed_lstm", lstm)
    monkeypatch.setattr(HeadInput, "layer", layer)


@pytest.mark.parametrize("kind", [FOOF, KFAC])
def test_proposal_network_that_tells_has_the_factors_of_one_that_calls_its_layers(
    network: ProposalNetwork, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for way in (telling, calling):
        preconditioner = kind(network, 0.1)
        with monkeypatch.context() as patch:
            way(patch, preconditioner)
            output = network(steps())
        if isinstance(preconditioner, KFAC):
            preconditioner.fisher(torch.zeros(3, dtype=DOUBLE).index_add(0, steps().trace, output))
        found.append(factors(preconditioner))
        preconditioner.close()
    kinds = ["inputs", "outputs"][: 1 if kind is FOOF else 2]
    layers = [
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "mixture_head.hidden.weight",
        "observation.flat.0.weight",
    ]
    assert {f"{k} {name}" for k in kinds for name in layers} <= set(found[0])
    assert set(found[0]) == set(found[1])
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


@pytest.mark.parametrize("kind", [FOOF, KFAC])
def test_proposal_network_learns_while_it_grows(
    network: ProposalNetwork, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = SGDHD(network.parameters(), lr=0.1, hypergrad_lr=1e-4)
    preconditioner = kind(network, 0.1)
    telling(monkeypatch, preconditioner)
    preconditioner.attach(optimizer)
    losses = []
    for number in range(10):
        if number == 5:
            optimizer.extend_group(network.grow(70, 0))
            preconditioner.extend()
        optimizer.zero_grad()
        output = network(steps())
        if isinstance(preconditioner, KFAC):
            preconditioner.fisher(torch.zeros(3, dtype=DOUBLE).index_add(0, steps().trace, output))
        loss = -output.mean()
        torch.autograd.backward(loss)
        before = network.lstm.weight_hh_l0.detach().clone()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[5] < losses[0]
    # The LSTM did not move along its raw gradient.
    moved, gradient = before - network.lstm.weight_hh_l0.detach(), network.lstm.weight_hh_l0.grad
    assert gradient is not None
    assert not torch.allclose(moved, optimizer.param_groups[0]["lr"] * gradient, rtol=0.1, atol=0.0)


def test_told_products_are_those_of_a_layer() -> None:
    model = nn.Linear(3, 2, dtype=DOUBLE)
    x = normal(4, 5, 3)
    called, told = KFAC(model, 0.1), KFAC(nn.Sequential(model), 0.1)
    told.close()
    called.fisher((model(x) ** 2).sum((1, 2)))
    outputs = x @ model.weight.mT + model.bias
    told.observe(model.weight, x, model.bias, outputs=outputs)
    told.fisher((outputs**2).sum((1, 2)))
    for a, b in zip(factors(called).values(), factors(told).values(), strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        told.observe(model.weight, x * torch.inf, model.bias)
    model.weight.requires_grad_(False)
    told.observe(model.weight, x * torch.inf, model.bias)
    assert told._inputs["0.weight"].sum is None


def test_accumulated_passes_add_up() -> None:
    model = nn.Linear(3, 2, dtype=DOUBLE)
    x = normal(6, 3)
    whole, parts = KFAC(model, 0.1), KFAC(model, 0.1)
    whole.fisher((model(x) ** 2).sum(1))
    expected = factors(whole)
    whole.close()
    parts._drop()
    for part in (x[:2], x[2:]):
        parts.fisher((model(part) ** 2).sum(1))
    for name, value in factors(parts).items():
        torch.testing.assert_close(value, expected[name])


def test_minibatches_without_rows_count_for_nothing() -> None:
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 2), "head": nn.Linear(2, 2)}).double()
    preconditioner = KFAC(model, 0.1)
    preconditioner.observe_lstm(model["lstm"], normal(0, 2, 3), normal(0, 2, 2))
    preconditioner.fisher(model["head"](normal(0, 2)).sum(1))
    assert factors(preconditioner) == {}


def test_inputs_of_lower_precision_have_factors_in_float32() -> None:
    model = nn.Linear(3, 2)
    foof, optimizer = FOOF(model, 0.1), torch.optim.SGD(model.parameters(), lr=0.1)
    foof.attach(optimizer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(normal(5, 3).to(torch.bfloat16))
    torch.autograd.backward(output.float().sum())
    optimizer.step()
    assert factors(foof)["inputs weight"].dtype is torch.float32
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_passes_of_a_closure_count_with_hypergradient_optimizers_and_are_refused_with_others() -> None:
    model = nn.Linear(3, 2, dtype=DOUBLE)
    x, y = normal(9, 3), normal(9, 2, seed=1)

    def closure() -> Tensor:
        loss = 0.5 * (model(x) - y).square().sum(1).mean()
        torch.autograd.backward(loss)
        return loss.detach()

    other, optimizer = FOOF(model, 0.0), torch.optim.SGD(model.parameters(), lr=1.0)
    other.attach(optimizer)
    with pytest.raises(RuntimeError, match="closure"):
        optimizer.step(closure)  # type: ignore[arg-type]
    other.close()
    hd = SGDHD(model.parameters(), lr=1.0)
    FOOF(model, 0.0).attach(hd)
    hd.step(closure)  # type: ignore[call-overload]
    model.weight.grad = None
    closure()
    # At the minimum.
    assert model.weight.grad is not None
    assert float(model.weight.grad.abs().max()) < 1e-12


REFUSALS: dict[str, tuple[Callable[[], object], type[Exception]]] = {
    "damping must be": (lambda: FOOF(nn.Linear(2, 2), -1.0), ValueError),
    "decay must": (lambda: FOOF(nn.Linear(2, 2), 1.0, decay=1.0), ValueError),
    "update_every must": (lambda: KFAC(nn.Linear(2, 2), 1.0, update_every=0), ValueError),
    "proj_size": (lambda: FOOF(nn.LSTM(2, 3, proj_size=2), 1.0), ValueError),
    "one nn.LSTM per layer": (lambda: FOOF(nn.LSTM(2, 3, num_layers=2, dropout=0.5), 1.0), ValueError),
    "different biases": (lambda: FOOF(_sharing(), 1.0), ValueError),
    "no parameter of the model": (
        lambda: FOOF(nn.Linear(2, 2), 1.0).observe(nn.Parameter(torch.ones(2, 2)), torch.ones(4, 2)),
        ValueError,
    ),
    "do not fit a weight": (lambda: _observed(torch.ones(4, 3), None), ValueError),
    "and outputs": (lambda: _observed(torch.ones(4, 2), torch.ones(4, 3)), ValueError),
    "needs the outputs": (lambda: _observed(torch.ones(4, 2), None), ValueError),
    "no layer of the model": (
        lambda: FOOF(nn.Linear(2, 2), 1.0).observe_lstm(nn.LSTM(2, 2), torch.ones(3, 2), torch.ones(3, 2)),
        ValueError,
    ),
    "run the model first": (
        lambda: KFAC(nn.Linear(2, 2), 1.0).fisher(torch.ones(2, requires_grad=True)),
        RuntimeError,
    ),
    "of shape": (lambda: KFAC(nn.Linear(2, 2), 1.0).fisher(torch.ones(2, 2, requires_grad=True)), ValueError),
    "made of the model's outputs": (lambda: KFAC(nn.Linear(2, 2), 1.0).fisher(torch.ones(2)), ValueError),
    "call fisher": (lambda: _without_fisher(), RuntimeError),
    "one per optimizer": (lambda: _attached_twice(), RuntimeError),
}


def _sharing() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    return model


def _observed(inputs: Tensor, outputs: Tensor | None) -> None:
    model = nn.Linear(2, 2)
    KFAC(model, 1.0).observe(model.weight, inputs, model.bias, outputs=outputs)


def _without_fisher() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    KFAC(model, 1.0).attach(optimizer)
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()


def _attached_twice() -> None:
    model = nn.Linear(2, 2)
    optimizer, foof = torch.optim.SGD(model.parameters(), lr=0.1), FOOF(model, 1.0)
    foof.attach(optimizer)
    foof.attach(optimizer)


@pytest.mark.parametrize("message", REFUSALS)
def test_refusals(message: str) -> None:
    attempt, error = REFUSALS[message]
    with pytest.raises(error, match=message):
        attempt()


class LastStep(nn.Module):
    """An LSTM and a linear layer on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(x)[0][:, -1])
        return logits


def trained(
    model: nn.Module,
    x: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    score_of: Callable[[Tensor, torch.Generator], Tensor],
    *,
    kind: Any,
    lr: float,
    num_steps: int,
) -> float:
    """The last loss of training with SGD-HD, with a preconditioner or (None) without."""
    optimizer = SGDHD(model.parameters(), lr=lr, hypergrad_lr=0.02, rule="multiplicative")
    generator = torch.Generator().manual_seed(2)
    preconditioner = None if kind is None else kind(model, 1e-2)
    if preconditioner is not None:
        preconditioner.attach(optimizer)
    loss = torch.zeros(())
    for _ in range(num_steps):
        optimizer.zero_grad()
        output = model(x)
        if isinstance(preconditioner, KFAC):
            preconditioner.fisher(score_of(output, generator))
        loss = loss_of(output)
        torch.autograd.backward(loss)
        optimizer.step()
    return float(loss.detach())


@pytest.mark.slow
def test_it_helps_an_autoencoder() -> None:
    """Inputs of scales 0.03 to 1 around 1: a fifth of the loss of SGD-HD from its best start, or less."""
    x = torch.tanh(normal(256, 4) @ normal(4, 16, seed=3)) * torch.logspace(-1.5, 0, 16, dtype=DOUBLE) + 1.0

    def loss(kind: Any, lr: float) -> float:
        torch.manual_seed(1)
        sizes = (16, 12, 4, 12, 16)
        layers = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.Tanh())]
        model = nn.Sequential(*layers[:-1]).double()

        def loss_of(output: Tensor) -> Tensor:
            return 0.5 * (output - x).square().sum(1).mean()

        return trained(model, x, loss_of, sampled_normal, kind=kind, lr=lr, num_steps=200)

    without = min(loss(None, lr) for lr in (0.003, 0.01, 0.03, 0.1, 0.3))
    assert loss(FOOF, 0.03) < 0.2 * without
    assert loss(KFAC, 0.3) < 0.2 * without


def test_it_helps_an_lstm() -> None:
    """The sign of a sum of small inputs next to a large one: SGD-HD learns nothing in 80 steps."""
    x = normal(128, 5, 3) * torch.tensor([0.1, 0.1, 1.0], dtype=DOUBLE)
    x[..., 2] += 3.0
    label = (x[:, :, 0].sum(1) > 0).long()

    def loss(kind: Any, lr: float) -> float:
        torch.manual_seed(1)

        def loss_of(output: Tensor) -> Tensor:
            return functional.cross_entropy(output, label)

        model = LastStep().double()
        return trained(model, x, loss_of, sampled_categorical, kind=kind, lr=lr, num_steps=80)

    without = min(loss(None, lr) for lr in (0.01, 0.1, 0.3))
    assert without > 0.9 * math.log(2)
    assert loss(FOOF, 0.3) < 0.2 * without
    assert loss(KFAC, 0.03) < 0.7 * without

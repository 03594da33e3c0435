"""Factors of FOOF and K-FAC equal brute force: derivatives of outputs, and loops over sequences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from ppx_proposals.optim.curvature import (
    FOOF,
    KFAC,
    Preconditioner,
    exact_categorical,
    exact_normal,
    sampled_categorical,
    sampled_normal,
)

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def factor(preconditioner: Preconditioner, kind: str, name: str = "weight") -> Tensor:
    """A factor after what was seen is taken in."""
    preconditioner.precondition([], [])
    saved = preconditioner.state_dict()[kind][name]
    average: Tensor = saved["memory"] / saved["mass"]
    return average


def moment(rows: Tensor, count: int | None = None) -> Tensor:
    """Sum of v v^T over rows, divided by their number or by `count`; as one group."""
    outer = sum(torch.outer(v, v) for v in rows)
    assert isinstance(outer, Tensor)
    return outer[None] / (count or len(rows))


def with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 3), (2, 5, 3), (3,)])
def test_inputs_of_dense_layers(shape: tuple[int, ...], bias: bool) -> None:
    layer = nn.Linear(3, 2, bias=bias, dtype=DOUBLE)
    foof = FOOF(layer, 0.0)
    x = normal(*shape)
    layer(x)
    rows = x.reshape(-1, 3)
    torch.testing.assert_close(factor(foof, "inputs"), moment(with_one(rows) if bias else rows))


def test_all_uses_of_a_layer_count() -> None:
    layer = nn.Linear(3, 3, dtype=DOUBLE)
    x = normal(7, 3)
    kfac = KFAC(layer, 0.0)
    first = layer(x)
    output = layer(first)
    kfac.fisher(*exact_normal(output))
    rows = with_one(torch.cat([x, first.detach()]))
    torch.testing.assert_close(factor(kfac, "inputs"), moment(rows))
    # The gradients of output k are e_k at the second use and W^T e_k at the first.
    of_uses = torch.cat([torch.eye(3, dtype=DOUBLE), layer.weight.detach()])
    torch.testing.assert_close(factor(kfac, "outputs"), moment(of_uses, 1))


CONVS: list[tuple[Callable[[], nn.Conv1d | nn.Conv2d | nn.Conv3d], tuple[int, ...]]] = [
    (lambda: nn.Conv1d(2, 3, 3, dtype=DOUBLE), (2, 2, 6)),
    (lambda: nn.Conv1d(2, 3, 4, padding="same", dilation=2, dtype=DOUBLE), (2, 2, 9)),
    (lambda: nn.Conv1d(2, 3, 2, padding="valid", dtype=DOUBLE), (2, 6)),
    (lambda: nn.Conv2d(2, 3, 3, dtype=DOUBLE), (2, 2, 5, 4)),
    (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dtype=DOUBLE), (2, 2, 5, 4)),
    (
        lambda: nn.Conv2d(2, 3, 2, stride=2, dilation=(1, 2), padding=1, bias=False, dtype=DOUBLE),
        (2, 2, 5, 6),
    ),
    (lambda: nn.Conv2d(4, 6, 2, groups=2, dtype=DOUBLE), (2, 4, 3, 4)),
    (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", dtype=DOUBLE), (2, 2, 4, 4)),
    (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect", dtype=DOUBLE), (2, 2, 4, 4)),
    (
        lambda: nn.Conv3d(2, 2, 2, stride=(1, 2, 2), padding=(0, 1, 0), groups=2, dtype=DOUBLE),
        (2, 2, 3, 3, 4),
    ),
]


@pytest.mark.parametrize("number", range(len(CONVS)))
def test_factors_of_convolutions(number: int) -> None:
    """Rows by differentiation: the derivative of an output is the patch in its channel's weight, and 1 in its bias."""
    make, shape = CONVS[number]
    layer = make()
    x = normal(*shape)
    batch = x if x.dim() == layer.weight.dim() else x[None]
    groups, of_group = layer.groups, layer.out_channels // layer.groups
    kfac = KFAC(layer, 0.0)
    output = layer(x)
    score = (output**2).reshape(len(batch), -1).sum(1)
    gradient = torch.autograd.grad(score.sum(), output, retain_graph=True)[0].reshape(
        len(batch), layer.out_channels, -1
    )
    kfac.fisher(score)
    patches: list[list[Tensor]] = [[] for _ in range(groups)]
    channels = layer(batch).movedim(1, 0).reshape(layer.out_channels, -1)
    for g in range(groups):
        for value in channels[g * of_group]:
            parts = torch.autograd.grad(value, list(layer.parameters()), retain_graph=True)
            row = [part[g * of_group].reshape(-1) for part in parts]
            patches[g].append(torch.cat(row))
    expected = torch.cat([moment(torch.stack(rows)) for rows in patches])
    torch.testing.assert_close(factor(kfac, "inputs"), expected)
    of_outputs = [
        moment(gradient[:, g * of_group : (g + 1) * of_group].movedim(1, 2).reshape(-1, of_group), len(batch))
        for g in range(groups)
    ]
    torch.testing.assert_close(factor(kfac, "outputs"), torch.cat(of_outputs))
    # Negative control: positions of the kernel in another order.
    if layer.weight[0].numel() > 1:
        last = [*range(expected.shape[1])]
        last[0], last[1] = 1, 0
        assert not torch.allclose(factor(kfac, "inputs"), expected[:, last][:, :, last], rtol=1e-3)


def test_large_convolutions_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(2, 3, 3, dtype=DOUBLE)
    x = normal(5, 2, 6, 6)
    whole = FOOF(layer, 0.0)
    layer(x)
    expected = factor(whole, "inputs")
    monkeypatch.setattr("ppx_proposals.optim.curvature.layers._MOST", 1)
    parts = FOOF(layer, 0.0)
    layer(x)
    torch.testing.assert_close(factor(parts, "inputs"), expected)


class Loop(nn.Module):
    """An LSTM written out: sequence by sequence, layer by layer, direction by direction, step by step."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm
        self.met: dict[str, list[Tensor]] = {}
        self.z: dict[str, list[Tensor]] = {}

    def forward(self, sequences: list[Tensor], h0: Tensor, c0: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Outputs of every sequence `(T, I)`, and final states `(L, B, H)`."""
        own = dict(self.lstm.named_parameters())
        num_directions = 2 if self.lstm.bidirectional else 1
        ends_h, ends_c, outputs = [], [], []
        for number, x in enumerate(sequences):
            ends = []
            for layer in range(self.lstm.num_layers):
                of_directions = []
                for direction in range(num_directions):
                    suffix = f"_l{layer}" + "_reverse" * direction
                    at = layer * num_directions + direction
                    h, c = h0[at, number], c0[at, number]
                    order = range(len(x))[:: -1 if direction else 1]
                    steps: dict[int, Tensor] = {}
                    for t in order:
                        z = own["weight_ih" + suffix] @ x[t] + own["weight_hh" + suffix] @ h
                        if self.lstm.bias:
                            z = z + own["bias_ih" + suffix] + own["bias_hh" + suffix]
                        self.met.setdefault("weight_ih" + suffix, []).append(x[t].detach())
                        self.met.setdefault("weight_hh" + suffix, []).append(h.detach())
                        self.z.setdefault(suffix, []).append(z)
                        i, f, g, o = z.chunk(4)
                        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                        h = o.sigmoid() * c.tanh()
                        steps[t] = h
                    of_directions.append(torch.stack([steps[t] for t in range(len(x))]))
                    ends.append((h, c))
                x = torch.cat(of_directions, dim=1)
            outputs.append(x)
            ends_h.append(torch.stack([h for h, _ in ends]))
            ends_c.append(torch.stack([c for _, c in ends]))
        return outputs, torch.stack(ends_h, dim=1), torch.stack(ends_c, dim=1)


LSTMS = {
    "plain": {},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
    "two layers": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "two layers, bidirectional, batch first": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("layout", ["padded", "packed", "single"])
@pytest.mark.parametrize("kind", LSTMS)
def test_factors_of_lstms(kind: str, layout: str, with_state: bool) -> None:
    lstm = nn.LSTM(2, 3, dtype=DOUBLE, **LSTMS[kind])  # type: ignore[arg-type]
    lengths = {"padded": [4, 4, 4], "packed": [2, 5, 3], "single": [4]}[layout]
    sequences = [normal(n, 2, seed=number) for number, n in enumerate(lengths)]
    num_states = lstm.num_layers * (2 if lstm.bidirectional else 1)
    states = normal(2, num_states, len(lengths), 3, seed=9) * with_state
    inputs: Tensor | PackedSequence = sequences[0]
    if layout == "padded":
        inputs = torch.stack(sequences, dim=0 if lstm.batch_first else 1)
    elif layout == "packed":
        inputs = pack_sequence(sequences, enforce_sorted=False)
    start = (states[0], states[1]) if layout != "single" else (states[0, :, 0], states[1, :, 0])
    foof, kfac = FOOF(lstm, 0.0), KFAC(lstm, 0.0)
    output, (h, c) = lstm(inputs, start) if with_state else lstm(inputs)
    loop = Loop(lstm)
    outputs, h_loop, c_loop = loop(sequences, *states)
    # A score of every sequence in which outputs and final states have a part.
    weight = normal(5, output.data.shape[-1], seed=11)
    scores = [
        (o * weight[: len(o)]).sum() + (h_loop[:, b] ** 2).sum() - c_loop[:, b].exp().sum()
        for b, o in enumerate(outputs)
    ]
    steps = nn.utils.rnn.pad_packed_sequence(output)[0] if layout == "packed" else output
    if layout == "single":
        steps, h, c = steps[:, None], h[:, None], c[:, None]
    elif lstm.batch_first and layout == "padded":
        steps = steps.transpose(0, 1)
    score = (steps * weight[: len(steps), None]).sum((0, 2)) + (h**2).sum((0, 2)) - c.exp().sum((0, 2))
    torch.testing.assert_close(score, torch.stack(scores))
    kfac.fisher(score)
    for name, rows in loop.met.items():
        expected = torch.stack(rows)
        torch.testing.assert_close(
            factor(foof, "inputs", name), moment(with_one(expected) if lstm.bias else expected)
        )
        torch.testing.assert_close(factor(foof, "inputs", name), factor(kfac, "inputs", name))
    for suffix, z in loop.z.items():
        rows = list(torch.autograd.grad(torch.stack(scores).sum(), z, retain_graph=True))
        expected = moment(torch.stack(rows), len(lengths))
        torch.testing.assert_close(factor(kfac, "outputs", "weight_ih" + suffix), expected)
        torch.testing.assert_close(factor(kfac, "outputs", "weight_hh" + suffix), expected)
        # Negative control: without the final states the gates' gradients are others.
        partial = [(o * weight[: len(o)]).sum() for o in outputs]
        rows = list(torch.autograd.grad(torch.stack(partial).sum(), z, retain_graph=True))
        assert not torch.allclose(moment(torch.stack(rows), len(lengths)), expected, rtol=1e-3)


def test_factors_of_lstm_cells() -> None:
    """A cell called step by step has the factors of the layer."""
    lstm, cell = nn.LSTM(2, 3, dtype=DOUBLE), nn.LSTMCell(2, 3, dtype=DOUBLE)
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in lstm.state_dict().items()})
    x = normal(5, 4, 2)
    whole, steps = KFAC(lstm, 0.0), KFAC(cell, 0.0)
    only_inputs = FOOF(cell, 0.0)
    output, (_, c) = lstm(x)
    whole.fisher((output**3).sum((0, 2)) + c.exp().sum((0, 2)))
    state, outputs = None, []
    for now in x:
        state = cell(now, state)
        outputs.append(state[0])
    assert state is not None
    steps.fisher((torch.stack(outputs) ** 3).sum((0, 2)) + state[1].exp().sum(1))
    for name in ("weight_ih", "weight_hh"):
        for kind in ("inputs", "outputs"):
            torch.testing.assert_close(factor(steps, kind, name), factor(whole, kind, name + "_l0"))
        torch.testing.assert_close(factor(only_inputs, "inputs", name), factor(whole, "inputs", name + "_l0"))


def test_outputs_changed_in_place_have_the_gradient_of_before() -> None:
    layer = nn.Linear(3, 2, dtype=DOUBLE)
    net = nn.Sequential(layer, nn.ReLU(inplace=True))
    kfac = KFAC(net, 0.0)
    x = normal(6, 3)
    kfac.fisher((net(x) ** 2).sum(1))
    z = layer(x)
    g = torch.autograd.grad((z.relu() ** 2).sum(), z)[0]
    torch.testing.assert_close(factor(kfac, "outputs", "0.weight"), moment(g))


def test_single_sample_factors_are_the_exact_fisher_block() -> None:
    """With one sample, every block of a deep network with linear layers is A x G (up to order of coordinates)."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)).double()
    kfac = KFAC(net, 0.0)
    x = normal(1, 3)
    output = net(x)
    kfac.fisher(*exact_normal(output))
    for number in range(3):
        weight = net[number].weight
        jacobian = torch.stack(
            [torch.autograd.grad(f, weight, retain_graph=True)[0].reshape(-1) for f in output[0]]
        )
        a = factor(kfac, "inputs", f"{number}.weight")[0, :-1, :-1]
        g = factor(kfac, "outputs", f"{number}.weight")[0]
        torch.testing.assert_close(torch.kron(g, a), jacobian.mT @ jacobian)
        assert not torch.allclose(torch.kron(a, g), jacobian.mT @ jacobian)


def test_exact_categorical_fisher_is_the_hessian() -> None:
    x = normal(1, 3)
    layer = nn.Linear(3, 4, bias=False, dtype=DOUBLE)
    kfac = KFAC(layer, 0.0)
    kfac.fisher(*exact_categorical(layer(x)))
    hessian = torch.autograd.functional.hessian(
        lambda w: functional.cross_entropy(x @ w.mT, torch.tensor([1])), layer.weight.detach()
    )
    block = torch.kron(factor(kfac, "outputs")[0], factor(kfac, "inputs")[0])
    torch.testing.assert_close(block, hessian.reshape(12, 12))


@pytest.mark.parametrize("kind", ["categorical", "normal"])
def test_sampled_scores_are_unbiased(kind: str) -> None:
    """The mean over draws is the exact factor to within four standard errors; the empirical Fisher factor is not."""
    layer = nn.Linear(3, 3, dtype=DOUBLE)
    x, g = normal(4, 3), generator()
    exact = exact_categorical if kind == "categorical" else exact_normal
    sampled = sampled_categorical if kind == "categorical" else sampled_normal
    kfac = KFAC(layer, 0.0)
    kfac.fisher(*exact(layer(x)))
    expected = factor(kfac, "outputs")[0]
    # Many draws of every sample, as rows of one batch each.
    z = layer(x).detach().repeat(4000, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(sampled(z, g).sum(), z)
    draws = (gradient[:, :, None] * gradient[:, None, :]).reshape(4000, 4, 3, 3).mean(1)
    error = draws.std(0) / 4000**0.5
    assert ((draws.mean(0) - expected).abs() < 4 * error + 1e-12).all()
    target = torch.tensor([0, 1, 0, 1]) if kind == "categorical" else normal(4, 3, seed=3)
    z = layer(x)
    if kind == "categorical":
        log_prob = -functional.cross_entropy(z, target, reduction="none")
    else:
        log_prob = -0.5 * ((z - target) ** 2).sum(1)
    wrong = torch.autograd.grad(log_prob.sum(), z)[0]
    assert not ((moment(wrong)[0] - expected).abs() < 4 * error + 1e-12).all()


def test_scores_of_several_draws_per_sample_add_up() -> None:
    logits = normal(2, 5, 3)
    assert sampled_categorical(logits, generator()).shape == (2,)
    assert sampled_normal(logits, generator()).shape == (2,)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    sampled_normal(logits, generator())
    assert torch.equal(before, torch.get_rng_state())

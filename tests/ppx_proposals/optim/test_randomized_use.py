"""Randomized layers: what is said to be exact is exact, bytes are saved, and networks are converted and learn."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ppx_proposals.optim.adam_hd import AdamHD
from ppx_proposals.optim.randomized import (
    PROJECTIONS,
    MaskReLU,
    RADConv1d,
    RADConv2d,
    RADConv3d,
    RADLinear,
    compare,
    memory_use,
    randomize,
    table,
)
from tests.ppx_proposals.optim.gradients import gradients_of

CONVOLUTIONS = {1: (RADConv1d, nn.Conv1d), 2: (RADConv2d, nn.Conv2d), 3: (RADConv3d, nn.Conv3d)}


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 5, 7)])
def test_linear_is_exact_but_for_its_weights_gradient(
    projection: str, bias: bool, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(3)
    layer = RADLinear(7, 4, 0.3, bias=bias, projection=projection)
    _exact_but_for_the_weight(layer, functional.linear, torch.randn(shape, requires_grad=True))


@pytest.mark.parametrize("dimensions", CONVOLUTIONS)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_is_exact_but_for_its_weights_gradient(
    dimensions: int, padding_mode: str, groups: int
) -> None:
    torch.manual_seed(4)
    randomized, plain = CONVOLUTIONS[dimensions]
    settings = {"stride": 2, "padding": 1, "padding_mode": padding_mode, "groups": groups}
    layer = randomized(4, 6, 3, keep=0.3, **settings)
    other = plain(4, 6, 3, **settings)  # type: ignore[arg-type]
    x = torch.randn(5, 4, *[6] * dimensions, requires_grad=True)

    def operation(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(other, {"weight": weight, "bias": bias}, x)

    _exact_but_for_the_weight(layer, operation, x)


def _exact_but_for_the_weight(layer: nn.Module, operation: Callable[..., Tensor], x: Tensor) -> None:
    y = layer(x)
    weight, bias = (
        None if p is None else p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias)
    )
    expected = operation(x, weight, bias)
    if x.dim() > 1:
        assert torch.equal(y, expected)
    else:
        torch.testing.assert_close(y, expected)
    g = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, *layer.parameters()], g)
    wanted = torch.autograd.grad(expected, [p for p in (x, weight, bias) if p is not None], g)
    for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
        if number == 1:
            # One row times its random sign, twice, is that row.
            assert torch.allclose(a, b) == (x.dim() == 1 and layer.randomization.projection == "rademacher")
        elif x.dim() > 1:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b)


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


def test_exact_where_it_is_said_to_be() -> None:
    """keep=1, eval() and no_grad: the plain network to the last bit; with keep < 1 the weights' gradients differ."""
    torch.manual_seed(5)
    plain = _network()
    x = torch.randn(9, 1, 6, 6)
    expected = plain(x)
    exact = gradients_of(plain, lambda: (plain(x) ** 2).sum())
    for keep, train in ((1.0, True), (0.1, False), (0.1, True)):
        network = randomize(copy.deepcopy(plain), keep).train(train)
        assert torch.equal(network(x), expected)
        found = gradients_of(network, lambda network=network: (network(x) ** 2).sum())  # type: ignore[misc]
        assert torch.equal(found, exact) == (keep == 1.0 or not train)
        state = torch.get_rng_state()
        with torch.no_grad():
            assert torch.equal(network(x), expected)
        assert torch.equal(torch.get_rng_state(), state)


def test_seed_decides() -> None:
    torch.manual_seed(6)
    plain, x = _network(), torch.randn(9, 1, 6, 6)

    def gradients(network: nn.Module) -> Tensor:
        return torch.stack([gradients_of(network, lambda: (network(x) ** 2).sum()) for _ in range(2)])

    first, again, other = (
        gradients(randomize(copy.deepcopy(plain), generator=torch.Generator().manual_seed(seed)))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    # None is the global generator, and a copy of a network has a copy of its generator.
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(gradients(randomize(copy.deepcopy(plain))))
    assert torch.equal(*results)
    network = randomize(copy.deepcopy(plain), generator=torch.Generator().manual_seed(3))
    copied, pickled = copy.deepcopy(network), pickle.loads(pickle.dumps(network))
    expected = gradients(network)
    assert torch.equal(gradients(copied), expected)
    assert torch.equal(gradients(pickled), expected)


def test_second_derivatives_are_refused() -> None:
    layer = RADLinear(5, 3, 0.2)
    x = torch.randn(4, 5, requires_grad=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad((layer(x) ** 2).sum(), [x], create_graph=True)
    layer.eval()
    (grad,) = torch.autograd.grad((layer(x) ** 2).sum(), [x], create_graph=True)
    assert grad.requires_grad


def test_weight_that_changed_before_the_backward_pass_is_refused() -> None:
    layer = RADLinear(5, 3, 0.2)
    loss = layer(torch.randn(4, 5, requires_grad=True)).sum()
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"\(5, 3\), was changed in place"):
        loss.backward()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_inside_activation_checkpointing(use_reentrant: bool) -> None:
    """The recomputed forward pass draws the same seeds: the gradient is the one without checkpointing."""
    torch.manual_seed(8)
    network = randomize(nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 2)), 0.25)
    x = torch.randn(8, 6, requires_grad=True)
    results = []
    for inside in (False, True):
        torch.manual_seed(9)
        run = checkpoint(network, x, use_reentrant=use_reentrant) if inside else network(x)
        results.append(gradients_of(network, lambda run=run: (run**2).sum()))  # type: ignore[misc]
    assert torch.equal(results[0], results[1])
    torch.manual_seed(10)
    assert not torch.equal(results[0], gradients_of(network, lambda: (network(x) ** 2).sum()))


def test_under_autocast() -> None:
    torch.manual_seed(11)
    layer, x = RADLinear(64, 8, 0.25), torch.randn(256, 64, requires_grad=True)
    g = torch.randn(256, 8, dtype=torch.bfloat16)
    grads = []
    for train in (False, True):
        layer.train(train)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert y.dtype is torch.bfloat16
        grads.append(torch.autograd.grad(y, [x, layer.bias, layer.weight], g))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])
    assert not torch.allclose(grads[0][2], grads[1][2])


@pytest.mark.parametrize("shape", [(0,), (1,), (8,), (3, 5), (2, 3, 5, 7)])
def test_mask_relu_is_relu(shape: tuple[int, ...]) -> None:
    torch.manual_seed(12)
    x = torch.randn(shape, requires_grad=True)
    with torch.no_grad():
        x.view(-1)[:1] = math.nan
        x.view(-1)[1:2] = 0.0
    g = torch.randn(shape)
    ours, theirs = MaskReLU()(x), torch.relu(x)
    assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))
    assert torch.equal(torch.autograd.grad(ours, x, g)[0], torch.autograd.grad(theirs, x, g)[0])
    transposed = torch.randn(4, 3, 6, requires_grad=True)
    (ours,) = torch.autograd.grad((MaskReLU()(transposed.mT) ** 2).sum(), transposed)
    (theirs,) = torch.autograd.grad((torch.relu(transposed.mT) ** 2).sum(), transposed)
    assert torch.equal(ours, theirs)


def test_mask_relu_is_differentiable_twice() -> None:
    x = torch.randn(10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MaskReLU(), x)
    assert torch.autograd.gradgradcheck(lambda x: MaskReLU()(x) ** 2, x)


def test_randomize_converts_in_place() -> None:
    torch.manual_seed(13)
    network = nn.Sequential(_network(), nn.LSTM(3, 2))
    parameters = dict(network.named_parameters())
    seen = []
    network[0][3].register_forward_hook(lambda *_: seen.append(1))
    state = copy.deepcopy(network.state_dict())
    assert randomize(network, 0.25, skip=["0.0"]) is network
    assert type(network[0][0]) is nn.Conv2d
    assert [type(network[0][i]) for i in (1, 3, 4, 5)] == [MaskReLU, RADLinear, MaskReLU, RADLinear]
    assert all(p is parameters[name] for name, p in network.named_parameters())
    assert state.keys() == network.state_dict().keys()
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    buffer.seek(0)
    nn.Sequential(_network(), nn.LSTM(3, 2)).load_state_dict(torch.load(buffer, weights_only=True))
    network[0](torch.randn(2, 1, 6, 6))
    assert seen
    assert "keep=1/4 (magnitude)" in repr(network[0][3])
    randomize(network, 1.0)
    assert network[0][3].randomization.group == 1


def test_settings_are_checked_before_anything_changes() -> None:
    network = _network()
    for keep in (0.0, -1.0, 1.5, 1 / 300, math.nan):
        with pytest.raises(ValueError, match="keep must lie in"):
            randomize(network, keep)
        with pytest.raises(ValueError, match="keep must lie in"):
            RADLinear(2, 2, keep)
    with pytest.raises(ValueError, match="projection must be one of sample, magnitude"):
        randomize(network, projection="gaussian")
    with pytest.raises(ValueError, match="skip names no module of the network: '9'"):
        randomize(network, skip=["0", "9"])
    with pytest.raises(ValueError, match=r"no nn.Linear"):
        randomize(nn.Tanh())
    assert type(network[0]) is nn.Conv2d


def test_special_inputs() -> None:
    """Zeros, infinities, inputs of no rows and of sizes that are no multiple of the group."""
    for projection in PROJECTIONS:
        layer = RADLinear(7, 3, 0.25, projection=projection)
        for rows in (0, 1, 3):
            layer.zero_grad()
            layer(torch.zeros(rows, 7)).sum().backward()
            assert layer.weight.grad is not None
            assert not layer.weight.grad.any()
        sparse = torch.zeros(4, 7)
        sparse[1, 3] = 2.0
        mean = torch.stack([gradients_of(layer, lambda: layer(sparse).sum()) for _ in range(400)]).mean(0)  # noqa: B023
        assert float(mean.view(-1)[3]) == pytest.approx(2.0, abs=4 * 2.0 * math.sqrt(3 / 400))
        layer.zero_grad()
        layer(torch.full((4, 7), math.inf)).sum().backward()
        assert not layer.weight.grad.isfinite().all()
    # One number of a group that is not zero is kept for certain.
    layer = RADLinear(7, 3, 0.25)
    assert float(gradients_of(layer, lambda: layer(sparse).sum())[3]) == 2.0


def test_memory_use_counts_bytes() -> None:
    x, w = torch.randn(1000), torch.randn(1000, requires_grad=True)
    # exp saves its output, the product the other factor, which was there; the loss is one number.
    use = memory_use(lambda: (x * w).exp().sum())
    assert use.saved == 4 * 1000 + 4
    # The product with its exponential; and that with its gradient.
    assert 8000 <= use.peak <= 8100
    # A view is no memory of its own.
    assert memory_use(lambda: (w.view(10, 100) * 2.0).sum()).saved == 4


@pytest.mark.parametrize(("projection", "bytes_kept"), [("sample", 4), ("magnitude", 5), ("rademacher", 4)])
def test_bytes_saved(projection: str, bytes_kept: int) -> None:
    width, depth, batch = 64, 5, 160
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    plain = nn.Sequential(*layers)
    x = torch.randn(batch, width)
    entries = batch * width

    def use(network: nn.Module) -> int:
        return memory_use(lambda: network(x).sum()).saved

    assert use(plain) == 4 * entries * depth + 4
    network = randomize(copy.deepcopy(plain), 0.1, projection=projection)
    # A sketch per Linear, a bit per entry of a ReLU.
    assert use(network) == bytes_kept * entries // 10 * depth + entries // 8 * depth + 4
    # Negative control: with torch's ReLU, which saves its output, nothing is gained.
    for number in range(1, 2 * depth, 2):
        network[number] = nn.ReLU()
    assert use(network) > use(plain)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_learns_what_the_exact_gradient_learns(activation: type[nn.Module]) -> None:
    """Ten classes of noisy images; Adam-HD on randomized layers ends near the loss of exact ones."""
    losses = []
    for keep in (1.0, 0.1):
        torch.manual_seed(14)
        centres = torch.randn(10, 64)
        y = torch.randint(10, (1024,))
        x = centres[y] + 1.5 * torch.randn(1024, 64)
        network = nn.Sequential(
            nn.Linear(64, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 10)
        )
        randomize(network, keep)
        optimizer = AdamHD(network.parameters(), lr=2e-3, hypergrad_lr=1e-6)
        for step in range(150):
            rows = slice(128 * (step % 8), 128 * (step % 8 + 1))
            optimizer.zero_grad()
            functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(float(functional.cross_entropy(network(x), y)))
    assert losses[0] < 0.05
    assert losses[1] < 0.15
    assert losses[1] != losses[0]


def test_compare_measures() -> None:
    torch.manual_seed(15)
    network = nn.Sequential(
        nn.Linear(20, 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 3),
    )
    batch = torch.randn(100, 20), torch.randn(100, 3)
    state = copy.deepcopy(network.state_dict())
    rows = {row.method: row for row in compare(network, batch, functional.mse_loss, draws=3)}
    assert list(rows) == ["exact", "checkpointing", "accumulation", "ReLU masks", *PROJECTIONS, "batch of 10"]
    assert rows["exact"].noise == rows["ReLU masks"].noise == 0.0
    assert max(rows[name].noise for name in ("checkpointing", "accumulation")) < 1e-5
    assert rows["accumulation"].peak < 0.2 * rows["exact"].peak
    assert min(rows[name].noise for name in (*PROJECTIONS, "batch of 10")) > 0.01
    assert rows["magnitude"].saved < 0.4 * rows["exact"].saved
    assert all(row.seconds > 0 and row.peak >= row.saved for row in rows.values())
    assert len(table(list(rows.values())).splitlines()) == 2 + len(rows)
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())

"""Randomized layers: gradients of weights have the right mean, and the variance stated."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ppx_proposals.batching import PackedSteps
from ppx_proposals.config import NetworkConfig
from ppx_proposals.network import ProposalNetwork
from ppx_proposals.optim.randomized import (
    PROJECTIONS,
    RADConv1d,
    RADConv2d,
    RADConv3d,
    RADLinear,
    memory_use,
    randomize,
)
from tests.ppx_proposals.optim.gradients import gradients_of

CONVOLUTIONS = {1: (RADConv1d, nn.Conv1d), 2: (RADConv2d, nn.Conv2d), 3: (RADConv3d, nn.Conv3d)}


def _exact(module: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    module.eval()
    gradient = gradients_of(module, loss)
    module.train()
    return gradient


def _z_scores(gradient: Callable[[], Tensor], exact: Tensor, draws: int) -> Tensor:
    """Of the mean of draws, by their own spread, for all entries that vary; the others must be exact."""
    samples = torch.stack([gradient() for _ in range(draws)])
    error, spread = samples.mean(0) - exact, samples.std(0) / math.sqrt(draws)
    varies = spread > 1e-12 * (exact.abs().max() + samples.abs().max())
    assert bool((error[~varies].abs() <= 1e-10 * exact.abs().max()).all())
    return error[varies] / spread[varies]


def _largest(count: int) -> float:
    """Bound of |z| over all of `count` entries at 1e-4, by Bonferroni; a little is added for Student's tails."""
    return 1.15 * float(torch.special.ndtri(torch.tensor(1.0 - 0.5e-4 / count, dtype=torch.float64)))


def _variance(projection: str, x: Tensor, g: Tensor, group: int) -> Tensor:
    """Of the entries of the weight's gradient g^T x^, `(O, I)`, by the formulas of the module."""
    # Groups lie within rows, so that each entry of the weight meets one entry of a group.
    a2 = (g[:, :, None] * x[:, None, :]) ** 2
    if projection == "sample":
        return ((group - 1) * a2).sum(0)
    if projection == "magnitude":
        total = x.abs().view(len(x), -1, group).sum(2).repeat_interleave(group, dim=1)
        return ((g**2)[:, :, None] * (total * x.abs())[:, None, :] - a2).sum(0)
    product = g.mT @ x
    norms = (g**2).sum(0)[:, None] * (x**2).sum(0)
    return (norms + product**2 - 2 * a2.sum(0)) / (len(x) // group)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_weight_gradient_of_linear_has_its_mean_and_the_variance_stated(projection: str) -> None:
    torch.manual_seed(0)
    draws, group = 4000, 4
    layer = RADLinear(12, 3, 1 / group, projection=projection, dtype=torch.float64)
    x, g = torch.randn(16, 12, dtype=torch.float64), torch.randn(16, 3, dtype=torch.float64)
    samples = torch.empty(draws, 3, 12, dtype=torch.float64)
    for sample in samples:
        (grad,) = torch.autograd.grad(layer(x), [layer.weight], g)
        sample.copy_(grad)
    variance = _variance(projection, x, g, group)
    z = (samples.mean(0) - g.mT @ x) / (variance / draws).sqrt()
    assert float(z.abs().max()) < _largest(z.numel())
    # Along the exact gradient, where a wrong factor shows most.
    along = (samples * (g.mT @ x)).sum((1, 2)) / ((g.mT @ x) ** 2).sum()
    assert float(along.mean()) == pytest.approx(1.0, abs=4 * float(along.std()) / math.sqrt(draws))
    # z^2 has mean 1 and, were the entries independent, variance 2.
    assert float((z**2).mean()) == pytest.approx(1.0, abs=4 * math.sqrt(2 / z.numel()))
    # The variance of a variance, from the sample's fourth moment.
    centred = (samples - g.mT @ x) ** 2 / variance
    error = (centred.mean(0) - 1) / (centred.std(0) / math.sqrt(draws))
    assert float(error.abs().max()) < _largest(z.numel())
    # Negative controls: without the factor m, and with another layer's variance.
    assert float(((samples.mean(0) / group - g.mT @ x) / (variance / draws).sqrt()).abs().max()) > 20
    wrong = _variance("sample" if projection != "sample" else "magnitude", x, g, group)
    centred = (samples - g.mT @ x) ** 2 / wrong
    assert float(((centred.mean(0) - 1) / (centred.std(0) / math.sqrt(draws))).abs().max()) > 6


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_weight_gradient_of_convolution_has_its_mean(projection: str, padding_mode: str) -> None:
    torch.manual_seed(1)
    layer = RADConv3d(
        2, 3, 3, keep=0.25, projection=projection, stride=2, padding=1, padding_mode=padding_mode
    ).double()
    x = torch.randn(8, 2, 5, 4, 3, dtype=torch.float64)
    target = torch.randn(8, 3, 3, 2, 2, dtype=torch.float64)

    def loss() -> Tensor:
        return (layer(x) * target).sum()

    z = _z_scores(lambda: gradients_of(layer, loss), _exact(layer, loss), draws=800)
    assert len(z) == layer.weight.numel()
    assert float(z.abs().max()) < _largest(len(z))


class _GlobalHooks:
    """The wrong way: everything that the forward pass saves is sketched, weights and inputs of nonlinearities too."""

    def __init__(self, projection: str, group: int) -> None:
        self._projection, self._group = PROJECTIONS[projection], group

    def __call__(self, loss: Callable[[], Tensor]) -> Tensor:
        def pack(saved: Tensor) -> object:
            seed = int(torch.randint(2**32, ()))
            return self._projection.pack(saved, self._group, seed) if saved.dim() > 1 else saved

        def unpack(packed: object) -> Tensor:
            return packed if isinstance(packed, Tensor) else self._projection.unpack(packed)  # type: ignore[arg-type]

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return loss()


@pytest.mark.parametrize(
    ("projection", "activation"),
    [
        ("sample", nn.ReLU),
        pytest.param("magnitude", nn.ReLU, marks=pytest.mark.slow),
        pytest.param("sample", nn.SiLU, marks=pytest.mark.slow),
        pytest.param("magnitude", nn.SiLU, marks=pytest.mark.slow),
    ],
)
def test_hooks_must_enclose_one_linear_operation(projection: str, activation: type[nn.Module]) -> None:
    """A whole network's gradient has the right mean with `randomize`, and the same test rejects global hooks."""
    torch.manual_seed(2)
    network = nn.Sequential(
        nn.Linear(6, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 2)
    ).double()
    with torch.no_grad():
        # Near 0 the derivative of a SiLU is nearly linear, and the mean nearly right.
        for p in network.parameters():
            p.mul_(4)
    plain = copy.deepcopy(network)
    x = torch.randn(32, 6, dtype=torch.float64)

    def loss(model: nn.Module) -> Callable[[], Tensor]:
        return lambda: (model(x) ** 2).sum()

    exact = gradients_of(plain, loss(plain))
    randomize(network, 0.25, projection=projection)
    z = _z_scores(lambda: gradients_of(network, loss(network)), exact, draws=500)
    assert float(z.abs().max()) < _largest(len(z))
    hooked = _GlobalHooks(projection, 4)
    samples = torch.stack([gradients_of(plain, lambda: hooked(loss(plain))) for _ in range(500)])
    z = (samples.mean(0) - exact) / (samples.std(0) / math.sqrt(len(samples)))
    assert float(z[torch.isfinite(z)].abs().max()) > 1.5 * _largest(len(z))


def _steps(num_traces: int) -> PackedSteps:
    """Three steps per trace, one of each kind; a flat observation and a grid."""
    generator = torch.Generator().manual_seed(16)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    k, s = num_traces, 3 * num_traces
    position = torch.arange(s)
    z = normal(k)
    return PackedSteps(
        num_traces=k,
        batch_sizes=torch.tensor([k, k, k]),
        row=np.arange(s),
        flat=normal(k, 4),
        grids=(normal(k, 2, 7, 5, 4),),
        trace=position % k,
        address=1 + position // k,
        previous_address=position // k,
        previous_category=torch.zeros(s, dtype=torch.int64),
        previous_z=normal(s),
        features=normal(s, 3),
        continuous=position[:k],
        ordered=position[k : 2 * k],
        categorical=position[2 * k :],
        z=normal(k),
        z_low=z,
        z_high=z + 0.5,
        category=torch.randint(3, (k,), generator=generator),
        first_category=torch.ones(k, dtype=torch.int64),
        num_categories=torch.full((k,), 3),
        log_probs=torch.full((k, 3), -math.log(3.0), dtype=torch.float64),
    )


@pytest.mark.slow
def test_proposal_network() -> None:
    """Embeddings and heads: gradients of what is randomized have the right mean, all others are what they were."""
    config = NetworkConfig(
        lstm_size=8, head_size=8, address_size=4, observation_size=4, key_size=4, grid_channels=(3, 4)
    )
    network = ProposalNetwork(4, ((7, 5, 4),), config)
    network.grow(3, 3)
    network.double()
    with torch.no_grad():
        network.mixture_head.output.weight.mul_(10)
    steps = _steps(24)

    def loss() -> Tensor:
        return -network(steps).mean()

    names = [name for name, p in network.named_parameters() for _ in range(p.numel())]
    exact = _exact(network, loss)
    assert len(exact) == len(names)
    randomize(network, 0.25)
    samples = torch.stack([gradients_of(network, loss) for _ in range(300)])
    spread = samples.std(0) / math.sqrt(len(samples))
    varies = spread > 1e-9 * exact.abs().max()
    found = {name for name, moves in zip(names, varies.tolist(), strict=True) if moves}
    assert found == {
        "observation.flat.0.weight",
        "observation.flat.2.weight",
        "observation.grids.0.layers.0.weight",
        "observation.grids.0.layers.2.weight",
        "observation.grids.0.dense.0.weight",
        "observation.grids.0.last.0.weight",
        "categorical_head.query.weight",
    }
    z = ((samples.mean(0) - exact) / spread)[varies]
    assert float(z.abs().max()) < _largest(len(z))
    torch.testing.assert_close(samples[0][~varies], exact[~varies], rtol=1e-12, atol=1e-14)
    # The embeddings save less; the data and what other parts save is the same.
    saved = memory_use(loss).saved
    assert saved < memory_use(lambda: -network.eval()(steps).mean()).saved

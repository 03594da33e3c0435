"""Which layers are preconditioned: those with weights of their own, frozen ones beside them, and larger ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from ppx_proposals.optim.curvature import FOOF, KFAC
from tests.ppx_proposals.optim.curvature_by_the_book import DOUBLE, factors, normal


@pytest.mark.parametrize("kind", ["dense", "pruned", "recurrent"])
def test_layers_whose_weights_are_made_of_others_are_left_as_they_are(kind: str) -> None:
    """Beside one that is preconditioned."""
    layers: dict[str, Callable[[], nn.Module]] = {
        "dense": lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
        "pruned": lambda: prune.l1_unstructured(nn.Linear(3, 3), "bias", amount=1),  # type: ignore[no-untyped-call]
        "recurrent": lambda: parametrizations.weight_norm(nn.LSTMCell(3, 3), "weight_hh"),
    }
    made, plain = layers[kind]().double(), nn.Linear(3, 2).double()
    foof, optimizer = FOOF(nn.Sequential(made, plain), 0.1), torch.optim.SGD(plain.parameters(), lr=0.1)
    optimizer.add_param_group({"params": made.parameters()})
    foof.attach(optimizer)
    first = made(normal(5, 3))
    torch.autograd.backward(plain(first if torch.is_tensor(first) else first[0]).square().sum())
    before = [p.detach().clone() for p in made.parameters()]
    optimizer.step()
    assert list(foof.state_dict()["inputs"]) == ["1.weight"]
    for p, old in zip(made.parameters(), before, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.detach(), old - 0.1 * p.grad)


@pytest.mark.parametrize("kind", [FOOF, KFAC])
def test_weights_of_an_lstm_beside_frozen_ones_have_their_factors(kind: Any) -> None:
    def found(frozen: tuple[str, ...]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        lstm = nn.LSTM(3, 4, bidirectional=True).double()
        for name in frozen:
            getattr(lstm, name).requires_grad_(False)
        preconditioner = kind(lstm, 0.1)
        output = lstm(normal(5, 6, 3))[0]
        if kind is KFAC:
            preconditioner.fisher(output.transpose(0, 1).flatten(1).sum(1))
        return factors(preconditioner)

    plain = found(())
    frozen = found(("weight_ih_l0", "bias_ih_l0", "weight_ih_l0_reverse"))
    assert set(frozen) == set(plain)
    for name, factor in plain.items():
        torch.testing.assert_close(frozen[name], factor)
    everything = ("weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse")
    if kind is FOOF:
        assert not found(everything)


def test_larger_weights_in_the_place_of_others_begin_anew() -> None:
    model = nn.Linear(3, 2, dtype=DOUBLE)
    foof = FOOF(model, 0.1)
    model(normal(5, 3))
    assert factors(foof)["inputs weight"].shape == (1, 4, 4)
    model.weight = nn.Parameter(normal(2, 6))
    foof.extend()
    x = normal(5, 6)
    model(x)
    rows = functional.pad(x, (0, 1), value=1.0)
    torch.testing.assert_close(factors(foof)["inputs weight"], (rows.mT @ rows / 5)[None])

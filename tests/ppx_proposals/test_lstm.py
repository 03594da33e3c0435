"""The LSTM over packed sequences is `torch.nn.LSTM`, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

from ppx_proposals.lstm import packed_lstm


@pytest.mark.parametrize("sizes", [[3], [1], [4, 4, 2, 1, 1], [5, 3], [1, 1, 1]])
@pytest.mark.parametrize("how", ["each its own", "more than have steps", "shared"])
def test_outputs_and_gradients_are_those_of_torch(sizes: list[int], how: str) -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(5, 4).double()
    batch_sizes = torch.tensor(sizes)
    num_sequences = {"each its own": sizes[0], "more than have steps": sizes[0] + 2, "shared": 1}[how]
    constant = torch.randn(num_sequences, 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(sum(sizes), 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(sum(sizes), 4, dtype=torch.float64)
    sequence = torch.cat(
        [torch.arange(n) if how != "shared" else torch.zeros(n, dtype=torch.int64) for n in sizes]
    )
    theirs = lstm(PackedSequence(torch.cat([constant[sequence], x], dim=1), batch_sizes))[0].data
    ours = packed_lstm(lstm, constant, x, batch_sizes, sequence)
    torch.testing.assert_close(ours, theirs)
    inputs = [constant, x, *lstm.parameters()]
    expected = torch.autograd.grad((theirs * weight).sum(), inputs)
    found = torch.autograd.grad((ours * weight).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)

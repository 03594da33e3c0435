"""The LSTM over packed sequences is `torch.nn.LSTM`, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

from ppx_proposals.lstm import packed_lstm


@pytest.mark.parametrize("sizes", [[3], [1], [4, 4, 2, 1, 1], [5, 3], [1, 1, 1]])
def test_outputs_and_gradients_are_those_of_torch(sizes: list[int]) -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 4).double()
    batch_sizes = torch.tensor(sizes)
    x = torch.randn(sum(sizes), 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(sum(sizes), 4, dtype=torch.float64)
    theirs = lstm(PackedSequence(x, batch_sizes))[0].data
    ours = packed_lstm(lstm, x, batch_sizes)
    torch.testing.assert_close(ours, theirs)
    inputs = [x, *lstm.parameters()]
    expected = torch.autograd.grad((theirs * weight).sum(), inputs)
    found = torch.autograd.grad((ours * weight).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)

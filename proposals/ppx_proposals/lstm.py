"""An LSTM over packed sequences that is quick on the CPU.

`torch.nn.LSTM` differentiates every time step on its own: a product for the weights' gradient and its accumulation per
step. Here the backward pass collects the gates' gradients and makes one product at the end, which for traces of a few
dozen draws and minibatches of 64 halves the time of a training step. On other devices it is `torch.nn.LSTM`.

Letters: S steps in all, packed time-major with the longest sequence first; H state size. Gates are in torch's order:
input, forget, candidate, output.

    c_t = f c_{t-1} + i g,   h_t = o tanh(c_t)
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence


def packed_lstm(lstm: nn.LSTM, x: Tensor, batch_sizes: Tensor) -> Tensor:
    """Outputs `(S, H)` of an LSTM of one layer, started from zeros.

    Args:
        lstm: The layer.
        x: `(S, input size)`.
        batch_sizes: Sequences that have a step t, on the CPU.
    """
    if x.device.type != "cpu":
        packed, _ = lstm(PackedSequence(x, batch_sizes))
        output: Tensor = packed.data
        return output
    weights: dict[str, Tensor] = dict(lstm.named_parameters())
    gates = functional.linear(x, weights["weight_ih_l0"], weights["bias_ih_l0"] + weights["bias_hh_l0"])
    h: Tensor = _Recurrence.apply(gates, weights["weight_hh_l0"], batch_sizes.tolist())  # type: ignore[no-untyped-call]
    return h


class _Recurrence(torch.autograd.Function):
    """From what the inputs give to the gates, `(S, 4H)`, to the outputs, `(S, H)`."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
        size = weight.shape[1]
        gates = gates.clone()
        h, c, tanh_c = (gates.new_empty(len(gates), size) for _ in range(3))
        transposed = weight.t()
        start = before = 0
        for number, count in enumerate(sizes):
            rows = slice(start, start + count)
            now = gates[rows]
            if number:
                now.addmm_(h[before : before + count], transposed)
            now[:, : 2 * size].sigmoid_()
            now[:, 2 * size : 3 * size].tanh_()
            now[:, 3 * size :].sigmoid_()
            i, f, g, o = torch.split_with_sizes(now, [size] * 4, dim=1)
            torch.mul(i, g, out=c[rows])
            if number:
                c[rows].addcmul_(f, c[before : before + count])
            torch.tanh(c[rows], out=tanh_c[rows])
            torch.mul(o, tanh_c[rows], out=h[rows])
            before, start = start, start + count
        ctx.save_for_backward(gates, h, c, tanh_c, weight)
        ctx.sizes = sizes
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        gates, h, c, tanh_c, weight = ctx.saved_tensors
        sizes: list[int] = ctx.sizes
        size = weight.shape[1]
        starts = [0, *accumulate(sizes)]
        i, f, g, o = torch.split_with_sizes(gates, [size] * 4, dim=1)
        # d gate / d its argument: s (1 - s) for sigmoids, 1 - g^2 for the candidate; d h / d c = o (1 - tanh(c)^2).
        slope = gates * (1.0 - gates)
        slope[:, 2 * size : 3 * size] = 1.0 - g * g
        h_of_c = o * (1.0 - tanh_c * tanh_c)
        d_h, d_c = grads[0].clone(), torch.zeros_like(c)
        d_gates = torch.empty_like(gates)
        d_i, d_f, d_g, d_o = torch.split_with_sizes(d_gates, [size] * 4, dim=1)
        for number in range(len(sizes) - 1, -1, -1):
            start, count = starts[number], sizes[number]
            rows = slice(start, start + count)
            d_c[rows].addcmul_(d_h[rows], h_of_c[rows])
            torch.mul(d_c[rows], g[rows], out=d_i[rows])
            torch.mul(d_c[rows], i[rows], out=d_g[rows])
            torch.mul(d_h[rows], tanh_c[rows], out=d_o[rows])
            if number:
                before = slice(starts[number - 1], starts[number - 1] + count)
                torch.mul(d_c[rows], c[before], out=d_f[rows])
                d_gates[rows].mul_(slope[rows])
                torch.mul(d_c[rows], f[rows], out=d_c[before])
                d_h[before].addmm_(d_gates[rows], weight)
            else:
                d_f[rows].zero_()
                d_gates[rows].mul_(slope[rows])
        # Sequences end longest first, so step t of a sequence comes sizes[t - 1] rows after its step t - 1.
        parts = [h[starts[n - 1] : starts[n - 1] + sizes[n]] for n in range(1, len(sizes))]
        previous = torch.cat(parts) if parts else h[:0]
        return d_gates, d_gates[starts[1] :].t() @ previous, None

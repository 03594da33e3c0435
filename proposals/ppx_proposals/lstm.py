"""An LSTM over packed sequences that is quick on the CPU.

`torch.nn.LSTM` multiplies the whole input of every step and differentiates every time step on its own: a product for
the weights' gradient and its accumulation per step. Here the part of the input that a sequence keeps is multiplied once
per sequence, and the backward pass collects the gates' gradients for one product at the end: a training step on traces
of a few draws takes a third of the time. On other devices it is `torch.nn.LSTM`.

Letters: K sequences, S steps in all, packed time-major with the longest sequence first; H state size. Gates are in
torch's order: input, forget, candidate, output.

    c_t = f c_{t-1} + i g,   h_t = o tanh(c_t)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def packed_lstm(lstm: nn.LSTM, constant: Tensor, x: Tensor, batch_sizes: Tensor, sequence: Tensor) -> Tensor:
    """Outputs `(S, H)` of an LSTM of one layer with inputs `[constant, x_t]`, started from zeros.

    Args:
        lstm: The layer.
        constant: `(K, C)`, or `(1, C)` if all sequences have the same; the longest sequence first.
        x: `(S, input size - C)`.
        batch_sizes: Sequences that have a step t, on the CPU.
        sequence: `(S,)` row of `constant`.
    """
    if x.device.type != "cpu":
        packed, _ = lstm(PackedSequence(torch.cat([constant[sequence], x], dim=1), batch_sizes))
        output: Tensor = packed.data
        return output
    weights: dict[str, Tensor] = dict(lstm.named_parameters())
    of_constant, of_x = torch.split(weights["weight_ih_l0"], [constant.shape[1], x.shape[1]], dim=1)
    gates = functional.linear(constant, of_constant, weights["bias_ih_l0"] + weights["bias_hh_l0"])
    sizes = batch_sizes.tolist()
    if len(gates) == 1 and sizes:
        gates = gates.expand(sizes[0], -1)
    h: Tensor = _Recurrence.apply(gates, x, of_x, weights["weight_hh_l0"], sizes)  # type: ignore[no-untyped-call]
    return h


class _Recurrence(torch.autograd.Function):
    """From what a sequence adds to the gates of all its steps, `(K, 4H)`, and inputs x, to outputs, `(S, H)`."""

    @staticmethod
    def forward(
        ctx: Any, constant: Tensor, x: Tensor, of_x: Tensor, of_h: Tensor, sizes: list[int]
    ) -> Tensor:
        size = of_h.shape[1]
        gates: Tensor = x @ of_x.mT
        h: Tensor
        h, c, tanh_c = gates.new_empty(3, len(x), size)
        transposed = of_h.mT
        h_before = c_before = None
        for now, h_now, c_now, tanh_now in zip(*(t.split(sizes) for t in (gates, h, c, tanh_c)), strict=True):
            count = len(now)
            now.add_(constant[:count])
            if h_before is not None:
                now.addmm_(h_before[:count], transposed)
            gates_if, g, o = now.split([2 * size, size, size], dim=1)
            i, f = gates_if.sigmoid_().split(size, dim=1)
            torch.mul(i, g.tanh_(), out=c_now)
            if c_before is not None:
                c_now.addcmul_(f, c_before[:count])
            torch.mul(o.sigmoid_(), torch.tanh(c_now, out=tanh_now), out=h_now)
            h_before, c_before = h_now, c_now
        ctx.save_for_backward(gates, h, c, tanh_c, x, of_x, of_h)
        ctx.sizes, ctx.num_sequences = sizes, len(constant)
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        gates, h, c, tanh_c, x, of_x, of_h = ctx.saved_tensors
        sizes: list[int] = ctx.sizes
        size = of_h.shape[1]
        d_gates = torch.empty_like(gates)
        d_constant = gates.new_zeros(ctx.num_sequences, 4 * size)
        steps = list(zip(*(t.split(sizes) for t in (gates, c, tanh_c, grads[0], d_gates)), strict=True))
        # Of the steps after the one at hand: gradients of h and c.
        d_h, d_c = grads[0].new_zeros(2, sizes[0] if sizes else 0, size)
        for number in range(len(sizes) - 1, -1, -1):
            now, _, tanh_now, d_output, d_now = steps[number]
            count = sizes[number]
            i, f, g, o = now.split(size, dim=1)
            d_i, d_f, d_g, d_o = d_now.split(size, dim=1)
            d_h_now, d_c_now = d_h[:count], d_c[:count]
            d_h_now += d_output
            torch.mul(d_h_now, tanh_now, out=d_o)
            _sigmoid_backward(d_o, o, grad_input=d_o)
            d_h_now *= o
            d_c_now += _tanh_backward(d_h_now, tanh_now, grad_input=d_h_now)
            torch.mul(d_c_now, g, out=d_i)
            torch.mul(d_c_now, i, out=d_g)
            _tanh_backward(d_g, g, grad_input=d_g)
            if number:
                torch.mul(d_c_now, steps[number - 1][1][:count], out=d_f)
                d_c_now *= f
            else:
                d_f.zero_()
            d_if = d_now[:, : 2 * size]
            _sigmoid_backward(d_if, now[:, : 2 * size], grad_input=d_if)
            d_constant[:count] += d_now
            if number:
                torch.mm(d_now, of_h, out=d_h_now)
        # Sequences end longest first, so a step comes sizes[t - 1] rows after the one before it.
        before = [h_before[:n] for h_before, n in zip(h.split(sizes), sizes[1:], strict=False)]
        previous = torch.cat(before) if before else h[:0]
        later = d_gates[sizes[0] :] if sizes else d_gates
        return d_constant, d_gates @ of_x, d_gates.mT @ x, later.mT @ previous, None

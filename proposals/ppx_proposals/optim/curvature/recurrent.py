"""What the weights of an LSTM are multiplied by, which fused kernels do not show.

    z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh,   (i, f, g, o) = (sigma, sigma, tanh, sigma)(z_t)
    c_t = f c_{t-1} + i g,   h_t = o tanh(c_t)

W_ih is multiplied by x_t, W_hh by h_{t-1}, and both products go into z_t. The states of a single layer are its
outputs, one step late. Otherwise the layer is run again, step by step, from the inputs it had. With gradients enabled
that makes a graph from every z_t to the outputs; fed with the gradients that reach the layer's outputs from outside, it
returns those of z_t.

Letters: S steps of all sequences, packed time-major with the longest sequence first; B sequences, L layers times
directions, I inputs, H state size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

State = tuple[Tensor, Tensor]
Recurrent = nn.LSTM | nn.LSTMCell


class Gates(NamedTuple):
    """Parameters of one layer in one direction."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None


class Given(NamedTuple):
    """What an LSTM started from, in one layout.

    Attributes:
        x: `(S, I)` inputs.
        sizes: Sequences that have a step t.
        h: `(L, B, H)` initial states.
        c: `(L, B, H)`.
    """

    x: Tensor
    sizes: list[int]
    h: Tensor
    c: Tensor


class Outputs(NamedTuple):
    """What an LSTM returned, in its own layout, part of the graph.

    Attributes:
        steps: States after every step; of a packed sequence its data.
        h: Final states; None if nothing depends on them but through `steps`.
        c: Likewise.
    """

    steps: Tensor
    h: Tensor | None
    c: Tensor | None


class Met(NamedTuple):
    """What the weights of one layer in one direction were multiplied by.

    Attributes:
        gates: The parameters.
        x: `(S, I)` inputs.
        h: `(S, H)` states before the steps.
    """

    gates: Gates
    x: Tensor
    h: Tensor


class Unrolled(NamedTuple):
    """An LSTM run again.

    Attributes:
        met: One per layer and direction.
        z: `(S, 4H)` of each of them, the part of z_t that comes from x; it has the gradient of the whole.
        output: `(S, directions * H)`, of the last layer.
        h: `(L, B, H)` final states.
        c: `(L, B, H)`.
    """

    met: list[Met]
    z: list[Tensor]
    output: Tensor
    h: Tensor
    c: Tensor


def check_lstm(lstm: nn.LSTM, name: str) -> None:
    """Checks that an LSTM can be run again.

    Raises:
        ValueError: It cannot.
    """
    if lstm.proj_size:
        raise ValueError(
            f"{name} is an LSTM with proj_size, which cannot be preconditioned; use a Linear layer"
        )
    if lstm.num_layers > 1 and lstm.dropout:
        raise ValueError(
            f"{name} drops units out between its layers, which cannot be repeated; use one nn.LSTM per layer with "
            "nn.Dropout between"
        )


def layers_of(lstm: Recurrent) -> list[list[Gates]]:
    """Parameters by layer and direction."""
    own = dict(lstm.named_parameters(recurse=False))

    def gates(suffix: str) -> Gates:
        biases = (own.get("bias_ih" + suffix), own.get("bias_hh" + suffix))
        return Gates(own["weight_ih" + suffix], own["weight_hh" + suffix], *biases)

    return [[gates(suffix) for suffix in layer] for layer in _suffixes(lstm)]


def matrices_of(lstm: Recurrent) -> list[Tensor]:
    """All weights that are matrices."""
    return [getattr(lstm, name) for name in names_of(lstm) if name.startswith("weight")]


def names_of(lstm: Recurrent) -> list[str]:
    """Names of the parameters that such a layer has unless something was made of them."""
    kinds = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if lstm.bias else ()))
    return [kind + suffix for layer in _suffixes(lstm) for suffix in layer for kind in kinds]


def _suffixes(lstm: Recurrent) -> list[list[str]]:
    """Ends of the names of parameters by layer and direction."""
    if isinstance(lstm, nn.LSTMCell):
        return [[""]]
    directions = ("", "_reverse") if lstm.bidirectional else ("",)
    return [[f"_l{n}{d}" for d in directions] for n in range(lstm.num_layers)]


def packed_rows(lstm: Recurrent, x: Tensor) -> Tensor:
    """Inputs or outputs in the layer's own layout, with or without a batch, as `(S, n)`."""
    if x.dim() == 1:
        return x[None]
    if x.dim() == 2:
        return x
    return (x.transpose(0, 1) if lstm.batch_first else x).flatten(0, 1)


def packed_states(inputs: Tensor | PackedSequence, states: Tensor) -> Tensor:
    """States `(L, B, H)` of sequences in the caller's order, longest sequence first."""
    if isinstance(inputs, PackedSequence) and inputs.sorted_indices is not None:
        return states[:, inputs.sorted_indices]
    return states


def given(lstm: Recurrent, inputs: Tensor | PackedSequence, state: State | None) -> Given:
    """Takes inputs and initial state, both in the layer's own layout, as constants."""
    layers = layers_of(lstm)
    if isinstance(inputs, PackedSequence):
        x, sizes = inputs.data, inputs.batch_sizes.tolist()
    else:
        x = packed_rows(lstm, inputs)
        num_steps = 1
        if isinstance(lstm, nn.LSTM):
            num_steps = inputs.shape[1 if lstm.batch_first and inputs.dim() == 3 else 0]
        sizes = [len(x) // num_steps] * num_steps
    x = x.detach().to(layers[0][0].weight_ih.dtype)
    shape = (sum(map(len, layers)), sizes[0], lstm.hidden_size)
    if state is None:
        zeros = x.new_zeros(shape)
        return Given(x, sizes, zeros, zeros)
    h, c = (packed_states(inputs, part.detach().reshape(shape).to(x.dtype)) for part in state)
    return Given(x, sizes, h, c)


def met(lstm: Recurrent, start: Given, output: Tensor) -> list[Met]:
    """What the weights met, with what `(S, directions * H)` the last layer returned."""
    layers = layers_of(lstm)
    if len(layers) > 1:
        with torch.no_grad():
            return unroll(lstm, start).met
    found = []
    for number, gates in enumerate(layers[0]):
        h = start.h[number]
        own = output.detach().to(h.dtype)[:, number * lstm.hidden_size :][:, : lstm.hidden_size]
        parts = torch.split(own, start.sizes)
        if number == 0:
            before = [h, *(part[:n] for part, n in zip(parts, start.sizes[1:], strict=False))]
        else:
            # Backwards in time, sequences begin where they end: with their initial state.
            later = [
                torch.cat([part, h[len(part) : n]]) for part, n in zip(parts[1:], start.sizes, strict=False)
            ]
            before = [*later, h[: start.sizes[-1]]]
        found.append(Met(gates, start.x, torch.cat(before)))
    return found


def unroll(lstm: Recurrent, start: Given) -> Unrolled:
    """Runs an LSTM again, in the precision of its weights."""
    with torch.autocast(start.x.device.type, enabled=False):
        return _unroll(lstm, start)


def _unroll(lstm: Recurrent, start: Given) -> Unrolled:
    x = start.x
    found: list[Met] = []
    from_x: list[Tensor] = []
    last: list[State] = []
    for layer in layers_of(lstm):
        outputs = []
        for number, gates in enumerate(layer):
            z = functional.linear(x, gates.weight_ih, gates.bias_ih)
            if torch.is_grad_enabled() and not z.requires_grad:  # W_ih is frozen; W_hh need not be
                z.requires_grad_()
            state = start.h[len(last)], start.c[len(last)]
            before, output, end = _run(gates, torch.split(z, start.sizes), state, order=-1 if number else 1)
            found.append(Met(gates, x, before))
            from_x.append(z)
            outputs.append(output)
            last.append(end)
        x = torch.cat(outputs, dim=1)
    h, c = (torch.stack(parts) for parts in zip(*last, strict=True))
    return Unrolled(found, from_x, x, h, c)


def _run(gates: Gates, z: tuple[Tensor, ...], state: State, *, order: int) -> tuple[Tensor, Tensor, State]:
    """States before the steps and outputs, each `(S, H)`, and the final state; order -1 goes backwards in time."""
    h, c = state
    before, outputs = [], []
    for from_x in z[::order]:
        count = len(from_x)
        h_before, c_before = h[:count], c[:count]
        i, f, g, o = (from_x + functional.linear(h_before, gates.weight_hh, gates.bias_hh)).chunk(4, dim=1)
        c_now = f.sigmoid() * c_before + i.sigmoid() * g.tanh()
        h_now = o.sigmoid() * c_now.tanh()
        before.append(h_before)
        outputs.append(h_now)
        # Sequences that have ended, or not yet begun, keep their state.
        h, c = torch.cat([h_now, h[count:]]), torch.cat([c_now, c[count:]])
    return torch.cat(before[::order]), torch.cat(outputs[::order]), (h, c)

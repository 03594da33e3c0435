"""Recurrent layers of torch as maps from a state and an input to the next state, which forward mode can differentiate.

Letters: B sequences, L layers, H state size, d input size, T steps; n = L H, or 2 L H for LSTMs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class RecurrentCore:
    """One step of a recurrent layer, `core(state, input)`: `(B, n)`, `(B, d)` -> `(B, n)`. Made by `recurrent_core`.

    The state has h of every layer one after the other, for an LSTM `[h, c]` of every layer.

    Attributes:
        module: The layer, whose weights are used as they are when a step is made.
        size: n.
    """

    module: nn.RNNBase | nn.RNNCellBase
    size: int

    def __call__(self, state: Tensor, value: Tensor) -> Tensor:
        layers = self._num_layers
        after = []
        for layer, of_layer in enumerate(state.chunk(layers, dim=1)):
            new = self._layer(layer, of_layer, value)
            value = new[:, : self.module.hidden_size]
            after.append(new)
        return torch.cat(after, dim=1)

    def start(self, inputs: Tensor) -> Tensor:
        """States of zeros, `(B, n)`, for inputs `(T, B, d)`."""
        return inputs.new_zeros(inputs.shape[1], self.size)

    def states(self, inputs: Tensor, state: Tensor | None = None) -> Tensor:
        """States in front of every step, `(T, B, n)`.

        Args:
            inputs: `(T, B, d)`.
            state: `(B, n)` to start from; None for zeros.
        """
        state = self.start(inputs) if state is None else state
        met = []
        with torch.no_grad():
            for value in inputs:
                met.append(state)
                state = self(state, value)
        return torch.stack(met)

    @property
    def _num_layers(self) -> int:
        return self.module.num_layers if isinstance(self.module, nn.RNNBase) else 1

    def _layer(self, layer: int, state: Tensor, value: Tensor) -> Tensor:
        """The formulas of torch's documentation of `nn.LSTM`, `nn.GRU` and `nn.RNN`."""
        ending = f"_l{layer}" if isinstance(self.module, nn.RNNBase) else ""

        def product(which: str, of: Tensor) -> Tensor:
            bias = getattr(self.module, f"bias_{which}{ending}", None)
            return functional.linear(of, getattr(self.module, f"weight_{which}{ending}"), bias)

        if isinstance(self.module, nn.LSTM | nn.LSTMCell):
            h, c = state.chunk(2, dim=1)
            i, f, g, o = (product("ih", value) + product("hh", h)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            return torch.cat([o.sigmoid() * c.tanh(), c], dim=1)
        of_value, of_h = product("ih", value), product("hh", state)
        if isinstance(self.module, nn.GRU | nn.GRUCell):
            (r, z, g), (r_h, z_h, g_h) = of_value.chunk(3, dim=1), of_h.chunk(3, dim=1)
            z = (z + z_h).sigmoid()
            return (1 - z) * (g + (r + r_h).sigmoid() * g_h).tanh() + z * state
        total = of_value + of_h
        return total.tanh() if self.module.nonlinearity == "tanh" else total.relu()


def recurrent_core(module: nn.Module) -> RecurrentCore:
    """A recurrent layer as a map for `lyapunov` and `jacobian_spectrum`.

    Args:
        module: `nn.LSTM`, `nn.GRU`, `nn.RNN` (any number of layers), or one of their cells.

    Raises:
        TypeError: It is none of these.
        ValueError: It runs in both directions, projects its state, or drops out at random.
    """
    if not isinstance(
        module, nn.LSTM | nn.GRU | nn.RNN | nn.LSTMCell | nn.GRUCell | nn.RNNCell
    ):  # others may stand on the same base
        raise TypeError(
            f"no core is known for {type(module).__name__}; write its step as a function of the state, and give that"
        )
    layers = 1
    if isinstance(module, nn.RNNBase):
        layers = module.num_layers
        if module.bidirectional or module.proj_size:
            raise ValueError(
                "a layer in both directions or with proj_size is no map of one state; take it apart"
            )
        if module.dropout and module.training:
            raise ValueError(
                f"the layer drops out {module.dropout} at random while it trains; call eval() first"
            )
    per_layer = 2 if isinstance(module, nn.LSTM | nn.LSTMCell) else 1
    return RecurrentCore(module, layers * per_layer * module.hidden_size)

"""A network's weights for given observations, as arrays that the guide multiplies row vectors with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ppx_proposals.batching import NUM_FEATURES
from ppx_proposals.network import ProposalNetwork
from ppx_proposals.observations import ObservationBatch

Single = NDArray[np.float32]
Layer = tuple[Single, Single, Single]


class Weights(NamedTuple):
    """A network's weights for given observations, laid out for row vectors.

    The gates' order is input, forget, output, candidate; the first three are halved, because
    sigmoid(x) = (1 + tanh(x / 2)) / 2 turns all of them into one call of tanh.

    Attributes:
        gates: `(4H,)` what observations and biases add to the gates.
        from_state: `(H, 4H)`, from_features: `(NUM_FEATURES, 4H)`, from_current: `(A, 4H)`, from_previous: `(A, 4H)`.
        mixture, categorical: First layer of the heads: `(hidden,)` from observations and bias, `(H, hidden)` from the
            state, `(A, hidden)` from the address.
        output, output_bias: Last layer of the mixture head.
        query, query_bias: Last layer of the categorical head.
        addresses, categories: The tables.
    """

    gates: Single
    from_state: Single
    from_features: Single
    from_current: Single
    from_previous: Single
    mixture: tuple[Single, Single, Single]
    categorical: tuple[Single, Single, Single]
    output: Single
    output_bias: Single
    query: Single
    query_bias: Single
    addresses: Single
    categories: Single


def take_weights(network: ProposalNetwork, observations: ObservationBatch) -> Weights:
    """Copies the weights out of a network; to be called under `torch.inference_mode`.

    Args:
        network: The network, on any device.
        observations: One set of observations.
    """
    device = next(network.parameters()).device
    grids = [torch.from_numpy(grid).to(device) for grid in observations.grids]
    embedded = network.observation.forward(torch.from_numpy(observations.flat).to(device), grids)
    h, a, e = network.config.lstm_size, network.config.address_size, network.observation.size
    lstm: dict[str, Tensor] = dict(network.lstm.named_parameters())
    observed, current, features, previous = torch.split(lstm["weight_ih_l0"], [e, a, NUM_FEATURES, a], dim=1)
    bias = lstm["bias_ih_l0"] + lstm["bias_hh_l0"]

    def layer(hidden: nn.Linear) -> Layer:
        from_h, from_y, from_a = torch.split(hidden.weight, [h, e, a], dim=1)
        return _array((embedded @ from_y.mT + hidden.bias)[0]), _array(from_h.mT), _array(from_a.mT)

    mixture, categorical = network.mixture_head, network.categorical_head
    return Weights(
        gates=_array(_gates(observed @ embedded[0] + bias)),
        from_state=_array(_gates(lstm["weight_hh_l0"]).mT),
        from_features=_array(_gates(features).mT),
        from_current=_array(_gates(current).mT),
        from_previous=_array(_gates(previous).mT),
        mixture=layer(mixture.hidden),
        categorical=layer(categorical.hidden),
        output=_array(mixture.output.weight.mT),
        output_bias=_array(mixture.output.bias),
        query=_array(categorical.query.weight.mT),
        query_bias=_array(categorical.query.bias),
        addresses=_array(network.addresses.forward()),
        categories=_array(network.categories.forward()),
    )


def _gates(rows: Tensor) -> Tensor:
    """From torch's order of gates (input, forget, candidate, output) to ours, the sigmoids' halved."""
    i, f, g, o = torch.chunk(rows, 4, dim=0)
    return torch.cat([0.5 * i, 0.5 * f, 0.5 * o, g])


def _array(tensor: Tensor) -> Single:
    # A copy: training may go on while the guide is in use.
    return np.array(tensor.float().cpu().numpy(), np.float32, order="C")

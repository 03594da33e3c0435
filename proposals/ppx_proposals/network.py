"""The proposal network: an LSTM over the controlled draws of a trace.

Before step t the LSTM takes in the embedded observations, the address and visit of draw t, and what draw t - 1 was and
gave; its output, with the observations and the address once more, goes to the head of the draw's kind:

    x_t = [E(y), u(a_t), visit_t, v(a_{t-1}) + z_{t-1} s(a_{t-1}) + k(category_{t-1})]
    h_t = LSTM(x_t, h_{t-1})
    q(z_t | z_{<t}, a_{<=t}, y) = head([h_t, E(y), u(a_t)])

u, v and s are learnt per address, k per category of a categorical draw. An unknown address has u = v = s = 0: its draw
comes from the prior, but the state moves on, so that the draws behind it are proposed again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppx_proposals.batching import NUM_FEATURES, PackedSteps
from ppx_proposals.config import NetworkConfig
from ppx_proposals.embeddings import GrowingTable, ObservationEmbedding
from ppx_proposals.heads import (
    CategoricalHead,
    HeadInput,
    MixtureHead,
    categorical_log_ratio,
    defended,
    density_log_ratio,
    interval_log_ratio,
)
from ppx_proposals.lstm import packed_lstm


class ProposalNetwork(nn.Module):
    """See the module's docstring.

    Args:
        flat_size: Numbers in the flat part of the observations.
        grid_shapes: Shapes of the grids among them.
        config: Sizes.
    """

    def __init__(
        self, flat_size: int, grid_shapes: tuple[tuple[int, ...], ...], config: NetworkConfig
    ) -> None:
        super().__init__()
        self.config = config
        a = config.address_size
        # Weights depend on the config's seed and leave the global generator as it is.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.observation = ObservationEmbedding(flat_size, grid_shapes, config)
            e = self.observation.size
            self.lstm = nn.LSTM(e + a + NUM_FEATURES + a, config.lstm_size)
            self.mixture_head = MixtureHead(config.lstm_size + e + a, config)
            self.categorical_head = CategoricalHead(config.lstm_size + e + a, config)
        # Rows of addresses: u, v, s. Rows of categories: k, key, bias.
        self.addresses = GrowingTable(3 * a, scale=0.3, seed=2 * config.seed)
        self.categories = GrowingTable(a + config.key_size + 1, scale=0.1, seed=2 * config.seed + 1)

    def grow(self, num_addresses: int, num_categories: int) -> list[nn.Parameter]:
        """Makes room for addresses and categories; returns the new parameters."""
        return self.addresses.grow(num_addresses) + self.categories.grow(num_categories)

    def forward(self, steps: PackedSteps) -> Tensor:
        """log q - log p of every step, `(S,)` in packed order; 0 for steps that are not scored."""
        a, k = self.config.address_size, self.config.key_size
        categories = self.categories()
        embedded, current, x = self.core_inputs(steps, categories)
        h = packed_lstm(self.lstm, embedded, x, steps.batch_sizes, steps.trace)
        inputs = HeadInput(h, embedded, current, steps.trace)
        return self._log_ratio(steps, inputs, categories[:, a : a + k], categories[:, a + k])

    def core_inputs(self, steps: PackedSteps, categories: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the LSTM takes in, given the table of categories: E(y), u(a_t), and x_t without E(y)."""
        a = self.config.address_size
        addresses = self.addresses()
        embedded = self.observation(steps.flat, steps.grids)
        of_current, of_previous = addresses.split([a, 2 * a], dim=1)
        current = functional.embedding(steps.address, of_current)
        before, slope = functional.embedding(steps.previous_address, of_previous).chunk(2, dim=1)
        previous = torch.addcmul(before, steps.previous_z[:, None], slope)
        if len(self.categories.blocks):
            previous = previous + functional.embedding(steps.previous_category, categories[:, :a])
        return embedded, current, torch.cat([current, steps.features, previous], dim=1)

    def _log_ratio(self, steps: PackedSteps, inputs: HeadInput, keys: Tensor, bias: Tensor) -> Tensor:
        defensive, dtype = self.config.defensive, steps.z.dtype
        positions, values = [], []
        if len(steps.continuous):
            mixture = self.mixture_head.mixture(inputs.rows(steps.continuous), dtype)
            positions.append(steps.continuous)
            values.append(defended(density_log_ratio(mixture, steps.z), defensive))
        if len(steps.ordered):
            mixture = self.mixture_head.mixture(inputs.rows(steps.ordered), dtype)
            positions.append(steps.ordered)
            values.append(
                defended(interval_log_ratio(mixture, steps.z_low, steps.z_high).to(dtype), defensive)
            )
        if len(steps.categorical):
            offsets = torch.arange(steps.log_probs.shape[1], device=keys.device)
            number = torch.where(
                offsets < steps.num_categories[:, None], steps.first_category[:, None] + offsets, 0
            )
            logits = self.categorical_head.logits(
                inputs.rows(steps.categorical),
                functional.embedding(number, keys),
                functional.embedding(number, bias[:, None])[..., 0],
            )
            ratio = categorical_log_ratio(steps.log_probs, logits.to(dtype), steps.category)
            positions.append(steps.categorical)
            values.append(defended(ratio, defensive))
        if len(positions) == 1 and len(values[0]) == len(steps.trace):
            return values[0]
        result = keys.new_zeros(len(steps.trace), dtype=dtype)
        if positions:
            result = result.index_copy(0, torch.cat(positions), torch.cat(values))
        return result

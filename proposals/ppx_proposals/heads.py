"""Heads: from the network's output for a draw to the ratio of proposal to prior at the value drawn.

Scalar draws are proposed in standard coordinates z, in which every prior is N(0, 1), by a mixture of K normals and the
prior itself with the fixed weight e (`defensive`):

    q(z) = (1 - e) sum_k w_k N(z; m_k, s_k) + e N(z; 0, 1)

    continuous     q / p = e + (1 - e) sum_k w_k N(z; m_k, s_k) / N(z; 0, 1)
    ordered        the same with masses of the interval [z_low, z_high] in place of densities
    categorical    q / p = e + (1 - e) softmax(log p + logits)_c / p_c

All return log (q / p), which is at least log e: whatever the network says, a draw cannot weigh more than 1 / e. A
proposal that knows nothing has log (q / p) = 0. Letters: S draws, C categories, K components, N observations.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppx_proposals.config import NetworkConfig

_SPREAD = 0.5
"""Standard deviation of the components' initial means, whose mixture is N(0, 1) to within a KL divergence of 1e-3."""
NARROW = 1e-4
"""Width, in standard deviations, below which an interval's mass is its width times the density at its middle."""
_LARGE = 1e3
"""Stands for infinity as the end of an interval."""
SMALLEST = 1e-30
"""Width of an interval that rounding has made empty."""


class HeadInput(NamedTuple):
    """What heads are given for S draws, in parts, so that what draws share is multiplied once.

    Attributes:
        state: `(S, H)` the LSTM's output.
        observed: `(N, E)` embedded observations.
        current: `(S, A)` embedded addresses.
        trace: `(S,)` row of `observed`.
    """

    state: Tensor
    observed: Tensor
    current: Tensor
    trace: Tensor

    def rows(self, positions: Tensor) -> HeadInput:
        """The inputs of some draws."""
        if len(positions) == len(self.state):
            return self
        # As a look-up, whose gradient is quicker than that of indexing, which allows for masks and repeats.
        state, current = (functional.embedding(positions, part) for part in (self.state, self.current))
        return HeadInput(state, self.observed, current, self.trace[positions])

    def layer(self, linear: nn.Linear) -> Tensor:
        """A dense layer of `[state, observed, current]`, `(S, hidden)`."""
        sizes = [part.shape[1] for part in (self.state, self.observed, self.current)]
        of_state, of_observed, of_current = torch.split(linear.weight, sizes, dim=1)
        observed = functional.embedding(
            self.trace, functional.linear(self.observed, of_observed, linear.bias)
        )
        return torch.addmm(torch.addmm(observed, self.state, of_state.mT), self.current, of_current.mT)


class Mixture(NamedTuple):
    """Mixtures of normals, each of `(K, S)`, over whose rows sums are quick: log weights, means, deviations."""

    log_weight: Tensor
    mean: Tensor
    scale: Tensor


def defended(log_ratio: Tensor, defensive: float) -> Tensor:
    """log (e + (1 - e) exp(log_ratio))."""
    if defensive == 0.0:
        return log_ratio
    return torch.logaddexp(log_ratio + math.log1p(-defensive), log_ratio.new_tensor(math.log(defensive)))


class MixtureHead(nn.Module):
    """One hidden layer on the LSTM's output, the observation and the address; shared by all draws.

    Args:
        input_size: Size of its input.
        config: Sizes.
    """

    def __init__(self, input_size: int, config: NetworkConfig) -> None:
        super().__init__()
        self.num_components = config.mixture_components
        self.min_scale = config.min_scale
        self.hidden = nn.Linear(input_size, config.head_size)
        self.output = nn.Linear(config.head_size, 3 * self.num_components)
        with torch.no_grad():
            self.output.weight.mul_(0.1)
            self.output.bias.copy_(_prior_bias(self.num_components, config.min_scale))

    def mixture(self, inputs: HeadInput, dtype: torch.dtype) -> Mixture:
        """Mixtures for S draws."""
        hidden = functional.silu(inputs.layer(self.hidden))
        output = torch.addmm(self.output.bias[:, None], self.output.weight, hidden.mT)
        logits, mean, raw = output.to(dtype).chunk(3)
        return Mixture(torch.log_softmax(logits, dim=0), mean, self.min_scale + functional.softplus(raw))


def _prior_bias(num_components: int, min_scale: float) -> Tensor:
    """Output biases at which the mixture is nearly N(0, 1), without its components being equal."""
    levels = (torch.arange(num_components, dtype=torch.float64) + 0.5) / num_components
    mean = _SPREAD * torch.special.ndtri(levels)
    scale = math.sqrt(1.0 - float((mean**2).mean())) - min_scale
    raw = torch.full_like(mean, math.log(math.expm1(scale)))
    return torch.cat([torch.zeros_like(mean), mean, raw]).float()


def density_log_ratio(mixture: Mixture, z: Tensor) -> Tensor:
    """log of the mixture's density over N(z; 0, 1), at `(S,)` coordinates."""
    ratio: Tensor = _Density.apply(*mixture, z)  # type: ignore[no-untyped-call]
    return ratio


class _Density(torch.autograd.Function):
    """log sum_k w_k N(z; m_k, s_k) - log N(z; 0, 1), in a third of the operations that autograd would record."""

    @staticmethod
    def forward(ctx: Any, log_weight: Tensor, mean: Tensor, scale: Tensor, z: Tensor) -> Tensor:
        a = (z - mean) / scale
        # The normals' constants cancel.
        terms = (log_weight - scale.log()).addcmul_(a, a, value=-0.5)
        largest = terms.amax(dim=0)
        share = terms.sub_(largest).exp_()
        total = share.sum(dim=0)
        share /= total
        ctx.save_for_backward(share, a, scale)
        return total.log_().add_(largest).addcmul_(z, z, value=0.5)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        # With r_k the share of component k: d / d log w_k = r_k, d / d m_k = r_k a / s, d / d s_k = r_k (a^2 - 1) / s.
        share, a, scale = ctx.saved_tensors
        d_log_weight = share * grads[0]
        d_mean = d_log_weight / scale * a
        d_scale = torch.addcdiv(d_mean * a, d_log_weight, scale, value=-1.0)
        return d_log_weight, d_mean, d_scale, None


def interval_log_ratio(mixture: Mixture, low: Tensor, high: Tensor) -> Tensor:
    """log of the mixture's mass over that of N(0, 1), of intervals with ends `(S,)`, `(S,)`; float64 throughout.

    In float32 the gradient of `log_ndtr` is garbage a few thousand standard deviations out, where a narrow component
    may well be.
    """
    mixture = Mixture(*(part.double() for part in mixture))
    low, high = (end.double().clamp(-_LARGE, _LARGE) for end in (low, high))
    a, b = (low - mixture.mean) / mixture.scale, (high - mixture.mean) / mixture.scale
    # Rounding may make a narrow interval empty; the same smallest width in q and p leaves the ratio of densities.
    width = (high - low).clamp_min(SMALLEST)
    log_q = torch.logsumexp(mixture.log_weight + log_mass(a, b, width / mixture.scale), dim=0)
    return log_q - log_mass(low, high, width)


def log_mass(a: Tensor, b: Tensor, width: Tensor) -> Tensor:
    """log (Phi(b) - Phi(a)) for a < b and width b - a > 0, precise in both tails and for narrow intervals."""
    # In the upper tail Phi loses its digits: mirror the interval.
    mirrored = a + b > 0
    a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    middle = 0.5 * (a + b)
    narrow = width < NARROW
    # Phi(b) - Phi(a) = Phi(b) (1 - exp(log Phi(a) - log Phi(b)))
    log_b = torch.special.log_ndtr(b)
    below = (torch.special.log_ndtr(a) - log_b).masked_fill(narrow, -1.0)
    wide = log_b + torch.log(-torch.expm1(below))
    # The density at the middle, times the width, times sinh(t) / t with t = middle * width / 2.
    t = torch.where(narrow, 0.5 * middle * width, 0.0)
    log_width = torch.log(torch.where(narrow, width, 1.0))
    density = -0.5 * torch.where(narrow, middle, 0.0) ** 2 - 0.5 * math.log(2 * math.pi)
    return torch.where(narrow, density + log_width + t * t / 6.0, wide)


class CategoricalHead(nn.Module):
    """Logits from a query, shared by all draws, and a key of every category of every draw.

    Args:
        input_size: Size of its input.
        config: Sizes.
    """

    def __init__(self, input_size: int, config: NetworkConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(input_size, config.head_size)
        self.query = nn.Linear(config.head_size, config.key_size)

    def logits(self, inputs: HeadInput, keys: Tensor, bias: Tensor) -> Tensor:
        """Logits for S draws, keys `(S, C, key_size)` and biases `(S, C)`."""
        query = self.query(functional.silu(inputs.layer(self.hidden)))
        return torch.einsum("sck,sk->sc", keys, query) + bias


def categorical_log_ratio(log_probs: Tensor, logits: Tensor, category: Tensor) -> Tensor:
    """log of softmax(log p + logits) over p, at the categories `(S,)`; log p is -inf beyond a draw's categories."""
    possible = torch.isfinite(log_probs)
    log_q = torch.log_softmax(torch.where(possible, log_probs + logits, -torch.inf), dim=1)
    chosen = category[:, None]
    return (log_q.gather(1, chosen) - log_probs.gather(1, chosen))[:, 0]

"""How fast a recurrence forgets or amplifies: Lyapunov exponents, and the spectrum of its Jacobian.

For s_{t+1} = f(s_t) the gradient through T steps is the product of T Jacobians. Its size is about exp(lambda T), where
lambda is the largest Lyapunov exponent: above 0 gradients explode, well below 0 they vanish (Metz, Freeman, Schoenholz
and Kachman 2021, arXiv 2111.05803). The exponents come from products of the Jacobian with k vectors that
are made orthonormal after every step (Benettin, Galgani, Giorgilli and Strelcyn 1980, Meccanica 15, 9):

    J_t Q_{t-1} = Q_t R_t,   lambda_i = lim 1/T sum_t log |R_t[i, i]|

No Jacobian is formed. Letters: B states, n numbers in a state, T steps, k exponents, d numbers in an input, S states.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Step = Callable[..., Tensor]
"""`step(states)`, or `step(states, inputs)` where there are inputs: `(B, n)`, `(B, d)` -> `(B, n)`, row by row."""
_BLOCKS = 20
"""At least so many block means give the standard error; the error's own relative error is then below 1 / sqrt(38)."""
_COLUMNS_AT_ONCE = 64
"""Columns of a Jacobian that are computed in one pass."""


@dataclass(frozen=True, eq=False)
class Exponents:
    """Lyapunov exponents, the largest first, in nats per step.

    Attributes:
        mean: `(k,)`, over time and states. -inf where the Jacobian loses rank.
        standard_error: `(k,)`, from block means; NaN where a mean is not finite or there is one block only.
        per_state: `(B, k)`, means over time.
        num_steps: T.
        state: `(B, n)` after the last step.
    """

    mean: Tensor
    standard_error: Tensor
    per_state: Tensor
    num_steps: int
    state: Tensor

    @property
    def largest(self) -> float:
        """The largest exponent."""
        return float(self.mean[0])

    def __str__(self) -> str:
        pairs = zip(self.mean.tolist(), self.standard_error.tolist(), strict=True)
        values = ", ".join(f"{mean:.4f} +- {error:.4f}" for mean, error in pairs)
        return f"Lyapunov exponents over {self.num_steps} steps: {values} nats per step"


def lyapunov(
    step: Step,
    state: Tensor,
    num_steps: int,
    *,
    k: int = 1,
    inputs: Tensor | None = None,
    burn_in: int = 100,
    generator: torch.Generator | None = None,
) -> Exponents:
    """The k largest Lyapunov exponents of an iterated map, or of a recurrent core on its inputs.

    Each step costs k products of the Jacobian with vectors in forward mode (`torch.func.jvp`), so `step` must be made
    of operations that have one. The fused kernels behind `nn.LSTM` on GPUs do not: `recurrent_core` does.

    Args:
        step: The map; see `Step`.
        state: `(B, n)` initial states. Standard errors take them as independent draws.
        num_steps: Steps that are averaged over.
        k: How many exponents, at most n.
        inputs: `(burn_in + num_steps, B, d)` or longer, one per step; None for a map that takes none.
        burn_in: Steps before, in which states reach the attractor and vectors turn to the directions that grow.
        generator: Draws the first vectors; by default one with seed 0.

    Raises:
        ValueError: An argument does not fit, or a state stopped being finite.
    """
    _check(state, num_steps=num_steps, k=k, burn_in=burn_in, inputs=inputs)
    if generator is None:
        generator = torch.Generator(state.device).manual_seed(0)
    size = (*state.shape, k)
    q = torch.linalg.qr(torch.randn(size, dtype=state.dtype, device=state.device, generator=generator)).Q
    state = state.detach()
    stretched = []
    with torch.no_grad():
        for t in range(burn_in + num_steps):
            given = () if inputs is None else (inputs[t],)
            state, columns = _push(step, state, q.movedim(-1, 0), given)
            # J_t Q_{t-1} = Q_t R_t: the diagonal of R_t is what the directions were stretched by.
            q, r = torch.linalg.qr(columns.movedim(0, -1))
            if t >= burn_in:
                stretched.append(r.diagonal(dim1=-2, dim2=-1).abs())
    logs = torch.stack(stretched).log()
    _check_finite(logs, state, burn_in)
    return Exponents(logs.mean((0, 1)), _standard_error(logs), logs.mean(0), num_steps, state)


@dataclass(frozen=True, eq=False)
class JacobianSpectrum:
    """Jacobians of one step at S states.

    Attributes:
        singular_values: `(S, n)`, the largest first: by what one step stretches a perturbation.
        spectral_radius: `(S,)`, largest modulus of an eigenvalue: what the same step does when it is repeated.
    """

    singular_values: Tensor
    spectral_radius: Tensor

    def __str__(self) -> str:
        low, middle, high = torch.quantile(
            self.singular_values[:, 0], torch.tensor([0.05, 0.5, 0.95]).to(self.singular_values)
        ).tolist()
        return (
            f"Jacobian at {len(self.spectral_radius)} states: largest singular value {middle:.3g} "
            f"(5 to 95 %: {low:.3g} to {high:.3g}), spectral radius {float(self.spectral_radius.median()):.3g}"
        )


def jacobian_spectrum(step: Step, states: Tensor, *, inputs: Tensor | None = None) -> JacobianSpectrum:
    """Singular values and spectral radius of the step's whole Jacobian, at each of S states.

    It takes S n^2 numbers of memory and S n^3 operations; for the growth over many steps of a large state take
    `lyapunov`.

    Args:
        step: The map; see `Step`.
        states: `(S, n)`, such as `RecurrentCore.states` on data.
        inputs: `(S, d)`, or None for a map that takes none.

    Raises:
        ValueError: Shapes do not fit.
    """
    _check(states, inputs=None if inputs is None else inputs[None])
    states = states.detach()
    n = states.shape[1]
    unit = torch.eye(n, dtype=states.dtype, device=states.device)
    given = () if inputs is None else (inputs,)
    with torch.no_grad():
        parts = [
            _push(step, states, vectors[:, None, :].expand(-1, len(states), -1), given)[1]
            for vectors in torch.split(unit, _COLUMNS_AT_ONCE)
        ]
        jacobian = torch.cat(parts).movedim(0, -1)  # (S, n, n): rows are outputs
        values = torch.linalg.svdvals(jacobian)
        return JacobianSpectrum(values, torch.linalg.eigvals(jacobian).abs().amax(-1))


def _push(step: Step, state: Tensor, vectors: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The next states `(B, n)`, and the Jacobian's products with vectors `(k, B, n)`."""

    def one(vector: Tensor) -> Any:
        return torch.func.jvp(lambda s: step(s, *inputs), (state,), (vector,))

    _load_forward_mode()
    after, moved = torch.vmap(one, out_dims=(None, 0))(vectors)  # type: ignore[arg-type]
    if after.shape != state.shape:
        raise ValueError(
            f"step turned states of shape {tuple(state.shape)} into {tuple(after.shape)}; it must keep their shape"
        )
    return after, moved


@functools.cache
def _load_forward_mode() -> None:
    """Lets torch load its forward derivatives, for which it warns of its own use of torch.jit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


def _standard_error(logs: Tensor) -> Tensor:
    """Standard error `(k,)` of the mean of `(T, B, k)`; blocks of one state follow one another in time."""
    steps, states, k = logs.shape
    per_state = min(math.ceil(_BLOCKS / states), steps)
    length = steps // per_state
    blocks = logs[steps - per_state * length :].reshape(per_state, length, states, k).mean(1).flatten(0, 1)
    if len(blocks) == 1:
        return torch.full_like(blocks[0], math.nan)
    return blocks.std(0) / math.sqrt(len(blocks))


def _check(
    state: Tensor, *, num_steps: int = 1, k: int = 1, burn_in: int = 0, inputs: Tensor | None = None
) -> None:
    if state.ndim != 2 or not state.is_floating_point() or not state.numel():
        raise ValueError(
            f"states must be real numbers of shape (B, n), not {tuple(state.shape)} of {state.dtype}; "
            f"write one state as state[None]"
        )
    if not 1 <= k <= state.shape[1]:
        raise ValueError(f"k is {k}; a state of {state.shape[1]} numbers has 1 to {state.shape[1]} exponents")
    if num_steps < 1 or burn_in < 0:
        raise ValueError(f"num_steps is {num_steps} and must be >= 1; burn_in is {burn_in} and must be >= 0")
    if inputs is not None and (len(inputs) < num_steps + burn_in or inputs.shape[1] != len(state)):
        raise ValueError(
            f"inputs of shape {tuple(inputs.shape)} do not reach for {burn_in} + {num_steps} steps of {len(state)} "
            f"states; give (steps, states, numbers), or lower burn_in"
        )


def _check_finite(logs: Tensor, state: Tensor, burn_in: int) -> None:
    broken = logs.isnan().any(2).any(1)
    if broken.any() or not state.isfinite().all():
        where = burn_in + int(broken.int().argmax()) if broken.any() else burn_in + len(logs) - 1
        raise ValueError(
            f"states or their derivatives are no longer finite at step {where}: the map left its domain; start "
            f"elsewhere, take fewer steps, or compute in float64"
        )

"""Evolution strategies: gradients through a black box or a long run, from executions at perturbed parameters.

An episode is `num_unrolls` truncated unrolls of a system whose state s goes on from one to the next; every unroll has a
loss, L_t, which depends on the parameters theta directly and through the state. N antithetic pairs execute it with
theta + e_t and theta - e_t, e_t ~ Normal(0, sigma^2), the same random numbers in both members of a pair. With L+ and
L- their losses, the estimates of d L_t / d theta are

    TruncatedES   mean of (L+ - L-) / 2  e_t / sigma^2                    the states before the unroll held fixed
    PES           mean of (L+ - L-) / 2  xi_t / sigma^2,  xi_t = e_1 + .. + e_t
    PESA          mean of ((L+ - L-) / 2 - e_t . a_t)  xi_{t-1} / sigma^2 + a_t

where the members' states persist from unroll to unroll except in TruncatedES, and a_t is the derivative of the last
unroll's loss alone, by backpropagation. (Vicol, Metz and Sohl-Dickstein, "Unbiased gradient estimation in unrolled
computation graphs with persistent evolution strategies", ICML 2021, arXiv 2112.13835: PES is algorithm 2, PESA its
"PES+Analytic". For ES see Salimans et al. 2017, arXiv 1703.03864.) Truncated ES, like truncated backpropagation, misses
what theta did to the state in the unrolls before; PES does not.

What is estimated is the gradient of the loss smoothed by the perturbations, E[L_t(theta + e_1, .., theta + e_t)]: the
exact one where L_t is at most quadratic, otherwise off by O(sigma^2). It exists where the loss jumps, too.

Letters: N pairs, D elements of all parameters together, B rows of a batch of members.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ppx_proposals.optim.evolution.members import Start, State, Unroll, checked_rows, map_state

_SEEDS = 2**53
"""Seeds are below this: exact in JSON and in float64."""


class Estimate(NamedTuple):
    """What one estimate found.

    Attributes:
        loss: Mean loss of the members, a number.
        gradient: `(D,)`.
        standard_error: `(D,)`, of the gradient; NaN for a single pair.
        num_failed: Pairs that failed and were left out.
    """

    loss: Tensor
    gradient: Tensor
    standard_error: Tensor
    num_failed: int


class NonFiniteLossError(RuntimeError):
    """The loss of a member is NaN or infinite.

    Attributes:
        seed: Seed that the unroll was given.
        params: `(D,)`, parameters that it was given.
    """

    def __init__(self, message: str, seed: int, params: Tensor) -> None:
        super().__init__(message)
        self.seed, self.params = seed, params


class _Unrolled(NamedTuple):
    """N pairs after an unroll: all rows' state, losses `(N,)`, each pair's gradient `(N, D)`."""

    state: State
    plus: Tensor
    minus: Tensor
    gradients: Tensor


class EvolutionStrategy(ABC):
    """Base of the estimators: `backward` adds the gradient to `p.grad`, and any optimizer takes the step.

        strategy = PES([theta], unroll, start, num_unrolls=50, num_pairs=16, sigma=0.1, generator=generator)
        for _ in range(1000):
            optimizer.zero_grad()
            strategy.backward()
            optimizer.step()

    A pair whose loss is not finite in one of its members is an error, because to leave it out is a bias: what remains
    is the gradient given that nothing fails, and does not point away from parameters at which members fail. Give
    failures a finite loss where they can be priced. `failures="restart"` leaves such pairs out, begins a new episode
    for them and counts them.

    Args:
        params: Parameters to estimate the gradient of, all of one device and floating type.
        unroll: Executes one unroll of B members with perturbed parameters `(B, D)`: all parameters flattened, one after
            the other. Members of a pair have the same seed, which must fix all random numbers. It must not change what
            it is given, and may be called for any B.
        start: State of B members before their first unroll.
        num_unrolls: Unrolls per episode, the horizon over the truncation length; then a new episode starts. 1 if the
            unroll is the whole episode.
        num_pairs: N.
        sigma: Standard deviation of perturbations, for all parameters or each of them.
        generator: Source of perturbations and seeds.
        ages: `"equal"`: all pairs are at the same unroll of the episode. `"spread"`: first episodes end early by as
            much as spreads pairs evenly over the episode, so that every estimate is one of the whole loss.
        failures: `"raise"` or `"restart"`.

    Attributes:
        num_failed: Pairs that failed so far.

    Raises:
        ValueError: A setting is outside its domain, or parameters do not fit together.
    """

    _copies = 2
    """Rows of state per pair: plus, minus and, where there are three, one with theta itself."""

    def __init__(
        self,
        params: Iterable[Tensor],
        unroll: Unroll,
        start: Start,
        *,
        num_unrolls: int,
        num_pairs: int,
        sigma: float | Sequence[float],
        generator: torch.Generator,
        ages: Literal["equal", "spread"] = "equal",
        failures: Literal["raise", "restart"] = "raise",
    ) -> None:
        self._params = list(params)
        _check(self._params, num_unrolls=num_unrolls, num_pairs=num_pairs, ages=ages, failures=failures)
        self._unroll, self._start = unroll, start
        self._num_unrolls, self._num_pairs = num_unrolls, num_pairs
        self._sigma = _sigma(self._params, sigma)
        self._generator, self._failures = generator, failures
        self.num_failed = 0
        # xi / sigma, of the plus members; that of the minus members is its negative.
        self._accumulated = self._sigma.new_zeros(num_pairs, len(self._sigma))
        spread = ages == "spread"
        self._age = (
            torch.arange(num_pairs) * num_unrolls // num_pairs if spread else torch.zeros(num_pairs).long()
        )
        self._state = self._started(torch.arange(num_pairs))

    def backward(self) -> Estimate:
        """Executes the next unroll of every pair and adds the estimate to `p.grad`, as `loss.backward()` would.

        Returns:
            The estimate.

        Raises:
            NonFiniteLossError: A loss is not finite; nothing has changed, and the next call would fail alike. With
                `failures="restart"`: all pairs failed.
            ValueError: The unroll returns something of another shape than it should.
        """
        before = self._generator.get_state()
        try:
            return self._backward()
        except BaseException:
            self._generator.set_state(before)
            raise

    def state_dict(self) -> dict[str, Any]:
        """All there is to resume from, together with the parameters: bit for bit the run that was not stopped."""
        return {
            "state": self._state,
            "accumulated": self._accumulated,
            "age": self._age,
            "num_failed": self.num_failed,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` was called.

        Raises:
            ValueError: It belongs to other parameters, another number of pairs or another unroll.
        """
        if state_dict["accumulated"].shape != self._accumulated.shape:
            raise ValueError(
                f"the state is one of {tuple(state_dict['accumulated'].shape)} (pairs, elements), this estimator has "
                f"{tuple(self._accumulated.shape)}; make it with the settings that it was saved with"
            )
        self._state = map_state(_resumed, self._state, state_dict["state"])
        self._accumulated = state_dict["accumulated"].to(self._accumulated)
        self._age = state_dict["age"].cpu()
        self.num_failed = int(state_dict["num_failed"])
        self._generator.set_state(state_dict["generator"].cpu())

    @abstractmethod
    def _evaluate(self, theta: Tensor, noise: Tensor, seeds: Tensor) -> _Unrolled:
        """One unroll of all pairs.

        Args:
            theta: `(D,)`.
            noise: `(N, D)`, e_t / sigma.
            seeds: `(N,)`.
        """

    @torch.no_grad()
    def _backward(self) -> Estimate:
        theta = torch.cat([p.reshape(-1) for p in self._params])
        generator = self._generator
        noise = torch.randn(
            self._accumulated.shape, generator=generator, device=generator.device, dtype=theta.dtype
        )
        noise = noise.to(theta.device)
        seeds = self._seeds(self._num_pairs)
        unrolled = self._evaluate(theta, noise, seeds)
        finite = torch.isfinite(unrolled.plus) & torch.isfinite(unrolled.minus)
        finite &= torch.isfinite(unrolled.gradients).all(dim=1)
        failed = ~finite.cpu()
        num_failed = int(failed.sum())
        if num_failed and (self._failures == "raise" or num_failed == self._num_pairs):
            raise self._error(theta, noise, seeds, unrolled, failed)
        gradients = unrolled.gradients[finite] if num_failed else unrolled.gradients
        losses = torch.stack([unrolled.plus, unrolled.minus])
        loss = losses[:, finite].mean() if num_failed else losses.mean()
        age, accumulated, state = self._age + 1, self._accumulated + noise, unrolled.state
        ended = (age >= self._num_unrolls) | failed
        if ended.any():
            pairs = torch.nonzero(ended)[:, 0]
            rows = self._rows(pairs).to(theta.device)
            state = map_state(
                lambda own, new: own.index_copy(0, rows.to(own.device), new), state, self._started(pairs)
            )
            age[pairs] = 0
            accumulated[pairs.to(theta.device)] = 0
        self._age, self._accumulated, self._state = age, accumulated, state
        self.num_failed += num_failed
        gradient = gradients.mean(dim=0)
        self._add(gradient)
        count = len(gradients)
        error = gradients.std(dim=0) / math.sqrt(count) if count > 1 else torch.full_like(gradient, math.nan)
        return Estimate(loss, gradient, error, num_failed)

    def _call(self, params: Tensor, state: State, seeds: Tensor) -> tuple[State, Tensor]:
        """Calls the unroll and checks what it returns."""
        state, loss = self._unroll(params, state, seeds)
        if loss.shape != seeds.shape:
            raise ValueError(
                f"the unroll of {len(seeds)} members must return {len(seeds)} losses, not shape {tuple(loss.shape)}"
            )
        return map_state(lambda t: checked_rows(t, len(seeds)).detach(), state), loss.to(params)

    def _started(self, pairs: Tensor) -> State:
        """State of new episodes of pairs, whose members start alike."""
        seeds = self._seeds(len(pairs)).repeat(self._copies)
        return map_state(lambda t: checked_rows(t, len(seeds)).detach(), self._start(seeds))

    def _rows(self, pairs: Tensor) -> Tensor:
        """Rows of the state that belong to pairs."""
        return torch.cat([pairs + copy * self._num_pairs for copy in range(self._copies)])

    def _seeds(self, count: int) -> Tensor:
        generator = self._generator
        return torch.randint(_SEEDS, (count,), generator=generator, device=generator.device).cpu()

    def _add(self, gradient: Tensor) -> None:
        parts = torch.split(gradient, [p.numel() for p in self._params])
        for p, part in zip(self._params, parts, strict=True):
            if p.grad is None:
                p.grad = part.reshape(p.shape).clone()
            else:
                p.grad += part.reshape(p.shape)

    def _error(
        self, theta: Tensor, noise: Tensor, seeds: Tensor, unrolled: _Unrolled, failed: Tensor
    ) -> NonFiniteLossError:
        pair = int(torch.nonzero(failed)[0])
        plus, minus = float(unrolled.plus[pair]), float(unrolled.minus[pair])
        sign = 1.0 if not math.isfinite(plus) else -1.0
        params = theta + sign * self._sigma * noise[pair]
        seed = int(seeds[pair])
        return NonFiniteLossError(
            f"the loss or its gradient is not finite in {int(failed.sum())} of {self._num_pairs} pairs; the first has "
            f"losses {plus} and {minus}, seed {seed} and parameters {params.tolist()[:8]}: give failures a finite "
            f"loss, make sigma or the step smaller, or leave such pairs out with failures='restart'",
            seed,
            params,
        )


class PES(EvolutionStrategy):
    """Persistent evolution strategies: unbiased for the smoothed loss, whatever the truncation.

    Its variance grows with the number of unrolls since the start of the episode, as that of xi_t does; parameters that
    change between unrolls add a bias that vanishes with the learning rate. With `num_unrolls=1` it is plain ES.
    """

    def _evaluate(self, theta: Tensor, noise: Tensor, seeds: Tensor) -> _Unrolled:
        offset = self._sigma * noise
        params = torch.cat([theta + offset, theta - offset])
        state, loss = self._call(params, self._state, seeds.repeat(2))
        plus, minus = loss.chunk(2)
        # (L+ - L-) / 2  xi_t / sigma^2
        gradients = 0.5 * (plus - minus)[:, None] * (self._accumulated + noise) / self._sigma
        return _Unrolled(state, plus, minus, gradients)


class PESA(EvolutionStrategy):
    """PES whose last unroll is differentiated ("PES+Analytic"): less variance, where the unroll is differentiable.

    a_t is taken along an episode of each pair's own with the parameters theta themselves and the pair's seeds, so half
    as many members again are executed, and backpropagated through one unroll. a_t is not smoothed: it differs by
    O(sigma^2) from what PES estimates where the loss is more than quadratic.
    """

    _copies = 3

    def _evaluate(self, theta: Tensor, noise: Tensor, seeds: Tensor) -> _Unrolled:
        count, offset = 2 * self._num_pairs, self._sigma * noise
        params = torch.cat([theta + offset, theta - offset])
        state, loss = self._call(params, map_state(lambda t: t[:count], self._state), seeds.repeat(2))
        plus, minus = loss.chunk(2)
        central = theta.expand_as(noise).clone().requires_grad_()
        with torch.enable_grad():
            central_state, central_loss = self._call(
                central, map_state(lambda t: t[count:], self._state), seeds
            )
            if not central_loss.requires_grad:
                raise ValueError(
                    "PESA needs an unroll that autograd can differentiate; use PES for a black box"
                )
            (analytic,) = torch.autograd.grad(central_loss.sum(), central)
        # ((L+ - L-) / 2 - e_t . a_t)  xi_{t-1} / sigma^2 + a_t;  xi_{t-1} has mean 0 and does not depend on e_t.
        rest = 0.5 * (plus - minus) - (offset * analytic).sum(dim=1)
        gradients = rest[:, None] * self._accumulated / self._sigma + analytic
        return _Unrolled(
            map_state(lambda a, b: torch.cat([a, b]), state, central_state), plus, minus, gradients
        )


class TruncatedES(EvolutionStrategy):
    """Plain evolution strategies on one unroll at a time: biased unless the unroll is the whole episode.

    Every pair starts the unroll from the state that theta itself led to, which is executed with the pair's seeds; what
    the parameters did to that state does not count. Low variance, and right where the state forgets within an unroll.
    """

    _copies = 1

    def _evaluate(self, theta: Tensor, noise: Tensor, seeds: Tensor) -> _Unrolled:
        offset = self._sigma * noise
        params = torch.cat([theta + offset, theta - offset, theta.expand_as(noise)])
        state, loss = self._call(
            params, map_state(lambda t: torch.cat([t] * 3), self._state), seeds.repeat(3)
        )
        plus, minus, _ = loss.chunk(3)
        # (L+ - L-) / 2  e_t / sigma^2
        gradients = 0.5 * (plus - minus)[:, None] * noise / self._sigma
        return _Unrolled(map_state(lambda t: t.chunk(3)[2], state), plus, minus, gradients)


def _resumed(own: Tensor, saved: Tensor) -> Tensor:
    """A saved tensor of the state, where the own one is."""
    if saved.shape != own.shape:
        raise ValueError(
            f"a tensor of the state was saved with shape {tuple(saved.shape)}, here it has {tuple(own.shape)}; load it "
            f"into an estimator of the same kind for the same unroll"
        )
    return saved.to(own.device, own.dtype)


def _check(params: list[Tensor], *, num_unrolls: int, num_pairs: int, ages: str, failures: str) -> None:
    if min(num_unrolls, num_pairs) < 1:
        raise ValueError(f"num_unrolls is {num_unrolls}, num_pairs {num_pairs}; both must be at least 1")
    if ages not in ("equal", "spread"):
        raise ValueError(f"ages must be 'equal' or 'spread', not {ages!r}")
    if failures not in ("raise", "restart"):
        raise ValueError(f"failures must be 'raise' or 'restart', not {failures!r}")
    kinds = {(p.device, p.dtype) for p in params}
    if len(kinds) != 1 or not params[0].is_floating_point():
        raise ValueError("give one or more parameters, all of one device and one floating type")


def _sigma(params: list[Tensor], sigma: float | Sequence[float]) -> Tensor:
    """Standard deviation of every element, `(D,)`."""
    values = [float(sigma)] * len(params) if isinstance(sigma, int | float) else [float(s) for s in sigma]
    if len(values) != len(params):
        raise ValueError(f"sigma has {len(values)} values for {len(params)} parameters; give one for each")
    if any(not (s > 0.0 and math.isfinite(s)) for s in values):
        raise ValueError(f"sigma must be finite and > 0, not {sigma}")
    return torch.cat([p.new_full((p.numel(),), s) for p, s in zip(params, values, strict=True)])

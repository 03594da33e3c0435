"""Tuning by evolution strategies: parameters of an external simulator, and settings of proposal training.

Both make the `unroll` and `start` that `PES` of `ppx_proposals.optim.evolution` takes; any optimizer takes the steps:

    z = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    tuning = SimulatorTuning(simulator, ["log_r"], negative_log_evidence, observations=counts, num_traces=100)
    pes = PES([z], tuning.unroll, tuning.start, num_unrolls=1, num_pairs=8, sigma=0.1, generator=generator)
    optimizer = AdamHD([z], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        pes.backward()
        optimizer.step()
    print(tuning.values(z))

Letters: B members, M traces each, D tuned numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppx_proposals.batching import PackedSteps, encode, pack_minibatches
from ppx_proposals.config import TrainingConfig
from ppx_proposals.forcing import ForcedDraws, Name
from ppx_proposals.network import ProposalNetwork
from ppx_proposals.observations import ObservationLayout
from ppx_proposals.optim.evolution import State, each_member, each_start
from ppx_proposals.training import new_optimizer
from ppx_proposals.vocabulary import Vocabulary
from ppx_server.errors import SimulatorError
from ppx_server.executor import Executes
from ppx_server.observations import Observations
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

Floats = NDArray[np.float64]
Loss = Callable[[TraceBatch, int], Floats]
"""`loss(traces, B)` gives `(B,)`; the traces are those of one member after the other, the same number of each."""

_PROBES = 16
"""Prior traces in which tuned draws are looked for, and at most those that tell their values."""
_TUNED_SETTINGS = ("lr", "hypergrad_lr", "weight_decay")


def negative_log_evidence(traces: TraceBatch, num_members: int) -> Floats:
    """-log of the mean over a member's traces of the density of the observations: maximum likelihood.

    What is neither tuned nor observed is drawn from its prior. M traces overstate it by about the variance of their
    weights over 2 M (Jensen); a trace that failed has weight 0, and if all have, the loss is infinite.
    """
    log_weight = traces.log_weight.reshape(num_members, -1)
    loss: Floats = np.log(log_weight.shape[1]) - np.logaddexp.reduce(log_weight, axis=1)
    return loss


def mean_loss(of_traces: Callable[[TraceBatch], Floats], failed: float | None = None) -> Loss:
    """The mean over a member's traces of a loss that every trace has, such as a distance from data.

    Args:
        of_traces: `(K,)` losses of K traces; what it says of traces that failed is not used.
        failed: Loss of a trace that failed: a price; NaN for members that fail with it (then the estimator's `failures`
            says what happens); None for an error. To leave such traces out would favour parameters at which the
            simulator fails.
    """

    def loss(traces: TraceBatch, num_members: int) -> Floats:
        losses = np.asarray(of_traces(traces), np.float64)
        if losses.shape != traces.index.shape:
            raise ValueError(
                f"the loss of {len(traces)} traces must be as many numbers, not shape {losses.shape}"
            )
        broken = np.flatnonzero(traces.status != Status.OK)
        if len(broken) and failed is None:
            index = int(traces.index[broken[0]])
            raise SimulatorError(
                f"{len(broken)} of {len(traces)} traces failed, the first with: "
                f"{traces.failures.get(index, 'no reason given')}; correct the simulator, or say what a failure costs "
                f"(mean_loss(..., failed=...))",
                seed=traces.seed,
                index=index,
            )
        if len(broken):
            losses = losses.copy()
            losses[broken] = failed
        means: Floats = losses.reshape(num_members, -1).mean(axis=1)
        return means

    return loss


class SimulatorTuning:
    """Parameters of a simulator, which are draws that scripts force; everything else is drawn.

    They are tuned in standard coordinates: z = 0 is the prior's median, 1 a standard deviation above it, and no support
    can be left. An estimate is one batch of B M scripts. Trace m of a member has the index seed + m, so both members of
    a pair have the same random numbers, draw by draw, as long as they make the same draws.

    Args:
        sim: The simulator.
        names: Tuned draws: scalar and controlled; a name, or (name, visit).
        loss: `negative_log_evidence`, `mean_loss(...)` or another.
        observations: Values given to the simulator; None if it draws them.
        num_traces: M.
        seed: Seed of the traces.

    Raises:
        AddressError: There is no such draw, or it cannot be tuned.
        ValueError: num_traces is less than 1, no name is given, one twice, or the evidence of no observations.
    """

    def __init__(
        self,
        sim: Executes,
        names: Sequence[Name],
        loss: Loss,
        *,
        observations: Observations | None = None,
        num_traces: int = 1,
        seed: int = 0,
    ) -> None:
        if num_traces < 1:
            raise ValueError(f"num_traces must be at least 1, not {num_traces}")
        self._sim, self._loss, self._observations = sim, loss, observations
        self._num_traces, self._seed = num_traces, seed
        probes = sim.execute(ScriptBatch.empty(seed, np.arange(_PROBES)), observations)
        self._draws = ForcedDraws.of(probes, names)
        if observations is None and loss is negative_log_evidence and len(probes.observations.address_id):
            raise ValueError(
                "the simulator would draw its observations itself, so that they say nothing of the tuned draws; give "
                "SimulatorTuning the observations, or take mean_loss"
            )

    def start(self, seeds: Tensor) -> State:
        """A simulator keeps no state between executions."""
        return ()

    def unroll(self, params: Tensor, state: State, seeds: Tensor) -> tuple[State, Tensor]:
        """Executes B members, all in one batch.

        Args:
            params: `(B, D)` standard coordinates.
            state: As `start` gives it.
            seeds: `(B,)`.

        Returns:
            The state, and `(B,)` losses.

        Raises:
            PPXError: What the execution raised.
            ValueError: The loss has another shape, or D is not the number of tuned draws.
        """
        index = seeds.numpy()[:, None] + np.arange(self._num_traces)
        z = params.detach().cpu().numpy().astype(np.float64).repeat(self._num_traces, axis=0)
        scripts = self._draws.by_z(z, index.ravel(), seed=self._seed)
        traces = self._sim.execute(scripts, self._observations)
        losses = np.asarray(self._loss(traces, len(params)), np.float64)
        return state, torch.from_numpy(losses).to(params)

    def values(self, params: Tensor) -> Floats:
        """Values of the tuned draws at coordinates `(D,)`, as `(D,)`, in the first traces that make them.

        NaN for a draw that none of them makes.
        """
        z = params.detach().cpu().numpy().astype(np.float64)[None].repeat(_PROBES, axis=0)
        scripts = self._draws.by_z(z, np.arange(_PROBES), seed=self._seed)
        traces = self._sim.execute(scripts, self._observations)
        found = np.full(z.shape[1], np.nan)
        for number, (address_id, visit) in enumerate(zip(*self._draws, strict=True)):
            rows = traces.rows([address_id], visit)
            if (rows >= 0).any():
                found[number] = traces.value[rows[rows >= 0][0]]
        return found


class TrainingTuning:
    """Settings of proposal training by Adam-HD: an episode is a training run, an unroll some steps of it.

    What is tuned are logarithms, such as log(lr). The setting `lr` is a factor of the learning rate all through the
    run: what the hypergradient has made of it goes on from unroll to unroll, as a ratio. The loss of an unroll is the
    mean loss of its minibatches before each step, so an episode's is the area under its learning curve. Members of a
    pair start with the same weights and learn from the same minibatches.

    Args:
        traces: Prior traces to learn from; those that failed are left out, as in training.
        observed: Names of the observations that the proposal is given.
        names: Tuned settings: `"lr"`, `"hypergrad_lr"`, `"weight_decay"`.
        config: All other settings; the network's seed is not used.
        num_steps: Minibatches per unroll, the truncation length.
        device: Where the network lives.

    Raises:
        ValueError: A name or a number is outside its domain, or there is less than a minibatch of traces.
        ObservationError: A name is never observed.
    """

    def __init__(
        self,
        traces: TraceBatch,
        observed: Sequence[str],
        *,
        names: Sequence[str] = ("lr", "hypergrad_lr"),
        config: TrainingConfig | None = None,
        num_steps: int = 10,
        device: torch.device | None = None,
    ) -> None:
        self._config = config or TrainingConfig()
        self._names, self._num_steps = tuple(names), num_steps
        if not names or set(names) - set(_TUNED_SETTINGS) or num_steps < 1:
            raise ValueError(
                f"names must be some of {', '.join(_TUNED_SETTINGS)}, not {names!r}; num_steps >= 1, not {num_steps}"
            )
        traces = traces.select(traces.status == Status.OK)
        self._layout = ObservationLayout.from_traces(traces, observed)
        self._device = device or torch.device("cpu")
        self._vocabulary = Vocabulary()
        self._minibatches = self._packed(traces)
        self._network = self._fresh_network(0)
        self._optimizer = new_optimizer(self._network, self._config)
        self._new_optimizer = self._state_of_new_optimizer()
        self.start = each_start(self._start)
        """State of B members at the start of training."""
        self.unroll = each_member(self._unroll)
        """`num_steps` steps of B members with settings `exp(params)`, params `(B, D)`."""

    def _packed(self, traces: TraceBatch) -> list[PackedSteps]:
        size = self._config.batch_size
        count = len(traces) // size
        if not count:
            raise ValueError(
                f"{len(traces)} traces that succeeded are less than a minibatch of {size}; execute more"
            )
        traces = traces.select(np.arange(count * size))
        steps = encode(traces, self._vocabulary, grow=True)
        observations = self._layout.of_traces(traces)
        return pack_minibatches(steps, observations, np.full(count, size), device=self._device)

    def _fresh_network(self, seed: int) -> ProposalNetwork:
        config = replace(self._config.network, seed=seed % 2**31)
        network = ProposalNetwork(self._layout.flat_size, self._layout.grid_shapes, config).to(self._device)
        network.grow(len(self._vocabulary), self._vocabulary.num_categories)
        return network

    def _state_of_new_optimizer(self) -> dict[int, dict[str, Any]]:
        """What the optimizer keeps per parameter, all 0 as before the first step."""
        for p in self._network.parameters():
            p.grad = torch.zeros_like(p)
        self._optimizer.step()
        saved: dict[int, dict[str, Any]] = self._optimizer.state_dict()["state"]
        return {number: {key: value * 0 for key, value in own.items()} for number, own in saved.items()}

    def _start(self, seed: int) -> State:
        weights = [p.detach() for p in self._fresh_network(seed).parameters()]
        optimizer = [[torch.as_tensor(v) for v in own.values()] for own in self._new_optimizer.values()]
        return {"weights": weights, "optimizer": optimizer, "ratio": torch.ones((), dtype=torch.float64)}

    def _unroll(self, params: Tensor, state: State, seed: int) -> tuple[State, Tensor]:
        lr = self._load(params, state)
        chosen = np.random.default_rng(seed).integers(len(self._minibatches), size=self._num_steps)
        total = torch.zeros((), device=self._device)
        for number in chosen.tolist():
            minibatch = self._minibatches[number]
            self._optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                loss = -self._network(minibatch).sum() / minibatch.num_traces
            torch.autograd.backward(loss)
            self._optimizer.step()
            total += loss.detach()
        saved = self._optimizer.state_dict()["state"]
        ratio = self._optimizer.param_groups[0]["lr"] / lr
        new = {
            "weights": [p.detach().clone() for p in self._network.parameters()],
            "optimizer": [
                [torch.as_tensor(v).clone() for v in saved[i].values()] for i in self._new_optimizer
            ],
            "ratio": torch.tensor(ratio, dtype=torch.float64),
        }
        return new, total / self._num_steps

    def _load(self, params: Tensor, state: State) -> float:
        """Puts a member's weights, optimizer and settings in place; returns the setting lr."""
        with torch.no_grad():
            for p, saved in zip(self._network.parameters(), state["weights"], strict=True):
                p.copy_(saved)
        group = dict(self._optimizer.state_dict()["param_groups"][0])
        group |= {"lr": self._config.lr, **dict(zip(self._names, params.exp().tolist(), strict=True))}
        base = float(group["lr"])
        low, high = group["lr_bounds"]
        group["lr"] = group["step_size"] = min(max(base * float(state["ratio"]), low), high)
        own = {
            number: {
                key: saved if isinstance(value, Tensor) else type(value)(saved)
                for (key, value), saved in zip(new.items(), values, strict=True)
            }
            for (number, new), values in zip(self._new_optimizer.items(), state["optimizer"], strict=True)
        }
        self._optimizer.load_state_dict({"state": own, "param_groups": [group]})
        return base

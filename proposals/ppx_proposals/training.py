"""Training: a proposal learns from prior traces that are executed while it learns.

The loss is the mean over prior traces of -sum_t (log q(z_t | z_{<t}, y) - log p(z_t)). Up to a constant it is the
expected Kullback-Leibler divergence from the posterior to the proposal, over observations from the model: inference
compilation (Le, Baydin and Wood, AISTATS 2017, equation 4). The prior has loss 0.

Every trace is seen once, in the order of the indices, so that minibatch j is the same whatever the chunks in which
traces are executed, and a run that is stopped at a minibatch and resumed is the run that was not stopped.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import numpy as np
import torch

from ppx_proposals.batching import PackedSteps
from ppx_proposals.config import TrainingConfig
from ppx_proposals.forecast import TableForecast
from ppx_proposals.network import ProposalNetwork
from ppx_proposals.observations import ObservationLayout, observed_names
from ppx_proposals.optim import AdamHD
from ppx_proposals.production import CHUNK_SECONDS, Minibatch, Production
from ppx_proposals.proposal import Proposal, TrainingStep, choose_device
from ppx_proposals.threads import arithmetic_threads
from ppx_server.errors import CheckpointError, ObservationError, PPXError, SimulatorError
from ppx_server.executor import Executes
from ppx_server.interrupts import finishing
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

VALIDATION_INDEX = 1 << 40
"""Held-out traces have indices from here on, where no training trace is."""
_MIN_VALIDATION = 32
_FIRST_HELD_OUT = 4
"""Held-out traces executed at once at first, and at least; an interrupt waits for them."""
_VALIDATION_SHARE = 0.05
"""Largest part of the time that goes into measuring the loss on held-out traces."""
_SAVE_INTERVAL = 60.0
"""Seconds between checkpoints."""


class TrainingReport(NamedTuple):
    """What `train` tells its callback after every step.

    Attributes:
        step: The step.
        total: Traces to learn from in all.
        rate: Traces per second, in this call.
        seconds_left: Expected wall-clock seconds until the end.
        num_failed: Traces that failed and were left out.
        num_addresses: Addresses the proposal knows.
    """

    step: TrainingStep
    total: int
    rate: float
    seconds_left: float
    num_failed: int
    num_addresses: int


def train(
    sim: Executes,
    observed: Sequence[str],
    *,
    num_traces: int,
    seed: int = 0,
    config: TrainingConfig | None = None,
    proposal: Proposal | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    on_step: Callable[[TrainingReport], None] | None = None,
) -> Proposal:
    """Trains a proposal on prior traces of a simulator.

    Ctrl-C ends training after the step in progress; what was learnt is kept, saved and returned.

    Args:
        sim: The simulator.
        observed: Names of the observations that the proposal is given; all visits of a name are.
        num_traces: Traces to learn from in all, those that `proposal` has seen with this seed included.
        seed: Seed of the traces.
        config: Settings; None for the defaults.
        proposal: A proposal to continue, which is changed; it keeps its network, optimizer and device.
        checkpoint: Folder where the proposal is saved now and then and at the end. If it holds a checkpoint and
            `proposal` is None, that one is continued.
        device: `"auto"` (CUDA where there is one), `"cpu"`, `"cuda"`, ...
        on_step: Called after every step.

    Returns:
        The proposal; `proposal.history` says how it went, `proposal.training.stopped` why it ended.

    Raises:
        ObservationError: A name is never observed, or the observations of prior traces do not fit together.
        CheckpointError: The proposal to continue belongs to other observations or another simulator.
        SimulatorError: A simulator crashed or hung.
        ValueError: There is no such device.

    Whichever is raised while it learns, what was learnt before is `error.partial`, and saved if there is a checkpoint.
    """
    if num_traces < 1:
        raise ValueError(f"num_traces must be at least 1, not {num_traces}")
    where = choose_device(device)
    folder = None if checkpoint is None else Path(checkpoint)
    if proposal is None and folder is not None and (folder / "proposal.json").exists():
        proposal = Proposal.load(folder, device=device)
        if config is not None and config.network != proposal.config:
            raise CheckpointError(
                f"checkpoint {folder} holds another network than the one asked for ({proposal.config} instead of "
                f"{config.network}); train into another folder, or leave the network's settings out"
            )
    config = config or TrainingConfig()
    held_out = _held_out(sim, seed, min(config.num_validation, max(_MIN_VALIDATION, num_traces // 20)))
    if proposal is None:
        layout = ObservationLayout.from_traces(held_out, observed)
        proposal = Proposal.create(layout, config.network, device=where)
    else:
        _check_fits(proposal, observed, held_out, sim)
    proposal.forecast = TableForecast.of(held_out)
    if proposal.optimizer is None:
        proposal.optimizer = new_optimizer(proposal.network, config)
    for group in proposal.optimizer.param_groups:
        group["max_grad_norm"] = config.max_grad_norm
    _Training(sim, proposal, held_out, seed, num_traces, config, folder, on_step).run()
    return proposal


def new_optimizer(network: ProposalNetwork, config: TrainingConfig) -> AdamHD:
    """The optimizer that trains a network."""
    return AdamHD(
        network.parameters(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        hypergrad_lr=config.hypergrad_lr,
        rule=config.rule,
        lr_bounds=config.lr_bounds,
        max_grad_norm=config.max_grad_norm,
    )


def _held_out(sim: Executes, seed: int, count: int) -> TraceBatch:
    """Prior traces to take statistics from and to measure the loss on.

    They are executed in chunks of about half a second, so that Ctrl-C takes effect although nothing is learnt yet.
    """
    batches: list[TraceBatch] = []
    done, chunk = 0, _FIRST_HELD_OUT
    while done < count:
        end = min(done + chunk, count)
        started = time.monotonic()
        scripts = ScriptBatch.empty(seed, np.arange(VALIDATION_INDEX + done, VALIDATION_INDEX + end))
        batches.append(sim.execute(scripts, None))
        possible = int(CHUNK_SECONDS / max(time.monotonic() - started, 1e-6) * chunk)
        done, chunk = end, max(_FIRST_HELD_OUT, min(possible, 4 * chunk))
    traces = TraceBatch.concatenate(batches)
    succeeded = np.flatnonzero(traces.status == Status.OK)
    if not len(succeeded):
        reason = next(iter(traces.failures.values()), "no reason given")
        raise SimulatorError(
            f"none of {count} prior traces succeeded, the first failed with: {reason}; correct the simulator",
            seed=seed,
            index=VALIDATION_INDEX,
        )
    return traces.select(succeeded)


def _check_fits(proposal: Proposal, observed: Sequence[str], traces: TraceBatch, sim: Executes) -> None:
    """Checks that a proposal can learn from a simulator's traces."""
    if set(observed) != set(proposal.observed):
        raise CheckpointError(
            f"the proposal was trained on observations {', '.join(map(repr, proposal.observed))}, not on "
            f"{', '.join(map(repr, observed))}; name the same ones, or train a new one"
        )
    missing = set(observed) - set(observed_names(traces))
    if missing:
        raise CheckpointError(
            f"the proposal was trained on observation {', '.join(map(repr, sorted(missing)))}, but this simulator "
            f"observes {', '.join(map(repr, observed_names(traces))) or 'nothing'}; train a new one"
        )
    if len(proposal.vocabulary):
        proposal.require_known(sim.addresses)
    try:
        proposal.layout.of_traces(traces)
    except ObservationError as error:
        raise CheckpointError(
            f"the proposal does not fit this simulator: {error}; train a new one"
        ) from error


class _Training:
    """One call of `train`."""

    def __init__(
        self,
        sim: Executes,
        proposal: Proposal,
        held_out: TraceBatch,
        seed: int,
        num_traces: int,
        config: TrainingConfig,
        folder: Path | None,
        on_step: Callable[[TrainingReport], None] | None,
    ) -> None:
        assert proposal.optimizer is not None
        self._sim, self._proposal, self._optimizer = sim, proposal, proposal.optimizer
        self._held_out = held_out
        self._num_traces, self._config, self._folder, self._on_step = num_traces, config, folder, on_step
        state = proposal.training
        if state.seed != seed:
            state.seed, state.next_index = seed, 0
        self._seed, self._first_index, self._seconds_before = seed, state.next_index, state.seconds
        self._started = time.monotonic()
        self._validate_at = self._started
        self._save_at = self._started + _SAVE_INTERVAL

    def run(self) -> None:
        """Learns until the traces or the time are up, or somebody stops it."""
        state = self._proposal.training
        state.stopped = "failed"
        production = Production(
            self._sim,
            self._proposal,
            seed=self._seed,
            indices=range(state.next_index, self._num_traces),
            batch_size=self._config.batch_size,
            max_chunk=self._config.max_chunk,
        )
        try:
            with arithmetic_threads(self._config.num_threads), _interruptible() as interrupted, production:
                state.stopped = self._learn(production, interrupted)
        except KeyboardInterrupt:
            state.stopped = "interrupted"
        except PPXError as error:
            error.partial = self._proposal
            raise
        finally:
            state.seconds = self._seconds_before + time.monotonic() - self._started
            if self._folder is not None:
                with finishing(f"saving what was learnt to {self._folder}"):
                    self._proposal.save(self._folder)

    def _learn(self, production: Production, interrupted: threading.Event) -> str:
        config = self._config
        for minibatch in production.minibatches(interrupted):
            self._step(minibatch)
            now = time.monotonic()
            if interrupted.is_set():
                return "interrupted"
            if config.max_seconds is not None and now - self._started >= config.max_seconds:
                return "out of time"
            if self._folder is not None and now >= self._save_at:
                self._proposal.training.seconds = self._seconds_before + now - self._started
                self._proposal.save(self._folder)
                self._save_at = time.monotonic() + _SAVE_INTERVAL
        return "interrupted" if interrupted.is_set() else "done"

    def _step(self, minibatch: Minibatch) -> None:
        """Learns from one minibatch and reports."""
        proposal, state = self._proposal, self._proposal.training
        proposal.grow(minibatch.new_addresses)
        loss, lr = math.nan, float(self._optimizer.param_groups[0]["lr"])
        if len(minibatch.steps.row):
            loss = self._update(minibatch.steps)
            lr = float(self._optimizer.param_groups[0]["lr"])
        state.next_index = minibatch.next_index
        state.num_traces += minibatch.steps.num_traces
        state.num_failed += minibatch.num_failed
        now = time.monotonic()
        history = proposal.history
        validation = history[-1].validation_loss if history else math.nan
        if now >= self._validate_at or state.next_index >= self._num_traces:
            validation = proposal.loss(self._held_out)
            cost = time.monotonic() - now
            self._validate_at = now + max(self._config.validation_interval, cost / _VALIDATION_SHARE)
        seconds = time.monotonic() - self._started
        step = TrainingStep(
            len(history) + 1, state.num_traces, loss, validation, lr, self._seconds_before + seconds
        )
        history.append(step)
        if self._on_step is not None:
            rate = (state.next_index - self._first_index) / max(seconds, 1e-9)
            left = (self._num_traces - state.next_index) / max(rate, 1e-9)
            known = len(proposal.vocabulary)
            self._on_step(TrainingReport(step, self._num_traces, rate, left, state.num_failed, known))

    def _update(self, batch: PackedSteps) -> float:
        """One step of the optimizer, which leaves everything as it is if the gradient is not finite."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._proposal.batch_loss(batch)
        torch.autograd.backward(loss)
        self._optimizer.step()
        return float(loss.detach())


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C or SIGTERM into an event, so that no step is cut in two; the second one interrupts."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    # Where nothing handles SIGTERM, it ends the process.
    taken = [n for n in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(n))]
    before = {number: signal.signal(number, handle) for number in taken}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""`Proposal`: a trained proposal network with all that is needed to use, continue and store it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppx_proposals.batching import PackedSteps, encode, pack
from ppx_proposals.config import NetworkConfig
from ppx_proposals.forecast import TableForecast
from ppx_proposals.guide import NetworkGuide
from ppx_proposals.network import ProposalNetwork
from ppx_proposals.observations import ObservationBatch, ObservationLayout
from ppx_proposals.optim import AdamHD
from ppx_proposals.speculation import SpeculativeNetworkGuide
from ppx_proposals.vocabulary import AddressKey, Vocabulary
from ppx_proposals.weights import take_weights
from ppx_server.address import Address, AddressTable
from ppx_server.errors import CheckpointError
from ppx_server.observations import Observations
from ppx_server.trace import Status, TraceBatch

Floats = NDArray[np.float64]
_EVALUATED_AT_ONCE = 4096
"""Traces per pass where no gradient is wanted."""


class TrainingStep(NamedTuple):
    """One minibatch of training.

    Attributes:
        step: Number of the step, from 1.
        num_traces: Traces learnt from so far.
        loss: Mean of -(log q - log p) over the minibatch's traces, in nats: 0 for the prior, lower is better.
        validation_loss: The same on held-out traces, at the last time it was measured.
        lr: Learning rate that was used.
        seconds: Wall-clock seconds of training so far.
    """

    step: int
    num_traces: int
    loss: float
    validation_loss: float
    lr: float
    seconds: float


@dataclass
class TrainingState:
    """Where training stands.

    Attributes:
        seed: Seed of the training traces; None before training.
        next_index: Index of the next trace to learn from.
        num_traces: Traces learnt from, with all seeds.
        num_failed: Traces that failed and were left out.
        seconds: Wall-clock seconds of training.
        stopped: Why training stopped the last time: `"done"`, `"interrupted"`, `"out of time"` or `"failed"`.
    """

    seed: int | None = None
    next_index: int = 0
    num_traces: int = 0
    num_failed: int = 0
    seconds: float = 0.0
    stopped: str = ""


class Coverage(NamedTuple):
    """How much of a simulator a proposal knows.

    Attributes:
        num_known: Addresses of draws that it knows.
        num_unknown: Addresses that it does not know, which will be drawn from the prior. Observations that the
            proposal does not take are among them, because a table does not tell them from draws.
        unknown: The addresses it does not know.
    """

    num_known: int
    num_unknown: int
    unknown: tuple[Address, ...]


class Proposal:
    """A proposal: for every controlled draw a density q given the draws before it and the observations.

    Made by `train` or `Proposal.load`.

    Args:
        network: The network, with room for the vocabulary.
        vocabulary: Draws it knows.
        layout: Observations it takes.
        device: Where the network lives.

    Attributes:
        network: The network.
        vocabulary: Draws it knows.
        layout: Observations it takes.
        device: Where the network lives.
        training: Where training stands.
        history: Every training step.
        optimizer: The optimizer with its state, or None before training.
        forecast: Which draws come after which.
    """

    def __init__(
        self,
        network: ProposalNetwork,
        vocabulary: Vocabulary,
        layout: ObservationLayout,
        *,
        device: torch.device,
    ) -> None:
        self.network = network.to(device)
        self.vocabulary = vocabulary
        self.layout = layout
        self.device = device
        self.training = TrainingState()
        self.history: list[TrainingStep] = []
        self.optimizer: AdamHD | None = None
        self.forecast = TableForecast()
        self.grow(())

    @classmethod
    def create(cls, layout: ObservationLayout, config: NetworkConfig, *, device: torch.device) -> Self:
        """An untrained proposal, which is nearly the prior and knows no address."""
        network = ProposalNetwork(layout.flat_size, layout.grid_shapes, config)
        return cls(network, Vocabulary(), layout, device=device)

    @property
    def config(self) -> NetworkConfig:
        """Sizes of the network."""
        return self.network.config

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the observations it takes."""
        return self.layout.names

    @property
    def addresses(self) -> tuple[AddressKey, ...]:
        """The draws it knows."""
        return self.vocabulary.keys

    @property
    def num_parameters(self) -> int:
        """Learnt numbers."""
        return sum(p.numel() for p in self.network.parameters())

    def __repr__(self) -> str:
        observed = ", ".join(map(str, self.layout.slots))
        return (
            f"<Proposal q(draws | {observed}): {len(self.vocabulary)} addresses, {self.num_parameters:,} parameters, "
            f"trained on {self.training.num_traces:,} traces>"
        )

    def grow(self, keys: Sequence[AddressKey]) -> None:
        """Adds draws to the vocabulary, and makes room for them in the network and in the optimizer."""
        for key in keys:
            self.vocabulary.intern(key)
        new = self.network.grow(len(self.vocabulary), self.vocabulary.num_categories)
        if self.optimizer is not None and new:
            self.optimizer.extend_group(new)

    def log_ratio(self, traces: TraceBatch, observations: Observations | None = None) -> Floats:
        """log q - log p of every draw, given the draws before it as they are in the traces.

        Args:
            traces: K traces.
            observations: The observations of all of them; by default those that were drawn in each.

        Returns:
            `(N,)` float64: 0 for draws that are not controlled, not known or of failed traces.

        Raises:
            ObservationError: The traces do not hold the observations.
            CheckpointError: The observations given do not fit the proposal.
        """
        result = np.zeros(len(traces.address_id))
        given = None if observations is None else self.layout.of_values(observations)
        for start in range(0, len(traces), _EVALUATED_AT_ONCE):
            chosen = np.arange(start, min(start + _EVALUATED_AT_ONCE, len(traces)))
            part = traces if len(chosen) == len(traces) else traces.select(chosen)
            batch = self._pack(part, given, torch.float64)
            if len(batch.row):
                with torch.inference_mode():
                    ratio = self.network(batch).double().cpu().numpy()
                result[traces.offsets[start] + batch.row] = ratio
        return result

    def loss(self, traces: TraceBatch, observations: Observations | None = None) -> float:
        """Mean over the traces that did not fail of -(log q - log p), in nats; arguments as for `log_ratio`.

        It is 0 for the prior; its smallest value in expectation is minus the mutual information between the
        observations and the draws.
        """
        succeeded = int((traces.status == Status.OK).sum())
        return -float(self.log_ratio(traces, observations).sum()) / max(succeeded, 1)

    def batch_loss(self, batch: PackedSteps) -> Tensor:
        """The loss of a packed minibatch, to be differentiated."""
        total: Tensor = self.network(batch).sum()
        return -total / batch.num_traces

    def guide(
        self, observations: Observations, speculation: bool = True
    ) -> NetworkGuide | SpeculativeNetworkGuide:
        """A guide that draws from q given the observations; pass it to `Executes.execute`.

        The observations are embedded where the network lives; the steps run on the CPU, with a copy of the weights.

        Args:
            observations: Values by name, or by (name, visit); others than the proposal's are ignored.
            speculation: Whether the guide chooses ahead; draws and weights are the same, up to rounding.

        Raises:
            CheckpointError: An observation is missing, something of it was not measured, or it is of another shape.
        """
        batch = self.layout.of_values(observations)
        with torch.inference_mode():
            weights = take_weights(self.network, batch)
        guide = NetworkGuide(self.config, Vocabulary(self.vocabulary.keys), weights, self.require_known)
        return SpeculativeNetworkGuide(guide, self.forecast.copy()) if speculation else guide

    def coverage(self, addresses: AddressTable) -> Coverage:
        """Which of a simulator's addresses the proposal knows; tags and its own observations are not counted."""
        known = {(key.address, key.family) for key in self.vocabulary.keys}
        own = set(self.observed)
        draws = [a for a in addresses if a.family and a.name not in own and a.address not in own]
        unknown = tuple(a for a in draws if (a.address, a.family) not in known)
        return Coverage(len(draws) - len(unknown), len(unknown), unknown)

    def require_known(self, addresses: AddressTable) -> None:
        """Checks that the proposal belongs to a simulator.

        Raises:
            CheckpointError: It knows none of the addresses seen so far, of which there is at least one.
        """
        coverage = self.coverage(addresses)
        if coverage.num_known == 0 and coverage.num_unknown:
            have = ", ".join(f"{a.address} ({a.family})" for a in coverage.unknown[:3])
            trained = ", ".join(f"{key.address} ({key.family})" for key in self.vocabulary.keys[:3]) or "none"
            raise CheckpointError(
                f"the proposal knows none of the simulator's {coverage.num_unknown} addresses ({have}, ...); it was "
                f"trained on {len(self.vocabulary)} others ({trained}, ...); train it on this simulator"
            )

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint, a folder; see `checkpoint`.

        Raises:
            CheckpointError: It cannot be written.
        """
        from ppx_proposals.checkpoint import save

        save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Proposal:
        """Reads a checkpoint.

        Args:
            path: The folder.
            device: `"auto"`, `"cpu"`, `"cuda"`, ...

        Raises:
            ValueError: There is no such device.
            CheckpointError: It does not exist, is corrupt or of another version.
        """
        from ppx_proposals.checkpoint import load

        return load(Path(path), device=choose_device(device))

    def _pack(self, traces: TraceBatch, given: ObservationBatch | None, dtype: torch.dtype) -> PackedSteps:
        steps = encode(traces, self.vocabulary, grow=False)
        if given is None:
            ok = traces.status == Status.OK
            given = self.layout.of_traces(traces if ok.all() else _without_failed(traces, ok))
            if not ok.all():
                given = given.select(np.maximum(np.cumsum(ok) - 1, 0))
        return pack(steps, given, device=self.device, dtype=dtype)


def choose_device(device: str) -> torch.device:
    """The device a name stands for; `"auto"` is CUDA where there is one, otherwise the CPU.

    Raises:
        ValueError: The name means nothing to PyTorch, or this computer or this PyTorch has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        present = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        raise ValueError(
            f"device {device!r} cannot be used ({reason}); give one of {', '.join(['auto', 'cpu', *present])}, or "
            "install a PyTorch with CUDA and its driver"
        ) from error
    return chosen


def _without_failed(traces: TraceBatch, ok: NDArray[np.bool_]) -> TraceBatch:
    return traces.select(np.flatnonzero(ok))

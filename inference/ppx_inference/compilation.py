"""Inference compilation: importance sampling from a trained network (Le, Baydin and Wood, AISTATS 2017).

The only module here that imports `ppx_proposals`, and with it torch, and only when something of it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ppx_inference.arguments import checked_count, checked_seed
from ppx_inference.importance import independent_traces
from ppx_inference.keeping import ALL, Kept
from ppx_inference.posterior import Posterior
from ppx_inference.progress import Progress, reporting
from ppx_server.address import AddressTable
from ppx_server.errors import ArgumentError
from ppx_server.executor import Executes
from ppx_server.observations import Observations, ObservationSet, Partial
from ppx_server.script import Guide

if TYPE_CHECKING:
    from ppx_proposals import NetworkConfig, Proposal, TrainingConfig, TrainingReport

__all__ = ["Guides", "NetworkConfig", "Proposal", "TrainingConfig", "inference_compilation", "train"]


def __getattr__(name: str) -> Any:
    if name in ("NetworkConfig", "Proposal", "TrainingConfig"):
        import ppx_proposals

        return getattr(ppx_proposals, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Guides(Protocol):
    """What inference needs of a proposal."""

    def guide(self, observations: Observations, speculation: bool = True) -> Guide:
        """Who answers draws, given observations; with speculation also before the simulator gets there."""

    def require_known(self, addresses: AddressTable) -> None:
        """Raises if there are addresses and it knows none of them: it was made for another simulator."""


def inference_compilation(
    simulator: Executes,
    observations: Observations,
    *,
    proposal: Guides,
    num_traces: int,
    seed: int = 0,
    speculation: bool = True,
    partial: Partial = False,
    keep: Kept = ALL,
    progress: Progress | None = None,
) -> Posterior:
    """Samples traces from a trained proposal and weights them by prior x likelihood / proposal.

    Args:
        simulator: The simulator the proposal was trained on.
        observations: Values by name, or by (name, visit); None or NaN for what was not measured.
        partial: Names of which not all visits are given; True for all. Of the others, a trace that makes more or fewer
            visits than were given has weight zero.
        proposal: What `train` returned, or `Proposal.load(path)`.
        num_traces: Executions.
        seed: Seed of the run.
        speculation: Whether the proposal chooses draws ahead of the simulator, which saves messages. The traces and
            their weights are the same with and without, up to rounding.
        keep: What to keep of traces: `"all"`, `"named"` (draws that have a name, and tags), or names and patterns of
            draws and tags; weights and results always are. Memory is then that of what is kept.
        progress: Who is told how far it is; None for a bar if stderr is a terminal.

    Returns:
        Weighted traces with `log_evidence` and `pareto_k`.

    Raises:
        ArgumentError: `proposal` is none, such as the path of one; a count or seed is out of range.
        CheckpointError: The proposal was trained for other observations or another simulator, or something that it
            needs was not measured.
        ObservationError: A value is no number, the simulator never observes a name, or in no trace what was given.
        SimulatorError: A simulator failed.

    Whichever is raised in mid-run, `error.partial` is the posterior of what had finished, or None.
    """
    from ppx_proposals.threads import arithmetic_threads

    _refuse_path(proposal)
    given = ObservationSet.of(observations, partial)
    with arithmetic_threads():
        return independent_traces(
            "inference_compilation",
            simulator,
            given,
            num_traces=num_traces,
            seed=seed,
            keep=keep,
            progress=progress,
            guide=proposal.guide(given, speculation=speculation),
            # The guide looks at the addresses seen before a run; a simulator that has run nothing has none yet.
            check=proposal.require_known,
        )


def train(
    simulator: Executes,
    observed: Sequence[str],
    *,
    num_traces: int,
    seed: int = 0,
    config: TrainingConfig | None = None,
    proposal: Proposal | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Proposal:
    """Trains a proposal network on executions from the prior; see `ppx_proposals.training.train`.

    Ctrl-C ends training early and returns what was learnt.

    Args:
        simulator: The simulator.
        observed: Names of the observations that will be given.
        num_traces: Executions to learn from in all.
        seed: Seed of the executions; another one than for inference.
        config: Sizes of the network and settings of the training; None for the defaults.
        proposal: A proposal to continue.
        checkpoint: Folder where the proposal is saved; if it holds one, that is continued.
        device: `"auto"` (CUDA where there is one), `"cpu"`, `"cuda"`, ...
        progress: Who is told how far it is; None for a bar if stderr is a terminal.

    Returns:
        The proposal, for `inference_compilation`; `proposal.save(path)` keeps it.

    Raises:
        ArgumentError: `observed` or `proposal` is of the wrong kind; a count or seed is out of range.
        ObservationError: A name is never observed, or observations of different traces do not fit together.
        CheckpointError: The proposal to continue belongs to other observations or another simulator.
        SimulatorError: A simulator failed.

    Whichever is raised while it learns, `error.partial` is the proposal with what was learnt before.
    """
    from ppx_proposals import training

    if isinstance(observed, str):
        raise ArgumentError(f"observed is a list of names, [{observed!r}], not a text")
    if proposal is not None:
        _refuse_path(proposal)
    num_traces, seed = checked_count("num_traces", num_traces), checked_seed(seed)
    with reporting(progress, num_traces, "train") as reporter:
        learnt = 0

        def on_step(report: TrainingReport) -> None:
            nonlocal learnt
            reporter.advance(report.step.num_traces - learnt, f"(loss {report.step.validation_loss:.3f})")
            learnt = report.step.num_traces

        return training.train(
            simulator,
            observed,
            num_traces=num_traces,
            seed=seed,
            config=config,
            proposal=proposal,
            checkpoint=checkpoint,
            device=device,
            on_step=on_step,
        )


def _refuse_path(proposal: object) -> None:
    """Refuses what is no proposal, such as the path of one.

    Raises:
        ArgumentError: It is none.
    """
    if not hasattr(proposal, "guide"):
        reads = f"; Proposal.load({str(proposal)!r}) reads one" if isinstance(proposal, str | Path) else ""
        raise ArgumentError(f"proposal must be what train or Proposal.load returned, not {proposal!r}{reads}")

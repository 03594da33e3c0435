"""Importance sampling: executions from the prior, weighted by the likelihood of the observations.

Also the loop that all engines of independent traces share: executions by index, in chunks of about a second, so that
an interruption or a crash costs no more than the last chunk. The traces do not depend on the size of the chunks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ppx_inference.arguments import checked_count, checked_seed, observed_names
from ppx_inference.diagnostics import is_weight, refuse_undefined
from ppx_inference.keeping import ALL, Keeper, Kept
from ppx_inference.posterior import Posterior
from ppx_inference.progress import Progress, reporting
from ppx_inference.provenance import Provenance, first_failures, given_values
from ppx_inference.ruled_out import explain, nearest_miss, observe_other_shapes, observe_something_else
from ppx_server.address import AddressTable
from ppx_server.collecting import Collection
from ppx_server.errors import ObservationError, PPXError
from ppx_server.executor import Executes
from ppx_server.interrupts import finishing
from ppx_server.observations import Observations, ObservationSet, Partial
from ppx_server.script import Guide, Otherwise, ScriptBatch
from ppx_server.trace import Floats, TraceBatch
from ppx_server.uncontrolled import noise_advice

_FIRST_CHUNK = 4
"""The first chunk is small because nothing is known yet: a simulator may take minutes for a trace."""
_GROWTH = 4
_ENOUGH = 64
"""Traces after which an observation that none of them made is taken for a wrong name."""
_CHUNK_SECONDS = 0.5
_CHUNK_BYTES = 64e6
"""Memory that the traces of a chunk may take, about."""


class State(NamedTuple):
    """Where a run stands.

    Attributes:
        seed: Seed of the run.
        next_index: Index of the next trace.
    """

    seed: int
    next_index: int


class Info(NamedTuple):
    """What a step gave.

    Attributes:
        traces: The executions.
        seconds: Wall-clock time they took.
    """

    traces: TraceBatch
    seconds: float


def init(seed: int) -> State:
    """The state before the first trace."""
    return State(seed, 0)


def step(
    state: State,
    simulator: Executes,
    observations: Observations | None,
    num_traces: int,
    guide: Guide | None = None,
) -> tuple[State, Info]:
    """Executes the next traces: from the prior, or as a guide proposes.

    Raises:
        SimulatorError: A simulator failed, or a weight is NaN or infinite.
    """
    index = np.arange(state.next_index, state.next_index + num_traces)
    otherwise = Otherwise.PRIOR if guide is None else Otherwise.ASK
    started = time.perf_counter()
    traces = simulator.execute(ScriptBatch.empty(state.seed, index, otherwise), observations, guide)
    refuse_undefined(traces.log_weight, traces)
    return State(state.seed, state.next_index + num_traces), Info(traces, time.perf_counter() - started)


def first_chunk(simulator: Executes) -> int:
    """How many traces to execute at first, and at least: a few, but enough to keep all simulators busy."""
    return max(_FIRST_CHUNK, getattr(simulator, "num_workers", 1))


def next_chunk(chunk: int, possible: int, *, least: int, largest: int) -> int:
    """How many traces to execute after a chunk: what is possible in the time wanted, but only some times as many."""
    return max(least, min(possible, _GROWTH * chunk, largest))


def importance_sampling(
    simulator: Executes,
    observations: Observations,
    *,
    num_traces: int,
    seed: int = 0,
    partial: Partial = False,
    keep: Kept = ALL,
    progress: Progress | None = None,
) -> Posterior:
    """Samples traces from the prior and weights them by the likelihood.

    Args:
        simulator: The simulator.
        observations: Values by name, or by (name, visit); None or NaN for what was not measured.
        partial: Names of which not all visits are given; True for all. Of the others, a trace that makes more or fewer
            visits than were given has weight zero.
        num_traces: Executions.
        seed: With it trace i is the same in every run.
        keep: What to keep of traces: `"all"`, `"named"` (draws that have a name, and tags), or names and patterns of
            draws and tags; weights and results always are. Memory is then that of what is kept.
        progress: Who is told how far it is; None for a bar if stderr is a terminal.

    Returns:
        Weighted traces with `log_evidence` and `pareto_k`.

    Raises:
        ObservationError: A value is no number, the simulator never observes a name, or in no trace what was given.
        SimulatorError: A simulator failed.

    Whichever is raised in mid-run, `error.partial` is the posterior of what had finished, or None.
    """
    return independent_traces(
        "importance_sampling",
        simulator,
        ObservationSet.of(observations, partial),
        num_traces=num_traces,
        seed=seed,
        keep=keep,
        progress=progress,
    )


def independent_traces(
    engine: str,
    simulator: Executes,
    observations: ObservationSet,
    *,
    num_traces: int,
    seed: int,
    keep: Kept,
    progress: Progress | None,
    guide: Guide | None = None,
    check: Callable[[AddressTable], None] | None = None,
) -> Posterior:
    """Runs an engine whose traces are independent; arguments and errors as for `importance_sampling`.

    `check` looks at the addresses after every chunk, before its traces count, and may raise.

    Ctrl-C ends the run early: finished chunks are returned, marked `interrupted`.
    """
    num_traces, seed = checked_count("num_traces", num_traces), checked_seed(seed)
    collected = _Weighed(num_traces, Keeper(keep))
    remarks: tuple[str, ...] = ()
    with reporting(progress, num_traces, engine.replace("_", " ")) as reporter:

        def posterior(*, interrupted: bool = False) -> Posterior:
            traces, log_weight = collected.traces()
            provenance = Provenance(
                engine=engine,
                seed=seed,
                model_name=simulator.model_name,
                observations=observed_names(observations),
                given=given_values(observations),
                partial=observations.partial,
                num_executions=len(traces),
                num_failed=int(np.count_nonzero(traces.status)),
                failures=first_failures(traces.failures),
                wall_seconds=reporter.seconds,
                interrupted=interrupted,
                remarks=remarks,
                settings=collected.settings(noise=guide is not None),
            )
            return Posterior(traces, log_weight, provenance)

        interrupted = possible = False
        try:
            for traces in _chunks(simulator, observations, num_traces, seed, guide):
                if check is not None:
                    check(simulator.addresses)
                collected.append(traces)
                reporter.advance(len(traces))
                possible = possible or bool((traces.log_weight > -np.inf).any())
                if not possible and len(collected) >= _ENOUGH:
                    _refuse_other_shapes(collected.traces()[0])
            if not possible:
                remarks = _why_ruled_out(simulator, collected.traces()[0], observations)
        except KeyboardInterrupt:
            if not len(collected):
                raise
            interrupted = True
        except PPXError as error:
            _keep_finished(error, collected)
            with finishing("putting the finished traces together"):
                error.partial = posterior(interrupted=True) if len(collected) else None
            raise
        with finishing("putting the finished traces together"):
            done = posterior(interrupted=interrupted)
    done.warn_if_doubtful()
    return done


def _chunks(
    simulator: Executes, observations: Observations, num_traces: int, seed: int, guide: Guide | None
) -> Iterator[TraceBatch]:
    """Executes traces in chunks of about `_CHUNK_SECONDS`."""
    state = init(seed)
    chunk = least = first_chunk(simulator)
    while state.next_index < num_traces:
        count = min(chunk, num_traces - state.next_index)
        try:
            state, info = step(state, simulator, observations, count, guide)
        except ObservationError as error:
            # All traces ran, but none asked for some observation: it may be rare, and the chunk was small.
            if error.completed is not None or state.next_index or count >= min(num_traces, _ENOUGH):
                raise
            chunk *= _GROWTH
            continue
        yield info.traces
        possible = int(count * _CHUNK_SECONDS / max(info.seconds, 1e-9))
        largest = int(_CHUNK_BYTES * count / max(info.traces.nbytes, 1))
        chunk = next_chunk(chunk, possible, least=least, largest=largest)


def _refuse_other_shapes(traces: TraceBatch) -> None:
    """Ends a run none of whose traces observes the shapes that were given: so it will be in all that follow."""
    if observe_other_shapes(traces):
        raise ObservationError(explain(traces))


def _why_ruled_out(simulator: Executes, traces: TraceBatch, observations: ObservationSet) -> tuple[str, ...]:
    """What is to be said of a run in which every trace has weight zero.

    Raises:
        ObservationError: None of the traces observes what was given.
    """
    if observe_something_else(traces):
        raise ObservationError(explain(traces))
    miss = nearest_miss(simulator, traces, observations)
    return (miss,) if miss else ()


class _Weighed:
    """The traces of a run so far, as far as they are kept, and their weights, which need all draws.

    Args:
        num_traces: How many there will be.
        keeper: What to keep of them.
    """

    def __init__(self, num_traces: int, keeper: Keeper) -> None:
        self._keeper = keeper
        self._collected = Collection(num_traces)
        self._log_weight: list[Floats] = []
        self._noise: str | None = None

    def __len__(self) -> int:
        return len(self._collected)

    def append(self, traces: TraceBatch) -> None:
        """Takes in traces."""
        self._noise = noise_advice(traces) if self._noise is None else self._noise
        if not self._keeper.keeps_all:
            self._log_weight.append(traces.log_weight)
        self._collected.append(self._keeper.kept(traces))

    def traces(self) -> tuple[TraceBatch, Floats]:
        """All of them, and their log weights."""
        traces = self._collected.traces()
        if self._keeper.keeps_all:
            return traces, traces.log_weight
        # An interruption may have come between the two.
        return traces, np.concatenate(self._log_weight)[: len(traces)]

    def settings(self, *, noise: bool) -> dict[str, Any]:
        """What a posterior should say of it; with advice about noise if that matters to the engine."""
        said: dict[str, Any] = {} if self._keeper.keeps_all else {"keep": self._keeper.said}
        return said | ({"noise": self._noise} if noise and self._noise else {})


def _keep_finished(error: PPXError, collected: _Weighed) -> None:
    """Adds what the failed chunk finished, up to the first gap: what came after it is there because it was short."""
    finished = error.completed
    if finished is not None and len(finished):
        expected = len(collected) + np.arange(len(finished))
        whole = int(np.cumprod(finished.index == expected).sum())
        if whole and is_weight(finished.log_weight[:whole]).all():
            collected.append(finished.select(np.arange(whole)))

"""Importance sampling: executions from the prior, weighted by the likelihood of the observations.

Also the loop that all engines of independent traces share: executions by index, in chunks of about a second, so that
an interruption or a crash costs no more than the last chunk. The traces do not depend on the size of the chunks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ppx_inference.arguments import checked_count, checked_seed, observed_names
from ppx_inference.diagnostics import is_weight, refuse_undefined
from ppx_inference.posterior import Posterior
from ppx_inference.progress import Progress, reporting
from ppx_inference.provenance import Provenance, first_failures, given_values
from ppx_server.address import AddressTable
from ppx_server.collecting import Collection
from ppx_server.errors import ObservationError, PPXError
from ppx_server.executor import Executes
from ppx_server.interrupts import finishing
from ppx_server.observations import Observations, ObservationSet
from ppx_server.script import Guide, Otherwise, ScriptBatch
from ppx_server.trace import TraceBatch

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
    progress: Progress | None = None,
) -> Posterior:
    """Samples traces from the prior and weights them by the likelihood.

    Args:
        simulator: The simulator.
        observations: Values by name, or by (name, visit).
        num_traces: Executions.
        seed: With it trace i is the same in every run.
        progress: Who is told how far it is; None for a bar if stderr is a terminal.

    Returns:
        Weighted traces with `log_evidence` and `pareto_k`.

    Raises:
        ObservationError: An observation is missing, never asked for, or of another shape.
        SimulatorError: A simulator failed.

    Whichever is raised in mid-run, `error.partial` is the posterior of what had finished, or None.
    """
    return independent_traces(
        "importance_sampling", simulator, observations, num_traces=num_traces, seed=seed, progress=progress
    )


def independent_traces(
    engine: str,
    simulator: Executes,
    observations: Observations,
    *,
    num_traces: int,
    seed: int,
    progress: Progress | None,
    guide: Guide | None = None,
    check: Callable[[AddressTable], None] | None = None,
) -> Posterior:
    """Runs an engine whose traces are independent; arguments and errors as for `importance_sampling`.

    `check` looks at the addresses after every chunk, before its traces count, and may raise.

    Ctrl-C ends the run early: finished chunks are returned, marked `interrupted`.
    """
    num_traces, seed = checked_count("num_traces", num_traces), checked_seed(seed)
    given = ObservationSet.of(observations)
    collected = Collection(num_traces)
    with reporting(progress, num_traces, engine.replace("_", " ")) as reporter:

        def posterior(*, interrupted: bool = False) -> Posterior:
            traces = collected.traces()
            provenance = Provenance(
                engine=engine,
                seed=seed,
                model_name=simulator.model_name,
                observations=observed_names(given),
                given=given_values(given),
                num_executions=len(traces),
                num_failed=int(np.count_nonzero(traces.status)),
                failures=first_failures(traces.failures),
                wall_seconds=reporter.seconds,
                interrupted=interrupted,
            )
            return Posterior(traces, traces.log_weight, provenance)

        interrupted = False
        try:
            for traces in _chunks(simulator, given, num_traces, seed, guide):
                if check is not None:
                    check(simulator.addresses)
                collected.append(traces)
                reporter.advance(len(traces))
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


def _keep_finished(error: PPXError, collected: Collection) -> None:
    """Adds what the failed chunk finished, up to the first gap: what came after it is there because it was short."""
    finished = error.completed
    if finished is not None and len(finished):
        expected = len(collected) + np.arange(len(finished))
        whole = int(np.cumprod(finished.index == expected).sum())
        if whole and is_weight(finished.log_weight[:whole]).all():
            collected.append(finished.select(np.arange(whole)))

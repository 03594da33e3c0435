"""`ppx prior`: traces from the prior, summarised and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ppx_inference import importance
from ppx_inference.cli.console import Interrupted, note, reported, show_json
from ppx_inference.cli.options import (
    Addresses,
    AsJson,
    Command,
    Quiet,
    Seed,
    Timeout,
    Workers,
    open_simulator,
    refuse_existing,
    shown,
)
from ppx_inference.cli.summary import posterior_document, show_posterior
from ppx_inference.posterior import Posterior
from ppx_inference.progress import Progress, Reporter, reporting
from ppx_inference.simulator import Simulator
from ppx_server.errors import PPXError, StoreError
from ppx_server.store import TraceStore
from ppx_server.trace import TraceBatch

_LARGEST_CHUNK = 8192
_CHUNK_SECONDS = 1.0
"""Time between two writes: what an interruption may cost."""


@reported
def prior(
    command: Command = None,
    addresses: Addresses = None,
    num_traces: Annotated[int, typer.Option("--num-traces", "-n", min=1, help="Traces in all.")] = 1000,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Trace store to write.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the store at --output.")] = False,
    workers: Workers = 4,
    seed: Seed = 0,
    timeout: Timeout = 60.0,
    is_quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Draws traces from the prior, and writes them to a trace store or prints a summary of them.

    Ctrl-C keeps the traces that are finished; --resume goes on where the store ends and gives the traces that a run
    without a break would have given.

    Examples:

      ppx prior -n 1000 -- ./tau_decay

      ppx prior -n 100000 --seed 7 -o traces --workers 4 -- ./tau_decay

      ppx prior -n 200000 --seed 7 -o traces --resume -- ./tau_decay
    """
    if resume and output is None:
        raise typer.BadParameter("--resume goes on with the store at --output; give its path")
    if not resume:
        refuse_existing(output)
    with open_simulator(command, addresses, workers=workers, timeout=timeout) as simulator:
        if output is None:
            _summarise(simulator, num_traces, seed, shown(is_quiet), as_json=as_json)
        else:
            with _store(output, simulator, seed, resume=resume) as store:
                _fill(store, simulator, num_traces, seed, shown(is_quiet), as_json=as_json)


def _summarise(
    simulator: Simulator, num_traces: int, seed: int, progress: Progress | None, *, as_json: bool
) -> None:
    batches: list[TraceBatch] = []
    interrupted = False
    with reporting(progress, num_traces, "prior") as reporter:
        try:
            _run(simulator, seed, 0, num_traces, reporter, batches.append)
        except KeyboardInterrupt:
            if not batches:
                raise
            interrupted = True
    drawn = Posterior.of_traces(TraceBatch.concatenate(batches))
    rate = len(drawn) / reporter.seconds
    document = {**posterior_document(drawn), "wall_seconds": reporter.seconds, "traces_per_second": rate}
    if not as_json:
        show_posterior(drawn)
        note(f"{len(drawn):,} traces in {reporter.seconds:.1f} s ({rate:,.0f}/s)")
    if interrupted:
        kept = f"this is a summary of the {len(drawn):,} traces that were finished"
        raise Interrupted(kept, {**document, "interrupted": True})
    if as_json:
        show_json(document)


def _fill(
    store: TraceStore,
    simulator: Simulator,
    num_traces: int,
    seed: int,
    progress: Progress | None,
    *,
    as_json: bool,
) -> None:
    first = len(store)

    def document() -> dict[str, Any]:
        return {
            "output": store.path,
            "model_name": store.model_name,
            "seed": seed,
            "num_traces": len(store),
            "num_executions": len(store) - first,
            "wall_seconds": reporter.seconds,
            "traces_per_second": (len(store) - first) / reporter.seconds,
        }

    with reporting(progress, max(num_traces - first, 0), "prior") as reporter:
        try:
            _run(simulator, seed, first, num_traces, reporter, store.append)
        except KeyboardInterrupt:
            kept = f"{len(store):,} traces are in {store.path}; go on with --resume"
            raise Interrupted(kept, {**document(), "interrupted": True}) from None
        except PPXError:
            note(f"{len(store):,} traces are in {store.path}; go on with --resume")
            raise
    if as_json:
        show_json(document())
    else:
        rate = (len(store) - first) / reporter.seconds
        note(f"{len(store):,} traces are in {store.path} ({reporter.seconds:.1f} s, {rate:,.0f}/s)")


def _store(output: Path, simulator: Simulator, seed: int, *, resume: bool) -> TraceStore:
    if not resume or not output.exists():
        return TraceStore.create(output, model_name=simulator.model_name, metadata={"kind": "ppx prior"})
    store = TraceStore.open(output, mode="append")
    if store.model_name != simulator.model_name or store.seed not in (None, seed):
        store.close()
        raise StoreError(
            f"{output} holds traces of {store.model_name!r} with seed {store.seed}, not of {simulator.model_name!r} "
            f"with seed {seed}; give the same simulator and --seed, or another --output"
        )
    return store


def _run(
    simulator: Simulator,
    seed: int,
    first: int,
    num_traces: int,
    reporter: Reporter,
    keep: Callable[[TraceBatch], None],
) -> None:
    """Executes traces `first` to `num_traces - 1`; `keep` gets them in order, a second's worth at a time."""
    state = importance.State(seed, first)
    chunk = least = importance.first_chunk(simulator)
    while state.next_index < num_traces:
        count = min(chunk, num_traces - state.next_index)
        try:
            state, info = importance.step(state, simulator, None, count)
        except PPXError as error:
            if error.completed is not None and (whole := _unbroken(error.completed, state.next_index)):
                keep(error.completed.select(np.arange(whole)))
            raise
        keep(info.traces)
        reporter.advance(count)
        possible = int(chunk * _CHUNK_SECONDS / max(info.seconds, 1e-9))
        chunk = importance.next_chunk(chunk, possible, least=least, largest=_LARGEST_CHUNK)


def _unbroken(traces: TraceBatch, first: int) -> int:
    """How many traces there are up to the first gap; what came after it is there because it was short."""
    return int(np.cumprod(traces.index == first + np.arange(len(traces))).sum())

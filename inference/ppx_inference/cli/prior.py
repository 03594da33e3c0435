"""`ppx prior`: traces from the prior, summarised and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ppx_inference import importance
from ppx_inference.cli.console import Interrupted, note, reported, show_json
from ppx_inference.cli.failures import Invocation, report_failures
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
from ppx_inference.failures import FailureLog, FailureReport, with_lasting_reasons
from ppx_inference.posterior import Posterior
from ppx_inference.progress import Progress, Reporter, reporting
from ppx_inference.simulator import Simulator
from ppx_server.errors import PPXError
from ppx_server.executor import Executes
from ppx_server.interrupts import finishing
from ppx_server.store import TraceStore, missing
from ppx_server.store.manifest import MANIFEST
from ppx_server.text import counted
from ppx_server.trace import TraceBatch

_CHUNK_SECONDS = 1.0
"""Time that a chunk should take, so that Ctrl-C is answered and progress is seen."""
_CHUNK_BYTES = 32 << 20
"""Memory that a chunk may take. Two are there at a time: one is executed while the last one is written."""
_FLUSH_SECONDS = 30.0
"""Time between two flushes of a shard that is not full: what a power failure may cost."""


@reported
def prior(
    command: Command = None,
    addresses: Addresses = None,
    num_traces: Annotated[int, typer.Option("--num-traces", "-n", min=1, help="Traces in all.")] = 1000,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Trace store to write.", show_default=False),
    ] = None,
    workers: Workers = 4,
    seed: Seed = 0,
    timeout: Timeout = 60.0,
    is_quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Draws traces from the prior, and writes them to a trace store or prints a summary of them.

    Traces stream to disk, so that their number is limited by the disk only. Ctrl-C keeps those that are finished. The
    same command again goes on where the store ends, also with more traces or other workers, and gives the same files as
    a run without a break.

    Examples:

      ppx prior -n 1000 -- ./tau_decay

      ppx prior -n 1000000 --seed 7 -o traces --workers 4 -- ./tau_decay
    """
    if output is not None and (not (output / MANIFEST).exists() or missing(output)):
        refuse_existing(output)
    invocation = Invocation(command, addresses)
    with open_simulator(command, addresses, workers=workers, timeout=timeout) as simulator:
        if output is None:
            _summarise(simulator, num_traces, seed, shown(is_quiet), invocation, as_json=as_json)
            return
        with TraceStore.resume(
            output,
            model_name=simulator.model_name,
            fingerprint=simulator.fingerprint,
            seed=seed,
            metadata={"kind": "ppx prior"},
        ) as store:
            _fill(store, simulator, num_traces, seed, shown(is_quiet), invocation, as_json=as_json)


def _summarise(
    simulator: Simulator,
    num_traces: int,
    seed: int,
    progress: Progress | None,
    invocation: Invocation,
    *,
    as_json: bool,
) -> None:
    batches: list[TraceBatch] = []
    log = FailureLog(simulator, simulator.num_workers)
    interrupted = False
    with reporting(progress, num_traces, "prior") as reporter:
        try:
            _run(log, seed, 0, num_traces, reporter, batches.append)
        except KeyboardInterrupt:
            if not batches:
                raise
            interrupted = True
    with finishing("summarising the finished traces") as came:
        drawn = Posterior.of_traces(TraceBatch.concatenate(batches))
        rate = len(drawn) / reporter.seconds
        document = {**posterior_document(drawn), "wall_seconds": reporter.seconds, "traces_per_second": rate}
        if not as_json:
            show_posterior(drawn)
            note(f"{counted(len(drawn), 'trace')} in {reporter.seconds:.1f} s ({rate:,.0f}/s)")
        report_failures(log.report(), None, invocation)
    if interrupted or came:
        kept = f"this is a summary of the {counted(len(drawn), 'finished trace')}"
        raise Interrupted(kept, {**document, "interrupted": True})
    if as_json:
        show_json(document)


def _fill(
    store: TraceStore,
    simulator: Simulator,
    num_traces: int,
    seed: int,
    progress: Progress | None,
    invocation: Invocation,
    *,
    as_json: bool,
) -> None:
    first = store.next_index
    if first:
        note(f"{_are(first)} in {store.path} already")

    def document() -> dict[str, Any]:
        return {
            "output": store.path,
            "model_name": store.model_name,
            "fingerprint": store.fingerprint,
            "seed": seed,
            "num_traces": len(store),
            "num_failed": store.num_failed,
            "num_executions": len(store) - first,
            "wall_seconds": reporter.seconds,
            "traces_per_second": (len(store) - first) / reporter.seconds,
        }

    try:
        with reporting(progress, max(num_traces - first, 0), "prior") as reporter:
            writer = _Writer(store)
            try:
                _run(simulator, seed, first, num_traces, reporter, writer.append)
            finally:
                with finishing(f"writing the finished traces to {store.path}") as came:
                    writer.close()
        report_failures(FailureReport.of_store(store), store.path, invocation)
        if came:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        kept = f"{_are(len(store))} in {store.path}; the same command goes on"
        raise Interrupted(kept, {**document(), "interrupted": True}) from None
    except PPXError:
        note(f"{_are(len(store))} in {store.path}; the same command goes on")
        raise
    if as_json:
        show_json(document())
    else:
        rate = (len(store) - first) / reporter.seconds
        note(f"{_are(len(store))} in {store.path} ({reporter.seconds:.1f} s, {rate:,.0f}/s)")


def _are(num_traces: int) -> str:
    return f"{counted(num_traces, 'trace')} {'is' if num_traces == 1 else 'are'}"


class _Writer:
    """Writes a batch in a thread of its own while the next one is executed; an interruption does not get there.

    Args:
        store: The store.
    """

    def __init__(self, store: TraceStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ppx-store")
        self._pending: Future[None] | None = None
        self._flushed = time.monotonic()

    def append(self, batch: TraceBatch) -> None:
        """Appends a batch as soon as the one before it is written."""
        self._wait()
        self._pending = self._thread.submit(self._write, with_lasting_reasons(batch))

    def close(self) -> None:
        """Flushes what was appended."""
        try:
            self._wait()
            self._thread.submit(self._store.flush).result()
        finally:
            self._thread.shutdown()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _write(self, batch: TraceBatch) -> None:
        self._store.append(batch)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._store.flush()
            self._flushed = time.monotonic()


def _run(
    simulator: Executes,
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
        possible = int(count * _CHUNK_SECONDS / max(info.seconds, 1e-9))
        largest = max(_CHUNK_BYTES * count // max(info.traces.nbytes, 1), 1)
        chunk = importance.next_chunk(chunk, possible, least=least, largest=largest)


def _unbroken(traces: TraceBatch, first: int) -> int:
    """How many traces there are up to the first gap; what came after it is there because it was short."""
    return int(np.cumprod(traces.index == first + np.arange(len(traces))).sum())

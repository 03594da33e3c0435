"""Minibatches of prior traces, executed and encoded in the background, one chunk ahead of training."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np

from ppx_proposals.batching import Steps, encode
from ppx_proposals.observations import ObservationBatch
from ppx_proposals.proposal import Proposal
from ppx_proposals.vocabulary import AddressKey, Vocabulary
from ppx_server.executor import Executes
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

CHUNK_SECONDS = 0.5
"""How long a chunk should take: an interrupt waits for it."""
_FIRST_CHUNK = 16
"""Traces executed at once at first, and at least."""
_WAIT = 0.1
"""Seconds between looks at whether somebody wants to stop."""


class Minibatch(NamedTuple):
    """Traces to learn from in one step.

    Attributes:
        steps: Their steps.
        observations: Their observations.
        new_addresses: Addresses in these traces that are new to the proposal, in order of appearance.
        next_index: Index of the trace after them.
        num_failed: Traces that failed and are not among them.
    """

    steps: Steps
    observations: ObservationBatch
    new_addresses: tuple[AddressKey, ...]
    next_index: int
    num_failed: int


class Production:
    """Executes prior traces in a thread while it is entered.

    It numbers new addresses ahead of the proposal, which adds them in the same order as it learns.

    Args:
        sim: The simulator; nobody else may use it meanwhile.
        proposal: Whose vocabulary and observations to encode for; it is not changed.
        seed: Seed of the traces.
        indices: Indices of the traces, without gaps.
        batch_size: Traces per minibatch; boundaries are at multiples of it.
        max_chunk: Most traces executed at once.
    """

    def __init__(
        self, sim: Executes, proposal: Proposal, *, seed: int, indices: range, batch_size: int, max_chunk: int
    ) -> None:
        self._sim, self._layout = sim, proposal.layout
        self._vocabulary = Vocabulary(proposal.addresses)
        self._seed, self._indices = seed, indices
        self._batch_size = batch_size
        self._max_chunk = max_chunk
        self._queue: queue.Queue[list[Minibatch] | BaseException | None] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ppx training traces", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def minibatches(self, interrupted: threading.Event) -> Iterator[Minibatch]:
        """All minibatches in order, until the end or an interrupt.

        Raises:
            PPXError: What the execution of traces raised.
        """
        while not interrupted.is_set():
            try:
                chunk = self._queue.get(timeout=_WAIT)
            except queue.Empty:
                continue
            if chunk is None:
                return
            if isinstance(chunk, BaseException):
                raise chunk
            yield from chunk

    def _run(self) -> None:
        try:
            for chunk in self._chunks():
                self._put(chunk)
            self._put(None)
        except BaseException as error:  # whatever it is, the training thread must hear of it
            self._put(error)

    def _put(self, item: list[Minibatch] | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_WAIT)
                return
            except queue.Full:
                continue

    def _chunks(self) -> Iterator[list[Minibatch]]:
        """Executes as many traces at once as the simulator makes in `CHUNK_SECONDS`; keeps incomplete minibatches."""
        position, count = self._indices.start, _FIRST_CHUNK
        begun: list[TraceBatch] = []
        while position < self._indices.stop and not self._stop.is_set():
            end = min(position + count, self._indices.stop)
            started = time.monotonic()
            begun.append(self._sim.execute(ScriptBatch.empty(self._seed, np.arange(position, end)), None))
            seconds = max(time.monotonic() - started, 1e-6)
            position = end
            complete = position if position == self._indices.stop else position - position % self._batch_size
            if complete > begun[0].index[0]:
                traces = TraceBatch.concatenate(begun)
                cut = complete - int(traces.index[0])
                yield self._encode(traces.select(np.arange(cut)))
                begun = [traces.select(np.arange(cut, len(traces)))] if cut < len(traces) else []
            possible = int(CHUNK_SECONDS / seconds * count)
            count = max(_FIRST_CHUNK, min(possible, 2 * count, self._max_chunk))

    def _encode(self, traces: TraceBatch) -> list[Minibatch]:
        ok = traces.status == Status.OK
        batch = traces.index // self._batch_size
        minibatches = []
        for number in np.unique(batch).tolist():
            members = np.flatnonzero(batch == number)
            part = traces.select(members[ok[members]])
            known = len(self._vocabulary)
            steps = encode(part, self._vocabulary, grow=True)
            minibatches.append(
                Minibatch(
                    steps=steps,
                    observations=self._layout.of_traces(part),
                    new_addresses=self._vocabulary.keys[known:],
                    next_index=int(traces.index[members[-1]]) + 1,
                    num_failed=int((~ok[members]).sum()),
                )
            )
        return minibatches

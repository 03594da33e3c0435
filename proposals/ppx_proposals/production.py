"""Minibatches of prior traces, executed and encoded in the background, one chunk ahead of training."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np

from ppx_proposals.batching import PackedSteps, encode, pack_minibatches
from ppx_proposals.proposal import Proposal
from ppx_proposals.vocabulary import AddressKey, Vocabulary
from ppx_server.executor import Executes
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

CHUNK_SECONDS = 0.5
"""How long a chunk should take: an interrupt waits for it."""
_FIRST_CHUNK = 16
"""Traces executed at once at first, and at least."""
_CHUNK_BYTES = 1 << 26
"""Most memory that the draws and observations of a chunk may take, as they come; a few times as much once encoded."""
_WAIT = 0.1
"""Seconds between looks at whether somebody wants to stop."""


class Minibatch(NamedTuple):
    """Traces to learn from in one step.

    Attributes:
        steps: Their steps, packed for the network.
        new_addresses: Addresses in these traces that are new to the proposal, in order of appearance.
        next_index: Index of the trace after them.
        num_failed: Traces that failed and are not among them.
    """

    steps: PackedSteps
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
        self._sim, self._layout, self._device = sim, proposal.layout, proposal.device
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
            end = position + count
            if end - end % self._batch_size > position:
                end -= end % self._batch_size
            end = min(end, self._indices.stop)
            started = time.monotonic()
            begun.append(self._sim.execute(ScriptBatch.empty(self._seed, np.arange(position, end)), None))
            seconds = max(time.monotonic() - started, 1e-6)
            possible = int(CHUNK_SECONDS / seconds * (end - position))
            room = int(_CHUNK_BYTES / _bytes(begun[-1]) * (end - position))
            position = end
            complete = end if end == self._indices.stop else end - end % self._batch_size
            if complete > begun[0].index[0]:
                traces = TraceBatch.concatenate(begun)
                cut = complete - int(traces.index[0])
                whole = cut == len(traces)
                yield self._encode(traces if whole else traces.select(np.arange(cut)))
                begun = [] if whole else [traces.select(np.arange(cut, len(traces)))]
            count = max(_FIRST_CHUNK, min(possible, 2 * count, self._max_chunk, room))

    def _encode(self, traces: TraceBatch) -> list[Minibatch]:
        """Encodes all minibatches in one pass, so that the interpreter is left to the thread that trains."""
        ok = traces.status == Status.OK
        number = traces.index // self._batch_size - traces.index[0] // self._batch_size
        num_traces = np.bincount(number)
        sizes = np.bincount(number[ok], minlength=len(num_traces))
        succeeded = traces if ok.all() else traces.select(ok)
        known = len(self._vocabulary)
        steps = encode(succeeded, self._vocabulary, grow=True)
        packed = pack_minibatches(steps, self._layout.of_traces(succeeded), sizes, device=self._device)
        # Rows are numbered in order of appearance: a minibatch brings those up to the largest that it visits.
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(steps.length)])[np.cumsum(sizes)]
        visited = np.maximum.accumulate(steps.address) if len(steps.address) else steps.address
        rows = [max(known, int(visited[end - 1])) if end else known for end in bounds.tolist()]
        keys = self._vocabulary.keys
        return [
            Minibatch(
                steps=packed[b],
                new_addresses=keys[before:after],
                next_index=int(traces.index[0] + last),
                num_failed=int(num_traces[b] - sizes[b]),
            )
            for b, (before, after, last) in enumerate(
                zip([known, *rows], rows, np.cumsum(num_traces).tolist(), strict=False)
            )
        ]


def _bytes(traces: TraceBatch) -> int:
    """Memory that draws and observations take, roughly."""
    return 64 * len(traces.address_id) + traces.observations.data.nbytes + len(traces)

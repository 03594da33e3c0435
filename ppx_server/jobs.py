"""Work for simulators that execute batches: scripts to send, and what becomes of the traces that come back.

`PlainJobs` sends scripts as they are. `GuidedJobs` lets a guide foresee how traces go on, sends that, and sends those
traces again of which it foresaw something else than what came: up to there they repeat what they did.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ppx_server.address import AddressTable
from ppx_server.collecting import Collection
from ppx_server.errors import SimulatorError, SimulatorFailedError
from ppx_server.failures import FailureTally
from ppx_server.philox import Stream, normals
from ppx_server.script import Otherwise, ScriptBatch, SpeculativeGuide, Tails
from ppx_server.trace import DrawFlag, Floats, Ints, Status, TraceBatch, gather, segment_sum

Number = TypeVar("Number", np.int32, np.float64)

_PATIENCE = 3
"""How often a trace may get no further before it is given up."""
_ERRATIC = (
    "the simulator does something else each time it executes the same script; draw all randomness through ppx, and "
    "keep no state between traces"
)
_WAVE = 1024
"""Traces that a guide looks at in one pass: many enough for matrix products, few enough for its states."""


@dataclass(frozen=True, eq=False)
class Job:
    """Traces to execute.

    Attributes:
        slots: `(n,)` their rows in the result.
        whole: Their scripts, among those of a larger job.
        start: Where in `whole` theirs begin.
        caution: 0; 1 if a simulator died of a batch that they were part of; 2 if of a small one.
        attempts: How often the simulator died of exactly this trace; for single traces.
    """

    slots: Ints
    whole: ScriptBatch
    start: int = 0
    caution: int = 0
    attempts: int = 0

    def __len__(self) -> int:
        return len(self.slots)

    @cached_property
    def scripts(self) -> ScriptBatch:
        """Their scripts."""
        return self.whole.part(self.start, self.start + len(self.slots))

    def part(self, start: int, stop: int) -> Job:
        """Traces `start` to `stop - 1`; costs nothing until it is executed."""
        return replace(self, slots=self.slots[start:stop], start=self.start + start)


class Jobs(Protocol):
    """Where jobs come from and results go."""

    def next(self) -> Job | None:
        """More traces to execute, or None if there are none before results come back."""

    def accept(self, slots: Ints, traces: TraceBatch) -> None:
        """Takes in executed traces."""

    def another_way(self, job: Job) -> Job | None:
        """The single trace of a job, of which its simulator dies, in a way that may not kill; None if there is none."""

    def fail(self, job: Job, traces: TraceBatch, error: SimulatorError) -> None:
        """Takes in the single trace of a job as failed."""

    def finished(self) -> tuple[Ints, TraceBatch | None]:
        """Slots of the finished traces, in order, and the traces; None if there are none."""


class _Finished:
    """Finished traces, collected in the order of their slots as far as they come; counts those that failed.

    Args:
        num_traces: How many there will be.
        tally: Counts failed traces.
    """

    def __init__(self, num_traces: int, tally: FailureTally) -> None:
        self._tally = tally
        self._collected = Collection(num_traces)
        self._slots: list[Ints] = []  # of the collected traces
        self._next = 0
        self._waiting: dict[int, tuple[Ints, TraceBatch]] = {}  # by first slot, until those before have come

    def add(self, slots: Ints, traces: TraceBatch, error: SimulatorError | None = None) -> None:
        """Adds traces; `error` says more of a single failed one."""
        if len(slots):
            self._waiting[int(slots[0])] = (slots, traces)
            while self._next in self._waiting:
                self._collect(*self._waiting.pop(self._next))
            self._tally.count(0, _model_errors(traces) if error is None else [error])

    def joined(self) -> tuple[Ints, TraceBatch | None]:
        """All of them in the order of their slots."""
        for first in sorted(self._waiting):
            self._collect(*self._waiting.pop(first))
        if not self._slots:
            return np.empty(0, np.int64), None
        slots, traces = np.concatenate(self._slots), self._collected.traces()
        if (np.diff(slots) > 0).all():
            return slots, traces
        by_slot = np.argsort(slots, kind="stable")
        return slots[by_slot], traces.select(by_slot)

    def _collect(self, slots: Ints, traces: TraceBatch) -> None:
        self._slots.append(slots)
        self._collected.append(traces)
        self._next = int(slots[-1]) + 1


def _model_errors(traces: TraceBatch) -> list[SimulatorError]:
    failed = traces.index[traces.status == Status.FAILED].tolist()
    reasons = [traces.failures.get(index, "no reason given") for index in failed]
    return [
        SimulatorFailedError(f"the model failed: {reason}", seed=traces.seed, index=index)
        for index, reason in zip(failed, reasons, strict=True)
    ]


class PlainJobs:
    """Scripts that need no guide.

    Args:
        scripts: K scripts, with ids of the executor's address table.
        tally: Counts finished and failed traces.
    """

    def __init__(self, scripts: ScriptBatch, tally: FailureTally) -> None:
        self._job: Job | None = Job(np.arange(len(scripts)), scripts) if len(scripts) else None
        self._tally = tally
        self._finished = _Finished(len(scripts), tally)

    def next(self) -> Job | None:
        """All of them, once."""
        job, self._job = self._job, None
        return job

    def accept(self, slots: Ints, traces: TraceBatch) -> None:
        """See `Jobs.accept`."""
        self._tally.count(len(slots))
        self._finished.add(slots, traces)

    def another_way(self, job: Job) -> Job | None:
        """None: a script leaves no choice."""
        return None

    def fail(self, job: Job, traces: TraceBatch, error: SimulatorError) -> None:
        """See `Jobs.fail`."""
        self._tally.count(len(job))
        self._finished.add(job.slots, traces, error)

    def finished(self) -> tuple[Ints, TraceBatch | None]:
        """See `Jobs.finished`."""
        return self._finished.joined()


class GuidedJobs:
    """Scripts whose open draws a guide chooses, before the simulator gets there.

    Args:
        scripts: K scripts that say `Otherwise.ASK`, with ids of the executor's address table.
        guide: Who chooses.
        addresses: The executor's address table.
        tally: Counts finished and failed traces.
        streams: Where the guide's random numbers come from.
    """

    def __init__(
        self,
        scripts: ScriptBatch,
        guide: SpeculativeGuide,
        addresses: AddressTable,
        tally: FailureTally,
        streams: tuple[Stream, Stream],
    ) -> None:
        self._streams = streams
        self._scripts = scripts
        self._guide = guide
        self._tally = tally
        self._next_slot = 0
        self._returned: list[tuple[Ints, TraceBatch]] = []
        self._num_returned = 0
        self._finished = _Finished(len(scripts), tally)
        self._num_own = np.where(
            np.diff(scripts.offsets) > 0, -1, 0
        )  # -1: not known before the first execution
        self._held = np.full(len(scripts), -1, np.int64)
        self._stalled = np.zeros(len(scripts), np.int64)
        self._restarted = np.zeros(len(scripts), bool)
        guide.begin(len(scripts), addresses)

    def next(self) -> Job | None:
        """The next wave: of returned traces if there are enough of them or nothing else to do, else of new ones."""
        while True:
            fresh = len(self._scripts) - self._next_slot
            if self._num_returned >= _WAVE or (self._returned and not fresh):
                job = self._go_on()
            elif fresh:
                job = self._begin(np.arange(self._next_slot, self._next_slot + min(_WAVE, fresh)))
                self._next_slot += len(job)
                self._tally.count(
                    len(job)
                )  # now, since some that fail are finished before others that do not
            else:
                return None
            if job is not None:
                return job

    def accept(self, slots: Ints, traces: TraceBatch) -> None:
        """See `Jobs.accept`; whether a trace is finished, the guide says later.

        Failed ones are no exception: they may have failed where they would not have come.
        """
        if len(slots):
            self._returned.append((slots, traces))
            self._num_returned += len(slots)

    def another_way(self, job: Job) -> Job | None:
        """From its first draw, with choices ahead only where it is certain to come: it may have died elsewhere."""
        if self._restarted[job.slots].any():
            return None
        self._restarted[job.slots] = True
        self._held[job.slots] = -1
        self._guide.restart(int(job.slots[0]))
        return self._begin(job.slots)

    def fail(self, job: Job, traces: TraceBatch, error: SimulatorError) -> None:
        """See `Jobs.fail`."""
        self._guide.restart(int(job.slots[0]))  # it forgets what it has chosen
        self._finished.add(job.slots, traces, error)

    def finished(self) -> tuple[Ints, TraceBatch | None]:
        """See `Jobs.finished`."""
        return self._finished.joined()

    def _begin(self, slots: Ints) -> Job:
        scripts = self._scripts.part(int(slots[0]), int(slots[-1]) + 1)
        if len(scripts.value):  # see first where its own choices lead
            return Job(slots, scripts)
        return Job(slots, _with_tails(scripts, self._guide.speculate(slots, None, self._normals)))

    def _go_on(self) -> Job | None:
        order = sorted(self._returned, key=lambda piece: int(piece[0][0]))
        self._returned, self._num_returned = [], 0
        slots = np.concatenate([slots for slots, _ in order])
        traces = TraceBatch.concatenate([traces for _, traces in order])
        self._see_own(slots, traces)
        tails = self._guide.speculate(slots, traces, self._normals)
        complete = np.diff(tails.offsets) == 0
        done = np.flatnonzero(complete)
        if len(done):
            self._finished.add(slots[done], self._settled(slots, traces, tails.log_ratio).select(done))
        rest = self._going_on(slots, traces, tails.holds, np.flatnonzero(~complete))
        if not len(rest):
            return None
        prefixes = _prefixes(traces, tails.holds, rest)
        return Job(slots[rest], _with_tails(prefixes, _select(tails, rest)))

    def _see_own(self, slots: Ints, traces: TraceBatch) -> None:
        """Notes how many choices of its own script each trace has used; its first execution had no others."""
        new = self._num_own[slots] < 0
        if new.any():
            forced = ((traces.flags & DrawFlag.FORCED) != 0).astype(np.float64)
            self._num_own[slots[new]] = segment_sum(forced, traces.offsets)[new].astype(np.int64)

    def _going_on(self, slots: Ints, traces: TraceBatch, holds: Ints, rest: Ints) -> Ints:
        """Those of the traces that get further each time; what does not repeat itself has failed."""
        stalled = rest[holds[rest] <= self._held[slots[rest]]]
        self._held[slots[rest]] = holds[rest]
        self._stalled[slots[stalled]] += 1
        endless = rest[self._stalled[slots[rest]] > _PATIENCE]
        if not len(endless):
            return rest
        failed = traces.select(endless)
        reasons = dict.fromkeys(failed.index.tolist(), _ERRATIC)
        for slot in slots[endless].tolist():
            self._guide.restart(slot)
        status = np.full(len(failed), Status.FAILED, np.uint8)
        self._finished.add(slots[endless], replace(failed, status=status, failures=reasons))
        return np.setdiff1d(rest, endless)

    def _settled(self, slots: Ints, traces: TraceBatch, log_ratio: Floats) -> TraceBatch:
        """Traces with the densities that their draws were chosen with, and with what the guide chose marked."""
        forced = (traces.flags & DrawFlag.FORCED) != 0
        before = np.concatenate([[0], np.cumsum(forced)])
        rank = before[:-1] - np.repeat(before[traces.offsets[:-1]], traces.length)
        guided = forced & (rank >= np.repeat(self._num_own[slots], traces.length))
        flags = np.where(guided, traces.flags ^ (DrawFlag.FORCED | DrawFlag.GUIDED), traces.flags)
        return replace(traces, log_q=traces.log_prob + log_ratio, flags=flags.astype(np.uint8))

    def _normals(self, slots: Ints, start: int, count: int) -> Floats:
        index, seed = self._scripts.index[slots], self._scripts.seed
        both = [normals(seed, index, count, start=start, stream=s) for s in self._streams]
        return np.stack(both, axis=-1)


def _prefixes(traces: TraceBatch, holds: Ints, rest: Ints) -> ScriptBatch:
    """Scripts that repeat the first `holds` draws of traces; those that are not controlled repeat themselves."""
    rows, offsets = gather(traces.offsets, rest)
    position = np.arange(len(rows)) - np.repeat(offsets[:-1], np.diff(offsets))
    kept = (position < np.repeat(holds[rest], np.diff(offsets))) & traces.controlled[rows]
    count = np.concatenate([[0], np.cumsum(kept)])[offsets]
    rows = rows[kept]
    return ScriptBatch(
        seed=traces.seed,
        index=traces.index[rest],
        offsets=count,
        address_id=traces.address_id[rows],
        instance=traces.instance[rows],
        value=traces.value[rows],
        z=traces.z[rows],
        otherwise=Otherwise.ASK,
    )


def _select(tails: Tails, rest: Ints) -> Tails:
    rows, offsets = gather(tails.offsets, rest)
    columns = {name: getattr(tails, name)[rows] for name in ("address_id", "instance", "value", "z")}
    return tails._replace(holds=tails.holds[rest], offsets=offsets, **columns)


def _with_tails(scripts: ScriptBatch, tails: Tails) -> ScriptBatch:
    """Scripts, each with a tail behind it."""
    if not len(scripts.value):
        return replace(
            scripts,
            offsets=tails.offsets,
            address_id=tails.address_id,
            instance=tails.instance,
            value=tails.value,
            z=tails.z,
        )
    own, more = np.diff(scripts.offsets), np.diff(tails.offsets)
    offsets = np.concatenate([[0], np.cumsum(own + more)])
    # Rows of the joined script come in turns from the scripts and from the tails.
    lengths = np.stack([own, more], axis=1).ravel()
    is_tail = np.repeat(np.tile([False, True], len(own)), lengths)

    def joined(mine: NDArray[Number], theirs: NDArray[Number]) -> NDArray[Number]:
        column = np.empty(len(is_tail), mine.dtype)
        column[~is_tail], column[is_tail] = mine, theirs
        return column

    return replace(
        scripts,
        offsets=offsets,
        address_id=joined(scripts.address_id, tails.address_id),
        instance=joined(scripts.instance, tails.instance),
        value=joined(scripts.value, tails.value),
        z=joined(scripts.z, tails.z),
    )

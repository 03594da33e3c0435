"""Executes jobs on simulators that take whole batches: a poll loop with a few batches in flight per simulator.

Batches are sized from the speed that was measured, so that a message is worth its way and a crash costs little.
Dead and hanging simulators are replaced. A batch that a simulator died of is executed again in small pieces, then
trace by trace, until it is known which one it was; that one is tried again as the policy says, and else reported as
failed.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import zmq

from ppx_server.address import AddressTable
from ppx_server.audit import DefectiveClientError
from ppx_server.errors import (
    DistributionError,
    PPXError,
    RemoteProtocolError,
    SimulatorError,
    SimulatorFailedError,
    SimulatorStartError,
)
from ppx_server.failures import FailureTally, uncomputed
from ppx_server.jobs import Job, Jobs
from ppx_server.numbering import Numberings
from ppx_server.observations import ObservationSet
from ppx_server.protocol import BatchResult, Error, Event, FailureKind
from ppx_server.trace import Ints, Status, TraceBatch, segment_sum
from ppx_server.worker import Worker

_WATCH_SECONDS = 0.1  # how often processes and deadlines are looked at
_CREDITS = 2
"""Batches in flight per simulator: one to execute and one to go on with while the result travels."""
_BATCH_SECONDS, _SMALLEST_SECONDS = 0.02, 0.000_15
"""What a batch should take, and what it should take at least: some times the cost of a message."""
_BATCH_BYTES = 8 << 20
_CHOICE_BYTES, _SCRIPT_BYTES = 24, 12
"""What a choice and a script take in a RunBatch."""
_LARGEST_OVERHEAD = 0.005
"""Seconds per batch; what seems to be more is traces that take unlike times."""
_MOST_LOST = 20
"""How many batches in a row a simulator may refuse, as where it serves more controllers than it can remember."""
_REST_SECONDS, _LONGEST_REST = 0.01, 5.0
"""Pause after a refused batch; doubled each time."""
_MEMORY = 0.9
"""Weight of a batch in what is measured, against the one after it."""
_PATIENCE = 20.0
"""A batch is late if it takes `timeout` and so many times what it should."""


class Speed:
    """What batches cost a simulator: so much each and so much per trace, fitted to the last ones by least squares.

    Attributes:
        seconds: Per trace; None before the first batch.
        overhead: Seconds per batch.
        num_bytes: Per trace in the result.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.overhead = 0.0
        self.num_bytes = 0.0
        self._sums = np.zeros(6)  # of weight, n, n^2, seconds, n seconds, bytes

    def learn(self, num_traces: int, seconds: float, num_bytes: int) -> None:
        """Takes in one batch."""
        if num_traces == 0:
            return
        n = float(num_traces)
        self._sums *= _MEMORY
        self._sums += (1.0, n, n * n, seconds, n * seconds, num_bytes)
        weight, n1, n2, s, ns, size = self._sums.tolist()
        spread = weight * n2 - n1 * n1
        slope = (weight * ns - n1 * s) / spread if spread > 0.01 * n2 * weight else s / n1
        mean = s / n1
        self.seconds = min(max(slope, 0.2 * mean), mean)
        self.overhead = min(max((s - self.seconds * n1) / weight, 0.0), _LARGEST_OVERHEAD)
        self.num_bytes = size / n1

    def batch_size(self, remaining: int, num_workers: int) -> int:
        """How many of the remaining traces the next batch should hold."""
        if self.seconds is None:
            return 1  # it may take minutes
        seconds = max(self.seconds, 1e-9)
        share = math.ceil(remaining / (_CREDITS * num_workers))
        worthwhile = int(max(_SMALLEST_SECONDS, 2 * self.overhead) / seconds)
        affordable = min(int(_BATCH_SECONDS / seconds), int(_BATCH_BYTES / max(self.num_bytes, 1.0)))
        return max(1, min(max(affordable, worthwhile), max(share, worthwhile)))


@dataclass(eq=False)
class _Seat:
    """A simulator while jobs are executed."""

    worker: Worker
    in_flight: deque[Job] = field(default_factory=deque)
    num_batches: int = 0
    num_lost: int = 0  # batches refused as a whole, since the last that was executed
    resting_until: float = 0.0


class BatchRun:
    """One call of `execute`, for simulators that take batches.

    Args:
        jobs: What to execute.
        observations: What to condition on, or None.
        workers: Simulators, ready.
        numberings: What the simulators' address numbers mean.
        addresses: The controller's address table.
        speed: What traces cost, kept between calls.
        tally: Counts failures, kept between calls.
        retries: How often a trace that a simulator died of is tried again.
    """

    def __init__(
        self,
        jobs: Jobs,
        observations: ObservationSet | None,
        workers: Sequence[Worker],
        numberings: Numberings,
        *,
        addresses: AddressTable,
        speed: Speed,
        tally: FailureTally,
        retries: int,
    ) -> None:
        self._jobs = jobs
        self._observations = observations
        self._addresses = addresses
        self._speed = speed
        self._tally = tally
        self._retries = retries
        self._numberings = numberings
        self._queue: deque[Job] = deque()
        self._careful: deque[Job] = deque()
        self._seats = {worker.socket: _Seat(worker) for worker in workers}
        self._error: PPXError | None = None
        self._poller = zmq.Poller()
        for worker in workers:
            self._listen_to(worker)

    def loop(self) -> None:
        """Executes everything; after an error what is under way is still finished.

        Raises:
            ObservationError: The simulator observes something that was not given.
            SimulatorError: Too many traces failed, or no simulator can be started any more.
        """
        watch_at = time.monotonic() + _WATCH_SECONDS
        self._assign()
        while self._seats and self._work_left():
            for socket, _ in self._poller.poll(int(_WATCH_SECONDS * 1000)):
                if socket in self._seats:
                    self._receive(self._seats[socket])
                else:
                    watch_at = 0.0  # a connection was closed
            if time.monotonic() > watch_at:
                self._watch()
                watch_at = time.monotonic() + _WATCH_SECONDS
            self._assign()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Gives up simulators that are still executing something; those that are starting may go on."""
        for seat in self._seats.values():
            if seat.in_flight:
                seat.worker.discard()

    def _work_left(self) -> bool:
        if any(seat.in_flight for seat in self._seats.values()):
            return True
        if self._error is not None:
            return False
        if not self._queue and not self._careful and (more := self._jobs.next()) is not None:
            self._queue.append(more)  # for when a simulator is ready
        self._judge()
        return self._error is None and bool(self._queue or self._careful)

    # Handing out

    def _assign(self) -> None:
        """Gives every simulator that has credit something to do."""
        if self._error is not None:
            return
        now = time.monotonic()
        for credit in range(_CREDITS):
            for seat in self._seats.values():
                if not seat.worker.ready or len(seat.in_flight) > credit or seat.resting_until > now:
                    continue
                job = self._next_job(seat)
                if job is not None:
                    self._send(seat, job)

    def _next_job(self, seat: _Seat) -> Job | None:
        if any(job.caution for job in seat.in_flight):
            return None  # what it is executing may kill it: then it must be known what it was
        worker = seat.worker
        if not seat.in_flight and self._careful:
            job = self._careful[0]
            size = 1 if job.caution > 1 else max(1, math.isqrt(len(job)))
            return _take(self._careful, _affordable(job, size, worker))
        if not self._queue:
            more = self._jobs.next()
            self._judge()
            if more is None:
                return None
            self._queue.append(more)
        size = self._speed.batch_size(sum(map(len, self._queue)), len(self._seats))
        return _take(self._queue, _affordable(self._queue[0], size, worker))

    def _send(self, seat: _Seat, job: Job) -> None:
        seat.num_batches += 1
        event = self._numberings.of(seat.worker).request(seat.num_batches, job.scripts, self._observations)
        if not seat.in_flight:
            self._expect(seat, job)
        seat.in_flight.append(job)
        seat.worker.send(event)

    def _expect(self, seat: _Seat, job: Job) -> None:
        usual = len(job) * (self._speed.seconds or 0.0)
        seat.worker.expect(seat.worker.config.timeout + _PATIENCE * usual)

    # Taking in

    def _receive(self, seat: _Seat) -> None:
        try:
            while (event := seat.worker.receive()) is not None:
                self._take_in(seat, event)
        except SimulatorError as error:
            self._lose(seat, error)

    def _take_in(self, seat: _Seat, event: Event) -> None:
        if not isinstance(event, BatchResult):
            self._take_back(seat, event)
            return
        job = seat.in_flight[0]
        try:
            numbering = self._numberings.of(seat.worker)
            traces = numbering.traces(event, job.scripts)
            numbering.audit(traces, job.scripts)
        except DefectiveClientError as error:
            self._error = self._error or SimulatorFailedError(f"{seat.worker}: {error}")
            raise self._error from error  # it would do so again
        except (RemoteProtocolError, DistributionError) as error:
            raise SimulatorFailedError(f"{seat.worker} broke off: {error}") from error
        self._answered(seat)
        seat.num_lost = 0
        self._speed.learn(len(job), event.seconds, _num_bytes(event))
        missing = [f for f in event.failures if f.kind is FailureKind.OBSERVATION]
        unobserved = {int(traces.index[f.trace]): f.message for f in missing}
        self._jobs.accept(job.slots, _checked(traces), unobserved)
        self._judge()

    def _answered(self, seat: _Seat) -> Job:
        """The oldest job in flight is there no longer; the time for the next one begins."""
        job = seat.in_flight.popleft()
        if seat.in_flight:
            self._expect(seat, seat.in_flight[0])
        else:
            seat.worker.expect(math.inf)
        return job

    def _take_back(self, seat: _Seat, event: Event) -> None:
        """Executes later, or elsewhere, what a simulator refused as a whole: no trace is to blame."""
        what = event.message if isinstance(event, Error) else "it lost the conversation (Reset)"
        error = SimulatorFailedError(f"{seat.worker} did not execute a batch: {what}{seat.worker.output()}")
        seat.num_lost += 1
        if seat.num_lost > _MOST_LOST:
            self._error = self._error or error
        if isinstance(event, Error):  # too large, or it serves another controller
            self._numberings.of(seat.worker).tell_again()
            seat.resting_until = time.monotonic() + min(_REST_SECONDS * 2**seat.num_lost, _LONGEST_REST)
            job = self._answered(seat)
            self._careful.append(replace(job, caution=job.caution + 1) if len(job) > 1 else job)
            return
        self._queue.extendleft(reversed(seat.in_flight))
        seat.in_flight.clear()
        self._lose(seat, error)  # and greets it again

    def _judge(self) -> None:
        """Ends the run if an observation is missing, or too many traces failed."""
        self._error = self._error or self._jobs.error or self._tally.verdict()

    # Losing

    def _watch(self) -> None:
        for seat in list(self._seats.values()):
            try:
                seat.worker.watch()
            except SimulatorError as error:
                self._lose(seat, error)

    def _lose(self, seat: _Seat, error: SimulatorError) -> None:
        """Replaces a simulator that crashed, hangs or talks nonsense; finds out which trace did it."""
        del self._seats[seat.worker.socket]
        self._poller.unregister(seat.worker.socket)
        self._poller.unregister(seat.worker.disconnections)
        suspect = seat.in_flight.popleft() if seat.in_flight else None
        alone = not seat.in_flight
        self._queue.extendleft(reversed(seat.in_flight))
        seat.in_flight.clear()
        seat.worker.discard()
        if suspect is not None and self._error is None:
            self._suspect(suspect, seat.worker, error, alone=alone)
        if not seat.worker.may_recover or self._error is not None:
            if not self._seats:
                self._error = self._error or error
            return
        try:
            seat.worker.start()
        except SimulatorStartError as start_error:
            if not self._seats:
                self._error = self._error or start_error
            return
        seat.num_batches = 0
        self._seats[seat.worker.socket] = seat
        self._listen_to(seat.worker)

    def _listen_to(self, worker: Worker) -> None:
        self._poller.register(worker.socket, zmq.POLLIN)
        self._poller.register(worker.disconnections, zmq.POLLIN)

    def _suspect(self, job: Job, worker: Worker, error: SimulatorError, *, alone: bool) -> None:
        if len(job) > 1:
            self._careful.append(replace(job, caution=job.caution + 1))
            return
        if not alone:  # its result may have been lost with the process, which died of the next one
            self._careful.append(replace(job, caution=2))
            return
        if job.attempts < self._retries:
            self._careful.append(replace(job, caution=2, attempts=job.attempts + 1))
            return
        another = self._jobs.another_way(job)
        if another is not None:
            self._careful.append(replace(another, caution=2, attempts=job.attempts))
            return
        scripts = job.scripts
        located = worker.locate(error, scripts.seed, int(scripts.index[0]))
        self._jobs.fail(job, uncomputed(scripts, self._addresses, str(error)), located)
        self._judge()


def _affordable(job: Job, size: int, worker: Worker) -> int:
    """How many of the next `size` traces a simulator takes in a batch; at least one."""
    size = min(size, len(job), worker.most_traces)
    offsets = job.whole.offsets[job.start : job.start + size + 1]
    num_bytes = _CHOICE_BYTES * (offsets - offsets[0]) + _SCRIPT_BYTES * np.arange(size + 1)
    # Half of what it takes: the rest is for addresses and observations.
    return max(1, int(np.searchsorted(num_bytes, worker.longest_message // 2, side="right")) - 1)


def _take(queue: deque[Job], size: int) -> Job:
    """The first `size` traces of the first job in the queue."""
    job = queue.popleft()
    if len(job) <= size:
        return job
    queue.appendleft(job.part(size, len(job)))
    return job.part(0, size)


def _num_bytes(result: BatchResult) -> int:
    """About the size of its message."""
    tensors = sum(
        t.data.nbytes + 24 * len(t.address) for t in (result.observations, result.tags, result.results)
    )
    return 37 * len(result.value) + result.params_data.nbytes + tensors


def _checked(traces: TraceBatch) -> TraceBatch:
    """Traces; those with NaN where none may be count as failed."""
    undefined = _undefined(traces)
    if not len(undefined):
        return traces
    status = traces.status.copy()
    status[undefined] = Status.FAILED
    reason = "the simulator reported a density or value that is NaN or infinite"
    found = {int(i): reason for i in traces.index[undefined]}
    return replace(traces, status=status, failures={**traces.failures, **found})


def _undefined(traces: TraceBatch) -> Ints:
    """Positions of traces that did not fail but have a log_prob of NaN or +inf, or a value that is not finite."""
    observed = traces.observations.log_prob
    if (traces.log_prob < np.inf).all() and (observed < np.inf).all() and np.isfinite(traces.value).all():
        return np.empty(0, np.int64)
    bad = (~(traces.log_prob < np.inf) | ~np.isfinite(traces.value)) & (traces.flags & 8 == 0)
    count = segment_sum(bad.astype(np.float64), traces.offsets)
    count += segment_sum((~(observed < np.inf)).astype(np.float64), traces.observations.offsets)
    return np.flatnonzero((count > 0) & (traces.status != Status.FAILED))

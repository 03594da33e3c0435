"""Executes scripts on simulators: N of them kept busy from one poll loop, traces returned by index.

The one operation every engine is built on is `Executes.execute`. `Executor` implements it for simulators that speak
PPX 1.0, in processes it starts itself or at addresses where they are already running.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import zmq
from numpy.typing import ArrayLike

from ppx_server.address import AddressTable
from ppx_server.errors import LocalProtocolError, ObservationError, PPXError, SimulatorError
from ppx_server.player import ObservationKey, Session, Tensor
from ppx_server.recording import Recording, assemble
from ppx_server.script import Guide, ScriptBatch
from ppx_server.trace import TraceBatch
from ppx_server.worker import Progress, Worker, WorkerConfig

Observations = (
    Mapping[str, ArrayLike] | Mapping[ObservationKey, ArrayLike] | Mapping[str | ObservationKey, ArrayLike]
)
"""Observed values by name, or by (name, visit) for repeated visits."""

_WATCH_SECONDS = 0.1  # how often processes and deadlines are looked at
_GATHER_MILLISECONDS = 1  # how long asks wait for others to be answered in the same pass


class Executes(Protocol):
    """Whatever can execute scripts; all that engines and training know of a simulator."""

    @property
    def addresses(self) -> AddressTable:
        """The addresses seen so far."""

    @property
    def model_name(self) -> str:
        """The simulator's name for its model."""

    def execute(
        self, scripts: ScriptBatch, observations: Observations | None, guide: Guide | None = None
    ) -> TraceBatch:
        """Executes K scripts.

        Args:
            scripts: What each execution must do.
            observations: Values by name, or by (name, visit) for repeated visits; None draws every observation from
                its distribution and records it (a prior run).
            guide: Who answers open draws of scripts that say `Otherwise.ASK`.

        Returns:
            K traces in the order of the scripts.

        Raises:
            ObservationError: An observation is missing, never asked for, or of another shape.
            SimulatorError: A simulator crashed, hung or failed.
                Whatever is raised while traces run, `error.completed` holds those that had finished.
        """


def canonical_observations(observations: Observations | None) -> dict[ObservationKey, Tensor] | None:
    """Observations by (name, visit); scalars as floats, everything else as float64 arrays.

    Raises:
        ObservationError: A value is not numeric or not finite.
    """
    if observations is None:
        return None
    canonical: dict[ObservationKey, Tensor] = {}
    for key, value in observations.items():
        try:
            array = np.asarray(value, np.float64)
        except (TypeError, ValueError) as error:
            raise ObservationError(f"observation {key!r} is not numeric: {error}") from error
        if not np.isfinite(array).all():
            raise ObservationError(f"observation {key!r} holds NaN or infinity; every value must be finite")
        canonical[(key, 0) if isinstance(key, str) else key] = array if array.shape else float(array)
    return canonical


class Executor:
    """Simulators that run scripts, one trace each at a time.

    Args:
        simulators: How to reach each simulator; at least one.

    Raises:
        SimulatorStartError: A simulator did not start or did not answer in time. None is left running.
    """

    def __init__(self, simulators: Sequence[WorkerConfig]) -> None:
        if not simulators:
            raise ValueError("an executor needs at least one simulator")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._addresses = AddressTable()
        self._asked: set[ObservationKey] = set()
        self._workers = [Worker(config, self._context) for config in simulators]
        try:
            self._make_ready()
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> AddressTable:
        """The addresses seen so far."""
        return self._addresses

    @property
    def model_name(self) -> str:
        """The simulators' name for their model."""
        return self._workers[0].model_name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops the processes it started and closes all connections; safe to call twice."""
        for worker in self._workers:
            worker.request_stop()
        for worker in self._workers:
            worker.close()
        self._context.destroy(linger=0)

    def execute(
        self, scripts: ScriptBatch, observations: Observations | None, guide: Guide | None = None
    ) -> TraceBatch:
        """Executes K scripts; see `Executes.execute`."""
        if self._context.closed:
            raise LocalProtocolError("this simulator is closed; open a new one")
        session = Session(scripts, canonical_observations(observations), self._addresses)
        self._make_ready()
        if guide is not None:
            guide.begin(len(scripts), self._addresses)
        run = _Run(session, guide, self._workers)
        try:
            run.loop()
        except PPXError as error:
            error.completed = run.batch(sorted(run.finished))
            raise
        finally:
            for worker in self._workers:
                worker.abandon()
        self._check_all_asked(session)
        return run.batch(range(len(scripts)))

    def _make_ready(self) -> None:
        waiting = [worker for worker in self._workers if not worker.ready]
        for worker in waiting:
            worker.start()
        for worker in waiting:
            worker.finish_start()
        names = {worker.model_name for worker in self._workers}
        if len(names) > 1:
            raise SimulatorError(f"the simulators serve different models: {', '.join(sorted(names))}")

    def _check_all_asked(self, session: Session) -> None:
        """Refuses observations that the simulator never asked for, now or before; warns of visits it did not make."""
        self._asked |= session.asked
        unknown = set(session.observations or ()) - self._asked
        if not unknown or not len(session.scripts):
            return
        names = {name for name, _ in self._asked}
        wrong = sorted({name for name, _ in unknown} - names)
        if wrong:
            raise ObservationError(
                f"the simulator never observes {', '.join(map(repr, wrong))}; it observes "
                f"{', '.join(sorted(map(repr, names))) or 'nothing'}; correct the name or leave it out "
                f"(if only a rare trace observes it, run many prior traces first)"
            )
        self._asked |= unknown  # warn once
        unvisited = ", ".join(map(repr, sorted(unknown)))
        warnings.warn(
            f"no trace made the visits of the observations {unvisited}; they were not used", stacklevel=4
        )


class _Run:
    """One call of `execute`: hands out scripts, moves messages, collects recordings."""

    def __init__(self, session: Session, guide: Guide | None, workers: Sequence[Worker]) -> None:
        self.session = session
        self.finished: dict[int, Recording] = {}
        self._guide = guide
        self._workers = workers
        self._slots = iter(range(len(session.scripts)))
        self._active: dict[int, Worker] = {}
        self._asking: list[Worker] = []
        self._error: PPXError | None = None
        self._poller = zmq.Poller()

    def batch(self, slots: Sequence[int]) -> TraceBatch:
        """The finished traces in the given slots."""
        return assemble(
            [self.finished[slot] for slot in slots],
            addresses=self.session.addresses,
            params=self.session.params,
            seed=self.session.scripts.seed,
            index=self.session.scripts.index[np.asarray(slots, np.int64)],
        )

    def loop(self) -> None:
        """Runs every script; after a failure the traces that are under way are still finished."""
        poller = self._poller
        for worker in self._workers:
            poller.register(worker.socket, zmq.POLLIN)
            self._next(worker)
        watch_at = time.monotonic() + _WATCH_SECONDS
        while self._active:
            patience = _GATHER_MILLISECONDS if self._asking else int(_WATCH_SECONDS * 1000)
            ready = [] if len(self._asking) == len(self._active) else poller.poll(patience)
            for socket, _ in ready:
                self._receive(socket)
            if self._asking and (not ready or len(self._asking) == len(self._active)):
                self._answer()
            if time.monotonic() > watch_at:
                self._watch()
                watch_at = time.monotonic() + _WATCH_SECONDS
        if self._error is not None:
            raise self._error

    def _next(self, worker: Worker) -> None:
        slot = next(self._slots, None) if self._error is None else None
        if slot is None:
            self._active.pop(id(worker.socket), None)
        else:
            self._active[id(worker.socket)] = worker
            worker.run(self.session, slot)

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        worker = self._active.get(id(socket))
        if worker is None:
            return
        try:
            outcome = worker.receive()
        except PPXError as error:
            self._fail(worker, error)
            return
        if outcome is Progress.ASKS:
            self._asking.append(worker)
        elif isinstance(outcome, Recording):
            self.finished[worker.slot] = outcome
            self._next(worker)

    def _answer(self) -> None:
        """Answers all pending asks in one pass of the guide."""
        if self._guide is None:
            raise LocalProtocolError("a script says Otherwise.ASK, but there is no guide to ask")
        workers, self._asking = self._asking, []
        normals = np.array([w.player.guide_normals() for w in workers])
        choices = self._guide.choose([w.ask for w in workers], normals)
        for worker, choice in zip(workers, choices, strict=True):
            if worker.answer(choice) is Progress.ASKS:
                self._asking.append(worker)

    def _watch(self) -> None:
        asking = set(map(id, self._asking))
        for worker in list(self._active.values()):
            if id(worker) in asking:
                continue
            try:
                worker.watch()
            except SimulatorError as error:
                self._fail(worker, error)

    def _fail(self, worker: Worker, error: PPXError) -> None:
        self._error = self._error or error
        del self._active[id(worker.socket)]
        self._poller.unregister(worker.socket)
        worker.discard()

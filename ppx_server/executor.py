"""Executes scripts on simulators: N of them kept busy, traces returned by index.

The one operation every engine is built on is `Executes.execute`. `Executor` implements it for simulators in processes
it starts itself, or at addresses where they are already running: by whole batches where they understand that, else
draw by draw.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self, TypeGuard

import numpy as np

from ppx_server.address import AddressTable
from ppx_server.batches import BatchRun, Speed
from ppx_server.completeness import Completeness
from ppx_server.errors import (
    LocalProtocolError,
    ObservationError,
    PPXError,
    SimulatorError,
    SimulatorStartError,
)
from ppx_server.failures import FailureTally
from ppx_server.jobs import GuidedJobs, Jobs, PlainJobs
from ppx_server.numbering import Numberings
from ppx_server.observations import Observations, ObservationSet
from ppx_server.philox import guide_streams
from ppx_server.recording import assemble
from ppx_server.script import Guide, Otherwise, ScriptBatch, SpeculativeGuide
from ppx_server.session import Session
from ppx_server.stepwise import StepwiseRun
from ppx_server.trace import Status, TraceBatch
from ppx_server.transport import context_for
from ppx_server.turns import Turns
from ppx_server.uncontrolled import Search
from ppx_server.worker import Worker, WorkerConfig

_SLOW_SECONDS = 0.005
"""A guided trace that takes longer goes draw by draw: to execute parts of it twice would cost more than messages."""


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
            observations: Values by name, or by (name, visit) for repeated visits, None for one that was not measured;
                see `ObservationSet`. None instead of a set draws every observation from its distribution and records
                it (a prior run).
            guide: Who answers open draws of scripts that say `Otherwise.ASK`.

        Returns:
            K traces in the order of the scripts; one that cannot be computed has status FAILED and a reason in
            `failures`, one that observes something else than what was given has weight zero.

        Raises:
            ObservationError: The simulator never observes a name that is given, or a value is none.
            SimulatorError: No simulator can be started, or too many traces failed.
                Whatever is raised while traces run, `error.completed` holds those that had finished.
        """


@dataclass(frozen=True)
class FailurePolicy:
    """What happens to traces that cannot be computed.

    Attributes:
        retries: How often a trace is tried again of which a simulator crashed, hung or broke the protocol. A model that
            raises would raise again.
        most: Share of traces that may fail before the run ends with an error.
    """

    retries: int = 1
    most: float = 0.1

    def __post_init__(self) -> None:
        if self.retries < 0 or not 0 <= self.most <= 1:
            raise ValueError(
                f"retries is {self.retries} and must be >= 0, the share {self.most} must be in [0, 1]"
            )


class Executor:
    """Simulators that run scripts.

    Args:
        simulators: How to reach each simulator; at least one.
        policy: What happens to traces that cannot be computed.

    Raises:
        SimulatorStartError: A simulator did not start or did not answer in time. None is left running.
    """

    def __init__(self, simulators: Sequence[WorkerConfig], policy: FailurePolicy | None = None) -> None:
        if not simulators:
            raise ValueError("an executor needs at least one simulator")
        self._policy = policy or FailurePolicy()
        self._tally = FailureTally(self._policy.most, simulators[0].advice)
        self._speed = Speed()
        self._turns = Turns()
        self._context = context_for(len(simulators))
        self._addresses = AddressTable()
        self._observed: set[int] = set()
        self._completeness: Completeness | None = None
        self._uncontrolled = simulators[0].uncontrolled
        self._search = Search(self._uncontrolled, self._addresses)
        self._numberings = Numberings(self._addresses, self._uncontrolled)
        self._workers = [Worker(config, self._context) for config in simulators]
        try:
            self._start_all()
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

    @property
    def fingerprint(self) -> str:
        """Changes whenever the model does; empty if the simulators do not tell."""
        return self._workers[0].fingerprint

    @property
    def takes_batches(self) -> bool:
        """Whether the simulators execute whole batches, and not draw by draw."""
        return all("batch" in worker.peer_capabilities for worker in self._workers)

    @property
    def notices(self) -> list[str]:
        """What the client library in the processes it started has said of the model so far, each notice once."""
        return list(dict.fromkeys(notice for worker in self._workers for notice in worker.notices()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops the processes it started and closes all connections; safe to call twice, and from any thread.

        What another thread executes ends with an error. In a process that was forked off this one it does nothing.
        """
        if self._turns.in_fork:
            return
        for worker in self._workers:
            worker.closing = True
        if not self._turns.mine:  # else `execute` does it on its way out
            with self._turns.turn():
                self._close()

    def _close(self) -> None:
        self._search.end()
        for worker in self._workers:
            worker.request_stop()
        for worker in self._workers:
            worker.close()
        self._context.destroy(linger=0)

    def execute(
        self, scripts: ScriptBatch, observations: Observations | None, guide: Guide | None = None
    ) -> TraceBatch:
        """Executes K scripts; see `Executes.execute`.

        Threads that share it wait for each other.
        """
        with self._turns.turn():
            try:
                return self._execute(scripts, observations, guide)
            finally:
                if any(worker.closing for worker in self._workers):
                    self._close()

    def _execute(
        self, scripts: ScriptBatch, observations: Observations | None, guide: Guide | None
    ) -> TraceBatch:
        if self._context.closed:
            raise LocalProtocolError("this simulator is closed; open a new one")
        given = None if observations is None else ObservationSet.of(observations)
        self._make_ready()
        if scripts.otherwise is Otherwise.ASK and guide is None:
            raise LocalProtocolError("a script says Otherwise.ASK, but there is no guide to ask")
        try:
            if self._by_batches(scripts, given, guide):
                traces = self._execute_batches(self._jobs(scripts, guide), scripts, given)
            else:
                traces = self._execute_stepwise(scripts, given, guide)
        except PPXError as error:
            if error.completed is not None:
                error.completed = self._judged(error.completed, given)
            raise
        traces = self._judged(traces, given)
        self._search.look(traces)
        if (
            given is not None and (traces.status == Status.OK).any()
        ):  # else they may have failed before they observe
            self._check_all_observed()
        return traces

    def _jobs(self, scripts: ScriptBatch, guide: Guide | None) -> Jobs:
        scripts = self._translated(scripts)
        if scripts.otherwise is Otherwise.PRIOR:
            return PlainJobs(scripts, self._tally)
        assert _speculates(guide)
        streams = guide_streams(omitted=self._uncontrolled.omitted)
        return GuidedJobs(scripts, guide, self._addresses, self._tally, streams)

    def _by_batches(
        self, scripts: ScriptBatch, observations: ObservationSet | None, guide: Guide | None
    ) -> bool:
        if not self.takes_batches or not len(scripts):
            return False
        if observations is not None and not self._understand("missing"):
            return False  # it would fail a trace that observes more than was given
        if scripts.otherwise is Otherwise.PRIOR:
            return True
        if self._uncontrolled.patterns and not self._understand("uncontrolled"):
            return False  # it would ask for draws that are left to the prior
        return _speculates(guide) and (self._speed.seconds or 0.0) < _SLOW_SECONDS

    def _understand(self, capability: str) -> bool:
        return all(capability in worker.peer_capabilities for worker in self._workers)

    def _execute_batches(
        self, jobs: Jobs, scripts: ScriptBatch, observations: ObservationSet | None
    ) -> TraceBatch:
        run = BatchRun(
            jobs,
            observations,
            self._connected(),
            self._numberings,
            addresses=self._addresses,
            speed=self._speed,
            tally=self._tally,
            retries=self._policy.retries,
        )
        try:
            run.loop()
            self._give_up_if_all_failed()
        except PPXError as error:
            error.completed = _finished_traces(jobs, self._addresses, scripts)
            raise
        finally:
            run.abandon()
        traces = _finished_traces(jobs, self._addresses, scripts)
        assert len(traces) == len(scripts)
        return traces

    def _execute_stepwise(
        self, scripts: ScriptBatch, observations: ObservationSet | None, guide: Guide | None
    ) -> TraceBatch:
        session = Session(scripts, observations, self._addresses, self._uncontrolled)
        if guide is not None:
            guide.begin(len(scripts), self._addresses)
        workers = self._connected()
        run = StepwiseRun(session, guide, workers, tally=self._tally, retries=self._policy.retries)
        try:
            run.loop()
            self._give_up_if_all_failed()
        except PPXError as error:
            error.completed = run.batch()
            raise
        finally:
            run.abandon()
        return run.batch()

    def _judged(self, traces: TraceBatch, observations: ObservationSet | None) -> TraceBatch:
        """The traces, with weight zero where they observe something else than what was given."""
        if observations is None:
            return traces
        if self._completeness is None or self._completeness.observations is not observations:
            self._completeness = Completeness(observations, self._addresses, self._observed)
        return self._completeness.judged(traces)

    def _translated(self, scripts: ScriptBatch) -> ScriptBatch:
        """Scripts with ids of the executor's address table."""
        if scripts.addresses is None or scripts.addresses is self._addresses:
            return scripts
        ids = self._addresses.translate(scripts.address_id, scripts.addresses)
        return replace(scripts, address_id=ids, addresses=None)

    def _start_all(self) -> None:
        for worker in self._workers:
            worker.start()
        for worker in self._workers:
            worker.finish_start()
        for what in ("model_name", "fingerprint"):
            found = sorted({getattr(worker, what) for worker in self._workers})
            if len(found) > 1:
                name = what.replace("_", " ")
                raise SimulatorError(f"the simulators serve different models ({name}: {', '.join(found)})")

    def _connected(self) -> list[Worker]:
        """Simulators that are ready or may soon be."""
        return [worker for worker in self._workers if worker.connected]

    def _make_ready(self) -> None:
        """Starts simulators again that were given up or are gone; waits for them only if no other is left.

        Raises:
            SimulatorStartError: None of them can be started.
        """
        for worker in self._workers:
            if worker.ready and worker.lost() is not None:
                worker.discard()
        alone = not any(worker.ready for worker in self._workers)
        failure: SimulatorStartError | None = None
        for worker in self._workers:
            if not worker.connected and (alone or worker.worth_starting):
                try:
                    worker.start()
                except SimulatorStartError as error:
                    failure = error
        while not any(worker.ready for worker in self._workers):
            if failure is not None and not self._connected():
                raise failure
            for worker in self._connected():
                try:
                    worker.look_for_greeting()
                except SimulatorStartError as error:
                    worker.discard()
                    failure = error

    def _give_up_if_all_failed(self) -> None:
        error = self._tally.verdict()
        if error is not None:
            raise error

    def _check_all_observed(self) -> None:
        """Refuses names that the simulator never observes, now or before; warns of visits that partial names lack."""
        assert self._completeness is not None
        if wrong := self._completeness.unseen:
            names = {self._addresses[i].name or self._addresses[i].address for i in self._observed}
            raise ObservationError(
                f"the simulator never observes {', '.join(map(repr, wrong))}; it observes "
                f"{', '.join(sorted(map(repr, names))) or 'nothing'}; correct the name or leave it out "
                f"(if only a rare trace observes it, run many prior traces first)"
            )
        if unvisited := ", ".join(map(repr, self._completeness.unmade())):
            warnings.warn(
                f"no trace made the visits of the observations {unvisited}; they were not used", stacklevel=4
            )


def _speculates(guide: Guide | None) -> TypeGuard[SpeculativeGuide]:
    return hasattr(guide, "speculate")


def _finished_traces(jobs: Jobs, addresses: AddressTable, scripts: ScriptBatch) -> TraceBatch:
    """The finished traces, or a batch of none."""
    _, traces = jobs.finished()
    if traces is not None:
        return traces
    session = Session(scripts.part(0, 0), None, addresses)
    return assemble(
        [], addresses=addresses, params=session.params, seed=scripts.seed, index=np.empty(0, np.int64)
    )

"""Executes scripts on simulators that ask draw by draw (PPX 1.0): a poll loop with one trace per simulator.

Also the way for guided traces of slow simulators: their guide chooses when the simulator gets there, and no part of an
execution is wasted.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import zmq

from ppx_server.errors import (
    LocalProtocolError,
    PPXError,
    RemoteProtocolError,
    SimulatorError,
    SimulatorFailedError,
    SimulatorStartError,
)
from ppx_server.failures import FailureTally
from ppx_server.player import Player
from ppx_server.protocol import Error, Event, Reset, Run, RunResult
from ppx_server.recording import Recording, assemble
from ppx_server.script import Ask, Choice, Guide
from ppx_server.session import Session
from ppx_server.trace import TraceBatch
from ppx_server.worker import Worker

_WATCH_SECONDS = 0.1  # how often processes and deadlines are looked at
_SHARED_RETRIES = 3
"""How often a trace is at least tried again that a simulator at an address gives up: another controller may have taken
the simulator over, which looks like a model that raises."""
_GATHER_MILLISECONDS = 1  # how long asks wait for others to be answered in the same pass


class _Seat:
    """A simulator while scripts are executed: the trace it runs, and what that waits for."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.player: Player | None = None
        self.ask: Ask | None = None

    def run(self, session: Session, slot: int) -> None:
        """Starts the trace in `slot`."""
        peer = self.worker.peer_capabilities
        self.player = Player(session, slot, send_observed="observed_value" in peer)
        self._send(Run())

    def receive(self) -> Recording | None:
        """Handles the message that has arrived; returns the recording of a complete trace.

        Raises:
            SimulatorError: The simulator reported an error, or what it sent makes no sense.
        """
        event = self.worker.receive()
        player = self.player
        if event is None or player is None:
            return None
        if type(event) is RunResult:
            player.finish(event)
            self.player = None
            self.worker.expect(math.inf)
            return player.recording
        if type(event) is Error or type(event) is Reset:
            raise _ModelError(self._reason(event))
        try:
            self._dispatch(player.react(event))
        except (RemoteProtocolError, LocalProtocolError) as error:
            raise SimulatorFailedError(f"{self.worker} broke off: {error}") from error
        return None

    def answer(self, choice: Choice) -> None:
        """Answers the pending ask."""
        assert self.player is not None
        self.ask = None
        self._dispatch(self.player.answer(choice))

    def _dispatch(self, reply: Event | Ask) -> None:
        if isinstance(reply, Ask):
            self.ask = reply
            self.worker.expect(math.inf)
        else:
            self._send(reply)

    def _send(self, event: Event) -> None:
        self.worker.send(event)
        self.worker.expect(self.worker.config.timeout)

    def _reason(self, event: Error | Reset) -> str:
        if isinstance(event, Error):
            return f"{self.worker}: the model failed: {event.message}"
        return (
            f"{self.worker} lost the conversation and asked to start over (PPX Reset), as when the model raises"
            + self.worker.output()
        )


class _ModelError(SimulatorFailedError):
    """The model raised; the simulator is ready for the next trace."""


class StepwiseRun:
    """One call of `execute`, for simulators that speak PPX 1.0.

    Args:
        session: What its traces share.
        guide: Who answers open draws.
        workers: Simulators, ready.
        tally: Counts failures, kept between calls.
        retries: How often a trace that a simulator died of is tried again.
    """

    def __init__(
        self,
        session: Session,
        guide: Guide | None,
        workers: Sequence[Worker],
        *,
        tally: FailureTally,
        retries: int,
    ) -> None:
        self._session = session
        self._guide = guide
        self._tally = tally
        self._retries = retries
        self._recordings: dict[int, Recording] = {}
        self._failures: dict[int, str] = {}
        self._attempts: dict[int, int] = {}
        self._slots = deque(range(len(session.scripts)))
        self._seats = {worker.socket: _Seat(worker) for worker in workers}
        self._asking: list[_Seat] = []
        self._error: PPXError | None = None
        self._poller = zmq.Poller()
        for worker in workers:
            self._listen_to(worker)

    def batch(self) -> TraceBatch:
        """The traces that have finished or failed, in the order of their slots."""
        slots = sorted(self._recordings)
        return assemble(
            [self._recordings[slot] for slot in slots],
            addresses=self._session.addresses,
            params=self._session.params,
            seed=self._session.scripts.seed,
            index=self._session.scripts.index[np.asarray(slots, np.int64)],
            failures=self._failures,
        )

    def loop(self) -> None:
        """Runs every script; after an error the traces that are under way are still finished.

        Raises:
            SimulatorError: Too many traces failed, or no simulator can be started any more.
        """
        watch_at = time.monotonic() + _WATCH_SECONDS
        self._assign()
        while self._busy() or (self._seats and self._slots and self._error is None):
            patience = _GATHER_MILLISECONDS if self._asking else int(_WATCH_SECONDS * 1000)
            waiting = self._busy() > len(self._asking) or not self._asking
            ready = self._poller.poll(patience) if waiting else []
            for socket, _ in ready:
                if socket in self._seats:
                    self._receive(self._seats[socket])
                else:
                    watch_at = 0.0  # a connection was closed
            if self._asking and (not ready or len(self._asking) == self._busy()):
                self._answer()
            self._assign()
            if time.monotonic() > watch_at:
                self._watch()
                watch_at = time.monotonic() + _WATCH_SECONDS
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Gives up simulators that are in mid-trace: one that speaks PPX 1.0 only cannot be asked to forget it."""
        for seat in self._seats.values():
            if seat.player is not None:
                seat.worker.discard()

    def _busy(self) -> int:
        return sum(seat.player is not None for seat in self._seats.values())

    def _assign(self) -> None:
        for seat in self._seats.values():
            if self._slots and self._error is None and seat.worker.ready and seat.player is None:
                seat.run(self._session, self._slots.popleft())

    def _receive(self, seat: _Seat) -> None:
        player = seat.player
        try:
            recording = seat.receive()
        except _ModelError as error:
            assert player is not None
            failure = SimulatorFailedError(str(error))
            if (lost := seat.worker.lost()) is not None:  # it was restarted, and knows nothing of the trace
                self._lose(seat, lost)
            elif seat.worker.config.address:
                self._lose(seat, failure, retries=max(self._retries, _SHARED_RETRIES))
            else:
                seat.player = None
                seat.worker.expect(math.inf)
                self._fail(player, seat.worker, failure, str(failure))
        except SimulatorError as error:
            self._lose(seat, error)
        except PPXError as error:
            self._error = self._error or error
            self._drop(seat)
        else:
            if seat.ask is not None:
                self._asking.append(seat)
            elif recording is not None:
                assert player is not None
                self._recordings[player.slot] = recording
                self._tally.count(1)

    def _answer(self) -> None:
        """Answers all pending asks in one pass of the guide."""
        if self._guide is None:
            raise LocalProtocolError("a script says Otherwise.ASK, but there is no guide to ask")
        seats, self._asking = self._asking, []
        normals = np.array([seat.player.guide_normals() for seat in seats if seat.player is not None])
        choices = self._guide.choose([seat.ask for seat in seats if seat.ask is not None], normals)
        for seat, choice in zip(seats, choices, strict=True):
            seat.answer(choice)
            if seat.ask is not None:
                self._asking.append(seat)

    def _watch(self) -> None:
        for seat in list(self._seats.values()):
            try:
                seat.worker.watch()
            except SimulatorError as error:
                self._lose(seat, error)

    def _lose(self, seat: _Seat, error: SimulatorError, *, retries: int | None = None) -> None:
        """Replaces a simulator that crashed, hangs or talks nonsense; its trace is tried again, or has failed."""
        retries = self._retries if retries is None else retries
        player = seat.player
        attempts = 0
        if player is not None:
            attempts = self._attempts[player.slot] = self._attempts.get(player.slot, 0) + 1
        reason = seat.worker.last_words(error) if attempts > retries else ""
        self._drop(seat)
        if player is not None:
            if reason:
                self._fail(player, seat.worker, error, reason)
            else:
                self._slots.appendleft(player.slot)
                if self._guide is not None:
                    self._guide.restart(player.slot)
        if seat.worker.may_recover and self._error is None:
            try:
                seat.worker.start()
            except SimulatorStartError as start_error:
                error = start_error
            else:
                self._seats[seat.worker.socket] = seat
                self._listen_to(seat.worker)
        if not self._seats:
            self._error = self._error or error

    def _drop(self, seat: _Seat) -> None:
        del self._seats[seat.worker.socket]
        self._poller.unregister(seat.worker.socket)
        self._poller.unregister(seat.worker.disconnections)
        seat.worker.discard()
        if seat in self._asking:
            self._asking.remove(seat)
        seat.player = seat.ask = None

    def _listen_to(self, worker: Worker) -> None:
        self._poller.register(worker.socket, zmq.POLLIN)
        self._poller.register(worker.disconnections, zmq.POLLIN)

    def _fail(self, player: Player, worker: Worker, error: SimulatorError, reason: str) -> None:
        scripts = self._session.scripts
        index = int(scripts.index[player.slot])
        self._recordings[player.slot] = player.recording
        self._failures[index] = reason
        self._tally.count(1, [worker.locate(error, reason, scripts.seed, index)])
        self._error = self._error or self._tally.verdict()

"""One simulator under the controller's command: its process if we started it, its connection, the trace it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum

import zmq

from ppx_server.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    SimulatorCrashError,
    SimulatorError,
    SimulatorFailedError,
    SimulatorStartError,
    SimulatorTimeoutError,
)
from ppx_server.player import Player, Session
from ppx_server.process import SimulatorProcess
from ppx_server.protocol import (
    CAPABILITIES,
    Connection,
    Error,
    Event,
    Handshake,
    HandshakeResult,
    Reset,
    Role,
    Run,
    RunResult,
)
from ppx_server.recording import Recording
from ppx_server.script import Ask, Choice
from ppx_server.transport import Channel

SYSTEM_NAME = "ppx 0.1.0"
_POLL_MILLISECONDS = 20


@dataclass(frozen=True)
class WorkerConfig:
    """How to reach one simulator: exactly one of `command` and `address`.

    Attributes:
        command: Program and arguments of a process to start; `{address}` is replaced by the endpoint to bind.
        address: Endpoint of a simulator that is already running.
        timeout: Seconds the simulator may take between two messages.
        start_timeout: Seconds until the first handshake must be answered.
    """

    command: tuple[str, ...] = ()
    address: str = ""
    timeout: float = 60.0
    start_timeout: float = 30.0

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.address):
            raise ValueError("give either a command to start the simulator, or the address of a running one")


class Progress(Enum):
    """Where an unfinished trace stands."""

    WAITING = "waiting for the simulator"
    ASKS = "waiting for a choice"


class Worker:
    """Controls one simulator. Not ready until `start` and `finish_start` have run; `discard` makes it unready.

    Args:
        config: How to reach the simulator.
        context: ZeroMQ context.
    """

    def __init__(self, config: WorkerConfig, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.model_name = ""
        self.slot = -1
        self.ready = False
        self._config = config
        self._context = context
        self._process: SimulatorProcess | None = None
        self._channel: Channel | None = None
        self._connection = Connection(Role.CONTROLLER)
        self._deadline = 0.0
        self._player: Player | None = None
        self._ask: Ask | None = None

    # Starting and stopping

    def start(self) -> None:
        """Starts the process if there is one to start, and sends the handshake.

        A process of ours that is there already broke off in mid-trace; it is replaced, since a simulator that speaks
        PPX 1.0 only cannot be asked to forget a trace.
        """
        if self._process is not None:
            self._process.stop(grace=0.0)
            self._process = None
        if self._config.command:
            self._process = SimulatorProcess(self._config.command)
        self._channel = Channel(self._context, self._address)
        self._connection = Connection(Role.CONTROLLER)
        self._deadline = time.monotonic() + self._config.start_timeout
        self._send(Handshake(SYSTEM_NAME, CAPABILITIES))

    def finish_start(self) -> None:
        """Waits for the answer to the handshake.

        Raises:
            SimulatorStartError: None came before the deadline, the process ended, or the answer makes no sense.
        """
        while (data := self._open_channel.receive()) is None:
            if self._process is not None and self._process.exit_code() is not None:
                raise SimulatorStartError(
                    f"the simulator {self._command} ended before it answered: {self._process.describe_end()}"
                )
            if time.monotonic() > self._deadline:
                raise SimulatorStartError(self._no_answer())
            self.socket.poll(_POLL_MILLISECONDS)
        try:
            event = self._connection.receive(data)
        except RemoteProtocolError as error:
            raise SimulatorStartError(
                f"what answers at {self._address} does not speak PPX: {error}; check the address"
            ) from error
        assert isinstance(event, HandshakeResult)
        self.model_name = event.model_name
        self.ready = True

    def request_stop(self) -> None:
        """Asks the process to end, without waiting for it."""
        if self._process is not None:
            self._process.terminate()

    def close(self) -> None:
        """Ends the process and closes the connection."""
        self.discard()
        if self._process is not None:
            self._process.stop()
            self._process = None

    def discard(self) -> None:
        """Drops the connection, and ends a process of ours that is in mid-trace. `start` begins anew."""
        if self._player is not None and self._process is not None:
            self._process.stop(grace=0.0)
            self._process = None
        self.ready = False
        self._player = None
        self._ask = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def abandon(self) -> None:
        """Discards the worker if it is in mid-trace."""
        if self._player is not None:
            self.discard()

    # Running a trace

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """The socket to poll."""
        return self._open_channel.socket

    @property
    def player(self) -> Player:
        """The trace that is running."""
        assert self._player is not None
        return self._player

    @property
    def ask(self) -> Ask:
        """The draw that waits for a choice."""
        assert self._ask is not None
        return self._ask

    def run(self, session: Session, slot: int) -> None:
        """Starts the trace in `slot`."""
        self.slot = slot
        self._player = Player(
            session, slot, send_observed="observed_value" in self._connection.peer_capabilities
        )
        self._send(Run())

    def receive(self) -> Recording | Progress:
        """Handles the message that has arrived.

        Returns:
            The recording if the trace is complete, `ASKS` if a choice is needed, else `WAITING`.

        Raises:
            SimulatorFailedError: The simulator reported an error, or what it sent makes no sense.
            ObservationError: The simulator observes something that was not given.
        """
        data = self._open_channel.receive()
        if data is None:
            return Progress.WAITING
        player = self.player
        try:
            event = self._connection.receive(data)
            if type(event) is RunResult:
                return self._finish(event)
            if type(event) is Error or type(event) is Reset:
                raise self._failure(event)
            return self._dispatch(player.react(event))
        except (RemoteProtocolError, LocalProtocolError) as error:
            raise self._locate(
                SimulatorFailedError, f"the simulator {self._command} broke off: {error}"
            ) from error

    def answer(self, choice: Choice) -> Progress:
        """Answers the pending ask; returns as `receive` does."""
        return self._dispatch(self.player.answer(choice))

    def watch(self) -> None:
        """Checks that the simulator is alive and in time.

        Raises:
            SimulatorCrashError: The process ended.
            SimulatorTimeoutError: The deadline has passed.
        """
        if self.socket.poll(0):
            return  # what it has sent comes first
        if self._process is not None and self._process.exit_code() is not None:
            raise self._locate(
                SimulatorCrashError,
                f"the simulator {self._command} crashed in mid-trace: {self._process.describe_end()}",
            )
        if time.monotonic() > self._deadline:
            raise self._locate(
                SimulatorTimeoutError,
                f"the simulator {self._command} sent nothing for {self._config.timeout:g} s; "
                "if a trace may take that long, raise `timeout`" + self._output(),
            )

    def _finish(self, event: RunResult) -> Recording:
        player = self.player
        player.finish(event)
        self._player = None
        return player.recording

    def _dispatch(self, reply: Event | Ask) -> Progress:
        if isinstance(reply, Ask):
            self._ask = reply
            return Progress.ASKS
        self._send(reply)
        return Progress.WAITING

    def _send(self, event: Event) -> None:
        self._open_channel.send(self._connection.send(event))
        if type(event) is not Handshake:
            self._deadline = time.monotonic() + self._config.timeout

    # Words for errors

    @property
    def _open_channel(self) -> Channel:
        if self._channel is None:
            raise LocalProtocolError("this simulator is not connected")
        return self._channel

    @property
    def _address(self) -> str:
        return self._process.address if self._process is not None else self._config.address

    @property
    def _command(self) -> str:
        return repr(" ".join(self._config.command)) if self._config.command else f"at {self._config.address}"

    def _output(self) -> str:
        return self._process.quote_output() if self._process is not None else ""

    def _no_answer(self) -> str:
        if self._process is None:
            return (
                f"no simulator answered at {self._address} within {self._config.start_timeout:g} s; "
                "start it first, or correct the address (host, port, PPX_BIND)"
            )
        return (
            f"the simulator {self._command} did not answer at {self._address} within "
            f"{self._config.start_timeout:g} s; it must bind the endpoint in the environment variable PPX_BIND "
            f"(or take it as {{address}} in the command){self._output()}"
        )

    def _failure(self, event: Error | Reset) -> SimulatorError:
        reason = (
            f"the model failed: {event.message}"
            if isinstance(event, Error)
            else "it lost the conversation and asked to start over (PPX Reset), as when the model raises"
        )
        return self._locate(SimulatorFailedError, f"simulator {self._command}: {reason}{self._output()}")

    def _locate(self, kind: type[SimulatorError], message: str) -> SimulatorError:
        scripts = self.player.session.scripts
        return kind(message, seed=scripts.seed, index=int(scripts.index[self.slot]))

"""One simulator under the controller's command: its process if we started it, and the conversation with it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

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
from ppx_server.interrupts import uninterrupted
from ppx_server.process import SimulatorProcess
from ppx_server.protocol import CAPABILITIES, Connection, Event, Handshake, HandshakeResult, Role
from ppx_server.transport import MAX_MESSAGE_BYTES, Channel, message_limit

SYSTEM_NAME = "ppx 0.1.0"
_POLL_MILLISECONDS = 20
_END_SECONDS = 0.5  # from when a process closes its files until it has ended
_STARTS = 3
"""How often in a row it is tried to start a process that has been ready before: it may have been killed meanwhile."""
_LONGEST_PAUSE = 60.0  # seconds
_MOST_TRACES = 1 << 20
"""Traces of a batch, for simulators that do not say how many they take."""


def _identity(greeting: HandshakeResult) -> str:
    return f"{greeting.model_name!r} with fingerprint {greeting.fingerprint!r}"


def _same_model(one: HandshakeResult, other: HandshakeResult) -> bool:
    return (one.model_name, one.fingerprint, set(one.capabilities)) == (
        other.model_name,
        other.fingerprint,
        set(other.capabilities),
    )


@dataclass(frozen=True)
class WorkerConfig:
    """How to reach one simulator: exactly one of `command` and `address`.

    Attributes:
        command: Program and arguments of a process to start; `{address}` is replaced by the endpoint to bind.
        address: Endpoint of a simulator that is already running.
        timeout: Seconds a trace may take, or the simulator between two messages of a trace.
        start_timeout: Seconds until the first handshake must be answered.
        memory_limit: Bytes of address space that a process of ours may take, or None.
        capabilities: Extensions of PPX 1.0 to use where the simulator has them too.
        max_bytes: A longer message of the simulator ends the connection before memory is taken for it.
    """

    command: tuple[str, ...] = ()
    address: str = ""
    timeout: float = 60.0
    start_timeout: float = 30.0
    memory_limit: int | None = None
    capabilities: tuple[str, ...] = CAPABILITIES
    max_bytes: int = field(default_factory=message_limit)

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.address):
            raise ValueError("give either a command to start the simulator, or the address of a running one")


class Worker:
    """Controls one simulator: greets it, carries messages, notices when it dies or hangs.

    Not ready until it has answered the handshake that `start` sends; `discard` makes it unready.

    Args:
        config: How to reach the simulator.
        context: ZeroMQ context.

    Attributes:
        model_name: The simulator's name for its model.
        fingerprint: Changes whenever the model does; empty if the simulator does not tell.
        ready: Whether it has been greeted.
        conversation: Number of the conversation, which a greeting begins.
    """

    def __init__(self, config: WorkerConfig, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.config = config
        self.model_name = ""
        self.fingerprint = ""
        self.ready = False
        self.conversation = 0
        self._context = context
        self._process: SimulatorProcess | None = None
        self._channel: Channel | None = None
        self._connection = Connection(Role.CONTROLLER)
        self._deadline = math.inf
        self._greeting: HandshakeResult | None = None
        self._num_starts = 0  # since it was ready
        self._started_at = 0.0

    # Starting and stopping

    @uninterrupted()
    def start(self) -> None:
        """Starts the process if there is one to start, and sends the handshake; drops what there was before.

        Raises:
            SimulatorStartError: The program cannot be executed, or the address is none.
        """
        self.discard()
        self._num_starts += 1
        self._started_at = time.monotonic()
        if self.config.command:
            self._process = SimulatorProcess(self.config.command, memory_limit=self.config.memory_limit)
        self._channel = Channel(self._context, self._address, self.config.max_bytes)
        self.expect(self.config.start_timeout)
        self._begin_conversation()

    def _begin_conversation(self) -> None:
        self._connection = Connection(Role.CONTROLLER)
        self.conversation += 1
        capabilities = self.config.capabilities  # without any, it speaks PPX 1.0
        self.send(Handshake(SYSTEM_NAME, capabilities, self.config.max_bytes if capabilities else 0))

    @property
    def connected(self) -> bool:
        """Whether it is ready or may become so."""
        return self._channel is not None

    @property
    def may_recover(self) -> bool:
        """Whether to start it at once when it was lost: not if that keeps failing."""
        started_before = self._greeting is not None and bool(self.config.command)
        return self._num_starts == 0 or (started_before and self._num_starts < _STARTS)

    @property
    def worth_starting(self) -> bool:
        """Whether to start it although there are others: ever more seldom, where that keeps failing."""
        pause = min(2.0**self._num_starts, _LONGEST_PAUSE)
        return self.may_recover or time.monotonic() > self._started_at + pause

    def finish_start(self) -> None:
        """Waits for the answer to the handshake.

        Raises:
            SimulatorStartError: None came before the deadline, the process ended, or the answer makes no sense.
        """
        while not self.ready:
            self.look_for_greeting()

    def look_for_greeting(self) -> None:
        """Waits a moment for the answer to the handshake; see `finish_start`."""
        self.socket.poll(_POLL_MILLISECONDS)
        self.receive()
        if not self.ready:
            self.watch()

    def request_stop(self) -> None:
        """Asks the process to end, without waiting for it."""
        if self._process is not None:
            self._process.terminate()

    @uninterrupted()
    def close(self) -> None:
        """Ends the process, giving it time to do so, and closes the connection."""
        process, self._process = self._process, None
        self.discard()
        if process is not None:
            process.stop()

    @uninterrupted()
    def discard(self) -> None:
        """Drops the connection, and kills a process of ours. `start` begins anew."""
        self.ready = False
        if self._process is not None:
            self._process.stop(grace=0.0)
            self._process = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    # Talking

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """The socket to poll."""
        return self._open_channel.socket

    @property
    def disconnections(self) -> zmq.Socket[bytes]:
        """A socket to poll, too: something is there to read when it is time to `watch`."""
        return self._open_channel.disconnections

    @property
    def peer_capabilities(self) -> frozenset[str]:
        """What both sides can do beyond PPX 1.0; known from the first greeting on."""
        theirs = () if self._greeting is None else self._greeting.capabilities
        return frozenset(theirs) & frozenset(self.config.capabilities)

    @property
    def most_traces(self) -> int:
        """How many traces a batch may have."""
        told = 0 if self._greeting is None else self._greeting.max_traces
        return told or _MOST_TRACES

    @property
    def longest_message(self) -> int:
        """How many bytes a message to the simulator may have."""
        told = 0 if self._greeting is None else self._greeting.max_bytes
        return told or MAX_MESSAGE_BYTES

    def send(self, event: Event) -> None:
        """Sends a message.

        Raises:
            SimulatorFailedError: It is longer than the simulator takes, which would close the connection.
        """
        message = self._connection.send(event)
        if len(message) > self.longest_message:
            raise SimulatorFailedError(
                f"{self} takes messages of at most {self.longest_message} bytes, and this {type(event).__name__} has "
                f"{len(message)}; set PPX_MAX_MESSAGE to more where the simulator is started"
            )
        self._open_channel.send(message)

    def receive(self) -> Event | None:
        """The message that has arrived, or None; the answer to the handshake makes it ready.

        Raises:
            SimulatorStartError: What answers the handshake does not speak PPX.
            SimulatorFailedError: What came is no message or not due.
        """
        try:
            data = self._open_channel.receive()
            if data is None:
                return None
            event = self._connection.receive(data)
        except RemoteProtocolError as error:
            if not self.ready:
                raise SimulatorStartError(
                    f"what answers at {self._address} does not speak PPX: {error}; check the address"
                ) from error
            raise SimulatorFailedError(f"{self} broke off: {error}") from error
        if type(event) is HandshakeResult:
            self._greet(event)
            return None
        return event

    def _greet(self, event: HandshakeResult) -> None:
        before = self._greeting
        if before is not None and not _same_model(before, event):
            raise SimulatorStartError(
                f"{self} has become another one: it was {_identity(before)}, and is {_identity(event)}; open it anew, "
                "so that traces of two models are not mixed"
            )
        self._greeting = event
        self.model_name, self.fingerprint = event.model_name, event.fingerprint
        self.ready = True
        self.expect(math.inf)
        self._num_starts = 0

    def expect(self, seconds: float) -> None:
        """Sets the time within which the next message must come; infinite where none is due."""
        self._deadline = time.monotonic() + seconds

    def watch(self) -> None:
        """Checks that the simulator is alive and in time.

        Raises:
            SimulatorStartError: It ended, or did not answer in time, before it was ready.
            SimulatorCrashError: The process ended, or the connection was closed.
            SimulatorTimeoutError: The deadline has passed.
        """
        late = time.monotonic() > self._deadline
        # What it has sent comes first, and it may be about to arrive if it was this process that slept.
        if self.socket.poll(_POLL_MILLISECONDS if late else 0):
            return
        if not self.ready:
            if self._process is not None and self._process.exit_code() is not None:
                ended = self._process.describe_end()
                raise SimulatorStartError(f"{self} ended before it answered: {ended}")
            if late:
                raise SimulatorStartError(self._no_answer())
            if self._open_channel.disconnected():  # whoever was greeted is gone, but another may come
                self._open_channel.forget_disconnections()
                self._begin_conversation()
        elif (lost := self.lost()) is not None:
            raise lost
        elif late:
            raise SimulatorTimeoutError(
                f"{self} sent nothing for {self.config.timeout:g} s; if a trace may take that long, raise "
                f"`timeout`{self.output()}"
            )

    def lost(self) -> SimulatorCrashError | None:
        """The error if its process has ended or the connection was closed since it was greeted."""
        disconnected = self._open_channel.disconnected()
        if (
            self._process is not None
            and self._process.wait(_END_SECONDS if disconnected else 0.0) is not None
        ):
            return SimulatorCrashError(f"{self} crashed in mid-trace: {self._process.describe_end()}")
        if disconnected:
            return SimulatorCrashError(
                f"{self} closed the connection in mid-trace, as it also does at a message longer than one of the two "
                f"sides takes (here {self.config.max_bytes} bytes; PPX_MAX_MESSAGE){self.output()}"
            )
        return None

    # Words for errors

    def __str__(self) -> str:
        if self.config.command:
            return f"the simulator {' '.join(self.config.command)!r}"
        return f"the simulator at {self.config.address}"

    def output(self) -> str:
        """The last lines that a process of ours printed, for error messages."""
        return self._process.quote_output() if self._process is not None else ""

    def locate(self, error: SimulatorError, seed: int, index: int) -> SimulatorError:
        """The same error, saying which trace was running."""
        located = type(error)(str(error), seed=seed, index=index)
        located.__cause__ = error.__cause__
        return located

    @property
    def _open_channel(self) -> Channel:
        if self._channel is None:
            raise LocalProtocolError("this simulator is not connected")
        return self._channel

    @property
    def _address(self) -> str:
        return self._process.address if self._process is not None else self.config.address

    def _no_answer(self) -> str:
        if self._process is None:
            return (
                f"no simulator answered at {self._address} within {self.config.start_timeout:g} s; "
                "start it first, or correct the address (host, port, PPX_BIND)"
            )
        return (
            f"{self} did not answer at {self._address} within {self.config.start_timeout:g} s; it must bind the "
            "endpoint in the environment variable PPX_BIND (or take it as {address} in the command)"
            + self.output()
        )

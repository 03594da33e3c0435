"""A controller by hand: messages on a ZeroMQ socket, also such as no controller may send, every wait with a limit.

A *part* of the check `wire` judges one thing. It returns what it found, or raises what is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import zmq

from ppx_inference.conformance.findings import Level, Running, Subject
from ppx_server.errors import LocalProtocolError, PPXError, RemoteProtocolError
from ppx_server.protocol import (
    BatchResult,
    Connection,
    Error,
    Event,
    Handshake,
    HandshakeResult,
    Reset,
    Role,
    decode,
)
from ppx_server.transport import MAX_MESSAGE_BYTES

SYSTEM_NAME = "ppx check"
_SLICE_MS = 20  # between two looks at whether the process still lives
_RECONNECT_MS, _RECONNECT_MAX_MS = 5, 100
_LAST_WORDS_MS = 100  # what a process sent just before it ended
_PATIENCE = 4.0
_PATIENCE_TRACES = 30.0
_MOST_TRACES, _LEAST_TRACES = 8, 2
_BATCH_SHARE = 0.01


class DefectError(PPXError):
    """What a part found to be wrong.

    Args:
        detail: What was found.
        remedy: What to do; by default that of the part.
        level: How it counts; by default as the part does.
    """

    def __init__(self, detail: str, *, remedy: str = "", level: Level | None = None) -> None:
        super().__init__(detail)
        self.remedy = remedy
        self.level = level


class NoAnswerError(DefectError):
    """The simulator does not answer, or its process has ended."""


class UnjudgedError(PPXError):
    """A part cannot be judged with this simulator; the text says why."""


class Stage:
    """The simulator that the parts share; started again where one of them has spoilt it.

    Args:
        subject: What is judged.

    Attributes:
        patience: Seconds to wait for an answer.
        capabilities: What the simulator has announced, of all that it has been offered.
        greeting: Its answer to a controller that knows every extension, None before.
        num_lost: How often no answer came, or its process ended.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.patience = subject.start_seconds
        self.greeting: HandshakeResult | None = None
        self.num_lost = 0
        self._trace_seconds = 0.0
        self._is_gone = False
        self._stack = ExitStack()
        self._running = self._stack.enter_context(subject.running())
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    @property
    def capabilities(self) -> frozenset[str]:
        """What the simulator has announced."""
        return frozenset() if self.greeting is None else frozenset(self.greeting.capabilities)

    @property
    def running(self) -> Running:
        """Where it is served at present."""
        return self._running

    @property
    def robustness(self) -> Level:
        """How it counts to fall over what no controller should send: PPX 1.0 asked for nothing better."""
        return Level.FAIL if self.capabilities else Level.WARN

    def revive(self) -> bool:
        """Makes sure that the simulator answers: with a fresh process, where it does not and is ours to start."""
        if self._is_gone:
            return False
        self.patience, patience = min(self.patience, _PATIENCE), self.patience
        answers = self._answers()
        self.patience = patience
        if not answers and self._running.process is not None:
            self._stack.close()
            self.patience = self.subject.start_seconds
            self._running = self._stack.enter_context(self.subject.running())
            answers = self._answers()
            self._follow()
        self._is_gone = not answers
        return answers

    def _answers(self) -> bool:
        try:
            with self.link() as link:
                link.greet()
        except DefectError:
            return False
        return True

    @contextmanager
    def link(self, kind: int = zmq.DEALER) -> Iterator[Link]:
        """A connection, as from a controller that has just started."""
        link = Link(self, self._context.socket(kind))
        try:
            yield link
        finally:
            link.close()

    @property
    def indices(self) -> range:
        """Traces that a batch may have: few of a slow simulator."""
        most = _BATCH_SHARE * self.subject.seconds / max(self._trace_seconds, 1e-9)
        return range(int(min(max(most, _LEAST_TRACES), _MOST_TRACES)))

    def be_patient(self) -> None:
        """From now on it may take as long as a trace may."""
        self.patience = self.subject.timeout

    def settle(self, trace_seconds: float) -> None:
        """From now on it is known how long a trace takes: what takes much longer will not come."""
        self._trace_seconds = trace_seconds
        self._follow()

    def _follow(self) -> None:
        self.patience = min(self.subject.timeout, max(_PATIENCE, _PATIENCE_TRACES * self._trace_seconds))

    def ended(self) -> str:
        """How the process ended; empty while it runs, or where it is not ours."""
        process = self._running.process
        code = None if process is None else process.exit_code()
        if process is None or code is None:
            return ""
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        output = process.quote_output().splitlines()
        return f"its process {how}" + (f" ({output[-1].strip()})" if output else "")

    def close(self) -> None:
        """Stops the process."""
        self._stack.close()
        self._context.destroy(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


class Link:
    """One controller's end of a conversation.

    Args:
        stage: Whom it talks to.
        socket: REQ or DEALER; owned from now on.

    Attributes:
        connection: The state of what is said in turn.
        announced: Capabilities of the last greeting.
    """

    def __init__(self, stage: Stage, socket: zmq.Socket[bytes]) -> None:
        self.stage = stage
        self.connection = Connection(Role.CONTROLLER)
        self.announced: frozenset[str] = frozenset()
        self._socket = socket
        self._envelope = socket.type == zmq.DEALER
        self._last = "the connection"
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        self._disconnections = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.connect(stage.running.address)

    # Legal conversation

    def greet(
        self,
        capabilities: Collection[str] = (),
        *,
        uncontrolled: tuple[str, ...] = (),
        omit_uncontrolled: bool = False,
    ) -> HandshakeResult:
        """Begins the conversation, or begins it again; by default as PPX 1.0 does.

        Raises:
            NoAnswerError: No answer comes.
            DefectError: It is no HandshakeResult.
        """
        self.connection.reset()
        self.announced = frozenset(capabilities)
        self.send(Handshake(SYSTEM_NAME, tuple(capabilities), uncontrolled, omit_uncontrolled))
        for _ in range(_MOST_LATE):
            message = self.receive_bytes()
            if not isinstance(_decoded(message, self._last), _LATE):
                break
        try:
            event = self.connection.receive(message)
        except RemoteProtocolError as error:
            raise DefectError(f"the answer to Handshake is none: {error}") from error
        assert isinstance(event, HandshakeResult)
        return event

    def send(self, event: Event) -> None:
        """Sends what is due.

        Raises:
            DefectError: It is not, for what the simulator has announced.
        """
        try:
            message = self.connection.send(event)
        except LocalProtocolError as error:
            raise DefectError(
                str(error), remedy="announce what the simulator uses of the extension"
            ) from error
        self.send_bytes(message, type(event).__name__)

    def receive(self) -> Event:
        """The next message.

        Raises:
            NoAnswerError: None comes.
            DefectError: It is none, or not due.
        """
        message = self.receive_bytes()
        try:
            return self.connection.receive(message)
        except RemoteProtocolError as error:
            raise DefectError(f"the answer to {self._last} is wrong: {error}") from error

    def exchange(self, event: Event) -> Event:
        """Sends, and waits for the answer."""
        self.send(event)
        return self.receive()

    # Anything else

    def send_bytes(self, message: bytes, what: str) -> None:
        """Sends bytes, whatever they are."""
        self._last = what
        if self._envelope:
            self._socket.send(b"", zmq.SNDMORE)
        self._socket.send(message)

    def send_frames(self, frames: Collection[bytes], what: str) -> None:
        """Sends frames without the envelope."""
        self._last = what
        self._socket.send_multipart(list(frames))

    def receive_any(self) -> Event:
        """The next message, due or not."""
        return _decoded(self.receive_bytes(), self._last)

    def receive_bytes(self, patience: float | None = None) -> bytes:
        """The next message as it is.

        Args:
            patience: Seconds to wait; by default the stage's.
        """
        began = time.monotonic()
        limit = self.stage.patience if patience is None else patience
        while not self._socket.poll(_SLICE_MS):
            ended = self.stage.ended() or ("it closed the connection" if self._disconnections.poll(0) else "")
            if ended and not self._socket.poll(_LAST_WORDS_MS):
                self.stage.num_lost += 1
                raise NoAnswerError(f"after {self._last}: {self.stage.ended() or ended}")
            if time.monotonic() - began > limit:
                self.stage.num_lost += patience is None  # else silence may be right
                raise NoAnswerError(f"no answer to {self._last} within {limit:.3g} s")
        frames = self._socket.recv_multipart()
        if self._envelope:
            if len(frames) != 2 or frames[0]:
                raise DefectError(
                    f"the answer to {self._last} has {len(frames)} frames instead of an empty one and a message",
                    remedy="answer with the envelope of the request: a ROUTER sends [sender][empty frame][message]",
                )
            frames = frames[1:]
        if len(frames) != 1:
            raise DefectError(f"the answer to {self._last} has {len(frames)} frames instead of one")
        return frames[0]

    def close(self) -> None:
        """Closes the socket, as when the controller ends."""
        self._socket.disable_monitor()
        self._disconnections.close(0)
        self._socket.close(0)


def _decoded(message: bytes, what: str) -> Event:
    try:
        return decode(message)
    except RemoteProtocolError as error:
        raise DefectError(f"the answer to {what} is no message: {error}") from error


_LATE = (Reset, Error, BatchResult)
"""Answers to what was said before a Handshake may come before its own."""
_MOST_LATE = 100

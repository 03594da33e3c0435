"""Serving a model to controllers: what comes in between traces, and what a running trace may be answered."""

from __future__ import annotations

import contextvars
import functools
import hashlib
import importlib
import inspect
import logging
import math
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ppx_client import local, wire
from ppx_client.buffers import MalformedError
from ppx_client.channels import Channel
from ppx_client.controllers import Session, Sessions, Waiting
from ppx_client.errors import ServeError
from ppx_client.traces import (
    BATCH,
    CAPABILITIES,
    ERROR,
    MAX_TRACES,
    SHUTDOWN,
    Conversation,
    Request,
    Running,
    Trace,
    prefix,
    running,
)
from ppx_client.values import to_tensor
from ppx_client.version import __version__
from ppx_client.wire import Body, Received

if TYPE_CHECKING:
    from ppx_client.buffers import Tensor
    from ppx_client.sessions import Executor

DEFAULT_ADDRESS = "tcp://127.0.0.1:5555"
_LOOK_SECONDS, _MOST_LOOKED_AT = 0.02, 64
"""How often it is looked, between the traces of a batch, who else has said something, and at how many messages."""

PUBLIC = (
    "anyone who can reach {} can run this model, read its results, and keep it from others; there is no password and "
    "no encryption: bind to 127.0.0.1 or ipc://, or use a private network"
)
"""What is said at the start of a simulator that other machines can reach."""

_logger = logging.getLogger("ppx_client")


def serve(
    forward: Callable[[], Any], name: str, *, address: str | None = None, fingerprint: str | None = None
) -> None:
    """Serves a model until the process gets SIGTERM or SIGINT (Ctrl-C), then returns.

    An exception in the model ends the trace, not the server.

    Args:
        forward: The model: a function without arguments that returns None, a number or an array of numbers.
        name: Name of the model, shown to controllers.
        address: ZeroMQ endpoint to bind; by default the environment variable `PPX_BIND`, by default
            `tcp://127.0.0.1:5555`. Leave it out to let a controller place the processes that it starts.
        fingerprint: Text that changes whenever the model does, so that results and trained networks can say what they
            belong to; by default a hash of the source file of `forward`.

    Raises:
        ServeError: The endpoint cannot be bound, or `forward` needs arguments.
    """
    _check_forward(forward)
    endpoint = address or os.environ.get("PPX_BIND") or DEFAULT_ADDRESS
    with _signals_stop():
        channel = Channel(endpoint, name)
        try:
            warning = f"{name}: {PUBLIC.format(channel.endpoint)}\n" if channel.is_public else ""
            sys.stderr.write(f"{name}: serving PPX at {channel.endpoint}\n{warning}")
            sys.stderr.flush()
            _Server(
                forward, name, _fingerprint(forward) if fingerprint is None else fingerprint, channel
            ).run()
        except _StopServing:
            pass
        finally:
            _ignore_signals()
            channel.close()


class _StopServing(BaseException):
    """Raised by the signal handler, wherever the process is."""


def _on_signal(number: int, frame: FrameType | None) -> None:
    raise _StopServing


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _in_main_thread() -> bool:
    # Python allows signal handlers in the main thread only; elsewhere the server ends with the process.
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _signals_stop() -> Iterator[None]:
    """SIGTERM and SIGINT raise `_StopServing` inside the block."""
    if not _in_main_thread():
        yield
        return
    previous = {number: signal.signal(number, _on_signal) for number in _SIGNALS}
    try:
        yield
    except _StopServing:
        pass
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    if _in_main_thread():
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _check_forward(forward: Callable[[], Any]) -> None:
    try:
        inspect.signature(forward).bind()
    except TypeError as error:
        raise ServeError(
            f"forward = {forward!r} cannot be called without arguments ({error}); give a function without parameters, "
            "e.g. functools.partial(forward, configuration)"
        ) from None
    except ValueError:
        return  # a built-in without a signature


def _fingerprint(forward: Callable[[], Any]) -> str:
    """Hash of the source file that defines the model; empty if there is none."""
    while isinstance(forward, functools.partial):
        forward = forward.func
    try:
        file = inspect.getsourcefile(
            inspect.unwrap(forward if hasattr(forward, "__code__") else type(forward))
        )
        return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32]
    except (OSError, TypeError):
        return ""  # built in, or typed at the prompt


class _Abandoned(BaseException):
    """Raised between the traces of a batch that nobody waits for any more."""


class _Link:
    """The way to one controller while it runs a trace draw by draw."""

    def __init__(self, server: _Server, controller: bytes) -> None:
        self._server = server
        self._controller = controller

    def exchange(self, message: bytes | bytearray) -> Request:
        """Sends a message and returns the answer, or the Handshake of whichever controller that takes its place."""
        channel, controller = self._server.channel, self._controller
        channel.send(controller, message)
        while True:
            request = channel.receive()
            if request.sender == controller or _is_handshake(request.body):
                return request
            self._server.refuse(request.sender, _BUSY)


_BUSY = "this simulator runs a trace for another controller; send a Handshake to take it over"


def _is_handshake(body: bytes) -> bool:
    try:
        return wire.decode(body).body is Body.HANDSHAKE
    except MalformedError:
        return False


class _Server:
    """Answers controllers, message by message. Each has a session, from its Handshake on."""

    def __init__(self, forward: Callable[[], Any], name: str, fingerprint: str, channel: Channel) -> None:
        self.channel = channel
        self._forward = forward
        self._name = name
        self._fingerprint = fingerprint
        # On a network, whoever comes by could end the process.
        self._capabilities = tuple(c for c in CAPABILITIES if c != SHUTDOWN or channel.is_private)
        self._sessions = Sessions()
        self._waiting = Waiting(channel.max_bytes)
        self._executor: Executor | None = None
        self._executing = b""  # whose batch
        self._look_at = math.inf

    def run(self) -> None:
        """Serves for ever."""
        request: Request | None = None
        while True:
            # A controller that abandons a trace has sent its next request already.
            request = self._answer(request or self._next())

    def _next(self) -> Request:
        return self._waiting.next() if self._waiting else self.channel.receive()

    def _answer(self, request: Request) -> Request | None:
        """Answers a request between traces; returns the one that took the place of an answer to a draw."""
        sender = request.sender
        if request.refusal:
            self.refuse(sender, request.refusal)
            return None
        received = self._read(request)
        if received is None:
            return None
        if received.body is Body.RUN:
            return self._run(sender, self._sessions.begin_work(sender).conversation)
        if received.body is Body.RUN_BATCH:
            self._run_batch(sender, self._sessions.begin_work(sender), received.data)
        elif received.body is Body.SHUTDOWN and SHUTDOWN in self._capabilities:
            self._send(sender, wire.message(Body.SHUTDOWN_RESULT))
            raise _StopServing
        elif received.body is Body.SHUTDOWN:
            self.refuse(
                sender, f"a simulator at {self.channel.endpoint} is ended by its owner only, by SIGTERM"
            )
        else:
            self.refuse(sender, f"{received.body.name} came between traces, where only Run makes sense")
        return None

    def _read(self, request: Request) -> Received | None:
        """A request of a controller that has a session; None for what could be answered at once."""
        sender = request.sender
        try:
            received = wire.decode(request.body)
        except MalformedError as error:
            self.refuse(sender, f"these bytes are no message of PPX: {error}")
            return None
        if received.body is Body.HANDSHAKE:
            self._send(sender, self._handshake(request, received))
            return None
        if self._sessions.get(sender) is None:
            # Also where it has been forgotten: whoever gets a Reset begins again with a Handshake.
            self.refuse(
                sender, f"{received.body.name} came before Handshake; this simulator may have been restarted"
            )
            return None
        return received

    def _handshake(self, request: Request, received: Received) -> bytes:
        theirs, sender = received.capabilities, request.sender
        shared = frozenset(theirs).intersection(self._capabilities)
        max_bytes = min(self.channel.max_bytes, received.max_bytes or self.channel.max_bytes)
        # Before it begins: its connection may have the descriptor of one that was closed.
        self._sessions.forget_connections(self.channel.disconnected())
        self._sessions.begin(
            sender, Session(Conversation(_Link(self, sender), shared), request.connection, max_bytes)
        )
        self._waiting.forget(sender)
        limits = None
        if BATCH in shared:
            # The first batch has a deadline, and loading SciPy takes a while.
            importlib.import_module("ppx_client.sessions")
            limits = MAX_TRACES, self.channel.max_bytes
        system = f"ppx_client {__version__} (Python {platform.python_version()})"
        capabilities = self._capabilities if theirs else ()
        return wire.handshake_result(system, self._name, capabilities, self._fingerprint, limits=limits)

    def _attend(self) -> None:
        """Looks, between the traces of a batch, who is gone and who has said something.

        Raises:
            _Abandoned: Whoever sent the batch is gone, or begins again.
        """
        own = self._sessions.get(self._executing)
        self._sessions.forget_connections(self.channel.disconnected())
        for _ in range(_MOST_LOOKED_AT):
            if own is None or self._sessions.get(self._executing) is not own:
                raise _Abandoned
            request = self.channel.look()
            if request is None:
                break
            if self._read(request) is None:
                continue
            sender = request.sender
            if refusal := self._waiting.add(request, executing=sender == self._executing):
                self.refuse(sender, refusal)
            elif self._waiting.is_flooded_by(sender):
                self._sessions.forget(sender)
                self._waiting.forget(sender)
        self._look_at = time.monotonic() + _LOOK_SECONDS

    def _run(self, sender: bytes, conversation: Conversation) -> Request | None:
        while self._waiting:
            self.refuse(self._waiting.next().sender, _BUSY)
        trace = Trace(conversation)
        with local.controlled():
            result, failure = self._attempt(trace)
        if trace.end is not None:
            # The controller's side ended the trace, whatever the model made of it.
            if trace.end.request is None:
                self.refuse(sender, trace.end.reason)
            return trace.end.request
        if failure is not None:
            self.refuse(sender, _describe(failure), failure)
        else:
            self._send(sender, wire.run_result(result))
        return None

    def _run_batch(self, sender: bytes, session: Session, data: bytes) -> None:
        from ppx_client.sessions import BatchSession, Executor

        self._executor = self._executor or Executor()
        session.batches = session.batches or BatchSession(self._executor, session.max_bytes)
        self._executing, self._look_at = sender, time.monotonic() + _LOOK_SECONDS
        try:
            with local.controlled():
                answer = session.batches.run(data, self._attempt_script)
        except _Abandoned:
            return
        except MalformedError as error:
            self.refuse(sender, f"this RunBatch cannot be executed: {error}")
        else:
            self._send(sender, answer)
        self._sessions.limit_memory()

    def _attempt_script(self, trace: Running) -> tuple[Tensor | None, str | None]:
        if time.monotonic() > self._look_at:
            self._attend()
        result, failure = self._attempt(trace)
        return result, None if failure is None else _describe(failure)

    def _attempt(self, trace: Running) -> tuple[Tensor | None, BaseException | None]:
        """Runs the model once, in a context of its own; its result, or what it raised."""
        try:
            return contextvars.copy_context().run(self._execute, trace), None
        except (_StopServing, KeyboardInterrupt):
            raise
        # Also SystemExit and the like: a model that calls exit() ends its trace, not the server.
        except BaseException as error:
            return None, error

    def _execute(self, trace: Running) -> Tensor | None:
        running.set(trace)
        prefix.set("")
        result = self._forward()
        if result is None:
            return None
        what = f"the result of {self._name}"
        return to_tensor(result, what, "tag() every part under a name, return a number, array or None")

    def refuse(self, sender: bytes, reason: str, error: BaseException | None = None) -> None:
        """Error for a controller that knows it, else Reset; then the reason is only logged here."""
        session = self._sessions.get(sender)
        if session is not None and ERROR in session.conversation.capabilities:
            self._send(sender, wire.error(reason))
            return
        _logger.error("%s: %s", self._name, reason, exc_info=error)
        self._send(sender, wire.message(Body.RESET))

    def _send(self, sender: bytes, message: bytes | bytearray) -> None:
        """Answers a controller; forgets one that does not read its answers, and waits no more for it."""
        if not self.channel.send(sender, message, patient=self._sessions.get(sender) is not None):
            self._sessions.forget(sender)
            self._waiting.forget(sender)


def _describe(error: BaseException) -> str:
    """An exception of the model: type, message, and where in the model it was raised."""
    where = ""
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if os.path.dirname(code.co_filename) != os.path.dirname(__file__):
            where = f" ({os.path.basename(code.co_filename)}:{traceback.tb_lineno} in {code.co_name})"
        traceback = traceback.tb_next
    return f"{type(error).__name__}: {error}{where}"

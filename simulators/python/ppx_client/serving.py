"""Serving a model to a controller: a ZeroMQ REP socket and the conversation of PPX over it."""

from __future__ import annotations

import contextvars
import inspect
import logging
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import zmq

from ppx_client import local, wire
from ppx_client.errors import ServeError
from ppx_client.traces import CAPABILITIES, ERROR, Conversation, Trace, prefix, running
from ppx_client.values import to_tensor
from ppx_client.version import __version__
from ppx_client.wire import Body

DEFAULT_ADDRESS = "tcp://127.0.0.1:5555"
_WAKE_MS = 500
"""A receive returns this often, so that a signal that came just before it blocked is still noticed."""

_logger = logging.getLogger("ppx_client")


def serve(forward: Callable[[], Any], name: str, *, address: str | None = None) -> None:
    """Serves a model until the process gets SIGTERM or SIGINT (Ctrl-C), then returns.

    An exception in the model ends the trace, not the server.

    Args:
        forward: The model: a function without arguments that returns None, a number or an array of numbers.
        name: Name of the model, shown to controllers.
        address: ZeroMQ endpoint to bind; by default the environment variable `PPX_BIND`, by default
            `tcp://127.0.0.1:5555`. Leave it out to let a controller place the processes that it starts.

    Raises:
        ServeError: The endpoint cannot be bound, or `forward` needs arguments.
    """
    _check_forward(forward)
    endpoint = address or os.environ.get("PPX_BIND") or DEFAULT_ADDRESS
    with _signals_stop():
        channel = _Channel(endpoint, name)
        try:
            sys.stderr.write(f"{name}: serving PPX at {channel.endpoint}\n")
            sys.stderr.flush()
            _Server(forward, name, channel).run()
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


class _Channel:
    """The REP socket.

    Attributes:
        endpoint: Where it is bound, wildcards resolved.
    """

    def __init__(self, endpoint: str, name: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 100)
        self._socket.setsockopt(zmq.RCVTIMEO, _WAKE_MS)
        self._send = self._socket.send
        self._recv = self._socket.recv
        self._file: tuple[str, int] | None = None
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            taken = error.errno == zmq.EADDRINUSE
            remedy = "stop the process that uses it, or choose" if taken else "choose"
            raise ServeError(
                f"simulator {name!r} cannot bind {endpoint}: {error}; {remedy} another address by setting PPX_BIND, "
                "e.g. PPX_BIND=tcp://127.0.0.1:5556"
            ) from None
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._file = _socket_file(self.endpoint)

    def receive(self) -> bytes:
        """The next message; waits for it."""
        while True:
            try:
                return self._recv()
            except zmq.Again:
                continue

    def send(self, message: bytes | bytearray) -> None:
        """Answers the message received last."""
        self._send(message)

    def exchange(self, message: bytes | bytearray) -> bytes:
        """Sends a message and returns the answer."""
        self._send(message)
        return self.receive()

    def close(self) -> None:
        """Unbinds, and removes the socket's file if it is still ours: ZeroMQ leaves it behind."""
        if self._file is not None and _socket_file(self.endpoint) == self._file:
            with suppress(FileNotFoundError):
                os.unlink(self._file[0])
        self._socket.close()
        self._context.term()


def _socket_file(endpoint: str) -> tuple[str, int] | None:
    """Path and inode of the file of an ipc endpoint, None if it has none."""
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or path.startswith("@") or not os.path.exists(path):
        return None
    return path, os.stat(path).st_ino


class _Server:
    """Answers a controller, message by message."""

    def __init__(self, forward: Callable[[], Any], name: str, channel: _Channel) -> None:
        self._forward = forward
        self._name = name
        self._channel = channel
        self._conversation: Conversation | None = None

    def run(self) -> None:
        """Serves for ever."""
        request = self._channel.receive()
        while True:
            # A controller that abandons a trace has sent its next request already.
            answer, pending = self._answer(request)
            if pending is None:
                self._channel.send(answer)
                pending = self._channel.receive()
            request = pending

    def _answer(self, request: bytes) -> tuple[bytes, bytes | None]:
        """The answer to a request between traces, or the request that took its place."""
        try:
            received = wire.decode(request)
        except wire.MalformedError as error:
            return self._refusal(f"these bytes are no message of PPX: {error}"), None
        if received.body is Body.HANDSHAKE:
            return self._handshake(received.capabilities), None
        if received.body is not Body.RUN:
            return self._refusal(
                f"{received.body.name} came between traces, where only Run makes sense"
            ), None
        if self._conversation is None:
            return self._refusal("Run came before Handshake; this simulator may have been restarted"), None
        return self._run(self._conversation)

    def _handshake(self, theirs: tuple[str, ...]) -> bytes:
        shared = [capability for capability in CAPABILITIES if capability in theirs]
        self._conversation = Conversation(self._channel, frozenset(shared))
        system = f"ppx_client {__version__} (Python {platform.python_version()})"
        return wire.handshake_result(system, self._name, CAPABILITIES if theirs else ())

    def _run(self, conversation: Conversation) -> tuple[bytes, bytes | None]:
        trace = Trace(conversation)
        answer = b""
        failure: BaseException | None = None
        try:
            with local.controlled():
                answer = contextvars.copy_context().run(self._execute, trace)
        except (_StopServing, KeyboardInterrupt):
            raise
        # Also SystemExit and the like: a model that calls exit() ends its trace, not the server.
        except BaseException as error:
            failure = error
        if trace.end is not None:
            # The controller's side ended the trace, whatever the model made of it.
            if trace.end.request is not None:
                return b"", trace.end.request
            return self._refusal(trace.end.reason), None
        if failure is not None:
            return self._refusal(_describe(failure), failure), None
        return answer, None

    def _execute(self, trace: Trace) -> bytes:
        running.set(trace)
        prefix.set("")
        result = self._forward()
        if result is None:
            return wire.run_result(None)
        what = f"the result of {self._name}"
        return wire.run_result(
            to_tensor(result, what, "tag() every part under a name, return a number, array or None")
        )

    def _refusal(self, reason: str, error: BaseException | None = None) -> bytes:
        """Error for a controller that knows it, else Reset; then the reason is only logged here."""
        if self._conversation is not None and ERROR in self._conversation.capabilities:
            return wire.error(reason)
        _logger.error("%s: %s", self._name, reason, exc_info=error)
        return wire.reset()


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

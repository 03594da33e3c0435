"""The ZeroMQ socket of a simulator.

A ROUTER, which to a controller's REQ is what a REP is, but knows who sent what: one simulator serves several
controllers, and a controller may send several messages before it waits for an answer.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from ipaddress import ip_address
from struct import unpack_from

import zmq

from ppx_client.errors import ServeError
from ppx_client.traces import Request

_WAKE_MS = 500
"""A receive returns this often, so that a signal that came just before it blocked is still noticed."""
_SEND_MS = 1000
"""So long an answer waits for a controller that does not read the ones before it; then it is dropped."""
_QUEUE = 2
"""Messages that wait on each side of a connection: as many as a controller may have unanswered."""
_LONG = 1 << 22
"""Memory of longer messages is given back."""
_LEAST_LIMIT, _USUAL_LIMIT, _MOST_LIMIT = 1 << 16, 1 << 26, 1 << 30


class Channel:
    """The socket.

    Attributes:
        endpoint: Where it is bound, wildcards resolved.
        max_bytes: A longer message ends its connection before memory is taken for it.
    """

    def __init__(self, endpoint: str, name: str) -> None:
        self.max_bytes = _message_limit()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 100)
        self._socket.setsockopt(zmq.RCVTIMEO, _WAKE_MS)
        self._socket.setsockopt(zmq.SNDTIMEO, _SEND_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, self.max_bytes)
        self._socket.setsockopt(zmq.RCVHWM, _QUEUE)
        self._socket.setsockopt(zmq.SNDHWM, _QUEUE)
        # An answer that does not fit waits, where a ROUTER would otherwise drop it at once.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._disconnections = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._gone: set[int] = set()
        self._had_long = False
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

    @property
    def is_private(self) -> bool:
        """Whether the file system says who may connect."""
        return self.endpoint.startswith("ipc://")

    @property
    def is_public(self) -> bool:
        """Whether other machines may connect."""
        transport, _, place = self.endpoint.partition("://")
        if transport != "tcp":
            return transport not in ("ipc", "inproc")
        try:
            return not ip_address(place.rpartition(":")[0].strip("[]").partition("%")[0]).is_loopback
        except ValueError:
            return True

    def receive(self) -> Request:
        """The next message; waits for it."""
        while True:
            request = self._next(0)
            if request is not None:
                return request
            self._read_disconnections()  # ZeroMQ stands still when thousands of them are not read

    def look(self) -> Request | None:
        """The next message, None if there is none yet."""
        return self._next(zmq.NOBLOCK)

    def _next(self, flags: int) -> Request | None:
        if self._had_long:
            self._had_long = False
            _give_back_memory()
        receive = self._socket.recv
        while True:
            try:
                sender = receive(flags)
            except zmq.Again:
                return None
            empty = not receive() if self._socket.getsockopt(zmq.RCVMORE) else None
            if not self._socket.getsockopt(zmq.RCVMORE):
                continue
            frame = receive(copy=False)
            is_last = not frame.more
            while self._socket.getsockopt(zmq.RCVMORE):
                receive(copy=False)
            # Without an empty frame there is no envelope of a REQ: a REP would be silent, too.
            if empty:
                self._had_long = len(frame) > _LONG
                return Request(sender, frame.bytes if is_last else b"", int(frame.get(zmq.SRCFD)))

    def send(self, receiver: bytes, message: bytes | bytearray, *, patient: bool = True) -> bool:
        """Sends a message to a controller; one that has gone does not get it.

        Args:
            receiver: Whom.
            message: What.
            patient: Whether to wait a second where answers before it have not been read.

        Returns:
            False if they still have not.
        """
        try:
            self._socket.send_multipart((receiver, b"", message), 0 if patient else zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
        return True

    def disconnected(self) -> set[int]:
        """Connections (`Request.connection`) that were closed since the last call."""
        self._read_disconnections()
        gone, self._gone = self._gone, set()
        return gone

    def _read_disconnections(self) -> None:
        with suppress(zmq.Again):
            while True:
                event, _ = self._disconnections.recv_multipart(zmq.NOBLOCK)
                self._gone.add(unpack_from("=i", event, 2)[0])

    def close(self) -> None:
        """Unbinds, and removes the socket's file if it is still ours: ZeroMQ leaves it behind."""
        if self._file is not None and _socket_file(self.endpoint) == self._file:
            with suppress(FileNotFoundError):
                os.unlink(self._file[0])
        self._socket.disable_monitor()
        self._disconnections.close(0)
        self._socket.close()
        self._context.term()


def _give_back_memory() -> None:
    """Gives memory that was freed back to the system, where glibc would keep what a few long messages took."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _message_limit() -> int:
    """Bytes of the longest message, from the environment variable PPX_MAX_MESSAGE.

    Raises:
        ServeError: It is no number of bytes.
    """
    text = os.environ.get("PPX_MAX_MESSAGE") or str(_USUAL_LIMIT)
    if text.isascii() and text.isdigit() and _LEAST_LIMIT <= int(text) <= _MOST_LIMIT:
        return int(text)
    raise ServeError(
        f"PPX_MAX_MESSAGE={text!r} is no number of bytes from {_LEAST_LIMIT} to {_MOST_LIMIT}; leave it out for "
        f"{_USUAL_LIMIT}"
    )


def _socket_file(endpoint: str) -> tuple[str, int] | None:
    """Path and inode of the file of an ipc endpoint, None if it has none."""
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or path.startswith("@") or not os.path.exists(path):
        return None
    return path, os.stat(path).st_ino

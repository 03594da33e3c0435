"""The ZeroMQ socket of a simulator.

A ROUTER, which to a controller's REQ is what a REP is, but knows who sent what: one simulator serves several
controllers, and a controller may send several messages before it waits for an answer.
"""

from __future__ import annotations

import os
from contextlib import suppress

import zmq

from ppx_client.errors import ServeError
from ppx_client.traces import Request

_WAKE_MS = 500
"""A receive returns this often, so that a signal that came just before it blocked is still noticed."""
_MAX_MESSAGE = 1 << 30


class Channel:
    """The socket.

    Attributes:
        endpoint: Where it is bound, wildcards resolved.
    """

    def __init__(self, endpoint: str, name: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 100)
        self._socket.setsockopt(zmq.RCVTIMEO, _WAKE_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE)
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

    def receive(self) -> Request:
        """The next message; waits for it."""
        receive = self._socket.recv_multipart
        while True:
            try:
                sender, *frames = receive()
            except zmq.Again:
                continue
            # Without an empty frame there is no envelope of a REQ: a REP would be silent, too.
            if len(frames) > 1 and not frames[0]:
                return Request(sender, frames[1] if len(frames) == 2 else b"")

    def send(self, receiver: bytes, message: bytes | bytearray) -> None:
        """Sends a message to a controller; one that has gone does not get it."""
        self._socket.send_multipart((receiver, b"", message))

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

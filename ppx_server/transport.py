"""Moves messages between a controller and one simulator over ZeroMQ."""

from __future__ import annotations

import os

import zmq

from ppx_server.errors import LocalProtocolError, RemoteProtocolError, SimulatorStartError

MAX_MESSAGE_BYTES = 1 << 30
"""No message is longer."""
_LEAST_LIMIT, _USUAL_LIMIT = 1 << 16, 1 << 26
_QUEUE = 2
"""Messages of a simulator that wait to be read: as many as are asked for at once."""
_FIRST_RETRY_MS, _LAST_RETRY_MS = 5, 160
"""Pauses between attempts to connect: a process of ours binds some milliseconds after it was started."""


_LARGE = 1 << 16
"""From so many bytes on, columns are views of ZeroMQ's memory: to copy them costs more than to use them."""


def message_limit() -> int:
    """Bytes of the longest message that is taken, from the environment variable `PPX_MAX_MESSAGE`; by default 64 MiB.

    Raises:
        LocalProtocolError: It is no number of bytes.
    """
    text = os.environ.get("PPX_MAX_MESSAGE") or str(_USUAL_LIMIT)
    if text.isascii() and text.isdigit() and _LEAST_LIMIT <= int(text) <= MAX_MESSAGE_BYTES:
        return int(text)
    raise LocalProtocolError(
        f"PPX_MAX_MESSAGE={text!r} is no number of bytes from {_LEAST_LIMIT} to {MAX_MESSAGE_BYTES}; leave it out for "
        f"{_USUAL_LIMIT}"
    )


class Channel:
    """The controller's end of a connection to one simulator.

    A DEALER socket with the envelope of a REQ: the simulator sees a REQ, but several messages may be on their way.

    Args:
        context: ZeroMQ context; owned by the caller.
        address: Endpoint the simulator is bound to, such as `tcp://127.0.0.1:5555`.
        max_bytes: A longer message ends the connection before memory is taken for it.

    Attributes:
        socket: Where messages arrive.
        disconnections: Where it is reported that the simulator has closed the connection.

    Raises:
        SimulatorStartError: The address is not a ZeroMQ endpoint.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, max_bytes: int) -> None:
        self.address = address
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
        self.socket.setsockopt(zmq.RCVHWM, _QUEUE)
        self.socket.setsockopt(zmq.RECONNECT_IVL, _FIRST_RETRY_MS)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, _LAST_RETRY_MS)
        self.disconnections = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            self.socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise SimulatorStartError(
                f"cannot connect to {address!r}: {error}; an address looks like tcp://host:5555 or ipc:///path"
            ) from error

    def send(self, message: bytes) -> None:
        """Queues one message."""
        self.socket.send(b"", zmq.SNDMORE)
        self.socket.send(message)

    def receive(self) -> bytes | memoryview | None:
        """The next message, or None if there is none yet.

        Raises:
            RemoteProtocolError: What came is not one frame behind an empty one.
        """
        try:
            frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        if len(frames) != 2 or len(frames[0]):
            raise RemoteProtocolError(
                f"a message of {len(frames)} frames came instead of an empty frame and a body"
            )
        body = frames[1]
        return body.bytes if len(body) < _LARGE else body.buffer

    def disconnected(self) -> bool:
        """Whether the simulator has closed an established connection."""
        return bool(self.disconnections.poll(0))

    def forget_disconnections(self) -> None:
        """Counts the connection as established again."""
        while self.disconnected():
            self.disconnections.recv_multipart()

    def close(self) -> None:
        """Closes the socket and drops what is unsent."""
        self.socket.disable_monitor()
        self.disconnections.close(0)
        self.socket.close(0)

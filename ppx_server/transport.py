"""Moves messages between a controller and one simulator over ZeroMQ."""

from __future__ import annotations

import zmq

from ppx_server.errors import SimulatorStartError

MAX_MESSAGE_BYTES = 1 << 30


class Channel:
    """The controller's end of a connection to one simulator: a REQ socket that can be thrown away.

    Args:
        context: ZeroMQ context; owned by the caller.
        address: Endpoint the simulator is bound to, such as `tcp://127.0.0.1:5555`.

    Raises:
        SimulatorStartError: The address is not a ZeroMQ endpoint.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.address = address
        self.socket = context.socket(zmq.REQ)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        try:
            self.socket.connect(address)
        except zmq.ZMQError as error:
            self.socket.close()
            raise SimulatorStartError(
                f"cannot connect to {address!r}: {error}; an address looks like tcp://host:5555 or ipc:///path"
            ) from error

    def send(self, message: bytes) -> None:
        """Queues one message."""
        self.socket.send(message)

    def receive(self) -> bytes | None:
        """The next message, or None if there is none yet."""
        try:
            return self.socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def close(self) -> None:
        """Closes the socket and drops what is unsent."""
        self.socket.close(0)

"""Moves messages between a controller and one simulator over ZeroMQ."""

from __future__ import annotations

import os
import resource
from contextlib import suppress

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


_SOCKETS_EACH = 3
"""ZeroMQ sockets of a channel: its own, that of `disconnections`, and its other end within ZeroMQ."""
_FILES_EACH = 5
"""Open files for each: one of each of these sockets, the connection, and the output of a process of ours."""
_OTHER_FILES = 32
"""Files for ZeroMQ's own threads, for the start of a process, and for results."""


def context_for(num_simulators: int) -> zmq.Context[zmq.Socket[bytes]]:
    """A ZeroMQ context with room for so many channels.

    ZeroMQ ends the whole process, without an error that could be caught, when it runs out of files.

    Raises:
        SimulatorStartError: More are not possible, in this process or with ZeroMQ.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    needed = _SOCKETS_EACH * num_simulators + 1
    try:
        _require_room(num_simulators, needed, int(context.get(zmq.SOCKET_LIMIT)))
        context.set(zmq.MAX_SOCKETS, max(needed, int(context.get(zmq.MAX_SOCKETS))))
    except BaseException:
        context.destroy()
        raise
    return context


def _require_room(num_simulators: int, sockets: int, most: int) -> None:
    if sockets > most:
        raise SimulatorStartError(
            f"{num_simulators:,} simulators are too many for one controller: ZeroMQ has {most:,} sockets, and "
            f"{_SOCKETS_EACH} are needed for each; open fewer, or share them out over several controllers"
        )
    files = _num_files() + _FILES_EACH * num_simulators + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and files > soft:
        possible = hard == resource.RLIM_INFINITY or files <= hard
        raise SimulatorStartError(
            f"{num_simulators:,} simulators need {files:,} open files, and this process may have {soft:,}: raise the "
            f"limit (ulimit -n {files}{'' if possible else f', for which the hard limit of {hard:,} must be raised'}) "
            "or open fewer"
        )


def _num_files() -> int:
    """How many files this process has open, as far as the system tells."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(folder))
    return 0


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
        try:
            self.socket = context.socket(zmq.DEALER)
        except zmq.ZMQError as error:
            raise SimulatorStartError(
                f"there is no socket left for {address!r}: {error}; open fewer simulators, or raise the limit of open "
                "files (ulimit -n)"
            ) from error
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

"""Python simulators that go wrong: `python fault_models.py KIND ...` serves one of them at PPX_BIND.

`model FAULT THRESHOLD` misbehaves in the traces whose first draw is above the threshold, so that it is known which
ones. `between LIE FILE [KIND ...]` is an honest simulator behind a proxy that changes what it answers; the size of the
file counts how often. `image SIZE` observes a large array. `mute` answers nothing.
`header BYTES` greets, and then announces a message of so many bytes which never comes.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zmq

import ppx_client as ppx
from ppx_server.protocol import CAPABILITIES, BatchResult, Event, HandshakeResult, decode, encode


def _balloon() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(1 << 24))


def _hang() -> None:
    while True:
        pass


def _raise() -> None:
    raise ArithmeticError("the table of cross sections is negative")


FAULTS: dict[str, Callable[[], object]] = {
    "none": lambda: None,
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "exit": lambda: os._exit(0),
    "system_exit": lambda: sys.exit(0),
    "hang": _hang,
    "balloon": _balloon,
    "raise": _raise,
    "nan": lambda: ppx.sample(ppx.Normal(float("nan"), 1.0), name="x"),
}


def serve_model(fault: str, threshold: str, seconds: str = "0") -> None:
    """A Gaussian chain; `seconds` is how long each trace takes."""
    limit, duration = float(threshold), float(seconds)

    def forward() -> float:
        mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
        if mu > limit:
            FAULTS[fault]()
        if duration:
            time.sleep(duration)
        x = ppx.sample(ppx.Normal(mu, 1.0), name="x")
        ppx.observe(ppx.Normal(x, 0.5), name="y")
        return mu + x

    ppx.serve(forward, "faults", fingerprint=fault)


def serve_image(size: str) -> None:
    """Observes a large array; its density is that of the mean of its elements."""
    num_elements = int(size)

    def forward() -> float:
        mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
        image = ppx.observe(ppx.Normal(0.0, np.ones(num_elements)), name="image")
        ppx.observe(ppx.Normal(mu, 0.5), value=float(image[0]), name="first")
        return mu

    ppx.serve(forward, "image")


# Lies: what an honest answer becomes.


def _wrong_count(result: BatchResult) -> bytes:
    """One trace more than was asked for: one without draws."""

    def more(offsets: np.ndarray) -> np.ndarray:
        return np.append(offsets, offsets[-1]).astype(np.int32)

    return _encoded(
        result._replace(
            status=np.append(result.status, np.uint8(0)).astype(np.uint8),
            offsets=more(result.offsets),
            observations=result.observations._replace(offsets=more(result.observations.offsets)),
            tags=result.tags._replace(offsets=more(result.tags.offsets)),
            results=result.results._replace(offsets=more(result.results.offsets)),
            loops=result.loops._replace(offsets=more(result.loops.offsets)),
        )
    )


def _encoded(event: Event) -> bytes:
    return encode(event, frozenset(CAPABILITIES))


def _nan_where_large(result: BatchResult) -> bytes:
    """NaN as the log_prob of every draw above 2: as from a density with a defect."""
    return _encoded(result._replace(log_prob=np.where(result.value > 2.0, np.nan, result.log_prob)))


def _merged_params(result: BatchResult) -> bytes:
    """All parameters as one vector, which is no distribution's."""
    offsets = np.array([0, len(result.params_data)], np.int32)
    return _encoded(result._replace(params=np.zeros_like(result.params), params_offsets=offsets))


def _pending(result: BatchResult) -> bytes:
    return _encoded(result._replace(status=np.where(result.status == 0, 2, result.status).astype(np.uint8)))


LIES: dict[str, Callable[[BatchResult], bytes]] = {
    "log_prob": lambda r: _encoded(r._replace(log_prob=r.log_prob + 0.1)),
    "nan": _nan_where_large,
    "number": lambda r: _encoded(r._replace(batch=r.batch + 1)),
    "count": _wrong_count,
    "address": lambda r: _encoded(r._replace(address=r.address + 1000)),
    "params": lambda r: _encoded(
        r._replace(params=np.zeros_like(r.params), params_offsets=np.array([0, len(r.params_data)], np.int32))
    ),
    "pending": _pending,
    "garbage": lambda r: b"\x13\x37" * 40,
    "empty": lambda r: b"",
    "endless": lambda r: _encoded(r._replace(seconds=1e300)),
}
HONEST = ("slow", "sizes")
CUTS = (0, 3, 0.1, 0.6, -8)
"""Where answers are cut, one after the other: bytes from either end, or shares of the length."""


def _cut(message: bytes, number: int) -> bytes:
    if number >= len(CUTS):
        return message
    cut = CUTS[number]
    return message[: int(cut * len(message)) if isinstance(cut, float) else cut]


def serve_between(lie: str, file: str, *kind: str) -> None:
    """A proxy in front of an honest simulator."""
    count = Path(file)
    folder = Path(os.environ["PPX_BIND"].removeprefix("ipc://")).parent
    inner = f"ipc://{folder}/inner"
    command = [sys.executable, __file__, *(kind or ("model", "none", "inf"))]
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    front.bind(os.environ["PPX_BIND"])
    back.connect(inner)
    with subprocess.Popen(command, env={**os.environ, "PPX_BIND": inner}):
        poller = zmq.Poller()
        poller.register(front, zmq.POLLIN)
        poller.register(back, zmq.POLLIN)
        controller = b""
        while True:
            for readable, _ in poller.poll():
                if readable is front:
                    controller, *frames = front.recv_multipart()
                    if lie == "slow":
                        time.sleep(0.05)
                    if lie == "sizes":
                        with count.open("a") as sizes:
                            sizes.write(f"{len(frames[-1])}\n")
                    back.send_multipart(frames)
                    continue
                body = back.recv_multipart()[-1]
                if lie not in HONEST and isinstance(event := decode(body), BatchResult):
                    number = count.stat().st_size
                    with count.open("ab") as stream:  # one byte at a time: it may be killed here
                        stream.write(b".")
                    body = _cut(body, number) if lie == "cut" else LIES[lie](event)
                front.send_multipart([controller, b"", body])


def serve_header(num_bytes: str) -> None:
    """Speaks the transport by hand (ZMTP 3.0), and lies in the length of its second message."""
    path = os.environ["PPX_BIND"].removeprefix("ipc://")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                _lie_in_header(connection, int(num_bytes))


def _lie_in_header(connection: socket.socket, num_bytes: int) -> None:
    stream = connection.makefile("rb")
    connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    stream.read(64)
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"ROUTER"
    connection.sendall(bytes([4, len(ready)]) + ready)
    _read_frames(stream, 1)
    _read_frames(stream, 2)
    greeting = encode(HandshakeResult("raw", "raw", CAPABILITIES, ""))
    connection.sendall(b"\x01\x00" + b"\x02" + struct.pack(">Q", len(greeting)) + greeting)
    _read_frames(stream, 2)
    connection.sendall(b"\x01\x00" + b"\x02" + struct.pack(">Q", num_bytes) + bytes(1000))
    stream.read(1)  # until it hangs up


def _read_frames(stream: BinaryIO, count: int) -> None:
    for _ in range(count):
        flags = stream.read(1)[0]
        length = struct.unpack(">Q", stream.read(8))[0] if flags & 2 else stream.read(1)[0]
        stream.read(length)


def serve_nobody() -> None:
    """Takes messages and answers none."""
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.bind(os.environ["PPX_BIND"])
    time.sleep(1000)


SERVERS: dict[str, Callable[..., None]] = {
    "model": serve_model,
    "image": serve_image,
    "between": serve_between,
    "header": serve_header,
    "mute": serve_nobody,
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](*sys.argv[2:])

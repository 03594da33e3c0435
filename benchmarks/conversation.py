"""One simulator in a process of its own, spoken to batch by batch, so that what a batch costs can be taken apart."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import zmq

from ppx_server.process import SimulatorProcess
from ppx_server.protocol import CAPABILITIES, BatchResult, Connection, Handshake, Role, RunBatch
from ppx_server.transport import MAX_MESSAGE_BYTES, Channel

_TIMEOUT = 30_000
"""Milliseconds until a simulator must have answered."""


class Costs(NamedTuple):
    """Seconds that a batch of prior traces took.

    Attributes:
        num_draws: Draws in it.
        num_bytes: Of the answer.
        simulator: What the simulator says it needed.
        message: From sending the request to the arrival of the answer, beyond that.
        decoding: From bytes to columns.
    """

    num_draws: int
    num_bytes: int
    simulator: float
    message: float
    decoding: float


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has spent so far, all its threads together; on Linux only."""
    if not sys.platform.startswith("linux"):
        raise SystemExit("to read the CPU clock of another process needs Linux; run this benchmark there")
    return time.clock_gettime((~pid << 3) | 2)  # the number is made as clock_getcpuclockid(3) makes it


class Conversation:
    """A with block in which a simulator runs.

    Args:
        command: What starts it.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)
        self._num_batches, self._num_traces = 0, 0

    def __enter__(self) -> Self:
        self._process = SimulatorProcess(self._command)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._channel = Channel(self._context, self._process.address, MAX_MESSAGE_BYTES)
        self._connection = Connection(Role.CONTROLLER)
        self._channel.send(self._connection.send(Handshake("benchmarks", CAPABILITIES)))
        self._connection.receive(self._bytes())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop(grace=0.0)
        self._channel.close()
        self._context.destroy(linger=0)

    def play(self, num_traces: int) -> Costs:
        """Runs one batch of traces from the prior."""
        index = np.arange(self._num_traces, self._num_traces + num_traces, dtype=np.uint64)
        ids, values = np.empty(0, np.int32), np.empty(0)
        offsets = np.zeros(num_traces + 1, np.int32)
        batch = RunBatch(self._num_batches, 1, index, False, offsets, ids, ids, values, values)
        self._num_batches += 1
        self._num_traces += num_traces
        started = time.perf_counter()
        self._channel.send(self._connection.send(batch))
        data = self._bytes()
        arrived = time.perf_counter()
        event = self._connection.receive(data)
        decoded = time.perf_counter()
        assert isinstance(event, BatchResult)
        if event.failures:
            raise SystemExit(f"{' '.join(self._command)}: {event.failures[0].message}")
        message = arrived - started - event.seconds
        return Costs(len(event.address), len(data), event.seconds, message, decoded - arrived)

    def cpu_seconds(self) -> float:
        """CPU time that the simulator has spent so far."""
        return cpu_seconds(self._process.pid)

    def _bytes(self) -> bytes | memoryview:
        while (data := self._channel.receive()) is None:
            if not self._channel.socket.poll(_TIMEOUT):
                raise SystemExit(f"{' '.join(self._command)} did not answer; {self._process.describe_end()}")
        return data

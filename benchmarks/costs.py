"""What a draw costs on each side, in nanoseconds: simulator, message, decoding, and the controller's functions."""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zmq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.models import MODELS, ROOT, languages
from ppx_inference import Simulator
from ppx_server.process import SimulatorProcess
from ppx_server.protocol import CAPABILITIES, BatchResult, Connection, Event, Handshake, Role, RunBatch
from ppx_server.transport import Channel

_TIMEOUT = 30_000
"""Milliseconds until a simulator must have answered."""
_BATCH = 2_000


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


def show(models: Sequence[str], seconds: float, console: Console) -> None:
    """Measures and prints, per simulator, a table and the functions in which the controller spends its time."""
    for name in models:
        for language in languages():
            command = MODELS[name].command(language)
            parts = _conversation(command)
            with Simulator(command, num_workers=1) as sim:
                length = float(sim.prior(1000).length.mean())
                rate = work.rate(partial(_prior, sim), seconds, first=1000)
            table = Table(
                title=f"{name}, {language}: ns per draw, {length:.1f} draws per trace", title_justify="left"
            )
            for header in ("simulator executes", "message", "decoding", "all together, pipelined"):
                table.add_column(header, justify="right")
            per_draw = [
                statistics.median(getattr(c, what) / c.num_draws for c in parts)
                for what in ("simulator", "message", "decoding")
            ]
            table.add_row(*(f"{1e9 * s:,.0f}" for s in (*per_draw, 1.0 / (rate * length))))
            console.print(table)
            size = statistics.median(c.num_bytes / c.num_draws for c in parts)
            console.print(f"{size:,.0f} bytes per draw in the answer")
            _profile(command, console)


def _prior(sim: Simulator, count: int) -> None:
    sim.prior(count, seed=1)


def _conversation(command: Sequence[str]) -> list[Costs]:
    """Batches one at a time, so that each part can be told from the others."""
    process = SimulatorProcess(tuple(command))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        channel, connection = Channel(context, process.address), Connection(Role.CONTROLLER)
        channel.send(connection.send(Handshake("benchmarks", CAPABILITIES)))
        _answer(channel, connection)
        found = []
        for number in range(12):
            index = np.arange(number * _BATCH, (number + 1) * _BATCH, dtype=np.uint64)
            started = time.perf_counter()
            channel.send(connection.send(_empty(number, index)))
            data = _bytes(channel)
            arrived = time.perf_counter()
            event = connection.receive(data)
            decoded = time.perf_counter()
            assert isinstance(event, BatchResult)
            found.append(
                Costs(
                    len(event.address),
                    len(data),
                    event.seconds,
                    arrived - started - event.seconds,
                    decoded - arrived,
                )
            )
        channel.close()
        return found[2:]
    finally:
        process.stop(grace=0.0)
        context.destroy(linger=0)


def _empty(number: int, index: NDArray[np.uint64]) -> RunBatch:
    ids, values = np.empty(0, np.int32), np.empty(0)
    return RunBatch(number, 1, index, False, np.zeros(len(index) + 1, np.int32), ids, ids, values, values)


def _bytes(channel: Channel) -> bytes:
    while (data := channel.receive()) is None:
        if not channel.socket.poll(_TIMEOUT):
            raise SystemExit(f"the simulator at {channel.address} did not answer for {_TIMEOUT / 1000:g} s")
    return data


def _answer(channel: Channel, connection: Connection) -> Event:
    return connection.receive(_bytes(channel))


def _profile(command: Sequence[str], console: Console) -> None:
    """The ten functions that cost the controller most; what waits for the simulator is not counted."""
    with Simulator(command, num_workers=1) as sim:
        sim.prior(1000)
        profiler = cProfile.Profile(time.process_time)
        profiler.enable()
        num_draws = len(sim.prior(20_000, seed=2).address_id)
        profiler.disable()
    table = Table(title="the controller, by cProfile: ns of CPU time per draw", title_justify="left")
    for header, side in (("function", "left"), ("calls", "right"), ("ns per draw", "right")):
        table.add_column(header, justify=side)  # type: ignore[arg-type]
    stats: dict[Any, Any] = vars(pstats.Stats(profiler))["stats"]
    for (file, line, function), (_, calls, own, _, _) in sorted(stats.items(), key=lambda s: -s[1][2])[:10]:
        where = f"{_shortened(file)}:{line} {function}" if line else function
        table.add_row(where, f"{calls:,}", f"{1e9 * own / num_draws:.1f}")
    console.print(table)


def _shortened(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) and ".venv" not in file else path.name

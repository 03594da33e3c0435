"""What a draw costs on each side, in nanoseconds: simulator, message, decoding, and the controller's functions."""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.conversation import Conversation, Costs
from benchmarks.models import MODELS, ROOT, languages
from ppx_inference import Simulator

_BATCH = 2_000


def show(models: Sequence[str], seconds: float, console: Console) -> None:
    """Measures and prints, per simulator, a table and the functions in which the controller spends its time."""
    for name in models:
        for language in languages():
            command = MODELS[name].command(language)
            parts = _alone(command)
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


def _alone(command: Sequence[str]) -> list[Costs]:
    """Batches one at a time, so that each part can be told from the others."""
    with Conversation(command) as conversation:
        return [conversation.play(_BATCH) for _ in range(12)][2:]


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

"""Bytes per kept trace, in memory and on disk."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.models import MODELS, languages, observations
from ppx_inference import Simulator
from ppx_server.store import TraceStore
from ppx_server.trace import TraceBatch

BUDGET = 300.0
"""Bytes that a kept trace of the Gaussian may take (the budget of the design)."""
_CHUNK = 20_000


def show(models: Sequence[str], num_traces: int | None, console: Console) -> None:
    """Measures and prints; half of the rows with the observations given, as an engine keeps traces."""
    count = num_traces or _CHUNK
    table = Table(title=f"{count:,} prior traces; bytes per trace", title_justify="left")
    for header in ("", "observations", "draws", "in memory", "growth of the process", "on disk"):
        table.add_column(header, justify="right" if header else "left")
    for name in models:
        with Simulator(MODELS[name].command(languages()[0]), num_workers=1) as sim:
            for what in ("given", "drawn"):
                given = observations(name) if what == "given" else None
                sim.prior(100, observations=given)
                before = resident()
                traces = sim.prior(count, seed=1, observations=given)
                growth = resident() - before
                numbers = (held(traces), growth, _on_disk(traces))
                cells = [f"{number / count:,.0f}" for number in numbers]
                if name == "gaussian" and what == "given":
                    cells[0] += f" (<= {BUDGET:g})"
                table.add_row(name, what, f"{traces.length.mean():.1f}", *cells)
    console.print(table)


def resident() -> int:
    """Bytes of physical memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def held(traces: TraceBatch) -> int:
    """Bytes of all arrays of a batch; what two of them share is counted once."""
    owners = {}
    for array in _arrays(traces):
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        owners[id(owner)] = owner.nbytes
    return sum(owners.values())


def _arrays(value: object) -> Iterator[NDArray[np.generic]]:
    if isinstance(value, np.ndarray):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.name != "addresses":
                yield from _arrays(getattr(value, field.name))


def _on_disk(traces: TraceBatch) -> int:
    with tempfile.TemporaryDirectory() as folder:
        with TraceStore.create(Path(folder) / "store") as store:
            store.append(traces)
        return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())

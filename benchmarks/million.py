"""One million tau traces to disk, in flat memory; interrupted, it goes on where it stopped."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import resident
from benchmarks.models import MODELS, languages, observations
from ppx_inference import Simulator
from ppx_server.script import ScriptBatch
from ppx_server.store import TraceStore

SEED = 7
_CHUNK = 5_000
_INTERVAL = 5.0
"""Seconds between lines."""


def run(out: Path, num_traces: int | None, *, drawn: bool) -> None:
    """Executes and writes traces, and prints what they take.

    Args:
        out: The store; made, or continued.
        num_traces: How many in all; a million if None.
        drawn: Draw the calorimeter images and keep them, instead of conditioning on one.
    """
    total = num_traces or 1_000_000
    given = None if drawn else observations("tau")
    with Simulator(MODELS["tau"].command(languages()[0])) as sim:
        about: dict[str, Any] = {"model_name": sim.model_name, "fingerprint": sim.fingerprint, "seed": SEED}
        with TraceStore.resume(out, **about, metadata={"drawn": drawn}) as store:
            if store.metadata["drawn"] != drawn:
                raise SystemExit(
                    f"{out} was begun {'without' if drawn else 'with'} --drawn; go on the same way"
                )
            first = position = store.next_index
            started = last = time.perf_counter()
            print(f"{'traces':>10} {'traces/s':>9} {'on disk':>9} {'memory now':>11} {'at most':>9}")
            while position < total:
                end = min(position + _CHUNK, total)
                store.append(sim.execute(ScriptBatch.empty(SEED, np.arange(position, end)), given))
                position = end
                now = time.perf_counter()
                if now - last >= _INTERVAL or position == total:
                    last = now
                    _report(position, (position - first) / (now - started), out)
    print(f"{total:,} traces are in {out}")


def _report(done: int, rate: float, out: Path) -> None:
    on_disk = sum(p.stat().st_size for p in out.iterdir())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sizes = (f"{size / 1e6:,.0f} MB" for size in (on_disk, resident(), most))
    print(f"{done:>10,} {rate:>9,.0f} {{:>9}} {{:>11}} {{:>9}}".format(*sizes), flush=True)

"""Prior traces per second of 1 to 8 simulator processes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks import work
from benchmarks.models import MODELS, languages
from ppx_inference import Simulator


def show(models: Sequence[str], most: int, seconds: float, console: Console) -> None:
    """Measures and prints a table per model and language."""
    for name, language in itertools.product(models, languages()):
        table = Table(title=f"{name}, {language} simulator, {os.cpu_count()} cores", title_justify="left")
        for header in ("processes", "prior traces/s", "ratio to one"):
            table.add_column(header, justify="right")
        alone = 0.0
        for count in range(1, most + 1):
            with Simulator(MODELS[name].command(language), num_workers=count) as sim:
                rate = work.rate(sim.prior, seconds, first=256)
            alone = alone or rate
            table.add_row(str(count), f"{rate:,.0f}", f"{rate / alone:.2f}")
        console.print(table)

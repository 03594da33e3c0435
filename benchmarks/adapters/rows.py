"""What the Python programs of this folder share; `benchmarks.adapters` tells how they are talked to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import ppx_client as ppx

DRAWS_PER_TRACE = 1000


class Row(NamedTuple):
    """What is compared.

    Attributes:
        bare: Makes so many traces without PPX.
        ours: Makes a trace through an adapter.
    """

    bare: Callable[[int], object]
    ours: Callable[[], object]


def run(mode: str, row: Row) -> None:
    """Makes traces of a row, or serves it."""
    if mode == "serve":
        ppx.serve(row.ours, "adapters")
        return
    traces = row.bare if mode == "bare" else repeated(row.ours)
    for line in sys.stdin:
        traces(int(line))
        print(flush=True)


def repeated(trace: Callable[[], object]) -> Callable[[int], object]:
    """What makes so many traces."""

    def run(num_traces: int) -> None:
        for _ in range(num_traces):
            trace()

    return run

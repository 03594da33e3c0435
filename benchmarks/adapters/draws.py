"""Draws through the Python adapters, against the same code without; `benchmarks.adapters` tells how it is talked to."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import ppx_client as ppx
from benchmarks.adapters.rows import DRAWS_PER_TRACE, Row, repeated, run


def normal(rng: Any) -> None:
    for _ in range(DRAWS_PER_TRACE):
        rng.normal(0.0, 1.0)


def integers(rng: Any) -> None:
    for _ in range(DRAWS_PER_TRACE):
        rng.integers(6)


def poisson(rng: Any) -> None:
    for _ in range(DRAWS_PER_TRACE):
        rng.poisson(4.0)


def array(rng: Any) -> None:
    rng.normal(0.0, 1.0, size=DRAWS_PER_TRACE)


def gauss() -> None:
    for _ in range(DRAWS_PER_TRACE):
        random.gauss(0.0, 1.0)


def legacy() -> None:
    for _ in range(DRAWS_PER_TRACE):
        np.random.normal(0.0, 1.0)  # noqa: NPY002


def _generator(trace: Callable[[Any], None]) -> Row:
    theirs, ours = np.random.default_rng(1), ppx.random.Generator()
    return Row(repeated(lambda: trace(theirs)), lambda: trace(ours))


def _patched(trace: Callable[[], None]) -> Row:
    return Row(repeated(trace), ppx.patched(trace))


ROWS = {
    "rng.normal(0, 1)": lambda: _generator(normal),
    "rng.integers(6)": lambda: _generator(integers),
    "rng.poisson(4)": lambda: _generator(poisson),
    "rng.normal(size=1000), per number": lambda: _generator(array),
    "random.gauss(0, 1), patched": lambda: _patched(gauss),
    "np.random.normal(0, 1), patched": lambda: _patched(legacy),
}

if __name__ == "__main__":
    run(sys.argv[1], ROWS[sys.argv[2]]())

"""The simulators without PPX, drawing from their language's own random numbers."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from benchmarks import work
from benchmarks.models import MODELS, SIMULATORS

_RATE = re.compile(r"([\d.e+]+) \w+/s")


def measure(name: str, language: str, seconds: float) -> work.Figures:
    """Prior traces/s of one process."""
    if language == "C++":
        program = MODELS[name].command(language)
        return {"prior": _last_rate(program, seconds)}
    run = {"gaussian": _gaussian, "tau": _tau}[name]()
    return {"prior": work.rate(lambda count: [run() for _ in range(count)], seconds)}


def _last_rate(program: Sequence[str], seconds: float) -> float:
    """What `--bare N` says of itself, with N large enough."""
    found = 0.0

    def run(count: int) -> None:
        nonlocal found
        output = subprocess.run(
            [*program, "--bare", str(count)], capture_output=True, text=True, check=True
        ).stdout
        match = _RATE.search(output)
        if match is None:
            raise SystemExit(f"{program[0]} --bare does not tell how many it ran per second: {output!r}")
        found = float(match[1])

    work.rate(run, seconds, first=1000)
    return found


def _gaussian() -> Callable[[], float]:
    """The model of simulators/gaussian/gaussian.py --marsaglia."""
    random = np.random.default_rng(1)

    def run() -> float:
        while True:
            x, y = random.uniform(-1.0, 1.0), random.uniform(-1.0, 1.0)
            s = x * x + y * y
            if 0.0 < s < 1.0:
                break
        mu = 1.0 + math.sqrt(5.0) * x * math.sqrt(-2.0 * math.log(s) / s)
        return random.normal(mu, math.sqrt(2.0)) + random.normal(mu, math.sqrt(2.0))

    return run


class _Numpy:
    """Random numbers for the tau decay; see `Source` there."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(1)
        self._scope = nullcontext()

    def uniform(self, low: float, high: float, name: str) -> float:
        return self._random.uniform(low, high)

    def normal(self, mean: float, sd: float, name: str) -> float:
        return self._random.normal(mean, sd)

    def categorical(self, probs: Sequence[float], name: str) -> int:
        return int(self._random.choice(len(probs), p=probs))

    def scope(self, name: str) -> AbstractContextManager[object]:
        return self._scope

    def rejection(self, name: str) -> AbstractContextManager[object]:
        return self._scope

    def observe(self, mean: NDArray[np.float64], sd: float, name: str) -> object:
        return self._random.normal(mean, sd)

    def tag(self, value: float, name: str) -> None:
        pass


def _tau() -> Callable[[], object]:
    sys.path.insert(0, str(SIMULATORS / "tau_decay"))
    import tau_decay  # type: ignore[import-not-found]

    options, source = tau_decay.make_options(None, None, None), _Numpy()
    return lambda: tau_decay.simulate(options, source)

"""Models with one defect each, and sound twins, for an honest client to serve."""

from __future__ import annotations

import functools
import math
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import count

import numpy as np

import ppx_client as ppx


def sound() -> float:
    """The twin of most others: draws of several families, an array, an observation, a tag, a result."""
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    rate = ppx.sample(ppx.Exponential(2.0), name="rate")
    kind = ppx.sample(ppx.Categorical([0.2, 0.3, 0.5]), name="kind")
    shifts = ppx.sample(ppx.Normal(np.array([mu, 2.0 * mu]), 1.0), name="shifts")
    ppx.sample(ppx.Uniform(0.0, 1.0 + abs(rate)), name="noise", control=False)
    ppx.observe(ppx.Normal(mu + shifts[kind % 2], 0.5 + abs(rate)), name="y")
    ppx.tag(2.0 * mu, name="twice")
    return mu


def sound_marked() -> None:
    """A rejection loop with its mark, and a number of steps that is drawn."""
    with ppx.rejection("accept"):
        while (x := ppx.sample(ppx.Normal(0.0, 1.0), name="x")) < 0.5:
            pass
    for _ in range(ppx.sample(ppx.Poisson(3.0), name="steps")):
        x += ppx.sample(ppx.Normal(0.0, 1.0), name="step")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


# Randomness and state


def hidden_randomness() -> None:
    """Draws 1 and 2 are PPX's, the parameters of draw 3 are not."""
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    nu = ppx.sample(ppx.Normal(0.0, 1.0), name="nu")
    x = ppx.sample(ppx.Normal(mu + nu + random.random(), 1.0), name="x")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def hidden_in_the_likelihood() -> None:
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    ppx.observe(ppx.Normal(mu + np.random.default_rng().normal(), 1.0), name="y")


def time_dependent() -> None:
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    ppx.observe(ppx.Normal(mu + time.time() % 1.0, 1.0), name="y")


_runs = count()


def counter() -> None:
    """Each run is a little further."""
    mu = ppx.sample(ppx.Normal(0.01 * next(_runs), 1.0), name="mu")
    ppx.observe(ppx.Normal(mu, 1.0), name="y")


@functools.cache
def _calibration() -> float:
    gain: float = ppx.sample(ppx.Normal(1.0, 0.1), name="gain")
    return gain


def cache() -> None:
    """A draw is made in the first run only."""
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    ppx.observe(ppx.Normal(mu * _calibration(), 1.0), name="y")


_last = 0.0


def carried_over() -> None:
    """Each run starts from where the last one ended."""
    global _last
    start = _last
    _last = ppx.sample(ppx.Normal(0.5 * start, 1.0), name="mu")
    ppx.observe(ppx.Normal(_last, 1.0), name="y")


# Addresses

_detector = object()


def pointer() -> None:
    """An address that changes with every process."""
    x = ppx.sample(ppx.Normal(0.0, 1.0), name=f"hit of {id(_detector):#x}")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def hash_order() -> None:
    """Strings are hashed in another way in every process."""
    for name in {"alpha", "beta", "gamma", "delta", "epsilon", "zeta"}:
        x = ppx.sample(ppx.Normal(0.0, 1.0), name=name)
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def process_id() -> None:
    with ppx.scope(f"job {os.getpid()}"):
        x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def pointer_per_run() -> None:
    """An address for every trace: what keeps the memory busy is another thing each time."""
    _kept.append(object())
    x = ppx.sample(ppx.Normal(0.0, 1.0), name=f"hit of {id(_kept[-1]):#x}")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


_kept: list[object] = []


def loop_counter() -> None:
    """An address for every round of a loop."""
    x = 0.0
    for i in range(5 + ppx.sample(ppx.Poisson(20.0), name="steps")):
        x += ppx.sample(ppx.Normal(0.0, 1.0), name=f"step_{i}")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def value_in_name() -> None:
    """An address for every value."""
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    x = ppx.sample(ppx.Normal(mu, 1.0), name=f"x of {mu:.6f}")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def folder_in_name() -> None:
    x = ppx.sample(ppx.Normal(0.0, 1.0), name=f"{os.getcwd()}/model.py:12")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


@functools.cache
def _workspace() -> str:
    return tempfile.mkdtemp(prefix="ppx-defect-")


def temporary_folder_in_name() -> None:
    with ppx.scope(_workspace()):
        x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def unmarked_rejection() -> None:
    while (x := ppx.sample(ppx.Normal(0.0, 1.0), name="x")) < 0.5:
        pass
    ppx.observe(ppx.Normal(x, 1.0), name="y")


# What it says


def no_draws() -> None:
    ppx.observe(ppx.Normal(0.0, 1.0), name="y")


def no_controlled_draws() -> None:
    x = ppx.sample(ppx.Normal(0.0, 1.0), name="x", control=False)
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def no_observations() -> float:
    return float(ppx.sample(ppx.Normal(0.0, 1.0), name="x"))


def unnamed_observation() -> None:
    x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
    ppx.observe(ppx.Normal(x, 1.0))


def varying_observations() -> None:
    """As many measurements as there happen to be, each under its own name."""
    n = ppx.sample(ppx.Poisson(3.0), name="n")
    for i in range(n):
        ppx.observe(ppx.Normal(float(n), 1.0), name=f"y{i}")


def varying_shape() -> None:
    n = ppx.sample(ppx.Poisson(3.0), name="n")
    ppx.observe(ppx.Normal(np.full(1 + n, float(n)), 1.0), name="y")


def raises_sometimes() -> None:
    x = ppx.sample(ppx.Uniform(0.0, 1.0), name="x")
    if x > 0.8:
        raise ArithmeticError("the table of cross sections is negative")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def raises_always() -> None:
    ppx.sample(ppx.Uniform(0.0, 1.0), name="x")
    raise FileNotFoundError("there is no table of cross sections")


def nan_parameter() -> None:
    x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
    with np.errstate(invalid="ignore"):
        width = float(np.sqrt(x + 1.0))
    ppx.observe(ppx.Normal(x, width), name="y")


def nan_result() -> float:
    x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
    ppx.observe(ppx.Normal(x, 1.0), name="y")
    return math.nan


def dies_of_values() -> None:
    """It trusts in values: a rate below 0 is its end."""
    rate = ppx.sample(ppx.Exponential(1.0), name="rate")
    if rate < 0.0:
        os._exit(3)
    ppx.observe(ppx.Normal(rate, 1.0), name="y")


def slow() -> float:
    """Nothing is wrong with it but that it takes its time."""
    time.sleep(0.2)
    return sound()


def very_long() -> None:
    x = 0.0
    for _ in range(30_000):
        x += ppx.sample(_STEP, name="step")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


_STEP = ppx.Normal(0.0, 1.0)

# Resources

_hoard: list[bytes] = []


def memory_leak() -> None:
    _hoard.append(os.urandom(20_000))
    sound()


_files: list[object] = []


def file_leak() -> None:
    if next(_runs) % 10 == 0:
        _files.append(open(os.devnull))  # noqa: SIM115 (the defect)
    sound()


def thread_leak() -> None:
    if next(_runs) % 10 == 0:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    sound()


def dies_after_some_runs() -> None:
    if next(_runs) == 150:
        os._exit(3)
    sound()


MODELS: dict[str, Callable[[], object]] = {
    name: model
    for name, model in list(globals().items())
    if callable(model) and getattr(model, "__module__", "") == __name__ and not name.startswith("_")
}

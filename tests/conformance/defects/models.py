"""Models with one defect each, and sound twins, for an honest client to serve."""

from __future__ import annotations

import functools
import math
import os
import random
import sys
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

# Many draws


def noise() -> None:
    """A rate is of interest, four hundred uniform numbers are not."""
    rate = ppx.sample(ppx.Beta(2.0, 2.0), name="rate")
    hits = sum(ppx.sample(_UNIFORM, name="u") < rate for _ in range(400))
    ppx.observe(ppx.Normal(hits / 400, 0.1), name="share")


def noise_of_many_addresses() -> None:
    """The same, with an address for each."""
    rate = ppx.sample(ppx.Beta(2.0, 2.0), name="rate")
    hits = sum(ppx.sample(_UNIFORM, name=f"u[{i}]") < rate for i in range(400))
    ppx.observe(ppx.Normal(hits / 400, 0.1), name="share")


def uncontrolled_noise() -> None:
    """The same, with what is advised."""
    rate = ppx.sample(ppx.Beta(2.0, 2.0), name="rate")
    hits = sum(ppx.sample(_UNIFORM, name="u", control=False) < rate for _ in range(400))
    ppx.observe(ppx.Normal(hits / 400, 0.1), name="share")


def uncontrolled_arrays() -> None:
    """Long, but none of it is to be inferred."""
    x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
    ppx.sample(ppx.Normal(np.zeros(12_000), 1.0), name="noise", control=False)
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def path() -> None:
    """As many draws, of which all are of interest: where a walk goes, and how closely it is observed."""
    x = 0.0
    for _ in range(400):
        x += 0.05 * ppx.sample(_STEP, name="step")
    ppx.observe(ppx.Normal(x, 0.05), name="y")


_UNIFORM = ppx.Uniform(0.0, 1.0)


def no_influence() -> None:
    """What is observed does not depend on what is drawn, but on a generator that repeats itself."""
    ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    ppx.observe(ppx.Normal(np.random.default_rng(42).normal(), 1.0), name="y")


def _seeded_by(name: str, largest: float) -> None:
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    seed = int(largest * ppx.sample(_UNIFORM, name=name, control=False))
    ppx.observe(ppx.Normal(mu + np.random.default_rng(seed).normal(), 0.5), name="y")


def amplifies_rounding() -> None:
    """The last bit of a draw decides on everything."""
    _seeded_by("seed", 2.0**52)


def few_digits() -> None:
    """The twin: so many digits are the same on every machine."""
    _seeded_by("seed", 2.0**31)


# Other processes, and folders

_SHARED = "/tmp/ppx-defect-parameters"  # not TMPDIR, of which each process has its own


def _by_file(target: str) -> None:
    """Hands a number on through a file."""
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    with open(f"{target}.{os.getpid()}", "w") as file:
        file.write(repr(mu))
    os.replace(file.name, target)
    time.sleep(0.0002)  # another program looks at it
    with open(target) as file:
        x = float(file.read())
    ppx.observe(ppx.Normal(x, 0.5), name="y")


def shared_file() -> None:
    """Every process writes to the same file."""
    _by_file(_SHARED)


def own_file() -> None:
    """The twin, with a file for each."""
    _by_file(os.path.join(_workspace(), "parameters"))


def relative_file() -> None:
    """Takes 0 for a table that it does not find, as many old programs do."""
    gain = 2.0 if os.path.exists("pyproject.toml") else 0.0
    ppx.observe(ppx.Normal(gain * ppx.sample(ppx.Normal(0.0, 1.0), name="mu"), 0.5), name="y")


def relative_file_of_steps() -> None:
    """The number of draws follows from a file."""
    x = 0.0
    for _ in range(3 if os.path.exists("pyproject.toml") else 2):
        x += ppx.sample(_STEP, name="step")
    ppx.observe(ppx.Normal(x, 0.5), name="y")


def endless_outside_the_support() -> None:
    """Sound: a step is never negative, so the loop ends."""
    step = ppx.sample(ppx.LogNormal(-1.0, 0.5), name="step")
    t = 0.0
    while t < 5.0:
        t += step
    ppx.observe(ppx.Normal(t, 0.5), name="y")


def crashes_sometimes() -> None:
    x = ppx.sample(ppx.Uniform(0.0, 1.0), name="x")
    if x > 0.8:
        os.abort()
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def warned_of() -> None:
    """Its client has something to say of it."""
    if next(_runs) == 0:
        sys.stderr.write(
            "model.py:3: ModelWarning: ppx: random.Random(42) is left alone: its noise is frozen\n"
        )
        sys.stderr.flush()
    sound()


def warned_of_and_hidden() -> None:
    """What is hidden is what its client warns of."""
    if next(_runs) == 0:
        sys.stderr.write("ppx: a draw was made on a thread that does not belong to the running trace\n")
        sys.stderr.flush()
    hidden_in_the_likelihood()


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

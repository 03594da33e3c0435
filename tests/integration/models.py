"""Simulators that behave and misbehave in one way each: `python models.py NAME` serves one of them."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import zmq

import ppx_client as ppx


def gaussian() -> float:
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    ppx.observe(ppx.Normal(mu, 0.5), name="y")
    ppx.tag(2.0 * mu, name="twice")
    return mu


def mixed() -> np.ndarray:
    """Array draws, uncontrolled draws, repeated visits, an array observation, a result of its own shape."""
    means = ppx.sample(ppx.Normal(np.array([[0.0, 10.0, 20.0]]), 1.0), name="means")
    noise = ppx.sample(ppx.Exponential(2.0), name="noise", control=False)
    for _ in range(3):
        k = ppx.sample(ppx.Categorical([0.2, 0.3, 0.5]), name="k")
    image = ppx.observe(ppx.Normal(means, 1.0 + noise), name="image")
    ppx.tag(image, name="seen")
    ppx.observe(ppx.Poisson(4.0), value=3, name="count")
    return np.array([k, noise])


def repeated_observe() -> None:
    x = ppx.sample(ppx.Uniform(0.0, 1.0), name="x")
    for _ in range(2):
        ppx.observe(ppx.Normal(x, 1.0), name="y")


def rare_observe() -> None:
    x = ppx.sample(ppx.Uniform(0.0, 1.0), name="x")
    ppx.observe(ppx.Normal(x, 1.0), name="y")
    if x > 0.9:
        ppx.observe(ppx.Normal(x, 1.0), name="rare")


def two_detectors() -> None:
    """The same name observed in two scopes and with two families."""
    x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
    for scope in ("a", "b"):
        with ppx.scope(scope):
            ppx.observe(ppx.Normal(x, 1.0), name="y")
    with ppx.scope("a"):
        ppx.observe(ppx.Exponential(1.0), name="y")
    for family in (ppx.Normal(0.0, 1.0), ppx.Exponential(1.0), ppx.Normal(0.0, 1.0)):
        ppx.sample(family, name="w")


_runs = 0


def _nth(n: int) -> bool:
    global _runs
    _runs += 1
    return _runs == n


def rejecting() -> None:
    ppx.sample(ppx.Normal(0.0, 1.0), name="before")
    with ppx.rejection("accept"):
        while ppx.sample(ppx.Uniform(0.0, 1.0), name="u") < 0.5:
            pass
    ppx.sample(ppx.Normal(0.0, 1.0), name="after")


def steady() -> None:
    x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def _segfault() -> None:
    print("about to crash", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def crash() -> None:
    if _nth(5):
        _segfault()
    steady()


def leave() -> None:
    if _nth(5):
        os._exit(3)
    steady()


def hang() -> None:
    if _nth(5):
        time.sleep(1000)
    steady()


def always_crashes() -> None:
    steady()
    _segfault()


def always_leaves() -> None:
    steady()
    os._exit(3)


def always_hangs() -> None:
    steady()
    time.sleep(1000)


def always_raises() -> None:
    steady()
    raise ArithmeticError("the table of cross sections is negative")


def raises_at_once() -> None:
    raise FileNotFoundError("there is no table of cross sections")


def sometimes_raises() -> None:
    x = ppx.sample(ppx.Uniform(0.0, 1.0), name="x")
    if x > 0.97:
        raise ArithmeticError("the table of cross sections is negative")
    ppx.observe(ppx.Normal(x, 1.0), name="y")


def _answer_raw(reply: bytes) -> None:
    """Speaks PPX up to the first Run, then sends `reply`."""
    from ppx_server.protocol import HandshakeResult, encode

    socket = zmq.Context.instance().socket(zmq.REP)
    socket.bind(os.environ["PPX_BIND"])
    socket.recv()
    socket.send(encode(HandshakeResult("raw", "raw")))
    socket.recv()
    socket.send(reply)
    time.sleep(1000)


def _raw_sample(family: str, *params: object) -> None:
    from ppx_server.protocol import Sample, WireDistribution, encode

    _answer_raw(encode(Sample("here", "x", WireDistribution(family, params), True)))


RAW = {
    "garbage": lambda: _answer_raw(b"\x13\x37" * 40),
    "nan": lambda: _raw_sample("Normal", float("nan"), 1.0),
    "shapes": lambda: _raw_sample("Normal", np.zeros(3), np.ones(2)),
    "silent": lambda: time.sleep(1000),
    "dies": lambda: sys.exit("no data card found"),
}
MODELS = {
    model.__name__: model
    for model in (
        gaussian,
        mixed,
        repeated_observe,
        rare_observe,
        two_detectors,
        rejecting,
        steady,
        crash,
        leave,
        hang,
        always_crashes,
        always_leaves,
        always_hangs,
        always_raises,
        raises_at_once,
        sometimes_raises,
    )
}

if __name__ == "__main__":
    if sys.argv[1] in RAW:
        RAW[sys.argv[1]]()
    else:
        ppx.serve(MODELS[sys.argv[1]], name=sys.argv[1])

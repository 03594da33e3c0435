"""Serves ricker.py, whose random numbers inference controls because the generator is ours."""

import hashlib
import inspect

import ricker

import ppx_client as ppx
from ppx_client.random import Generator


def forward():
    _, sizes = ricker.simulate(Generator())
    for year, size in enumerate(sizes):
        ppx.observe(ppx.Poisson(ricker.PHI * size), name=f"y{year}")
    return sizes


if __name__ == "__main__":
    model = inspect.getsource(ricker) + inspect.getsource(forward)
    ppx.serve(forward, name="ricker", fingerprint=hashlib.sha256(model.encode()).hexdigest())

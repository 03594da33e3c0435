"""Draws of a simulator that runs without a controller.

Each thread draws from a stream of its own, seeded by `seed` or by the environment variable `PPX_SEED`, and so does
each forked process. Every scalar takes one number. Equal seeds give equal draws in every client language.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from itertools import count
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ppx_client.distributions import Distribution
from ppx_client.errors import PPXError
from ppx_client.values import to_python

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 256
_SMALL = 64
"""Largest array that takes its numbers from the block of the scalars: to make others takes as long as the block."""
_count_lock = threading.Lock()


class _Generator:
    """The stream of one thread: that of (seed, thread)."""

    def __init__(self, seed: int, thread: int) -> None:
        self._seed, self._thread = seed, thread
        self._position = 0  # of the next number
        self._uniforms: list[float] = []
        self._normals: list[float] = []
        self._left = 0

    def of_process(self, process: int) -> _Generator:
        """What this generator is in a forked process."""
        return _Generator(self._seed, self._thread + process)

    def scalar(self) -> tuple[float, float]:
        """The next uniform number, and its standard normal quantile."""
        if not self._left:
            uniform, z = self.array(_BLOCK)
            self._uniforms, self._normals = uniform.tolist(), z.tolist()
            self._position -= _BLOCK
            self._left = _BLOCK
        at = _BLOCK - self._left
        self._left -= 1
        self._position += 1
        return self._uniforms[at], self._normals[at]

    def array(self, size: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The next numbers, `(size,)`, and their standard normal quantiles."""
        from ppx_client.philox import Numbers, Stream

        if size <= _SMALL:
            uniforms, normals = np.array([self.scalar() for _ in range(size)]).reshape(size, 2).T
            return uniforms, normals
        self._left = 0
        start, self._position = self._position, self._position + size
        return Numbers(self._seed, self._thread, Stream.DRAWS).array(start, size)


class _Threads(threading.local):
    generator: _Generator | None = None


_thread = _Threads()
_num_threads = count()
_first_seed: int | None = None
_process = 0
"""Number of a forked process, which tells its streams from those of its parent."""
_num_forks = 0


def _before_fork() -> None:
    global _num_forks
    _num_forks += 1


def _in_child() -> None:
    global _process
    lineage = f"{_process}/{_num_forks}".encode()
    _process = int.from_bytes(hashlib.blake2b(lineage, digest_size=7).digest(), "little")
    if _thread.generator is not None:
        _thread.generator = _thread.generator.of_process(_process)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)


def seed(value: int) -> None:
    """Seeds the draws that this thread makes without a controller.

    Under a controller it has no effect: there the controller draws.

    Args:
        value: A whole number >= 0, below 2^64.

    Raises:
        PPXError: It is something else.
    """
    if hasattr(value, "__index__") and not isinstance(value, bool) and 0 <= value < 1 << 64:
        _thread.generator = _Generator(int(value), 0)
        return
    raise PPXError(f"seed {value!r} is no whole number >= 0 and below 2^64")


def draw(distribution: Distribution) -> Any:
    """A draw from the distribution."""
    from ppx_client.quantiles import SCALAR, quantiles

    generator = _thread.generator
    if generator is None:
        generator = _thread.generator = _Generator(_seed_of_process(), next(_num_threads) + _process)
    shape = distribution.shape
    if shape == ():
        uniform, z = generator.scalar()
        value = SCALAR[distribution.code](uniform, 1.0 - uniform, z, distribution.vector)
        return int(value) if distribution.discrete else value
    uniforms, normals = generator.array(prod(shape))
    return to_python(distribution, quantiles(distribution, uniforms.reshape(shape), normals.reshape(shape)))


def _seed_of_process() -> int:
    global _first_seed
    text = os.environ.get("PPX_SEED")
    if text is None:
        with _count_lock:
            if _first_seed is None:
                _first_seed = secrets.randbits(64)
            return _first_seed
    if text.strip().isdecimal() and int(text) < 1 << 64:
        return int(text)
    raise PPXError(
        f"environment variable PPX_SEED = {text!r} is no whole number >= 0 and below 2^64; correct or unset it"
    )

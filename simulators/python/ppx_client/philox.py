"""Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC11, "Parallel random numbers").

Number n of (seed, trace index, stream) is the same in every client language and in the controller. Key: the two 32-bit
halves of the seed, low first. Counter: trace index (two words, low first), block, stream. A block makes two numbers.
This module needs SciPy, which takes long to import; it is imported where it is first needed.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Multipliers and Weyl constants of Philox4x32 (table 2 of the paper; Random123 philox.h).
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_6, _26, _32 = np.uint64(6), np.uint64(26), np.uint64(32)
_AT_ONCE = 512
"""Numbers that small arrays share with single draws: making any costs 0.1 ms, a hundred more next to nothing."""
_MOST_AT_ONCE = 1 << 14
"""Numbers made for arrays that are yet to come, at most."""
_NONE = np.empty(0)


class Stream(IntEnum):
    """What a random number is for; streams of one trace are independent."""

    DRAWS = 0
    OBSERVATIONS = 1


def uniforms(seed: int, index: ArrayLike, start: int, count: int, stream: Stream) -> NDArray[np.float64]:
    """Numbers `start` to `start + count - 1` of a stream, for K traces.

    Args:
        seed: Seed of the run, an unsigned 64-bit number.
        index: `(K,)` trace indices.
        start: First number.
        count: How many numbers per trace.
        stream: What the numbers are for.

    Returns:
        `(K, count)` numbers in the open interval (0, 1), midpoints of the 2^-52 grid: 1 - u is exact.
    """
    traces = np.atleast_1d(np.asarray(index, np.uint64))[:, None]
    block = np.arange(start // 2, (start + count + 1) // 2, dtype=np.uint64)[None, :]
    # The words take their full shape (K, blocks) in the first rounds.
    c0, c1, c2, c3 = traces & _LOW, traces >> _32, block, np.full((1, 1), int(stream), np.uint64)
    k0, k1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (
            (p1 >> _32) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _32) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    bits = np.empty((*c0.shape, 2), np.uint64)
    bits[:, :, 0] = (c0 >> _6) << _26 | (c1 >> _6)
    bits[:, :, 1] = (c2 >> _6) << _26 | (c3 >> _6)
    numbers = bits.reshape(len(traces), 2 * block.size)[:, start % 2 : start % 2 + count]
    return (numbers.astype(np.float64) + 0.5) * 2.0**-52


class Numbers:
    """The random numbers of one trace and stream, made as they are needed.

    Args:
        seed: Seed of the run.
        index: Index of the trace.
        stream: What the numbers are for.
        first: The first of them and their normal quantiles, if they are known.
        ahead: How many arrays are expected to take.

    Attributes:
        uniforms: Numbers from the first on, in (0, 1).
        normals: Their standard normal quantiles: the standard coordinates of prior draws.
    """

    __slots__ = (
        "_ahead",
        "_block",
        "_block_normals",
        "_block_start",
        "_index",
        "_seed",
        "_stream",
        "normals",
        "uniforms",
    )

    def __init__(
        self,
        seed: int,
        index: int,
        stream: Stream,
        first: tuple[list[float], list[float]] | None = None,
        ahead: int = 0,
    ) -> None:
        self._seed, self._index, self._stream = seed, index, stream
        self._ahead = ahead
        self._block_start = 0
        self._block = self._block_normals = _NONE
        self.uniforms, self.normals = first or ([], [])

    def reach(self, count: int) -> None:
        """Makes the first `count` numbers at least."""
        known = len(self.uniforms)
        if count > known:
            # One call of NumPy makes a hundred numbers in the time of one.
            more = uniforms(self._seed, self._index, known, max(count - known, known, 128), self._stream)[0]
            self.uniforms += more.tolist()
            self.normals += ndtri(more).tolist()

    def array(self, start: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Numbers `start` to `start + count - 1`, and their standard normal quantiles."""
        if start + count <= _AT_ONCE:
            self.reach(start + count)
            among = slice(start, start + count)
            return np.array(self.uniforms[among]), np.array(self.normals[among])
        at = start - self._block_start
        if at < 0 or at + count > len(self._block):
            # A trace with one array mostly has more, so the next ones get their numbers from the same block.
            size = max(count, min(max(2 * len(self._block), self._ahead), _MOST_AT_ONCE), _AT_ONCE)
            self._ahead -= size
            self._block = uniforms(self._seed, self._index, start, size, self._stream)[0]
            self._block_normals = ndtri(self._block)
            self._block_start, at = start, 0
        return self._block[at : at + count], self._block_normals[at : at + count]

"""Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC11, "Parallel random numbers").

The number a draw gets is a pure function of (seed, trace index, ordinal of the draw, stream), so trace `i` is the same
whatever the number of simulators, their order, the machine or a restart in the middle.

Key: the two 32-bit halves of the seed, low first. Counter: trace index (two words, low first), block, stream.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

# Multipliers and Weyl constants of Philox4x32 (table 2 of the paper; Random123 philox.h).
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


class Stream(IntEnum):
    """What a random number is for; streams of one trace are independent."""

    DRAWS = 0
    OBSERVATIONS = 1
    PROPOSALS = 2


def philox4x32(
    counter: tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]],
    key: tuple[int, int],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Encrypts counters; every word is an unsigned 32-bit number held in 64 bits.

    Args:
        counter: Four words of equal shape.
        key: Two words.

    Returns:
        Four random words of the counter's shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (
            (p1 >> _32) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _32) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def uniforms(
    seed: int, index: ArrayLike, count: int, *, start: int = 0, stream: Stream = Stream.DRAWS
) -> NDArray[np.float64]:
    """Uniform numbers in the open interval (0, 1): numbers `start` to `start + count - 1` of a stream, for K traces.

    One block of four words makes two numbers: number n is made of words 2 (n mod 2) and 2 (n mod 2) + 1 of block
    n div 2.

    Args:
        seed: Seed of the run, an unsigned 64-bit number.
        index: `(K,)` trace indices.
        count: How many numbers per trace.
        start: First number.
        stream: What the numbers are for.

    Returns:
        `(K, count)` float64, midpoints of the 2^-52 grid.
    """
    index = np.atleast_1d(np.asarray(index, np.uint64))[:, None]
    block = np.arange(start // 2, (start + count + 1) // 2, dtype=np.uint64)[None, :]
    shape = (index.shape[0], block.shape[1])
    index, block = np.broadcast_to(index, shape), np.broadcast_to(block, shape)
    counter = (index & _LOW, index >> _32, block, np.full(shape, int(stream), np.uint64))
    w0, w1, w2, w3 = philox4x32(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    bits = np.stack([_52_bits(w0, w1), _52_bits(w2, w3)], axis=-1).reshape(shape[0], -1)
    skip = start % 2
    return (bits[:, skip : skip + count].astype(np.float64) + 0.5) * 2.0**-52


def normals(
    seed: int, index: ArrayLike, count: int, *, start: int = 0, stream: Stream = Stream.DRAWS
) -> NDArray[np.float64]:
    """Standard normal numbers, `ndtri(uniforms(...))`: the z-coordinates that prior draws use."""
    z: NDArray[np.float64] = ndtri(uniforms(seed, index, count, start=start, stream=stream))
    return z


def normals_at(
    seed: int, index: ArrayLike, ordinal: ArrayLike, *, stream: Stream = Stream.DRAWS
) -> NDArray[np.float64]:
    """Standard normal numbers, one of each trace.

    Args:
        seed: Seed of the run.
        index: `(n,)` trace indices; they may repeat.
        ordinal: `(n,)` which number of the stream.
        stream: What the numbers are for.

    Returns:
        `(n,)`: `normals(seed, index[i], 1, start=ordinal[i], stream=stream)` for every i.
    """
    index, ordinal = np.asarray(index, np.uint64), np.asarray(ordinal, np.uint64)
    counter = (
        index & _LOW,
        index >> _32,
        ordinal >> np.uint64(1),
        np.full(index.shape, int(stream), np.uint64),
    )
    w0, w1, w2, w3 = philox4x32(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    odd = (ordinal & np.uint64(1)) == 1
    bits = _52_bits(np.where(odd, w2, w0), np.where(odd, w3, w1))
    z: NDArray[np.float64] = ndtri((bits.astype(np.float64) + 0.5) * 2.0**-52)
    return z


class Normals:
    """Standard normal numbers of one trace, made as they are needed."""

    __slots__ = ("_index", "_known", "_seed", "_stream")

    def __init__(self, seed: int, index: int, stream: Stream, first: list[float]) -> None:
        self._seed, self._index, self._stream = seed, index, stream
        self._known = first

    def __getitem__(self, ordinal: int) -> float:
        known = self._known
        while ordinal >= len(known):
            count = max(len(known), 1)
            known += self.array(len(known), count).tolist()
        return known[ordinal]

    def array(self, start: int, count: int) -> NDArray[np.float64]:
        """Numbers `start` to `start + count - 1`."""
        row: NDArray[np.float64] = normals(self._seed, self._index, count, start=start, stream=self._stream)[
            0
        ]
        return row


def _52_bits(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # 26 bits of each word; with 53 bits the midpoint above 1/2 would not be representable, and the last one be 1.
    return ((high >> np.uint64(6)) << np.uint64(26)) | (low >> np.uint64(6))

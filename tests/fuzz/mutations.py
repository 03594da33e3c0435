"""Messages made wrong on purpose, and what must hold whatever is made of them.

FlatBuffers are made of 16-bit and 32-bit offsets and lengths, aligned to their size: most mutations hit one of these.
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

from ppx_server.errors import RemoteProtocolError
from ppx_server.protocol import decode, encode
from ppx_server.protocol.wire import MESSAGES
from tests.ppx_server.protocol.examples import EVENTS, same

CORPUS = [encode(event) for event in EVENTS]
"""One valid message of every type, and some more."""

_WORDS = (
    0,
    1,
    2,
    3,
    4,
    8,
    12,
    16,
    31,
    32,
    33,
    255,
    256,
    2**15,
    2**16 - 1,
    2**30,
    2**31 - 1,
    2**31,
    2**32 - 4,
    2**32 - 1,
)
_DOUBLES = (np.nan, np.inf, -np.inf, -0.0, -1.0, 0.5, 5e-324, 1.7e308)
_MAX_BYTES = 4096

# An event may take more memory than its message, because small numbers and short strings are objects; not much more.
_BYTES_PER_BYTE = 64
_BYTES_AT_LEAST = 4096


def mutate(data: bytes, rng: Random) -> bytes:
    """One to four mutations."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not made:
            break
        rng.choice(_MUTATIONS)(made, rng)
    return bytes(made[:_MAX_BYTES])


def _byte(data: bytearray, rng: Random) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _word(data: bytearray, rng: Random) -> None:
    """An offset or length becomes another: a usual suspect, one of the message's own, or nearly what it was."""
    place = rng.randrange((len(data) + 3) // 4) * 4
    old = int.from_bytes(data[place : place + 4], "little")
    new = rng.choice(
        (
            rng.choice(_WORDS),
            rng.randrange(len(data)),
            len(data) - place,
            old + rng.choice((-8, -4, -1, 1, 4, 8)),
        )
    )
    data[place : place + 4] = (new % 2**32).to_bytes(4, "little")


def _half(data: bytearray, rng: Random) -> None:
    """An element of a vtable becomes another."""
    place = rng.randrange((len(data) + 1) // 2) * 2
    data[place : place + 2] = rng.choice((0, 2, 4, 5, 6, 8, 12, 16, 40, 2**15, 2**16 - 1)).to_bytes(
        2, "little"
    )


def _double(data: bytearray, rng: Random) -> None:
    place = rng.randrange((len(data) + 7) // 8) * 8
    data[place : place + 8] = np.float64(rng.choice(_DOUBLES)).tobytes()


def _swap(data: bytearray, rng: Random) -> None:
    first, second = (rng.randrange((len(data) + 3) // 4) * 4 for _ in range(2))
    data[first : first + 4], data[second : second + 4] = data[second : second + 4], data[first : first + 4]


def _cut(data: bytearray, rng: Random) -> None:
    del data[rng.randrange(len(data)) :]


def _insert(data: bytearray, rng: Random) -> None:
    place, start = (rng.randrange((len(data) + 3) // 4) * 4 for _ in range(2))
    data[place:place] = data[start : start + 4 * rng.randrange(1, 17)]


def _splice(data: bytearray, rng: Random) -> None:
    other = rng.choice(CORPUS)
    place = rng.randrange((len(data) + 3) // 4) * 4
    data[place:] = other[place:] if rng.random() < 0.5 else other[: rng.randrange(len(other))]


_MUTATIONS = (_byte, _word, _word, _word, _half, _half, _double, _swap, _cut, _insert, _splice)


def attempt(data: bytes) -> bool:
    """Reads a message; anything but an event that can be sent again, or a RemoteProtocolError, fails the test.

    Returns:
        Whether it was an event.
    """
    try:
        event = decode(data)
    except RemoteProtocolError as error:
        complaint = str(error)
    else:
        complaint = ""
    if complaint:
        assert len(complaint) < 2000
        return False
    assert type(event) in MESSAGES
    assert footprint(event) <= _BYTES_AT_LEAST + _BYTES_PER_BYTE * len(data)
    assert same(decode(encode(event)), event)
    return True


def footprint(part: Any) -> int:
    """About how many bytes an event takes."""
    if isinstance(part, tuple):
        return 48 + sum(8 + footprint(p) for p in part)
    if isinstance(part, np.ndarray):
        return 112 + (part.nbytes if part.flags.owndata else 0)
    if isinstance(part, str):
        return 40 + len(part)
    return 32

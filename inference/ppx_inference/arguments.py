"""Checks of the arguments that all engines take."""

from __future__ import annotations

import operator
from typing import SupportsIndex

import numpy as np

from ppx_server.errors import ArgumentError
from ppx_server.observations import Observations

MOST_TRACES = 2**63 - 1
MOST_SEED = 2**64 - 1
"""The index of a trace is a signed, a seed an unsigned number of 64 bits."""


def checked_count(name: str, value: SupportsIndex, *, least: int = 1, most: int = MOST_TRACES) -> int:
    """A count as an int.

    Raises:
        ArgumentError: It is not a whole number from `least` to `most`. Floats are none, even 100.0, nor is True.
    """
    try:
        count = operator.index(value)
    except TypeError:
        hint = f"; write {int(value)}" if isinstance(value, float) and value.is_integer() else ""
        raise ArgumentError(f"{name} must be a whole number, not {value!r}{hint}") from None
    if isinstance(value, bool):
        raise ArgumentError(f"{name} must be a whole number, not {value!r}")
    if count < least:
        raise ArgumentError(f"{name} must be at least {least}, not {count}")
    if count > most:
        raise ArgumentError(f"{name} must be at most {most}, not {count}")
    return count


def checked_seed(seed: SupportsIndex) -> int:
    """A seed as an int.

    Raises:
        ArgumentError: It is not an unsigned 64-bit number.
    """
    return checked_count("seed", seed, least=0, most=MOST_SEED)


def checked_seconds(name: str, value: float) -> float:
    """A time as a float.

    Raises:
        ArgumentError: It is not a number of seconds above 0.
    """
    if not isinstance(value, int | float | np.number) or isinstance(value, bool) or not value > 0:
        raise ArgumentError(f"{name} must be a number of seconds above 0, not {value!r}")
    return float(value)


def observed_names(observations: Observations) -> tuple[str, ...]:
    """The names of the observations, each once, in their order."""
    return tuple(dict.fromkeys(key if isinstance(key, str) else key[0] for key in observations))

"""Checks of the arguments that all engines take."""

from __future__ import annotations

import operator
from typing import SupportsIndex

from ppx_server.observations import Observations


def checked_count(name: str, value: SupportsIndex, *, least: int = 1) -> int:
    """A count as an int.

    Raises:
        ValueError: It is not a whole number of at least `least`.
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, not {value!r}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, not {count}")
    return count


def checked_seed(seed: SupportsIndex) -> int:
    """A seed as an int.

    Raises:
        ValueError: It is not an unsigned 64-bit number.
    """
    value = checked_count("seed", seed, least=0)
    if value >= 2**64:
        raise ValueError(f"seed must be below 2**64, not {value}")
    return value


def observed_names(observations: Observations) -> tuple[str, ...]:
    """The names of the observations, each once, in their order."""
    return tuple(dict.fromkeys(key if isinstance(key, str) else key[0] for key in observations))

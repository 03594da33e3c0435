"""What a model should be told that is no error: once per process and cause, on stderr, after `ppx: `."""

from __future__ import annotations

import warnings

from ppx_client.errors import ModelWarning

warnings.simplefilter("always", ModelWarning)

_told: set[str] = set()


def notice(cause: str, text: str) -> None:
    """Issues a `ModelWarning`, unless there was one of this cause.

    Args:
        cause: What tells causes apart.
        text: What is wrong, where, and what to do about it.
    """
    if cause not in _told:
        _told.add(cause)
        warnings.warn(f"ppx: {text}", ModelWarning, stacklevel=3)

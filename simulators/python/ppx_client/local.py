"""Draws of a simulator that runs without a controller.

They come from one generator per process, seeded by `seed` or by the environment variable `PPX_SEED`. Every scalar takes
one uniform number.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ppx_client.distributions import Distribution
from ppx_client.errors import PPXError
from ppx_client.quantiles import quantile
from ppx_client.values import to_python

if TYPE_CHECKING:
    import numpy as np

_generator: np.random.Generator | None = None
_controlled_traces = 0
_count_lock = threading.Lock()


@contextmanager
def controlled() -> Iterator[None]:
    """A controller runs a trace somewhere in this process while the block lasts."""
    global _controlled_traces
    with _count_lock:
        _controlled_traces += 1
    try:
        yield
    finally:
        with _count_lock:
            _controlled_traces -= 1


def check_thread() -> None:
    """Warns of a draw without a controller while there is one: a thread of the model that does not know its trace."""
    if _controlled_traces:
        warnings.warn(
            "a draw was made without the controller, on a thread that does not belong to the running trace; "
            "start threads of the model with contextvars.copy_context().run, or draw on the model's own thread",
            RuntimeWarning,
            stacklevel=3,
        )


def seed(value: int) -> None:
    """Seeds the draws that the simulator makes without a controller, in this process.

    Under a controller it has no effect: there the controller draws.

    Args:
        value: A whole number >= 0.

    Raises:
        PPXError: It is something else.
    """
    import numpy as np

    global _generator
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
        raise PPXError(f"seed {value!r} is no whole number >= 0")
    _generator = np.random.default_rng(int(value))


def draw(distribution: Distribution) -> Any:
    """A draw from the distribution."""
    generator = _generator or _first_generator()
    # random() is in [0, 1 - 2^-53]; keep away from both ends, where quantiles are infinite.
    uniform = generator.random(distribution.shape or None) * (1.0 - 2.0**-53) + 2.0**-54
    return to_python(distribution, quantile(distribution, uniform))


def _first_generator() -> np.random.Generator:
    import numpy as np

    global _generator
    text = os.environ.get("PPX_SEED")
    if text is None:
        _generator = np.random.default_rng()
    elif text.strip().isdecimal():
        seed(int(text))
    else:
        raise PPXError(
            f"environment variable PPX_SEED = {text!r} is no whole number >= 0; correct or unset it"
        )
    assert _generator is not None
    return _generator

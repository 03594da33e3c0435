"""Stand-ins for the classes of which a model makes generators of its own: `random.Random`, `numpy.random.RandomState`,
`numpy.random.Generator`, and for `numpy.random.default_rng`.

What they make draws through PPX. Seeds and bit generators that they are given are ignored, as the controller draws;
where a seed is the same in every trace, a notice says so. `isinstance` and `issubclass` are answered as by the
original, so that code which asks goes on as ever.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

from ppx_client.attribution import num_begun
from ppx_client.call_sites import call_site
from ppx_client.errors import UncontrolledError
from ppx_client.notices import notice
from ppx_client.random import Generator
from ppx_client.random_globals import GlobalGenerator, StandardRandom
from ppx_client.traces import running

_caller = sys._getframe


class _StandIn(type):
    """The type of a class that stands for another one, and of classes derived from it.

    Attributes:
        stands_for: The other one; only of the class itself.
        make: Makes an instance, which is one of the other class, too; only of the class itself.
        label: What the other one is called; only of the class itself.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        own = vars(cls)
        if "make" not in own:
            return super().__call__(*args, **kwargs)
        seed = args[0] if args else next(iter(kwargs.values()), None)
        _note_seed(own["label"], seed, _caller(1), _IGNORED)
        return own["make"]()

    def __instancecheck__(cls, instance: Any) -> bool:
        own = vars(cls).get("stands_for")
        return super().__instancecheck__(instance) if own is None else isinstance(instance, own)

    def __subclasscheck__(cls, subclass: Any) -> bool:
        own = vars(cls).get("stands_for")
        return super().__subclasscheck__(subclass) if own is None else issubclass(subclass, own)


def _stand_in(original: type, label: str, base: type, control: bool) -> type:
    """A class that stands for another one, of which a model makes generators.

    Args:
        original: The other one.
        label: What it is called.
        base: The class of controlled generators.
        control: Whether inference may choose the numbers.
    """

    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        """Of classes that a model derives from it."""
        base.__init__(self, control=control)  # type: ignore[misc]  # a class like any other

    attributes = {
        "stands_for": original,
        "label": label,
        "make": lambda: base(control=control),
        "__init__": initialise,
        "__module__": original.__module__,
        "__doc__": f"`{label}`, controlled.",
    }
    return _StandIn(original.__name__, (base,), attributes)


def controlled_makers(control: bool) -> list[tuple[Any, Any]]:
    """What makes generators, and what takes its place so that they are controlled.

    Args:
        control: Whether inference may choose the numbers.
    """

    def default_rng(seed: Any = None) -> Any:
        if isinstance(seed, np.random.Generator):
            return seed
        _note_seed("numpy.random.default_rng", seed, _caller(1), _IGNORED)
        return Generator(control=control)

    classes = [
        (random.Random, "random.Random", StandardRandom),
        (random.SystemRandom, "random.SystemRandom", StandardRandom),
        (np.random.RandomState, "numpy.random.RandomState", GlobalGenerator),
        (np.random.Generator, "numpy.random.Generator", Generator),
    ]
    made = [(original, _stand_in(original, label, base, control)) for original, label, base in classes]
    return [*made, (np.random.default_rng, default_rng)]


def left_alone(original: Callable[..., Any], label: str, *, refuse: bool = False) -> Callable[..., Any]:
    """A function that makes or seeds a generator, which goes on to do what it does.

    Args:
        original: The function.
        label: What it is called.
        refuse: Whether it is an error to give no seed.
    """

    def seeded(seed: Any = None, *args: Any, **kwargs: Any) -> Any:
        if seed is None and refuse:
            raise UncontrolledError(
                f"{label}() without a seed would draw behind the controller's back; patched(default_rng=True), the "
                "default, makes it return a controlled generator, a seed a fixed one"
            )
        _note_seed(label, seed, _caller(1), _FROZEN)
        return original(seed, *args, **kwargs)

    return seeded


_FROZEN = (
    "is the same in every trace, and so are the numbers: inference does not know that they are random; draw them "
    "through ppx (patched, or ppx_client.random.Generator), unless they are part of the model's design"
)
_IGNORED = "is ignored: the controller draws the numbers, in every trace others; patched(default_rng=False) leaves it"

_ENOUGH = 3
"""Traces after which a seed that is always the same is taken for a fixed one."""
_VARIES = -1
_seeds: dict[str, tuple[str, int, int]] = {}
"""By place: the seed, in how many traces it was seen, or _VARIES, and the number of the last one."""


def _note_seed(label: str, seed: Any, frame: FrameType, what: str) -> None:
    """Says that a seed is fixed, once it has been the same in some traces and never another."""
    if seed is None or running.get() is None or isinstance(seed, np.random.BitGenerator):
        return
    site, text, trace = call_site(frame), repr(seed), num_begun()
    before, count, last = _seeds.get(site, (text, 0, 0))
    if count == _VARIES or last == trace:
        return
    count = count + 1 if before == text else _VARIES
    _seeds[site] = text, count, trace
    if count == _ENOUGH:
        notice(f"seed {site}", f"the seed of {label}({text[:40]}) at {site} {what}")

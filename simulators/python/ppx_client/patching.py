"""Control of programs that draw from the global generators of `random` and `numpy.random`.

    import ppx_client as ppx

    ppx.serve(ppx.patched(forward), name="walk")

While `forward` runs, every function of the module `random` and every one of `numpy.random` that draws from its global
generator makes PPX draws; also where a module has imported it by name, and where SciPy draws for lack of a
`random_state`. Afterwards everything is as it was.

So do generators that it makes meanwhile, by `random.Random`, `numpy.random.RandomState`, `default_rng` or `Generator`.

What is replaced are variables of modules. A function that the program keeps elsewhere (`def walk(draw=random.gauss)`,
`self.draw = random.gauss`) is not reached, nor are generators that were made before.
"""

from __future__ import annotations

import functools
import inspect
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ContextDecorator
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar, overload

import numpy as np

from ppx_client.errors import UncontrolledError
from ppx_client.own_generators import controlled_makers, left_alone
from ppx_client.random_globals import GlobalGenerator, StandardRandom

__all__ = ["Replacement", "patched"]

P = ParamSpec("P")
T = TypeVar("T")


class _Names(NamedTuple):
    """Where a module refers to objects that are replaced.

    Attributes:
        namespace: Its variables.
        pairs: By name, the object and what takes its place.
    """

    namespace: dict[str, Any]
    pairs: dict[str, tuple[Any, Any]]


class Replacement(ContextDecorator):
    """Replaces objects by others wherever a module refers to them, while a block or a function runs.

    Blocks may be nested, and may end by any exception.

    Args:
        pairs: Objects, and what takes their place.
    """

    def __init__(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        self._pairs = pairs
        _stands_for.update((id(substitute), id(original)) for original, substitute in pairs)
        self._names: list[_Names] = []
        self._num_modules = 0
        self._before: list[list[dict[str, Any]]] = []

    def __enter__(self) -> Self:
        with _lock:
            if not self._before and self._num_modules != len(sys.modules):
                self._names = _references(self._pairs)
                self._num_modules = len(sys.modules)
            self._before.append([_put(namespace, pairs) for namespace, pairs in self._names])
            _open.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        with _lock:
            _open.remove(self)
            for (namespace, pairs), before in zip(self._names, self._before.pop(), strict=True):
                _put_back(namespace, pairs, before)
            if not self._before and self._num_modules != len(sys.modules):
                # Modules that were imported meanwhile may have taken the substitutes.
                for namespace, pairs in _references([(ours, theirs) for theirs, ours in self._pairs]):
                    namespace.update({name: original for name, (_, original) in pairs.items()})


_lock = threading.RLock()
_open: list[Replacement] = []
"""Those whose block is running; threads may end them in any order."""
_stands_for: dict[int, int] = {}
"""Substitutes, by the object whose place they take: within a block another one finds them there."""


def _put(namespace: dict[str, Any], pairs: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Puts the substitutes where names refer to what they replace; what was there before, by name."""
    before = {}
    for name, (original, substitute) in pairs.items():
        # The program may have deleted the name, or assigned something else to it.
        value = namespace.get(name)
        if value is original or _stands_for.get(id(value)) == id(original):
            before[name] = value
            namespace[name] = substitute
    return before


def _put_back(namespace: dict[str, Any], pairs: dict[str, tuple[Any, Any]], before: dict[str, Any]) -> None:
    """Undoes `_put`, but for what the program has assigned meanwhile."""
    for name, value in before.items():
        original, substitute = pairs[name]
        now = namespace.get(name)
        if not _open and _stands_for.get(id(now)) == id(original):
            namespace[name] = original
        elif now is substitute:
            namespace[name] = value


def _references(pairs: Sequence[tuple[Any, Any]]) -> list[_Names]:
    """Every name by which a module of others, or a SciPy distribution in it, refers to the first of a pair."""
    by_id = {id(pair[0]): pair for pair in pairs}
    namespaces = {
        id(vars(module)): vars(module)
        for name, module in list(sys.modules.items())
        if hasattr(module, "__dict__") and name.partition(".")[0] not in _LEFT_ALONE
    }
    if "scipy.stats" in sys.modules:
        for namespace in list(namespaces.values()):
            namespaces.update((id(inner), inner) for inner in _distributions(namespace))
    found = []
    for namespace in namespaces.values():
        names = {}
        for name, value in list(namespace.items()):
            number = id(value) if id(value) in by_id else _stands_for.get(id(value))
            if number in by_id:
                names[name] = by_id[number]
        if names:
            found.append(_Names(namespace, names))
    return found


def _distributions(namespace: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The attributes of SciPy's distributions, which keep the generator that was global when they were made."""
    for value in list(namespace.values()):
        if str(type(value).__module__).startswith("scipy.stats") and hasattr(value, "__dict__"):
            yield vars(value)
            frozen = vars(value).get("dist")
            if hasattr(frozen, "__dict__"):
                yield vars(frozen)


# The standard library draws for purposes of its own, as for the names of temporary files.
_LEFT_ALONE = sys.stdlib_module_names - {"random", "__main__"} | {__name__.partition(".")[0]}


@overload
def patched(forward: None = None, *, default_rng: bool = True, control: bool = True) -> Replacement: ...


@overload
def patched(forward: Callable[P, T], *, default_rng: bool = True, control: bool = True) -> Callable[P, T]: ...


def patched(
    forward: Callable[..., Any] | None = None, *, default_rng: bool = True, control: bool = True
) -> Any:
    """Makes the functions of `random` and `numpy.random` draw through PPX while a function or a block runs.

    Example:
        >>> import random
        >>> import ppx_client as ppx
        >>> with ppx.patched():
        ...     ppx.seed(1)
        ...     first = random.gauss(0.0, 1.0)
        ...     ppx.seed(1)
        ...     first == ppx.sample(ppx.Normal(0.0, 1.0))
        True

    Args:
        forward: The function; None for a context manager, which is a decorator, too.
        default_rng: Whether generators that are made meanwhile draw through PPX, too, whatever their seeds: those of
            `numpy.random.default_rng`, `Generator` and `RandomState`, and of `random.Random`. If not, they work as
            ever, but `default_rng()` without a seed is refused.
        control: Whether inference may choose the numbers.

    Returns:
        The function with the patch around it, or the context manager.

    Raises:
        UncontrolledError: The function is a generator function or a coroutine.
    """
    if inspect.iscoroutinefunction(forward) or inspect.isgeneratorfunction(forward):
        raise UncontrolledError(
            f"patched({forward.__name__}): what runs piece by piece would run outside of the patch; patch the function "
            "that runs all of it"
        )
    replacement = _replacement(default_rng, control)
    return replacement if forward is None else replacement(forward)


@functools.cache
def _replacement(default_rng: bool, control: bool) -> Replacement:
    standard, global_generator = StandardRandom(control), GlobalGenerator(control=control)
    sources: list[tuple[Any, Any]] = [(_STANDARD, standard), (_LEGACY, global_generator)]
    if default_rng:
        sources += controlled_makers(control)
    else:
        name = "numpy.random.default_rng"
        sources.append((np.random.default_rng, left_alone(np.random.default_rng, name, refuse=True)))
    for module, names, generator in (
        (random, _STANDARD_NAMES, standard),
        (np.random, _LEGACY_NAMES, global_generator),
    ):
        for name, function in names.items():
            sources.append(
                (function, getattr(generator, name, None) or _refusal(f"{module.__name__}.{name}"))
            )
    return Replacement(sources)


def _methods(module: Any, generator: Any) -> dict[str, Any]:
    """The functions of a module that are methods of its generator."""
    return {name: f for name, f in vars(module).items() if getattr(f, "__self__", None) is generator}


_STANDARD = random._inst
_STANDARD_NAMES = _methods(random, _STANDARD)
_LEGACY = np.random.mtrand._rand
_LEGACY_NAMES = _methods(np.random, _LEGACY) | {
    name: getattr(np.random, name)
    for name in ("get_bit_generator", "ranf", "sample", "seed", "set_bit_generator")
}


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise UncontrolledError(
            f"{name} is not controlled by PPX; use another function, or ppx_client.sample"
        )

    return refuse


@functools.cache
def watching() -> Replacement:
    """Looks at the seeds that a model gives, for fixed ones among them, and changes nothing."""
    functions: dict[str, Callable[..., Any]] = {
        "random.seed": random.seed,
        "numpy.random.seed": np.random.seed,
        "numpy.random.default_rng": np.random.default_rng,
    }
    return Replacement([(function, left_alone(function, name)) for name, function in functions.items()])

"""The statements of a model: sample, observe, tag, scope, uncontrolled, rejection."""

from __future__ import annotations

import sys
from contextlib import ContextDecorator
from contextvars import Token
from types import FrameType
from typing import TYPE_CHECKING, Any

from ppx_client import local
from ppx_client.attribution import current, note_scopes, scopes
from ppx_client.call_sites import call_site
from ppx_client.distributions import Distribution
from ppx_client.errors import PPXError
from ppx_client.traces import Running, left_to_prior, match_shapes, prefix
from ppx_client.values import to_python, to_tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def sample(distribution: Distribution, name: str | None = None, control: bool = True) -> Any:
    """Makes a random choice.

    Args:
        distribution: The prior of the choice.
        name: Name of the choice, its address; by default the address is the call site. The same name may be drawn
            many times in a trace.
        control: Whether inference may choose the value; False for randomness that inference should leave alone.

    Returns:
        A float, for Categorical, Poisson, Bernoulli and Binomial an int; for array parameters an array of float64 or
        int64. Without a controller it is a draw from the distribution.

    Raises:
        CapabilityError: The controller does not know the family.
        UncontrolledError: It is made in another process than the one that serves, or on a thread that has no part in
            the running trace.
    """
    trace = current()
    if trace is None:
        return local.draw(_distribution(distribution))
    address = _address(name, sys._getframe(1))
    return trace.sample(_distribution(distribution), address, name or "", control)


def observe(distribution: Distribution, value: ArrayLike | None = None, name: str | None = None) -> Any:
    """States that something with this distribution has been measured.

    Args:
        distribution: The likelihood.
        value: The measured value, if the model knows it; otherwise the controller knows it, by name. If it is an
            array and the distribution is scalar, its elements are independent measurements.
        name: Name by which the controller gives the value; by default the call site.

    Returns:
        What is observed: the controller's value, or a draw from the distribution in prior runs. A controller of
        PPX 1.0 keeps the value for itself: then it is `value`, or NaN if there is none. Without a controller it is
        `value`, or a draw from the distribution.

    Raises:
        TensorError: `value` is not numeric, holds NaN or has another shape than the distribution.
        CapabilityError: The controller does not know the family.
    """
    trace = current()
    distribution = _distribution(distribution)
    if value is None and trace is None:
        return local.draw(distribution)
    address = _address(name, sys._getframe(1))
    given = None
    if value is not None:
        given = to_tensor(value, f"the observed value at {address}", "pass one")
        distribution = match_shapes(distribution, given, address)
        if trace is None:
            return to_python(distribution, given)
    assert trace is not None
    return trace.observe(distribution, given, address, name or "")


def tag(value: ArrayLike, name: str | None = None) -> None:
    """Reports a quantity that the model computed, to be found by name in the results. Without a controller a no-op.

    Args:
        value: A number or an array of numbers.
        name: Its name; by default the call site.

    Raises:
        TensorError: The value is not numeric.
    """
    address = _address(name, sys._getframe(1))
    tensor = to_tensor(value, f"the tag {address}", "tag every part under a name of its own")
    trace = current()
    if trace is not None:
        trace.tag(tensor, address, name or "")


class scope:  # noqa: N801 (it reads as a statement)
    """Puts a name in front of all addresses of a block, so that a function used in two places has two sets of them.

    Example:
        >>> import ppx_client as ppx
        >>> with ppx.scope("detector"):  # the address is detector/hit
        ...     ppx.observe(ppx.Normal(0.0, 1.0), 0.5, name="hit")
        0.5

    Args:
        name: Name of the block, not empty.
    """

    __slots__ = ("_name", "_tokens")

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise PPXError(f"scope({name!r}): the name must be a string that is not empty")
        self._name = name
        self._tokens: list[Token[str | None]] = []

    def __enter__(self) -> None:
        names = f"{scopes()}{self._name}/"
        self._tokens.append(prefix.set(names))
        note_scopes(names)

    def __exit__(self, *exception: object) -> None:
        prefix.reset(self._tokens.pop())
        note_scopes(scopes())


class uncontrolled(ContextDecorator):  # noqa: N801 (it reads as a statement)
    """Leaves all draws in a block, or in a function that it decorates, to the prior, whatever makes them.

    A program may draw thousands of numbers that nobody asks for. Draws that are not controlled cost inference next to
    nothing: they are drawn anew in every execution, and results do not hold them.

    Example:
        >>> import ppx_client as ppx
        >>> with ppx.uncontrolled():  # as if each said control=False
        ...     noise = [ppx.sample(ppx.Normal(0.0, 1.0), name="noise") for _ in range(1000)]
    """

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens: list[Token[bool]] = []

    def __enter__(self) -> None:
        self._tokens.append(left_to_prior.set(True))

    def __exit__(self, *exception: object) -> None:
        left_to_prior.reset(self._tokens.pop())

    def _recreate_cm(self) -> uncontrolled:
        return uncontrolled()  # calls of a decorated function may overlap, in threads and elsewhere


class rejection:  # noqa: N801 (it reads as a statement)
    """Marks a loop that draws until something is accepted. Addresses stay as they are.

    What was rejected says nothing about what is measured; where a loop is marked, inference can leave it out.

    Example:
        >>> import ppx_client as ppx
        >>> def positive():
        ...     with ppx.rejection("positive"):
        ...         while True:
        ...             if (x := ppx.sample(ppx.Normal(0.0, 1.0), name="x")) > 0.0:
        ...                 return x

    Args:
        name: Name of the loop; by default the call site.
    """

    __slots__ = ("_address", "_name", "_open")

    def __init__(self, name: str | None = None) -> None:
        self._address = _address(name, sys._getframe(1))
        self._name = name or ""
        self._open: list[tuple[Running, int] | None] = []

    def __enter__(self) -> None:
        trace = current()
        begun = None if trace is None else (trace, trace.begin_rejection(self._address, self._name))
        self._open.append(begun)

    def __exit__(self, *exception: object) -> None:
        begun = self._open.pop()
        if begun is not None:
            trace, loop = begun
            trace.end_rejection(self._address, self._name, loop)


def _address(name: str | None, frame: FrameType) -> str:
    """Enclosing scopes, then the name, or the call site if there is none."""
    if name is None:
        return scopes() + call_site(frame)
    if type(name) is not str or not name:
        raise PPXError(f"name = {name!r}: give a string that is not empty, or None to use the call site")
    return scopes() + name


def _distribution(distribution: Distribution) -> Distribution:
    if not isinstance(distribution, Distribution):
        raise PPXError(
            f"{distribution!r} is a {type(distribution).__name__}, not a distribution; write e.g. ppx.Normal(0.0, 1.0)"
        )
    return distribution

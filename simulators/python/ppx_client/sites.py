"""The numbering of addresses, and what a simulator remembers of each draw between its visits.

A simulator numbers its addresses once, in the order in which it first mentions them; each controller is told what it
has not been told yet.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from ppx_client.columns import Address
from ppx_client.quantiles import SCALAR

_DISCRETE = frozenset((3, 4, 5, 10))

NEVER = -1
"""Number of an address that was not mentioned yet."""


class Site:
    """A draw of the model, whatever the visit.

    Attributes:
        address: What it is.
        number: Its number, NEVER before the first visit.
        place: Number of its (address, name): visits are counted whatever the family and shape. Likewise NEVER.
        discrete: Whether its values are whole numbers.
        quantile: Value of tails, coordinate and parameter vector, for one element.
        vector: The parameter vector last used in the running batch, None before the first.
        params: Its number within the batch.
    """

    __slots__ = ("address", "discrete", "number", "params", "place", "quantile", "vector")

    def __init__(
        self, address: Address, quantile: Callable[[float, float, float, Sequence[float]], float]
    ) -> None:
        self.address = address
        self.number = self.place = NEVER
        self.discrete = address.family in _DISCRETE
        self.quantile = quantile
        self.vector: Sequence[float] | None = None
        self.params = 0


class Sites:
    """All addresses of a simulator: those that its model has mentioned.

    What controllers force may never come; it is known while the batch that forces it is executed, and forgotten then.

    Attributes:
        addresses: By number.
        families: Code of the family by number.
        draws: Sites by address, name, code of the family and shape.
    """

    def __init__(self) -> None:
        self.addresses: list[Address] = []
        self.families = array("B")
        self.draws: dict[tuple[str, str, int, tuple[int, ...]], Site] = {}
        self._expected: dict[tuple[str, str, int, tuple[int, ...]], Site] = {}
        self._numbers: dict[tuple[str, str, int, tuple[int, ...]], int] = {}
        self._places: dict[tuple[str, str], int] = {}

    def number(self, address: str, name: str, family: int, shape: tuple[int, ...]) -> int:
        """The number of an address; it gets one when it is first mentioned."""
        key = address, name, family, shape
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.addresses)
            self.addresses.append(Address(*key))
            self.families.append(family)
        return number

    def visit(self, key: tuple[str, str, int, tuple[int, ...]]) -> Site:
        """The site of a draw, at its first visit."""
        site = self._expected.pop(key, None) or Site(Address(*key), SCALAR[key[2]])
        site.place = self._places.setdefault(key[:2], len(self._places))
        site.number = self.number(*key)
        self.draws[key] = site
        return site

    def expect(self, address: Address) -> Site:
        """The site of a draw that may come in the running batch."""
        key = address.address, address.name, address.family, address.shape
        site = self.draws.get(key) or self._expected.get(key)
        if site is None:
            site = self._expected[key] = Site(address, SCALAR[address.family])
        return site

    def forget_expected(self) -> None:
        """The batch is over: what did not come is nobody's."""
        self._expected.clear()

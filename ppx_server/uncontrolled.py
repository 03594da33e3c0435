"""Draws that inference leaves to the prior, as said from outside of the model, and traces without their rows.

A draw is not controlled if the model says so (`control=False`), or if its name or its whole address matches a pattern.
Simulators with the capability `uncontrolled` see to both by themselves; for others it is done here.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import translate
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ppx_server.address import Address, AddressTable
from ppx_server.trace import DrawFlag, Status, TraceBatch

_ENOUGH = 64
"""Traces after which a pattern that none of them made use of is taken for a mistake."""
_MANY_DRAWS = 300
"""Controlled draws per trace from which chains mix slowly and training takes long."""
_MATTERS = int(DrawFlag.CONTROLLED | DrawFlag.FORCED | DrawFlag.GUIDED | DrawFlag.PENDING)


@dataclass(frozen=True)
class Uncontrolled:
    """Which draws are left to the prior, and whether traces hold them.

    Attributes:
        patterns: As those of a shell: `*` is any text, `?` one character, `[abc]` one of a set, `[!abc]` none of it.
            A draw is not controlled if its name or its whole address matches one, case included.
        omitted: Whether traces have no rows for draws that are not controlled, unless a script forced them.
    """

    patterns: tuple[str, ...] = ()
    omitted: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.patterns, str) or not all(isinstance(p, str) and p for p in self.patterns):
            raise ValueError(
                f"uncontrolled is {self.patterns!r}; give a list of patterns of names or addresses, such as ['noise*']"
            )

    @cached_property
    def _expressions(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(translate(pattern)) for pattern in self.patterns)

    def matches(self, address: str, name: str) -> bool:
        """Whether a draw of this address and name (empty if it has none) matches a pattern."""
        return any(e.match(address) or (name and e.match(name)) for e in self._expressions)

    def unmatched(self, draws: Iterable[Address]) -> tuple[str, ...]:
        """The patterns that match none of these draws."""
        known = list(draws)
        return tuple(
            pattern
            for pattern, e in zip(self.patterns, self._expressions, strict=True)
            if not any(e.match(a.address) or (a.name and e.match(a.name)) for a in known)
        )


def noise_advice(traces: TraceBatch) -> str:
    """What to do about traces with very many controlled draws, most of which may be noise; empty if there are few."""
    succeeded = traces if not traces.status.any() else traces.select(traces.status == Status.OK)
    if not len(succeeded):
        return ""
    ids = succeeded.address_id[succeeded.controlled]
    if len(ids) < _MANY_DRAWS * len(succeeded):
        return ""
    visits = np.bincount(ids)
    most = int(np.argmax(visits))
    address, each = traces.addresses[most], visits[most] / len(succeeded)
    pattern = escape(address.name or address.address)
    place = address.name or address.address
    return (
        f"inference chooses {len(ids) / len(succeeded):,.0f} draws per trace one by one, {each:,.0f} of them at "
        f"{place!r}; leave what is noise to the prior: by control=False or a region `uncontrolled` in the model, or "
        f"from outside by uncontrolled=[{pattern!r}] (--uncontrolled {shlex.quote(pattern)})"
    )


def escape(text: str) -> str:
    """The pattern that matches a text alone."""
    return re.sub(r"([*?[])", r"[\1]", text)


EVERYTHING = Uncontrolled()
"""What the model lets inference choose is controlled, and all draws have rows."""


class Search:
    """Looks which patterns match draws, and warns of those that match none: like an observation that nobody asks for.

    Args:
        uncontrolled: The patterns.
        addresses: What address ids stand for; may grow.
    """

    def __init__(self, uncontrolled: Uncontrolled, addresses: AddressTable) -> None:
        self._uncontrolled = uncontrolled
        self._addresses = addresses
        self._observed: set[int] = set()
        self._num_traces = 0
        self._is_over = not uncontrolled.patterns

    def look(self, traces: TraceBatch) -> None:
        """Takes traces into account; after some it has seen enough."""
        if self._is_over:
            return
        self._num_traces += int((traces.status == Status.OK).sum())
        self._observed.update(np.unique(traces.observations.address_id).tolist())
        if self._num_traces >= _ENOUGH or not self._unmatched():
            self.end()

    def end(self) -> None:
        """Says what was not found, once."""
        unmatched = () if self._is_over or not self._num_traces else self._unmatched()
        self._is_over = True
        if unmatched:
            warnings.warn(
                f"no draw matches the pattern {' or '.join(map(repr, unmatched))} of uncontrolled; a pattern is "
                "that of the whole name or the whole address, and * stands for any text, as in '*/random'; `ppx check` "
                "lists the addresses",
                stacklevel=4,
            )

    def _unmatched(self) -> tuple[str, ...]:
        draws = (a for i, a in enumerate(self._addresses) if a.family and i not in self._observed)
        return self._uncontrolled.unmatched(draws)


class Left:
    """Applies patterns to the traces of simulators that do not know them; every address is looked at once.

    Args:
        uncontrolled: The patterns, and what is wanted of rows.
        addresses: What address ids stand for; may grow.
    """

    def __init__(self, uncontrolled: Uncontrolled, addresses: AddressTable) -> None:
        self._uncontrolled = uncontrolled
        self._addresses = addresses
        self._matched: NDArray[np.bool_] = np.zeros(0, np.bool_)

    def applied(self, traces: TraceBatch) -> TraceBatch:
        """The traces as a simulator would have made them that knows what is left to the prior."""
        if self._uncontrolled.patterns:
            known = len(self._matched)
            new = [
                self._uncontrolled.matches(self._addresses[i].address, self._addresses[i].name)
                for i in range(known, len(self._addresses))
            ]
            self._matched = np.concatenate([self._matched, np.array(new, np.bool_)])
            left = self._matched[traces.address_id]
            flags = np.where(left, traces.flags & ~np.uint8(DrawFlag.CONTROLLED), traces.flags)
            traces = replace(traces, flags=flags.astype(np.uint8))
        return without_uncontrolled(traces) if self._uncontrolled.omitted else traces


def without_uncontrolled(traces: TraceBatch) -> TraceBatch:
    """Traces without the rows of draws that are not controlled and that no script forced."""
    kept = traces.flags & _MATTERS != 0
    return traces if kept.all() else traces.of_rows(np.flatnonzero(kept))

"""Finding a quantity in traces by name: the values of a draw, a tag, an observation or the result, one per trace.

Letters: K traces, P of them that have the quantity, S the shape of its value.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppx_server.address import Address, AddressTable
from ppx_server.distributions import FAMILIES, Kind
from ppx_server.errors import AddressError, StoreError
from ppx_server.text import plain
from ppx_server.trace import Status, TensorTable, TraceBatch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Quantity(NamedTuple):
    """The values of one quantity.

    Attributes:
        name: What it was asked for by.
        values: `(P, *S)` float64.
        trace: `(P,)`, position of the trace that each value belongs to, increasing.
        discrete: The quantity is a draw from a discrete family.
        categorical: It is the number of a category, of which no mean can be taken.
    """

    name: str
    values: Floats
    trace: Ints
    discrete: bool
    categorical: bool = False

    def elements(self) -> Iterator[Quantity]:
        """The elements of an array, each as a quantity; a scalar is its own only one."""
        for place, name in zip(np.ndindex(self.values.shape[1:]), _elements(self), strict=True):
            yield self._replace(name=name, values=self.values[:, *place])


class Listed(NamedTuple):
    """One quantity among all that traces have.

    Attributes:
        label: What it is called: its name, or the address where that is not clear or there is no name; with `[2]`
            behind it for the third of repeated visits. No other quantity has the label.
        kind: "draw", "tag", "observation" or "result".
        ids: Addresses that it is read from.
        instance: Number of the visit.
        shape: S.
        first: A scalar that is clear without more words; tables begin with these.
    """

    label: str
    kind: str
    ids: tuple[int, ...]
    instance: int
    shape: tuple[int, ...]
    first: bool

    @property
    def size(self) -> int:
        """How many numbers it is."""
        return math.prod(self.shape)

    def holds(self, text: str) -> bool:
        """Whether a text is its label, or that of one of its elements."""
        return text == self.label or (text.startswith(f"{self.label}[") and text in _elements(self))


class _Source(NamedTuple):
    """One kind of thing that traces carry: which addresses and visits it has, and how to read one."""

    kind: str
    ids: NDArray[np.int32]
    instance: NDArray[np.int32]
    read: Callable[[int, int], tuple[Floats, Ints]]


def find(traces: TraceBatch, name: str, instance: int = 0) -> Quantity:
    """The values of a draw, else a tag, else a drawn observation, by full address or else by name.

    Several addresses can share a name (a draw in two scopes, or in two branches). They are one quantity as long as no
    trace visits two of them.

    Args:
        traces: K traces.
        name: Full address or name.
        instance: Number of the visit, from 0.

    Traces that failed do not have any: what they did is incomplete.

    Raises:
        AddressError: No trace has it, or the name is ambiguous.
        StoreError: The traces come from a store that lies about shapes.
    """
    for source in _sources(traces):
        ids = _matching(traces.addresses, _used(source.ids), name)
        if ids:
            quantity = _read(source, traces, ids, name, instance)
            if len(quantity.trace):
                return quantity._replace(name=f"{name}[{instance}]") if instance else quantity
    raise AddressError(_unknown(traces, name, instance))


def listing(traces: TraceBatch) -> list[Listed]:
    """All quantities of traces: draws, tags, observations that were drawn, and the result.

    First the scalars with a name of their own, then draws without a name, arrays, repeated visits and names that stand
    for several things.
    """
    taken: set[str] = set()
    found = []
    for source in _sources(traces):
        for group in _groups(source, traces):
            label = _new(plain(group.label), source.kind, taken)
            first = group.clear and group.visits == 1 and group.shape == ()
            for n in range(group.visits):
                text = f"{label}[{n}]" if group.visits > 1 else label
                found.append(Listed(text, source.kind, group.ids, n, group.shape, first))
    return sorted(found, key=lambda q: not q.first)


def read(traces: TraceBatch, listed: Listed) -> Quantity:
    """The values of a quantity of a listing.

    Raises:
        StoreError: The traces come from a store that lies about shapes.
    """
    source = next(s for s in _sources(traces) if s.kind == listed.kind)
    return _read(source, traces, listed.ids, listed.label, listed.instance)


def result(traces: TraceBatch) -> Quantity:
    """The simulator's return values.

    Raises:
        AddressError: The simulator returns nothing, or values of several shapes.
    """
    source = _sources(traces)[-1]
    ids = _used(source.ids)
    if not ids:
        raise AddressError("the simulator returns no result; return a number or an array from it, or tag it")
    return _read(source, traces, ids, "result", 0)


def scalar_names(traces: TraceBatch) -> tuple[str, ...]:
    """Names of the scalar draws and tags, in the order of their first appearance in the address table."""
    ids = sorted({*_used(traces.address_id), *_used(traces.tags.address_id)})
    entries = [traces.addresses[i] for i in ids]
    return tuple(dict.fromkeys(a.name for a in entries if a.name and a.shape == ()))


def element_in_draw(trace: ArrayLike, address_id: ArrayLike, instance: ArrayLike) -> NDArray[np.int64]:
    """Position of each row within its array draw; 0 for scalars.

    Args:
        trace: `(N,)` trace of each row.
        address_id: `(N,)`.
        instance: `(N,)`; consecutive rows that agree in all three belong to one draw.
    """
    keys = np.stack([np.asarray(trace), np.asarray(address_id), np.asarray(instance)])
    rows = np.arange(keys.shape[1])
    starts = np.ones(keys.shape[1], bool)
    starts[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    return rows - np.maximum.accumulate(np.where(starts, rows, 0))


def _sources(traces: TraceBatch) -> tuple[_Source, ...]:
    def read_draws(address_id: int, instance: int) -> tuple[Floats, Ints]:
        shape = traces.addresses[address_id].shape
        size = math.prod(shape)
        if size > len(traces.value):
            raise StoreError(
                f"the traces are damaged: {traces.addresses[address_id].address!r} has shape {shape}, and they hold "
                f"{len(traces.value)} numbers"
            )
        rows = traces.rows([address_id], instance)
        trace = np.flatnonzero(rows >= 0)
        return traces.value[rows[trace][:, None] + np.arange(size)].reshape(-1, *shape), trace

    tables = {"tag": traces.tags, "observation": traces.observations, "result": traces.results}
    return (
        _Source("draw", traces.address_id, traces.instance, read_draws),
        *(_Source(k, t.address_id, t.instance, _tensor_reader(traces, t)) for k, t in tables.items()),
    )


class _Group(NamedTuple):
    """Addresses that are one quantity: what to call it, and whether that is clear."""

    label: str
    ids: tuple[int, ...]
    shape: tuple[int, ...]
    visits: int
    clear: bool


def _groups(source: _Source, traces: TraceBatch) -> Iterator[_Group]:
    last = np.zeros(len(traces.addresses), np.int64)
    np.maximum.at(last, source.ids, source.instance)
    together: dict[tuple[str, Any], list[int]] = {}
    for i in _with_values(source, traces):
        _, name, _, shape = traces.addresses[i]
        key = ("result", shape) if source.kind == "result" else (name, None) if name else ("", i)
        together.setdefault(key, []).append(i)
    for (name, _), ids in together.items():
        if name and _is_one(source, traces, ids):
            yield _Group(name, tuple(ids), traces.addresses[ids[0]].shape, 1 + int(last[ids].max()), True)
        else:
            for i in ids:
                address = traces.addresses[i]
                yield _Group(address.address, (i,), address.shape, 1 + int(last[i]), False)


def _is_one(source: _Source, traces: TraceBatch, ids: Sequence[int]) -> bool:
    try:
        return len(ids) == 1 or bool(_read(source, traces, ids, "", 0))
    except AddressError:
        return False


def _with_values(source: _Source, traces: TraceBatch) -> list[int]:
    """Ids of the addresses of which traces hold values, as they do not of observations that were given."""
    if source.kind != "observation":
        return _used(source.ids)
    return _used(source.ids[np.diff(traces.observations.data_offsets) > 0])


def _new(label: str, kind: str, taken: set[str]) -> str:
    """A label that is not taken yet, and is now."""
    if label in taken:
        label += f" ({kind})"
    while label in taken:
        label += "'"
    taken.add(label)
    return label


def _elements(array: Quantity | Listed) -> list[str]:
    """Labels of the elements: `x[0]`, or `x[0,2]` of a matrix; `x[1][0]` of the second visit."""
    if isinstance(array, Quantity):
        name, shape = array.name, array.values.shape[1:]
    else:
        name, shape = array.label, array.shape
    return [f"{name}[{','.join(map(str, place))}]" for place in np.ndindex(shape)] if shape else [name]


def _tensor_reader(traces: TraceBatch, table: TensorTable) -> Callable[[int, int], tuple[Floats, Ints]]:
    addresses, status = traces.addresses, traces.status

    def read(address_id: int, instance: int) -> tuple[Floats, Ints]:
        rows = table.rows([address_id], instance)
        visited = np.flatnonzero((rows >= 0) & (status == Status.OK))
        trace = visited[np.diff(table.data_offsets)[rows[visited]] > 0]
        return table.dense(rows[trace], addresses[address_id].shape), trace

    return read


def _used(address_id: NDArray[np.int32]) -> list[int]:
    """The ids that occur, in order; for millions of rows cheaper than to sort them."""
    found: list[int] = np.flatnonzero(np.bincount(address_id)).tolist()
    return found


def _matching(addresses: AddressTable, ids: Sequence[int], name: str) -> list[int]:
    by_address = [i for i in ids if addresses[i].address == name]
    return by_address or [i for i in ids if addresses[i].name == name and name]


def _read(source: _Source, traces: TraceBatch, ids: Sequence[int], name: str, instance: int) -> Quantity:
    entries = [traces.addresses[i] for i in ids]
    if len({a.shape for a in entries}) > 1:
        raise AddressError(_ambiguous(name, entries, "they have values of different shapes"))
    parts = [source.read(i, instance) for i in ids]
    values, trace = (np.concatenate(p) if len(p) > 1 else p[0] for p in zip(*parts, strict=True))
    if len(parts) > 1:
        order = np.argsort(trace, kind="stable")
        values, trace = values[order], trace[order]
        if (trace[1:] == trace[:-1]).any():
            raise AddressError(_ambiguous(name, entries, "one trace visits several of them"))
    discrete = all(a.family in FAMILIES and FAMILIES[a.family].kind is not Kind.CONTINUOUS for a in entries)
    return Quantity(name, values, trace, discrete, all(a.family == "Categorical" for a in entries))


def _ambiguous(name: str, entries: Sequence[Address], why: str) -> str:
    listed = ", ".join(f"{a.address!r} ({a.family or 'tag'}, shape {a.shape})" for a in entries[:5])
    return (
        f"{name!r} stands for {len(entries)} addresses and {why}: {listed}; ask for one by its full address"
    )


def _unknown(traces: TraceBatch, name: str, instance: int) -> str:
    used = sorted({*_used(traces.address_id), *_used(traces.tags.address_id)})
    entries = [traces.addresses[i] for i in used]
    known = list(
        dict.fromkeys([a.name for a in entries if a.name] + [a.address for a in entries if a.address])
    )
    if name in known:
        return f"no trace visits {name!r} {instance + 1} times; its visits count from 0"
    observed = {traces.addresses[i] for i in _used(traces.observations.address_id)}
    if any(name in (a.name, a.address) for a in observed):
        return f"{name!r} is an observation that was given, so traces hold no value of it; see posterior.predictive"
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = ", ".join(map(repr, near or known[:8]))
    return (
        f"no trace has a draw or tag {name!r}; {'did you mean' if near else 'there are'} {listed or 'none'}"
    )

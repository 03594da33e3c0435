"""Finding a quantity in traces by name: the values of a draw, a tag, an observation or the result, one per trace.

Letters: K traces, P of them that have the quantity, S the shape of its value.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppx_server.address import Address, AddressTable
from ppx_server.distributions import FAMILIES, Kind
from ppx_server.errors import AddressError
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
    """

    name: str
    values: Floats
    trace: Ints
    discrete: bool


class _Source(NamedTuple):
    """One kind of thing that traces carry: which addresses it has, and how to read one address."""

    ids: NDArray[np.int32]
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
    """
    for source in _sources(traces):
        ids = _matching(traces.addresses, _used(source.ids), name)
        if ids:
            quantity = _read(source, traces, ids, name, instance)
            if len(quantity.trace):
                return quantity
    raise AddressError(_unknown(traces, name, instance))


def result(traces: TraceBatch) -> Quantity:
    """The simulator's return values.

    Raises:
        AddressError: The simulator returns nothing, or values of several shapes.
    """
    ids = _used(traces.results.address_id)
    source = _Source(traces.results.address_id, _tensor_reader(traces, traces.results))
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


def _sources(traces: TraceBatch) -> tuple[_Source, _Source, _Source]:
    def read_draws(address_id: int, instance: int) -> tuple[Floats, Ints]:
        shape = traces.addresses[address_id].shape
        rows = traces.rows([address_id], instance)
        trace = np.flatnonzero(rows >= 0)
        size = int(np.prod(shape, dtype=np.int64))
        return traces.value[rows[trace][:, None] + np.arange(size)].reshape(-1, *shape), trace

    return (
        _Source(traces.address_id, read_draws),
        _Source(traces.tags.address_id, _tensor_reader(traces, traces.tags)),
        _Source(_drawn(traces.observations), _tensor_reader(traces, traces.observations)),
    )


def _drawn(table: TensorTable) -> NDArray[np.int32]:
    """Addresses of rows that hold a value: an observation was drawn, or some of its elements were."""
    return table.address_id[np.diff(table.data_offsets) > 0]


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
    return Quantity(name, values, trace, discrete)


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
    if any(a.family and name in (a.name, a.address) for a in traces.addresses):
        return (
            f"traces hold no draw {name!r}: it is left to the prior (control=False, or uncontrolled=...), or was not "
            "asked for (keep=...); Simulator(..., keep_uncontrolled=True) keeps such draws"
        )
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = ", ".join(map(repr, near or known[:8]))
    return (
        f"no trace has a draw or tag {name!r}; {'did you mean' if near else 'there are'} {listed or 'none'}"
    )

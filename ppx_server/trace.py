"""Traces: what executions of the simulator did, in columns.

K executions are a handful of arrays, with no Python object per draw. Letters: K traces, N draws of all traces together
(one row per scalar; an array draw of n elements is n consecutive rows), M rows of a tensor table, P distinct parameter
vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, IntFlag
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppx_server.address import AddressTable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ids = NDArray[np.int32]


class Status(IntEnum):
    """How an execution ended."""

    OK = 0
    FAILED = 1
    PENDING = 2
    """It stopped at a draw that its script does not cover; only while a batch is being executed."""


class DrawFlag(IntFlag):
    """What a draw was."""

    CONTROLLED = 1
    """The simulator lets inference choose this draw (`control=True`)."""
    FORCED = 2
    """A script forced the value."""
    GUIDED = 4
    """A guide chose the value."""
    PENDING = 8
    """The value has not been chosen yet; only in traces that are pending."""


_FAILED = int(Status.FAILED)


def segment_sum(values: Floats, offsets: Ints) -> Floats:
    """Sums `values[offsets[k]:offsets[k + 1]]` for every k; an empty segment sums to 0.

    Args:
        values: `(N,)`; infinities stay in their own segment.
        offsets: `(K + 1,)`, non-decreasing, from 0 to N.

    Returns:
        `(K,)` sums.
    """
    counts = np.diff(offsets)
    rows = np.repeat(np.arange(len(counts)), counts)
    sums: Floats = np.bincount(rows, weights=values, minlength=len(counts)).astype(np.float64)
    return sums


def _positions(rows: ArrayLike, size: int) -> Ints:
    """Positions `(R,)`, given as such or as a mask `(size,)`."""
    rows = np.asarray(rows)
    return np.arange(size)[rows] if rows.dtype == np.bool_ else rows.astype(np.int64)


def positions(offsets: Ints) -> Ints:
    """`(N,)` number of each element within its segment, from 0."""
    counts = np.diff(offsets)
    number: Ints = np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], counts)
    return number


def gather(offsets: Ints, rows: ArrayLike) -> tuple[Ints, Ints]:
    """Positions of the elements of chosen segments, and the offsets of the chosen segments after gathering.

    Args:
        offsets: `(K + 1,)`.
        rows: `(R,)` segment numbers, repeats allowed, or a mask `(K,)`.

    Returns:
        Positions `(sum of lengths,)` into the flat array, and new offsets `(R + 1,)`.
    """
    rows = _positions(rows, len(offsets) - 1)
    counts = (offsets[1:] - offsets[:-1])[rows]
    new_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    starts = np.repeat(offsets[:-1][rows] - new_offsets[:-1], counts)
    return starts + np.arange(new_offsets[-1]), new_offsets


def _visits(address_id: Ids, instance: Ids, wanted: Iterable[int], visit: int) -> Ints:
    """Rows at one of the wanted addresses, in the given visit."""
    mask = np.zeros(len(address_id), bool)
    for one in wanted:
        mask |= address_id == one
    return np.flatnonzero(mask & (instance == visit))


@dataclass(frozen=True, eq=False)
class Params:
    """P distinct parameter vectors of priors; draws point into it.

    Attributes:
        data: All vectors one after the other, float64.
        offsets: `(P + 1,)`; vector p is `data[offsets[p]:offsets[p + 1]]`: the family's parameters in wire order,
            or for Categorical the probabilities.
    """

    data: Floats
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, params_id: int) -> Floats:
        return self.data[self.offsets[params_id] : self.offsets[params_id + 1]]

    def matrix(self, params_id: ArrayLike) -> Floats:
        """Rows of vectors that all have the same length, as `(len(params_id), length)`."""
        params_id = np.asarray(params_id, np.int64)
        starts = self.offsets[params_id]
        lengths = self.offsets[params_id + 1] - starts
        if len(lengths) == 0:
            return np.empty((0, 0))
        if (lengths != lengths[0]).any():
            raise ValueError("parameter vectors of different lengths do not form a matrix; group them first")
        matrix: Floats = self.data[starts[:, None] + np.arange(lengths[0])]
        return matrix


@dataclass(frozen=True, eq=False)
class TensorTable:
    """Tensors that traces carry besides their draws: observations, tags or results. M rows.

    Attributes:
        offsets: `(K + 1,)`; rows of trace k are `offsets[k]:offsets[k + 1]`.
        address_id: `(M,)` int32; its address-table entry holds name and shape.
        instance: `(M,)` int32, number of the visit.
        data: Values of all rows one after the other, float64.
        data_offsets: `(M + 1,)`; a row of length 0 holds no value (an observation that was given).
        log_prob: `(M,)`, log density of observations; zeros for tags and results.
    """

    offsets: Ints
    address_id: Ids
    instance: Ids
    data: Floats
    data_offsets: Ints
    log_prob: Floats

    def rows(self, address_ids: Iterable[int], instance: int = 0) -> Ints:
        """The row of each trace at an address, as `(K,)`; -1 where the trace does not visit it."""
        positions = _visits(self.address_id, self.instance, address_ids, instance)
        found = np.full(len(self.offsets) - 1, -1, np.int64)
        traces = np.arange(len(found), dtype=np.int32)
        found[np.repeat(traces, np.diff(self.offsets))[positions]] = positions
        return found

    def dense(self, rows: ArrayLike, shape: tuple[int, ...]) -> Floats:
        """Values of the given rows, as `(len(rows), *shape)`.

        Raises:
            ValueError: A row has another size than `shape`, such as a given observation, which holds no value.
        """
        positions, offsets = gather(self.data_offsets, rows)
        size = int(np.prod(shape, dtype=np.int64))
        if (np.diff(offsets) != size).any():
            raise ValueError(f"rows do not all hold {size} values, as shape {shape} asks")
        return self.data[positions].reshape(-1, *shape)

    def select(self, traces: ArrayLike) -> TensorTable:
        """The table of chosen traces, in the given order."""
        rows, offsets = gather(self.offsets, traces)
        data, data_offsets = gather(self.data_offsets, rows)
        return TensorTable(
            offsets,
            self.address_id[rows],
            self.instance[rows],
            self.data[data],
            data_offsets,
            self.log_prob[rows],
        )

    def of_rows(self, rows: Ints) -> TensorTable:
        """The same traces with some of their rows `(R,)` only, in order."""
        data, data_offsets = gather(self.data_offsets, rows)
        return TensorTable(
            np.searchsorted(rows, self.offsets).astype(np.int64),
            self.address_id[rows],
            self.instance[rows],
            self.data[data],
            data_offsets,
            self.log_prob[rows],
        )

    @classmethod
    def empty(cls, num_traces: int) -> TensorTable:
        """A table without rows."""
        ids = np.empty(0, np.int32)
        return cls(
            np.zeros(num_traces + 1, np.int64), ids, ids, np.empty(0), np.zeros(1, np.int64), np.empty(0)
        )

    @classmethod
    def concatenate(cls, tables: Sequence[TensorTable]) -> TensorTable:
        """The tables of several batches, one after the other."""
        return cls(
            offsets=_join_offsets([t.offsets for t in tables]),
            address_id=np.concatenate([t.address_id for t in tables]),
            instance=np.concatenate([t.instance for t in tables]),
            data=np.concatenate([t.data for t in tables]),
            data_offsets=_join_offsets([t.data_offsets for t in tables]),
            log_prob=np.concatenate([t.log_prob for t in tables]),
        )


@dataclass(frozen=True, eq=False)
class LoopTable:
    """Rejection loops: which draws of a trace were made to find one that is accepted. R loops.

    Attributes:
        offsets: `(K + 1,)`; loops of trace k are rows `offsets[k]:offsets[k + 1]`, in the order in which they began.
        address_id: `(R,)` int32.
        begin: `(R,)` int32, number within its trace of the first draw in the loop.
        end: `(R,)` int32, number of the first draw after it.
    """

    offsets: Ints
    address_id: Ids
    begin: Ids
    end: Ids

    def select(self, traces: ArrayLike) -> LoopTable:
        """The table of chosen traces, in the given order."""
        rows, offsets = gather(self.offsets, traces)
        return LoopTable(offsets, self.address_id[rows], self.begin[rows], self.end[rows])

    @classmethod
    def empty(cls, num_traces: int) -> LoopTable:
        """A table without loops."""
        ids = np.empty(0, np.int32)
        return cls(np.zeros(num_traces + 1, np.int64), ids, ids, ids)

    @classmethod
    def concatenate(cls, tables: Sequence[LoopTable]) -> LoopTable:
        """The tables of several batches, one after the other."""
        return cls(
            _join_offsets([t.offsets for t in tables]),
            np.concatenate([t.address_id for t in tables]),
            np.concatenate([t.begin for t in tables]),
            np.concatenate([t.end for t in tables]),
        )


def _join_offsets(parts: Sequence[Ints]) -> Ints:
    bounds = np.array([(p[0], p[-1]) for p in parts], np.int64).T
    shifts = np.cumsum(bounds[1] - bounds[0]) - bounds[1]
    joined = np.concatenate([np.zeros(1, np.int64), *(p[1:] for p in parts)])
    joined[1:] += np.repeat(shifts, [len(p) - 1 for p in parts])
    return joined


@dataclass(frozen=True, eq=False)
class TraceBatch:
    """What K executions did.

    Attributes:
        addresses: What `address_id` stands for; shared by all batches of one simulator, append-only.
        seed: Seed of the run.
        index: `(K,)` int64, trace index of each execution.
        status: `(K,)` uint8, a `Status`.
        offsets: `(K + 1,)`; draws of trace k are rows `offsets[k]:offsets[k + 1]`, in the order they were made.
        address_id: `(N,)` int32.
        instance: `(N,)` int32, number of the visit to the address within the trace, from 0.
        params_id: `(N,)` int32, row of `params`.
        params: Parameters of the draws' priors.
        value: `(N,)` float64.
        z: `(N,)` float64, standard coordinate of the value: standard normal under the prior.
        log_prob: `(N,)`, log prior density (mass) of the value; -inf outside the support.
        log_q: `(N,)`, log density the value was actually drawn with; equals `log_prob` for prior and forced draws, and
            is the same array where there are no others.
        flags: `(N,)` uint8, `DrawFlag`s.
        ordinal: `(N,)` int64, how many scalar draws the trace made before each; None where all its draws have rows. See
            `ordinals`.
        observations: Observations with their `log_prob`; they hold a value only where it was drawn.
        tags: Tagged values.
        results: What the simulator returned, at most one row per trace.
        loops: Rejection loops, where the simulator marks them.
        failures: Reason by trace index, for traces whose status is FAILED.
    """

    addresses: AddressTable
    seed: int
    index: Ints
    status: NDArray[np.uint8]
    offsets: Ints
    address_id: Ids
    instance: Ids
    params_id: Ids
    params: Params
    value: Floats
    z: Floats
    log_prob: Floats
    log_q: Floats
    flags: NDArray[np.uint8]
    observations: TensorTable
    tags: TensorTable
    results: TensorTable
    loops: LoopTable
    failures: Mapping[int, str] = field(default_factory=dict)
    ordinal: Ints | None = None

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def length(self) -> Ints:
        """`(K,)` number of draws of each trace that have rows."""
        return np.diff(self.offsets)

    @cached_property
    def ordinals(self) -> Ints:
        """`(N,)` how many scalar draws the trace made before each: with seed and index they fix its random number."""
        return positions(self.offsets) if self.ordinal is None else self.ordinal

    @cached_property
    def controlled(self) -> NDArray[np.bool_]:
        """`(N,)`, True for draws that inference may choose."""
        controlled: NDArray[np.bool_] = (self.flags & DrawFlag.CONTROLLED) != 0
        return controlled

    @cached_property
    def log_likelihood(self) -> Floats:
        """`(K,)` log density of the observations, given the draws."""
        return segment_sum(self.observations.log_prob, self.observations.offsets)

    @cached_property
    def log_prior(self) -> Floats:
        """`(K,)` log density of the controlled draws under the prior."""
        return segment_sum(np.where(self.controlled, self.log_prob, 0.0), self.offsets)

    @cached_property
    def log_weight(self) -> Floats:
        """`(K,)` importance weights: observations' log_prob + sum over controlled draws of (log_prob - log_q).

        A trace that failed has weight 0: what is inferred is inferred given that the simulator finishes.
        """
        outside = np.isneginf(self.log_prob)
        log_weight = self.log_likelihood
        if self.log_q is not self.log_prob or outside.any():
            ratio = np.where(outside, -np.inf, np.where(self.controlled, self.log_prob, 0.0))
            ratio = ratio - np.where(self.controlled & ~outside, self.log_q, 0.0)
            log_weight = log_weight + segment_sum(ratio, self.offsets)
        return np.where(self.status == Status.OK, log_weight, -np.inf) if self.status.any() else log_weight

    def rows(self, address_ids: Iterable[int], instance: int = 0) -> Ints:
        """First row of each trace at an address, as `(K,)`; -1 where the trace does not visit it, or failed."""
        positions = _visits(self.address_id, self.instance, address_ids, instance)
        trace = np.repeat(np.arange(len(self), dtype=np.int32), self.length)[positions]
        found = np.full(len(self), -1, np.int64)
        # In reverse, so that the first of an array draw's rows is the one that stays.
        found[trace[::-1]] = positions[::-1]
        if self.status.any():
            found[self.status != Status.OK] = -1
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the columns take; an array that is two columns counts once."""
        tables = (self, self.params, self.observations, self.tags, self.results, self.loops)
        arrays = [a for t in tables for a in vars(t).values() if isinstance(a, np.ndarray)]
        return sum(a.nbytes for a in {id(a): a for a in arrays}.values())

    def select(self, traces: ArrayLike) -> TraceBatch:
        """Chosen traces: positions in the wanted order, repeats allowed, or a mask `(K,)`."""
        traces = _positions(traces, len(self))
        rows, offsets = gather(self.offsets, traces)
        columns = {name: getattr(self, name)[rows] for name in _DRAW_COLUMNS if name != "log_q"}
        columns["log_q"] = columns["log_prob"] if self.log_q is self.log_prob else self.log_q[rows]
        columns["ordinal"] = None if self.ordinal is None else self.ordinal[rows]
        index, status = self.index[traces], self.status[traces]
        failed = set(index[status == _FAILED].tolist()) if self.failures else ()
        return replace(
            self,
            index=index,
            status=status,
            offsets=offsets,
            **columns,
            failures={i: self.failures[i] for i in failed if i in self.failures},
            observations=self.observations.select(traces),
            tags=self.tags.select(traces),
            results=self.results.select(traces),
            loops=self.loops.select(traces),
        )

    def of_rows(self, rows: Ints) -> TraceBatch:
        """The same traces with some of their draws only; the others are no longer known.

        Args:
            rows: `(R,)` rows of the draws, increasing.
        """
        columns = {name: getattr(self, name)[rows] for name in _DRAW_COLUMNS if name != "log_q"}
        columns["log_q"] = columns["log_prob"] if self.log_q is self.log_prob else self.log_q[rows]
        offsets = np.searchsorted(rows, self.offsets).astype(np.int64)
        loops = self.loops
        if len(loops.begin):
            trace = np.repeat(np.arange(len(self)), np.diff(loops.offsets))
            begin, end = (
                (np.searchsorted(rows, self.offsets[trace] + at) - offsets[trace]).astype(np.int32)
                for at in (loops.begin, loops.end)
            )
            loops = replace(loops, begin=begin, end=end)
        return replace(self, **columns, offsets=offsets, loops=loops, ordinal=self.ordinals[rows])

    def with_tags(self, rows: Ints) -> TraceBatch:
        """The same traces with some of their tags only."""
        return replace(self, tags=self.tags.of_rows(rows))

    @classmethod
    def concatenate(cls, batches: Sequence[TraceBatch]) -> TraceBatch:
        """Batches of one simulator and seed, one after the other.

        Raises:
            ValueError: There is no batch, or the batches do not share one address table and seed.
        """
        if not batches:
            raise ValueError("no batch to concatenate")
        first = batches[0]
        if len(batches) == 1:
            return first
        if any(b.addresses is not first.addresses for b in batches):
            raise ValueError("batches of different simulators do not share an address table")
        if any(b.seed != first.seed for b in batches):
            raise ValueError(
                "batches of different seeds: a trace index says which trace it is within one seed only"
            )
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(b, name) for b in batches])
            for name in (*_DRAW_COLUMNS, "index", "status")
            if name not in ("params_id", "log_q")
        }
        prior = all(b.log_q is b.log_prob for b in batches)
        columns["log_q"] = columns["log_prob"] if prior else np.concatenate([b.log_q for b in batches])
        if any(b.ordinal is not None for b in batches):
            columns["ordinal"] = np.concatenate([b.ordinals for b in batches])
        params_id = np.empty(len(columns["value"]), np.int32)
        row = shift = 0
        for b in batches:
            np.add(b.params_id, shift, out=params_id[row : row + len(b.params_id)], casting="unsafe")
            row, shift = row + len(b.params_id), shift + len(b.params)
        return replace(
            first,
            **columns,
            offsets=_join_offsets([b.offsets for b in batches]),
            params_id=params_id,
            params=Params(
                np.concatenate([b.params.data for b in batches]),
                _join_offsets([b.params.offsets for b in batches]),
            ),
            observations=TensorTable.concatenate([b.observations for b in batches]),
            tags=TensorTable.concatenate([b.tags for b in batches]),
            results=TensorTable.concatenate([b.results for b in batches]),
            loops=LoopTable.concatenate([b.loops for b in batches]),
            failures={k: v for b in batches for k, v in b.failures.items()},
        )


_DRAW_COLUMNS = ("address_id", "instance", "params_id", "value", "z", "log_prob", "log_q", "flags")

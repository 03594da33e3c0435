"""Collects what simulators send while traces run, and lays it out in columns when they are done."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ppx_server.address import AddressTable
from ppx_server.distributions import FAMILIES, Family, log_prob_columns, to_z_columns
from ppx_server.errors import RemoteProtocolError
from ppx_server.trace import DrawFlag, LoopTable, Params, Status, TensorTable, TraceBatch, positions

Floats = NDArray[np.float64]

_NAN = float("nan")
_NO_VALUE: tuple[float, ...] = ()
_DRAW_WIDTH = 8  # address_id, instance, params_id, value, z, log_ratio, flags, ordinal


class ParamsInterner:
    """The distinct parameter vectors of one batch, each checked once."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, tuple[float, ...]], int] = {}

    def intern(self, family: Family, params: tuple[float, ...]) -> int:
        """Returns the id of a scalar draw's parameters.

        Raises:
            DistributionError: The parameters are outside the family's domain.
        """
        key = (family.name, params)
        params_id = self._ids.get(key)
        if params_id is None:
            family.validate_scalar(params)
            params_id = self._ids[key] = len(self._ids)
        return params_id

    def columns(self) -> tuple[Params, NDArray[np.int64]]:
        """The vectors, and the family code of each."""
        vectors = [params for _, params in self._ids]
        offsets = np.cumsum([0] + [len(v) for v in vectors], dtype=np.int64)
        data = np.fromiter((p for v in vectors for p in v), np.float64, int(offsets[-1]))
        codes = np.fromiter((FAMILIES[name].code for name, _ in self._ids), np.int64, len(vectors))
        return Params(data, offsets), codes


class Recording:
    """What one trace did so far.

    Attributes:
        num_made: Scalar draws made, with those that have no rows.
    """

    __slots__ = ("_open_loops", "draws", "loops", "num_made", "observations", "results", "tags")

    def __init__(self) -> None:
        self.draws = array("d")
        self.num_made = 0
        self.loops: list[list[int]] = []
        self._open_loops: list[list[int]] = []
        self.observations = _TensorRows()
        self.tags = _TensorRows()
        self.results = _TensorRows()

    @property
    def num_draws(self) -> int:
        """Scalar draws recorded so far."""
        return len(self.draws) // _DRAW_WIDTH

    def add_draw(
        self,
        address_id: int,
        instance: int,
        params_id: int,
        value: float,
        z: float,
        log_ratio: float,
        flags: int,
    ) -> None:
        """Records one scalar draw; `z` NaN means "to be computed from the value"."""
        self.draws.extend((address_id, instance, params_id, value, z, log_ratio, flags, self.num_made))
        self.num_made += 1

    def leave_out(self) -> None:
        """Counts a scalar draw that is not recorded."""
        self.num_made += 1

    def begin_loop(self, address_id: int) -> None:
        """Records that a rejection loop begins before the next draw."""
        loop = [address_id, self.num_draws, -1]
        self.loops.append(loop)
        self._open_loops.append(loop)

    def end_loop(self) -> None:
        """Records that the innermost open loop has ended.

        Raises:
            RemoteProtocolError: None is open.
        """
        if not self._open_loops:
            raise RemoteProtocolError("a rejection loop ends that has not begun")
        self._open_loops.pop()[2] = self.num_draws

    def close_loops(self) -> None:
        """Ends the loops that are open, with the trace."""
        while self._open_loops:
            self.end_loop()


class _TensorRows:
    """Rows of a `TensorTable` in the making, for one trace."""

    __slots__ = ("address_ids", "instances", "log_probs", "scalars", "values")

    def __init__(self) -> None:
        self.address_ids: list[int] = []
        self.instances: list[int] = []
        self.values: list[NDArray[np.float64] | tuple[float, ...]] = []
        self.log_probs: list[float] = []
        self.scalars: list[tuple[float, int]] = []

    def add(
        self, address_id: int, instance: int, value: NDArray[np.float64] | float | None, log_prob: float = 0.0
    ) -> None:
        """Adds a row; `value` None means that it holds none."""
        self.address_ids.append(address_id)
        self.instances.append(instance)
        if value is None:
            self.values.append(_NO_VALUE)
        else:
            self.values.append((value,) if isinstance(value, float) else value.ravel())
        self.log_probs.append(log_prob)

    def add_scalar(
        self, address_id: int, instance: int, value: float, params_id: int, *, drawn: bool
    ) -> None:
        """Adds a scalar observation; its log_prob is computed with those of all other traces."""
        self.add(address_id, instance, value if drawn else None, _NAN)
        self.scalars.append((value, params_id))


def _tensor_table(rows: Sequence[_TensorRows]) -> TensorTable:
    if not any(r.values for r in rows):
        return TensorTable.empty(len(rows))
    values = [v for r in rows for v in r.values]
    lengths = [len(v) for v in values]
    return TensorTable(
        offsets=np.cumsum([0] + [len(r.values) for r in rows], dtype=np.int64),
        address_id=np.array([i for r in rows for i in r.address_ids], np.int32),
        instance=np.array([i for r in rows for i in r.instances], np.int32),
        data=_flatten(values, lengths),
        data_offsets=np.cumsum([0, *lengths], dtype=np.int64),
        log_prob=np.array([p for r in rows for p in r.log_probs], np.float64),
    )


def _loop_table(recordings: Sequence[Recording]) -> LoopTable:
    for recording in recordings:
        recording.close_loops()
    loops = [loop for r in recordings for loop in r.loops]
    address_id, begin, end = np.array(loops, np.int32).reshape(-1, 3).T
    offsets = np.cumsum([0] + [len(r.loops) for r in recordings], dtype=np.int64)
    return LoopTable(offsets, address_id, begin, end)


def _flatten(values: Sequence[NDArray[np.float64] | tuple[float, ...]], lengths: Sequence[int]) -> Floats:
    if max(lengths) <= 1:
        return np.array([v[0] for v in values if len(v)], np.float64)
    return np.concatenate([np.asarray(v, np.float64) for v in values])


def _observations(rows: Sequence[_TensorRows], params: Params, codes: NDArray[np.int64]) -> TensorTable:
    """The table of observations, with the log_prob of scalar ones filled in."""
    table = _tensor_table(rows)
    scalars = [scalar for r in rows for scalar in r.scalars]
    if scalars:
        values, ids = np.array(scalars, np.float64).T
        params_id = ids.astype(np.int64)
        # NaN marks the rows of scalar observations, in the order in which they were added.
        table.log_prob[np.isnan(table.log_prob)] = log_prob_columns(
            values, codes[params_id], params, params_id
        )
    return table


def assemble(
    recordings: Sequence[Recording],
    *,
    addresses: AddressTable,
    params: ParamsInterner,
    seed: int,
    index: NDArray[np.int64],
    failures: Mapping[int, str] | None = None,
) -> TraceBatch:
    """Lays recordings out in columns; log_prob and missing z-coordinates are computed for all draws at once.

    Args:
        recordings: K recordings, in the order of `index`.
        addresses: The simulator's address table.
        params: The interner that the recordings' params ids refer to.
        seed: Seed of the run.
        index: `(K,)` trace indices.
        failures: Reason by trace index, for the traces that failed.

    Returns:
        The batch of K traces.
    """
    failures = failures or {}
    draws = np.frombuffer(b"".join(r.draws.tobytes() for r in recordings), np.float64).reshape(
        -1, _DRAW_WIDTH
    )
    table, codes = params.columns()
    params_id = draws[:, 2].astype(np.int32)
    value, z = draws[:, 3].copy(), draws[:, 4].copy()
    family_code = codes[params_id]
    log_prob = log_prob_columns(value, family_code, table, params_id)
    unknown = np.flatnonzero(np.isnan(z))
    if len(unknown):
        z[unknown] = to_z_columns(value[unknown], family_code[unknown], table, params_id[unknown])
    ordinal = draws[:, 7].astype(np.int64)
    offsets = np.cumsum([0] + [r.num_draws for r in recordings], dtype=np.int64)
    all_recorded = np.array_equal(ordinal, positions(offsets))
    return TraceBatch(
        addresses=addresses,
        seed=seed,
        index=index,
        status=np.array([Status.FAILED if i in failures else Status.OK for i in index.tolist()], np.uint8),
        offsets=offsets,
        address_id=draws[:, 0].astype(np.int32),
        instance=draws[:, 1].astype(np.int32),
        params_id=params_id,
        params=table,
        value=value,
        z=z,
        log_prob=log_prob,
        log_q=log_prob + draws[:, 5],
        flags=draws[:, 6].astype(np.uint8),
        ordinal=None if all_recorded else ordinal,
        observations=_observations([r.observations for r in recordings], table, codes),
        tags=_tensor_table([r.tags for r in recordings]),
        results=_tensor_table([r.results for r in recordings]),
        loops=_loop_table(recordings),
        failures=failures,
    )


FORCED = int(DrawFlag.FORCED)
GUIDED = int(DrawFlag.GUIDED)
CONTROLLED = int(DrawFlag.CONTROLLED)

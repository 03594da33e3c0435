"""Looks whether simulators did what they were asked to: one that did not would bias every result without a sign.

Random numbers are a function of (seed, trace index, ordinal), so that honesty costs little to look at: an unforced draw
has the coordinate that belongs to it, the value that this coordinate has, and the density of this value; a forced one
has the value that its script says, and no choice whose draw came was passed over.

Which traces are looked at is drawn from the system's entropy: a simulator cannot foresee it, and no result depends on
it. Drawn observations are not looked at: messages do not tell their parameters.

Letters: K traces, N draws, n rows that are looked at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ppx_server.distributions import FAMILIES, from_z_columns, log_prob_columns
from ppx_server.errors import RemoteProtocolError
from ppx_server.philox import Stream, normals_at
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import DrawFlag, Floats, Ids, Ints, Params, Status, TraceBatch, gather

_WHOLE_BATCHES, _WHOLE_ROWS = 3, 1 << 15
"""The first batches of a conversation are looked at as a whole, as far as they are not longer than so many rows."""
_ROWS, _SHARE = 256, 1 / 64
"""Of later ones so many rows and this share, in traces chosen at random."""
_WORTHWHILE = 1 << 14
"""A batch of fewer rows is looked at with the probability (its rows) / (so many): each look has its price."""
_SELDOM = 1 / 64
"""At least with this probability."""
_DENSITY_TOLERANCE = 1e-6
"""Relative and absolute; parameters and values travel as doubles, so an honest density differs by rounding only."""
_TOLERANCE = 1e-9
"""Relative, as the protocol asks of implementations of quantiles; of coordinates absolute, too."""
_EXACT, _ROUNDING = (FAMILIES["Normal"].code, FAMILIES["Uniform"].code), 1e-14
"""Families whose quantiles are a sum: they differ by rounding only, relative, however large a mean is beside stddev."""

Codes = NDArray[np.uint8]


class DefectiveClientError(RemoteProtocolError):
    """What a simulator reports is wrong, and would bias every result."""


class WrongDrawError(DefectiveClientError):
    """A draw is neither that of its random number nor that of its script."""


class Audit:
    """Looks at what one simulator reports, in one conversation."""

    def __init__(self) -> None:
        self._num_batches = 0
        self._rng = np.random.default_rng()

    def check(self, traces: TraceBatch, scripts: ScriptBatch, ordinal: Ints, codes: Codes) -> None:
        """Looks at some of the traces of a batch that did not fail.

        Args:
            traces: K traces.
            scripts: Their scripts, with ids of the same address table.
            ordinal: `(N,)` how many scalar draws of the trace came before, in the trace or left out of it.
            codes: Codes of families by address id.

        Raises:
            WrongDrawError: A draw is not what it must be.
            DefectiveClientError: A density is not.
            DistributionError: Parameters are none of their family.
        """
        self._num_batches += 1
        chosen = self._choose(traces)
        rows, offsets = gather(traces.offsets, chosen)
        if not len(rows):
            return
        trace = np.repeat(chosen, np.diff(offsets))
        choice = _choices(traces, scripts, rows, trace)
        _check_forced(traces, scripts, rows, trace, choice=choice, ordinal=ordinal)
        whole = self._num_batches <= _WHOLE_BATCHES
        limit = max(_WHOLE_ROWS if whole else _ROWS, int(len(rows) * _SHARE))
        if len(rows) > limit:  # single traces of very many draws
            some = np.sort(self._rng.integers(len(rows), size=limit))
            rows, trace, choice = rows[some], trace[some], choice[some]
        decided = (traces.flags[rows] & DrawFlag.PENDING) == 0
        rows, trace, choice = rows[decided], trace[decided], choice[decided]
        check_densities(traces, rows, codes)
        _check_values(traces, scripts, rows, trace, choice=choice, ordinal=ordinal, codes=codes)

    def _choose(self, traces: TraceBatch) -> Ints:
        """Positions of the traces to look at."""
        num_traces, num_rows = len(traces), len(traces.value)
        whole = self._num_batches <= _WHOLE_BATCHES
        if not whole and self._rng.random() > max(num_rows / _WORTHWHILE, _SELDOM):
            return np.empty(0, np.int64)
        budget = _WHOLE_ROWS if whole else _ROWS + int(num_rows * _SHARE)
        if num_rows <= budget:
            chosen = np.arange(num_traces)
        else:
            count = max(1, budget * num_traces // num_rows)
            chosen = np.unique(self._rng.integers(num_traces, size=count))
        computed: Ints = chosen[traces.status[chosen] != Status.FAILED]
        return computed


def _choices(traces: TraceBatch, scripts: ScriptBatch, rows: Ints, trace: Ints) -> Ints:
    """The row of the scripts that each draw should have taken, `(n,)`; -1 for none."""
    none = np.full(len(rows), -1, np.int64)
    if not len(scripts.value):
        return none
    if scripts.otherwise is Otherwise.ASK:  # choices hold in order: the n-th forced draw has the n-th
        forced = (traces.flags[rows] & DrawFlag.FORCED) != 0
        before = np.concatenate([[0], np.cumsum(forced)])[:-1]
        starts = np.flatnonzero(np.diff(trace, prepend=-1))
        rank = before - np.repeat(before[starts], np.diff(np.append(starts, len(rows))))
        choice = np.where(forced, scripts.offsets[trace] + rank, -1)
        choice[choice >= scripts.offsets[trace + 1]] = -1
        same = (scripts.address_id[choice] == traces.address_id[rows]) & (
            scripts.instance[choice] == traces.instance[rows]
        )
        return np.where(same, choice, none)
    own, offsets = gather(scripts.offsets, np.unique(trace))
    if (
        len(own) == len(rows)
        and np.array_equal(np.repeat(np.unique(trace), np.diff(offsets)), trace)
        and np.array_equal(scripts.address_id[own], traces.address_id[rows])
        and np.array_equal(scripts.instance[own], traces.instance[rows])
    ):
        return own  # everything is forced, in order
    return _looked_up(traces, scripts, rows, trace, own)


def _looked_up(traces: TraceBatch, scripts: ScriptBatch, rows: Ints, trace: Ints, own: Ints) -> Ints:
    """The first of the rows `own` of scripts that has the trace, address, visit and element of each draw; else -1."""
    if not len(own):
        return np.full(len(rows), -1, np.int64)
    of_own = np.searchsorted(scripts.offsets, own, side="right") - 1
    keys = _numbered(
        np.concatenate([of_own, trace]),
        np.concatenate([scripts.address_id[own], traces.address_id[rows]]),
        np.concatenate([scripts.instance[own], traces.instance[rows]]),
    )
    mine, theirs = keys[: len(own)], keys[len(own) :]
    keys = _numbered(keys, np.concatenate([_position_in_run(mine), _position_in_run(theirs)]))
    known, first = np.unique(keys[: len(own)], return_index=True)
    place = np.minimum(np.searchsorted(known, keys[len(own) :]), len(known) - 1)
    return np.where(known[place] == keys[len(own) :], own[first[place]], -1)


def _numbered(*columns: NDArray[np.signedinteger]) -> Ints:
    """One number for each row: equal if all columns are."""
    key = columns[0].astype(np.int64)
    for column in columns[1:]:
        key = np.unique(key, return_inverse=True)[1].astype(
            np.int64
        )  # fewer than 2^31, as elements of messages are
        key = key * (int(column.max()) + 1) + column
    return key


def _position_in_run(key: Ints) -> Ints:
    """Position of each element among the equal ones next to it: elements of an array draw."""
    starts = np.flatnonzero(np.diff(key, prepend=key[:1] - 1))
    return np.arange(len(key)) - np.repeat(starts, np.diff(np.append(starts, len(key))))


def _check_forced(
    traces: TraceBatch, scripts: ScriptBatch, rows: Ints, trace: Ints, *, choice: Ints, ordinal: Ints
) -> None:
    """Refuses a draw that did not take the choice its script has for it, or one that the script does not have."""
    forced = (traces.flags[rows] & DrawFlag.FORCED) != 0
    if scripts.otherwise is Otherwise.ASK:
        # A choice that does not fit is no excuse: then the draw is pending.
        due = ((traces.flags[rows] & DrawFlag.PENDING) == 0) & traces.controlled[rows]
        wrong = (forced != due) | (forced & (choice < 0))
    else:
        wrong = forced != (choice >= 0)
    taken = np.flatnonzero(forced & (choice >= 0))
    due_value = scripts.value[choice[taken]]
    wrong[taken[~np.isnan(due_value) & (traces.value[rows[taken]] != due_value)]] = True
    if not wrong.any():
        return
    first = int(np.flatnonzero(wrong)[0])
    row, position = int(rows[first]), int(choice[first])
    must = "its script forces nothing there"
    if position >= 0:
        value, z = scripts.value[position], scripts.z[position]
        must = f"its script forces the {f'coordinate {z:.9g}' if np.isnan(value) else f'value {value:.9g}'}"
    elif scripts.otherwise is Otherwise.ASK and not forced[first]:
        must = "its script ends before, so that the draw is pending"
    claimed = f"the value {traces.value[row]:.9g}, {'forced' if forced[first] else 'not forced'}"
    raise _accusation(traces, row, int(trace[first]), int(ordinal[row]), claimed=claimed, must=must)


def check_densities(traces: TraceBatch, rows: Ints, codes: Codes) -> None:
    """Looks at the densities of draws.

    Args:
        traces: Where they are.
        rows: `(n,)` which.
        codes: Codes of families by address id.

    Raises:
        DefectiveClientError: One is not that of its value.
    """
    expected = log_prob_columns(
        traces.value[rows], codes[traces.address_id[rows]], traces.params, traces.params_id[rows]
    )
    reported = traces.log_prob[rows]
    wrong = ~np.isclose(reported, expected, _DENSITY_TOLERANCE, _DENSITY_TOLERANCE) & ~np.isnan(reported)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        row = int(rows[first])
        address = traces.addresses[int(traces.address_id[row])]
        raise DefectiveClientError(
            f"the simulator reports log_prob {traces.log_prob[row]:.9g} at {address.address!r} ({address.family}) "
            f"for the value {traces.value[row]:.9g}, where it is {expected[first]:.9g}; its client is defective"
        )


def _check_values(
    traces: TraceBatch,
    scripts: ScriptBatch,
    rows: Ints,
    trace: Ints,
    *,
    choice: Ints,
    ordinal: Ints,
    codes: Codes,
) -> None:
    """Refuses a draw whose coordinate, or value, is not that of its seed, trace and ordinal, or of its script."""
    z = normals_at(scripts.seed, traces.index[trace], ordinal[rows], stream=Stream.DRAWS)
    by_script = np.flatnonzero(choice >= 0)
    if len(by_script):
        by_z = np.isnan(scripts.value[choice[by_script]])
        z[by_script] = np.where(by_z, scripts.z[choice[by_script]], np.nan)
        by_coordinate = np.flatnonzero(~np.isnan(z))
        rows, trace, z = rows[by_coordinate], trace[by_coordinate], z[by_coordinate]
    code, params_id = codes[traces.address_id[rows]], traces.params_id[rows]
    expected = from_z_columns(z, code, traces.params, params_id)
    found, reported = traces.value[rows], traces.z[rows]
    right = np.isclose(reported, z, _TOLERANCE, _TOLERANCE) & (
        np.abs(found - expected) <= _rounding(code) * np.abs(expected)
    )
    suspects = np.flatnonzero(~right)
    if not len(suspects):
        return
    right[suspects] = np.isclose(reported[suspects], z[suspects], _TOLERANCE, _TOLERANCE) & _nearly_has(
        found[suspects], z[suspects], code[suspects], traces.params, params_id[suspects]
    )
    if right.all():
        return
    first = int(np.flatnonzero(~right)[0])
    row = int(rows[first])
    forced = (traces.flags[row] & DrawFlag.FORCED) != 0
    raise _accusation(
        traces,
        row,
        int(trace[first]),
        int(ordinal[row]),
        claimed=f"the value {found[first]:.9g} (coordinate {reported[first]:.9g})",
        must=f"{'its script gives' if forced else 'these give'} the value {expected[first]:.9g} "
        f"(coordinate {z[first]:.9g})",
    )


def _nearly_has(found: Floats, z: Floats, code: Codes, params: Params, params_id: Ids) -> NDArray[np.bool_]:
    """Whether values have coordinates that differ by no more than rounding.

    That decides where a sum cancels, and between two whole numbers. Quantiles do not decrease.
    """
    low, high = (
        from_z_columns(z + sign * _TOLERANCE * (1.0 + np.abs(z)), code, params, params_id)
        for sign in (-1.0, 1.0)
    )
    tolerance = _rounding(code)
    nearly: NDArray[np.bool_] = (found >= low - tolerance * np.abs(low)) & (
        found <= high + tolerance * np.abs(high)
    )
    return nearly


def _rounding(code: Codes) -> Floats:
    """By how much values of a coordinate may differ, relative."""
    return np.where(np.isin(code, _EXACT), _ROUNDING, _TOLERANCE)


def _accusation(
    traces: TraceBatch, row: int, trace: int, ordinal: int, *, claimed: str, must: str
) -> WrongDrawError:
    address = traces.addresses[int(traces.address_id[row])]
    return WrongDrawError(
        f"the simulator reports {claimed}, of the draw {address.address!r} ({address.family}, visit "
        f"{int(traces.instance[row])}; seed {traces.seed}, trace {int(traces.index[trace])}, ordinal {ordinal}), "
        f"where {must}; its client is defective, or draws elsewhere than from the numbers of the protocol"
    )

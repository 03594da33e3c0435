"""What executed traces did with the choices that were foreseen for them: which draws hold, and where traces go on.

A choice holds if the draw it was made for is the one that took place: at its ordinal, because random numbers go by it,
and with its address, visit and element; and if what was chosen does not depend on anything that came out otherwise. A
discrete choice depends on the parameters:

    categorical    the probabilities enter the choice: it does not hold under others
    ordered        the coordinate does not depend on the parameters, and the simulator has made a value of it under the
                   actual ones: the choice holds with its log ratio computed anew, but the network's next input is
                   another than foreseen, so the choices behind it do not

Letters: n traces, N draws of all of them, r open draws.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_proposals.cell import Cell, State
from ppx_proposals.entries import Ints
from ppx_proposals.forecast import heads
from ppx_proposals.parameters import ParameterMemory, concatenate, same_vectors
from ppx_proposals.rollout import Rollout
from ppx_proposals.vocabulary import CATEGORICAL, ORDERED
from ppx_proposals.weights import Single
from ppx_server.trace import DrawFlag, TraceBatch

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Parts:
    """The rollouts that n traces are in, as one.

    Attributes:
        first: `(n,)` a trace's first choice among those of all rollouts.
        length: `(n,)` choices of a trace.
        begin: `(n,)` ordinals at which traces went on.
        params: Parameters of all rollouts.
    """

    def __init__(self, rollouts: list[Rollout], part: Ints, row: Ints) -> None:
        self._rollouts, self._part, self._row = rollouts, part, row
        shift = np.cumsum([0, *(len(r.entry) for r in rollouts)])
        self._settled_shift = np.cumsum([0, *(len(r.settled) for r in rollouts)])
        self._params_shift = np.cumsum([0, *(len(r.params) for r in rollouts)])
        self.params = concatenate([r.params for r in rollouts])
        self.first, self.length, self.begin, self._settled = (np.empty(len(row), np.int64) for _ in range(4))
        for number, rollout in enumerate(rollouts):
            members = np.flatnonzero(part == number)
            rows = row[members]
            self.first[members] = rollout.offsets[rows] + shift[number]
            self.length[members] = rollout.offsets[rows + 1] - rollout.offsets[rows]
            self.begin[members] = rollout.begin[rows]
            starts = np.cumsum(rollout.begin) - rollout.begin
            self._settled[members] = starts[rows] + self._settled_shift[number]

    def column(self, name: str) -> NDArray[Any]:
        """A column of the choices of all rollouts."""
        columns = [getattr(r, name) for r in self._rollouts]
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    def params_id(self) -> Ints:
        """Their `params_id`, as rows of `params`."""
        return np.concatenate(
            [r.params_id + s for r, s in zip(self._rollouts, self._params_shift, strict=False)]
        )

    def settled(self, trace: Ints, ordinal: Ints) -> Floats:
        """Log ratios of draws that were settled before."""
        every = [r.settled for r in self._rollouts]
        ratios: Floats = np.concatenate(every)[self._settled[trace] + ordinal]
        return ratios

    def hidden(self, trace: Ints, step: Ints, size: int) -> Single:
        """h `(r, H)` in front of steps of given traces."""
        h = np.empty((len(trace), size), np.float32)
        for number, rollout in enumerate(self._rollouts):
            among = np.flatnonzero(self._part[trace] == number)
            h[among] = rollout.hidden(self._row[trace[among]], step[among])
        return h

    def after(self, trace: Ints, steps: Ints, size: int) -> State:
        """States of given traces after they took so many steps."""
        state = State.fresh(len(trace), size)
        for number, rollout in enumerate(self._rollouts):
            among = np.flatnonzero(self._part[trace] == number)
            state.put(among, rollout.after(self._row[trace[among]], steps[among]))
        return state


class Layout:
    """Rows of n executed traces.

    Attributes:
        trace: `(N,)` which trace, ordinal: `(N,)` number within it.
        head: `(N,)` row of the first element of the draw.
        pending: `(N,)`, controlled: `(N,)`.
        executed: `(n,)` draws that were made.
    """

    def __init__(self, traces: TraceBatch) -> None:
        self.trace = np.repeat(np.arange(len(traces)), traces.length)
        self.ordinal = np.arange(len(self.trace)) - traces.offsets[self.trace]
        self.head = heads(traces)
        self.pending = (traces.flags & DrawFlag.PENDING) != 0
        self.controlled = traces.controlled
        self.executed = traces.length - np.bincount(self.trace[self.pending], minlength=len(traces))


class Settled(NamedTuple):
    """What n traces did with their choices.

    Attributes:
        holds: `(n,)` draws that hold.
        log_ratio: `(N,)`.
        state: `(n,)` where the traces stand after the draws that hold.
        chosen: Rows of the draws that hold and were not settled before, of those that the guide chose.
        entry: Their entries.
    """

    holds: Ints
    log_ratio: Floats
    state: State
    chosen: Ints
    entry: Ints


class _Open(NamedTuple):
    """Draws that may be chosen and are not settled yet, in columns `(r,)`.

    Attributes:
        row: Rows of the traces.
        trace: Which trace.
        step: Number within its trace, from 0.
        num_open: `(n,)` open draws of each trace.
        entry, instance, element: The draw.
        params_id: Rows of the traces' parameters.
    """

    row: Ints
    trace: Ints
    step: Ints
    num_open: Ints
    entry: Ints
    instance: Ints
    element: Ints
    params_id: Ints


class _Match(NamedTuple):
    """How open draws compare to what was foreseen for them, in columns `(r,)`.

    Attributes:
        at: Their choices, or 0.
        same_draw: Whether the choice was made for this draw.
        same_params: Whether it was made under the parameters that the draw has; False for continuous draws.
        exact: Whether the choice holds as it was made.
        given: Whether the draw and its parameters were known when the choice was made.
        discrete: Whether the draw is discrete and known to the proposal.
    """

    at: Ints
    same_draw: Flags
    same_params: Flags
    exact: Flags
    given: Flags
    discrete: Flags


def settle(cell: Cell, memory: ParameterMemory, parts: Parts, traces: TraceBatch, layout: Layout) -> Settled:
    """Settles n traces that have been in rollouts, and learns which parameters draws have."""
    trace, ordinal = layout.trace, layout.ordinal
    draws = _open(cell, traces, layout, parts.begin)
    match = _match(cell, draws, parts, traces, layout)
    stands, first_wrong = _first_wrong(draws, match.exact)
    bad = np.flatnonzero(stands < draws.num_open)
    wrong = first_wrong[bad]
    holds = layout.executed.copy()
    holds[bad] = ordinal[draws.row[wrong]]
    good = draws.step < stands[draws.trace]
    result = np.zeros(len(trace))
    before = np.flatnonzero(ordinal < parts.begin[trace])
    result[before] = parts.settled(trace[before], ordinal[before])
    result[draws.row[good]] = parts.column("log_ratio")[match.at[good]]
    state = parts.after(np.arange(len(traces)), stands, cell.size)

    renewed = (
        match.same_draw[wrong] & (cell.entries.kind[draws.entry[wrong]] == ORDERED) & ~match.given[wrong]
    )
    again, which = wrong[renewed], bad[renewed]
    if len(again):
        result[draws.row[again]], left = _renew(cell, draws, again, parts, stands[which], traces)
        state.put(which, left)
        following = np.minimum(again + 1, len(draws.row) - 1)
        more = stands[which] + 1 < draws.num_open[which]
        holds[which] = np.where(more, ordinal[draws.row[following]], layout.executed[which])
        good[again] = True
    _learn(memory, draws, match, stands, traces)
    return Settled(holds, result, state, draws.row[good], draws.entry[good])


def _open(cell: Cell, traces: TraceBatch, layout: Layout, begin: Ints) -> _Open:
    row = np.flatnonzero(layout.controlled & (layout.ordinal >= begin[layout.trace]))
    trace = layout.trace[row]
    count = np.bincount(trace, minlength=len(traces))
    params_id = traces.params_id[row].astype(np.int64)
    num_params = traces.params.offsets[params_id + 1] - traces.params.offsets[params_id]
    return _Open(
        row=row,
        trace=trace,
        step=np.arange(len(row)) - (np.cumsum(count) - count)[trace],
        num_open=count,
        instance=traces.instance[row].astype(np.int64),
        entry=cell.entries.find(traces.address_id[row], num_params),
        element=row - layout.head[row],
        params_id=params_id,
    )


def _match(cell: Cell, draws: _Open, parts: Parts, traces: TraceBatch, layout: Layout) -> _Match:
    kind = cell.entries.kind[draws.entry]
    discrete = (kind == ORDERED) | (kind == CATEGORICAL)
    there = (draws.step < parts.length[draws.trace]) & ~layout.pending[draws.row]
    at = np.where(there, parts.first[draws.trace] + draws.step, 0)
    no = np.zeros(len(at), np.bool_)
    if not there.any():
        return _Match(at, no, no, no, no, discrete)
    same_draw = (
        there
        & (parts.column("ordinal")[at] == layout.ordinal[draws.row])
        & (parts.column("entry")[at] == draws.entry)
        & (parts.column("instance")[at] == draws.instance)
        & (parts.column("element")[at] == draws.element)
    )
    rows = np.flatnonzero(same_draw & discrete)
    same_params = no
    same_params[rows] = same_vectors(
        parts.params, parts.params_id()[at[rows]], traces.params, draws.params_id[rows]
    )
    exact = same_draw & (same_params | ~discrete)
    exact[rows] &= parts.column("value")[at[rows]] == traces.value[draws.row[rows]]
    return _Match(at, same_draw, same_params, exact, parts.column("given")[at], discrete)


def _first_wrong(draws: _Open, exact: Flags) -> tuple[Ints, Ints]:
    """How many open draws of each trace are as foreseen up to the first that is not, and the number of that one."""
    stands = draws.num_open.copy()
    wrong = np.flatnonzero(~exact)[::-1]
    stands[draws.trace[wrong]] = draws.step[wrong]  # in reverse, so that the first one stays
    return stands, np.cumsum(draws.num_open) - draws.num_open + stands


def _renew(
    cell: Cell, draws: _Open, chosen: Ints, parts: Parts, step: Ints, traces: TraceBatch
) -> tuple[Floats, State]:
    """Log ratios of ordered draws under the parameters they have, at the values they have, and the states after."""
    entry, value, params_id = draws.entry[chosen], traces.value[draws.row[chosen]], draws.params_id[chosen]
    h = parts.hidden(draws.trace[chosen], step, cell.size)
    ratio, feature = np.zeros(len(chosen)), np.zeros(len(chosen), np.float32)
    codes = cell.entries.family[entry]
    for code in np.unique(codes).tolist():
        rows = np.flatnonzero(codes == code)
        columns = tuple(traces.params.matrix(params_id[rows]).T)
        of_rows, left = cell.ordered(h[rows], entry[rows], value[rows], columns)
        sound = np.isfinite(of_rows)
        ratio[rows], feature[rows] = np.where(sound, of_rows, 0.0), np.where(sound, left, 0.0)
    after = parts.after(draws.trace[chosen], step + 1, cell.size)
    return ratio, State(after.h, after.c, cell.entries.first_before[entry], feature)


def _learn(memory: ParameterMemory, draws: _Open, match: _Match, stands: Ints, traces: TraceBatch) -> None:
    """Learns parameters from the draws up to the first of each trace that is not as foreseen."""
    reached = match.discrete & (draws.step <= stands[draws.trace])
    tried = reached & match.same_draw & ~match.given
    memory.judge(draws.entry[tried], match.exact[tried])
    new = reached & ~match.same_params
    memory.learn(
        draws.entry[new], draws.instance[new], draws.element[new], traces.params, draws.params_id[new]
    )


def follow(cell: Cell, traces: TraceBatch, layout: Layout, chosen: Ints) -> State:
    """States of some traces `(r,)` after all their draws, none of which the guide chose."""
    draws = _open(cell, traces, layout, np.zeros(len(traces), np.int64))
    forced = ~layout.pending[draws.row]
    state = State.fresh(len(traces), cell.size)
    wanted = np.zeros(len(traces), np.bool_)
    wanted[chosen] = True
    forced &= wanted[draws.trace]
    for step in range(int(draws.step[forced].max(initial=-1)) + 1):
        now = np.flatnonzero(forced & (draws.step == step))
        which, rows = draws.trace[now], draws.row[now]
        entry = draws.entry[now]
        h, c = cell.advance(state.take(which), entry, draws.instance[now], draws.element[now])
        left = cell.forced(entry, traces.value[rows], traces.z[rows], traces.params, draws.params_id[now])
        state.put(which, State(h, c, *left))
    return state.take(chosen)

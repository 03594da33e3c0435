"""A guide that chooses draws ahead, so that simulators need not wait for them.

Rounds: the guide rolls the network forward over the draws it foresees; the simulator follows as far as it makes the
same draws; the guide settles what the trace did and goes on from there. Every choice is drawn from q given the draws
before it as they are, with the random numbers of its ordinal, so it is the one that `NetworkGuide.choose` makes.

Memory: of a trace whose tail is out, the states in front of every choice are kept until it comes back, at most
`rollout.MOST_STATES` of all traces of a call (but one per trace), and its log ratios, 8 bytes per draw.

Letters: n traces, G places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ppx_proposals.cell import State
from ppx_proposals.forecast import NONE, Forecast, outcomes, past_of, sites, transitions
from ppx_proposals.guide import NetworkGuide
from ppx_proposals.parameters import ParameterMemory
from ppx_proposals.rollout import Front, Given, Numbers, Places, Roller, Rollout, assemble
from ppx_proposals.settling import Layout, Parts, Settled, follow, settle
from ppx_server.address import AddressTable
from ppx_server.script import Ask, Choice, Tails
from ppx_server.trace import Params, Status, TraceBatch

Ints = NDArray[np.int64]
Double = NDArray[np.float64]
_LEARNT_FROM = 256
"""Traces of a call that the forecast learns from."""
_NO_PARAMS = Params(np.zeros(0), np.zeros(1, np.int64))


class SpeculativeNetworkGuide:
    """Chooses draws from a proposal network; implements `ppx_server.script.SpeculativeGuide`.

    Args:
        guide: The network; answers the asks of simulators that cannot follow a script.
        forecast: Foresees draws; learns from the traces.
    """

    def __init__(self, guide: NetworkGuide, forecast: Forecast) -> None:
        self._guide, self._forecast = guide, forecast
        self._memory = ParameterMemory()
        self._roller = Roller(guide.cell, forecast, self._memory)
        self._addresses = AddressTable()
        self._number, self._row = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._cautious = np.zeros(0, np.bool_)
        self._rollouts: dict[int, Rollout] = {}
        self._waiting: Counter[int] = Counter()
        self._next = 0

    @property
    def num_asks(self) -> int:
        """Draws chosen so far, of those that took place."""
        return self._guide.num_asks

    @property
    def fallbacks(self) -> Counter[str]:
        """How many draws of each address came from the prior, because the network does not know it."""
        return self._guide.fallbacks

    @property
    def num_open(self) -> int:
        """Choices whose states are kept, because it is not known yet what became of them."""
        return sum(len(rollout.entry) for rollout in self._rollouts.values())

    def begin(self, num_traces: int, addresses: AddressTable) -> None:
        """See `Guide.begin`.

        Raises:
            CheckpointError: The proposal knows none of the simulator's addresses.
        """
        self._guide.begin(num_traces, addresses)
        if addresses is not self._addresses:
            self._memory.clear()
            self._forecast.begin(addresses)
            self._addresses = addresses
            self._roller.places = Places(AddressTable())
        self._rollouts.clear()
        self._waiting.clear()
        self._number, self._row = np.full(num_traces, NONE), np.zeros(num_traces, np.int64)
        self._cautious = np.zeros(num_traces, np.bool_)

    def choose(self, asks: Sequence[Ask], normals: Double) -> Sequence[Choice]:
        """See `Guide.choose`. Unknown addresses are drawn from the prior."""
        return self._guide.choose(asks, normals)

    def restart(self, slot: int) -> None:
        """See `Guide.restart`. From then on only draws that are certain to come are chosen ahead in this slot: if the
        trace fails again, it does not do so on a track that it would not have taken."""
        self._guide.restart(slot)
        self._forget(np.array([slot]))
        self._cautious[slot] = True

    def speculate(
        self, slots: Ints, traces: TraceBatch | None, normals: Callable[[Ints, int, int], Double]
    ) -> Tails:
        """See `SpeculativeGuide.speculate`."""
        if len(self._roller.places.group) < len(self._addresses):
            self._roller.places = Places(self._addresses)
        with np.errstate(all="ignore"):  # weights that are not finite end in draws from the prior
            if traces is None:
                self._forget(slots)
                return self._go_on_from_start(slots, normals)
            return self._go_on(slots, traces, normals)

    def _go_on_from_start(self, slots: Ints, normals: Callable[[Ints, int, int], Double]) -> Tails:
        n = len(slots)
        visits = np.zeros((n, self._roller.places.num_groups), np.int32)
        front = Front.fresh(n, self._guide.cell.size, self._confidence(slots))
        given = Given(_NO_PARAMS, np.zeros(0, np.int64))
        rollout = self._roller.roll(front, visits, given, np.zeros(0), Numbers(slots, normals))
        self._remember(rollout, slots)
        return Tails(
            holds=np.zeros(n, np.int64),
            log_ratio=np.zeros(0),
            offsets=rollout.offsets,
            **rollout.tails(self._guide.cell.entries.address_id),
        )

    def _go_on(self, slots: Ints, traces: TraceBatch, normals: Callable[[Ints, int, int], Double]) -> Tails:
        layout = Layout(traces)
        settled = self._settle(slots, traces, layout)
        going = np.flatnonzero((traces.status == Status.PENDING) | (settled.holds < layout.executed))
        front = self._front(slots, going, traces, layout, settled)
        visits = self._visits(going, traces, layout, settled.holds)
        before = layout.ordinal < settled.holds[layout.trace]
        member = np.zeros(len(traces), np.bool_)
        member[going] = True
        rollout = self._roller.roll(
            front,
            visits,
            Given(traces.params, traces.params_id.astype(np.int64)),
            settled.log_ratio[before & member[layout.trace]],
            Numbers(slots[going], normals),
        )
        self._forget(slots)
        self._remember(rollout, slots[going])
        length = np.zeros(len(traces), np.int64)
        length[going] = np.diff(rollout.offsets)
        return Tails(
            holds=settled.holds,
            log_ratio=settled.log_ratio,
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(length)]),
            **rollout.tails(self._guide.cell.entries.address_id),
        )

    def _settle(self, slots: Ints, traces: TraceBatch, layout: Layout) -> Settled:
        """Settles traces, and learns from them."""
        cell = self._guide.cell
        numbers, part = np.unique(self._number[slots], return_inverse=True)
        unheard = np.flatnonzero(self._number[slots] == NONE)
        row = self._row[slots]
        row[unheard] = np.arange(len(unheard))
        start = State.fresh(len(unheard), cell.size)
        nothing = assemble([], np.zeros(len(unheard), np.int64), start, _NO_PARAMS, np.zeros(0))
        rollouts = [nothing if n == NONE else self._rollouts[n] for n in numbers.tolist()]
        parts = Parts(rollouts, part, row)
        settled = settle(cell, self._memory, parts, traces, layout)
        if len(
            unheard
        ):  # what was done before the guide was asked for the first time was forced by the script
            settled.holds[unheard] = layout.executed[unheard]
            settled.state.put(unheard, follow(cell, traces, layout, unheard))
        self._guide.count(settled.entry)
        chosen = np.zeros(len(traces), np.bool_)
        chosen[:: max(len(traces) // _LEARNT_FROM, 1)] = True
        since = np.where(parts.begin > 0, parts.begin + 1, 0)
        self._forecast.observe(transitions(traces, layout.head, since, settled.holds, chosen))
        return settled

    def _confidence(self, slots: Ints) -> Double:
        return np.where(self._cautious[slots], 0.0, 1.0)

    def _front(self, slots: Ints, going: Ints, traces: TraceBatch, layout: Layout, settled: Settled) -> Front:
        """Where the given traces go on: at a draw whose parameters are known."""
        row = traces.offsets[going] + settled.holds[going]
        head = layout.head[row]
        past = past_of(traces, layout.head, head, traces.offsets[going])
        params_id = traces.params_id[row]
        address_id = traces.address_id[row]
        value = np.where(row > head, traces.value[head], np.nan)
        return Front(
            row=np.arange(len(going)),
            ordinal=settled.holds[going],
            state=settled.state.take(going),
            site=sites(traces, row),
            instance=traces.instance[row].astype(np.int64),
            element=row - head,
            size=np.searchsorted(layout.head, head, side="right") - head,
            entry=self._guide.cell.entries.find(address_id, np.diff(traces.params.offsets)[params_id]),
            outcome=outcomes(self._roller.places.discrete[address_id], value),
            earlier=past.site,
            given=np.ones(len(going), np.bool_),
            source=head,
            confidence=self._confidence(slots[going]),
        )

    def _visits(self, going: Ints, traces: TraceBatch, layout: Layout, holds: Ints) -> NDArray[np.int32]:
        """`(len(going), G)`: how often each trace came to each place, the draw included at which it goes on."""
        place = np.full(len(traces), NONE)
        place[going] = np.arange(len(going))
        rows = np.flatnonzero((layout.ordinal <= holds[layout.trace]) & (place[layout.trace] >= 0))
        visits = np.zeros((len(going), self._roller.places.num_groups), np.int32)
        # Visits increase along a trace, and of equal indices the last assignment stays.
        group = self._roller.places.group[traces.address_id[rows]]
        visits[place[layout.trace[rows]], group] = traces.instance[rows] + 1
        return visits

    def _remember(self, rollout: Rollout, slots: Ints) -> None:
        if len(slots):
            self._rollouts[self._next] = rollout
            self._waiting[self._next] = len(slots)
            self._number[slots], self._row[slots] = self._next, np.arange(len(slots))
            self._next += 1

    def _forget(self, slots: Ints) -> None:
        """Lets go of what was foreseen for some slots, and of rollouts that nobody waits for."""
        numbers, counts = np.unique(self._number[slots], return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            if number != NONE:
                self._waiting[number] -= count
                if self._waiting[number] == 0:
                    del self._rollouts[number], self._waiting[number]
        self._number[slots] = NONE

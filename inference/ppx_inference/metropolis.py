"""Metropolis-Hastings over whole traces: change one draw, execute the simulator again, accept or stay.

The state of a chain is a trace in standard coordinates. Think of the simulator as a function of infinitely many
coordinates z(site), one per possible site = (address, instance, element), of which an execution reads a finite set R.
Under the prior all coordinates are independent N(0, 1), whatever the families, their parameters and what those depend
on; so the target is

    pi(z on R) = product over R of N(z) x L,        L = likelihood of the observations.

A step picks one of the n = |R| controlled sites uniformly, site i, and makes one of four moves,

    RESAMPLE  z_i' ~ N(0, 1)
    WALK      z_i' = rho z_i + sqrt(1 - rho^2) e, e ~ N(0, 1): reversible with respect to N(0, 1) (pCN: Neal 1999,
              "Regression and classification using Gaussian process priors", eq. 15; Cotter et al. 2013)
    MIRROR    the same from the mirror image, with -rho for rho: crosses between symmetric modes
    REDRAW    draw i and all draws after it are drawn anew

or, without picking a site,

    RESTART   everything is drawn anew: accepted with L' / L

The script forces all other sites (for REDRAW: the sites before i) to their old coordinates. Sites R' \\ R that were not
there before are drawn from the prior; sites R \\ R' are dropped. In the acceptance ratio

    pi(z') P(pick i | R') K(z_i' -> z_i) [N over R \\ R']        L' n
    ----------------------------------------------------   =   ------
    pi(z)  P(pick i | R)  K(z_i -> z_i') [N over R' \\ R]        L  n'

every N cancels: those of common sites because they are equal, that of i because K is reversible with respect to it,
those of new and dropped sites against their own proposal. For REDRAW, N over the sites from i on stands in both
brackets, and cancels too. Hence:

- A support that moves with an earlier draw cannot break it: a coordinate is never outside a support, and the value
  moves along with its parent.
- Changed dimension is n / n' and nothing else.
- L' = 0 (log likelihood -inf) is a rejection. So is an execution that fails: the target is the posterior given that
  the simulator finishes.
- Draws that the simulator does not control (`control=False`) are drawn anew in every execution: their prior density
  stands in target and proposal alike. They can change which sites are read; a move counts only if its reverse exists,
  that is if i is in R' and, for REDRAW, the sites before i are the same in R and R'. RESTART, always reversible, lets
  chains cross between executions that have no site in common.

The kind of move may depend on i and its address only, which both directions share. One `execute` per step moves all
chains. A step needs little of a trace, its `Sites`; whoever wants the whole traces keeps what was proposed.

Letters: C chains, M controlled scalar draws of C traces together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ppx_inference import ruled_out
from ppx_inference.diagnostics import refuse_undefined
from ppx_inference.ruled_out import observe_other_shapes
from ppx_server.address import AddressTable
from ppx_server.distributions import FAMILIES, Kind
from ppx_server.errors import ObservationError
from ppx_server.executor import Executes
from ppx_server.observations import Observations, ObservationSet
from ppx_server.script import ScriptBatch
from ppx_server.trace import Floats, Ids, Ints, Params, Status, TraceBatch, gather

Bools = NDArray[np.bool_]

_CANDIDATES = 8
"""Prior executions per chain from which the first states are chosen."""
_INIT_STREAM = 1
"""Apart from the engine's randomness, which begins with the bare seed: its first moves must not repeat this noise."""
_MAX_ROUNDS = 64
"""How often candidates are drawn before giving up on finding one of non-zero likelihood."""


class Move(IntEnum):
    """How a chain proposes its next state."""

    RESAMPLE = 0
    WALK = 1
    MIRROR = 2
    REDRAW = 3
    RESTART = 4


_REDRAW, _RESTART = int(Move.REDRAW), int(Move.RESTART)
"""Looking up a member of an enumeration takes as long as an operation on the arrays of a step."""


@dataclass(frozen=True, eq=False)
class Sites:
    """What a step needs to know of C traces: the coordinates of their controlled draws, and their likelihood.

    Attributes:
        offsets: `(C + 1,)`; trace c has rows `offsets[c]:offsets[c + 1]`, in the order of its draws.
        site: `(M,)` int64, one number per (address, instance): `address_id << 32 | instance`. The elements of an array
            draw are neighbours with the same number.
        z: `(M,)`.
        log_likelihood: `(C,)`; -inf for a trace that failed.
    """

    offsets: Ints
    site: Ints
    z: Floats
    log_likelihood: Floats

    @classmethod
    def of(cls, traces: TraceBatch) -> Sites:
        """The sites of traces.

        Raises:
            SimulatorFailedError: The likelihood of a trace that did not fail is NaN or infinite.
        """
        offsets, address_id, instance, z = traces.offsets, traces.address_id, traces.instance, traces.z
        if not traces.controlled.all():
            rows = np.flatnonzero(traces.controlled)
            offsets = np.searchsorted(rows, offsets)
            address_id, instance, z = address_id[rows], instance[rows], z[rows]
        log_likelihood = traces.log_likelihood
        if traces.status.any():
            log_likelihood = np.where(traces.status == Status.OK, log_likelihood, -np.inf)
        refuse_undefined(log_likelihood, traces)
        return cls(offsets, address_id.astype(np.int64) << 32 | instance, z, log_likelihood)

    def __len__(self) -> int:
        return len(self.log_likelihood)

    @cached_property
    def counts(self) -> Ints:
        """`(C,)` number of rows of each trace."""
        return self.offsets[1:] - self.offsets[:-1]

    @cached_property
    def trace(self) -> Ints:
        """`(M,)` trace of each row."""
        return np.repeat(np.arange(len(self)), self.counts)

    @cached_property
    def first(self) -> Ints:
        """`(M,)` first row of the array draw that each row belongs to."""
        begins = np.ones(len(self.site), bool)
        begins[1:] = (self.site[1:] != self.site[:-1]) | (self.trace[1:] != self.trace[:-1])
        return np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))


class State(NamedTuple):
    """Where C chains are.

    Attributes:
        seed: Seed of the run.
        sites: Those of their current traces, all of non-zero likelihood.
        categorical: `(A,)` by address id, True where a draw's values have no order; of the addresses seen so far.
    """

    seed: int
    sites: Sites
    categorical: Bools

    @classmethod
    def of(cls, traces: TraceBatch) -> State:
        """The state of chains whose current traces are these."""
        return cls(traces.seed, Sites.of(traces), np.empty(0, bool))


class Info(NamedTuple):
    """What a step did, one entry per chain.

    Attributes:
        accepted: Whether the proposal became the state.
        acceptance: Probability with which it would.
        move: A `Move`.
        address_id: Address of the draw that was changed; -1 if the trace has none to change.
        proposed: The executions.
    """

    accepted: Bools
    acceptance: Floats
    move: NDArray[np.int8]
    address_id: Ids
    proposed: TraceBatch


class Kernel(Protocol):
    """How the coordinate of a picked draw changes: all that distinguishes one Metropolis engine from another."""

    def propose(
        self, rng: np.random.Generator, z: Floats, address_id: Ids, categorical: Bools
    ) -> tuple[NDArray[np.int8], Floats]:
        """Chooses moves and new coordinates.

        Args:
            rng: The engine's randomness.
            z: `(C,)` current coordinates of the picked draws.
            address_id: `(C,)` their addresses.
            categorical: `(C,)`, True where the draw's values have no order.

        Returns:
            `(C,)` moves and `(C,)` coordinates (without meaning for REDRAW and RESTART).
        """


def init(
    simulator: Executes, observations: Observations, num_chains: int, seed: int
) -> tuple[TraceBatch, int]:
    """Finds first traces: a sample without replacement of prior executions, weighted by their likelihood.

    Args:
        simulator: The simulator.
        observations: Values by name.
        num_chains: C.
        seed: Seed of the run.

    Returns:
        C traces, with the `failures` of all executions, and the number of executions made; the next free trace index.

    Raises:
        ObservationError: The observations have likelihood zero in every prior execution that finished.
    """
    given = ObservationSet.of(observations)
    found: list[TraceBatch] = []
    failures: dict[int, str] = {}
    num_found = num_executed = 0
    for _ in range(_MAX_ROUNDS):
        index = np.arange(num_executed, num_executed + _CANDIDATES * num_chains)
        traces = simulator.execute(ScriptBatch.empty(seed, index), given)
        num_executed += len(index)
        failures.update(traces.failures)
        possible = np.flatnonzero(Sites.of(traces).log_likelihood > -np.inf)
        if len(possible):
            found.append(compact(traces.select(possible)))
            num_found += len(possible)
        if num_found >= num_chains or (not num_found and observe_other_shapes(traces)):
            break
    if not num_found:
        parts = (ruled_out.explain(traces), ruled_out.nearest_miss(simulator, traces, given))
        raise ObservationError(
            f"the observations have likelihood zero in all {num_executed} prior executions, so no chain can start; "
            + "; ".join(part for part in (*parts, "or use inference_compilation") if part)
        )
    traces = TraceBatch.concatenate(found)
    # The largest of log weight + Gumbel noise are a weighted sample without replacement (Efraimidis and Spirakis 2006).
    noisy = traces.log_likelihood + np.random.default_rng([seed, _INIT_STREAM]).gumbel(size=num_found)
    chosen = np.argsort(-noisy, kind="stable")[:num_chains]
    first = compact(traces.select(np.resize(chosen, num_chains)))
    return replace(first, failures=failures), num_executed


def step(
    rng: np.random.Generator,
    state: State,
    simulator: Executes,
    observations: Observations,
    kernel: Kernel,
    *,
    index: Ints,
) -> tuple[State, Info]:
    """Moves every chain once.

    Args:
        rng: The engine's randomness.
        state: C chains.
        simulator: The simulator.
        observations: Values by name.
        kernel: How coordinates change.
        index: `(C,)` trace indices for the executions, not used before in this run.

    Returns:
        The next state, and what happened.
    """
    current, categorical = state.sites, _categorical(simulator.addresses, state.categorical)
    pick = pick_rows(rng, current)
    address_id = (_at(current.site, pick, -1) >> 32).astype(np.int32)
    unordered = _at(categorical, address_id, False)
    move, new_z = kernel.propose(rng, _at(current.z, pick, 0.0), address_id, unordered)
    picked = move != _RESTART
    pick, address_id = np.where(picked, pick, -1), np.where(picked, address_id, -1)
    scripts, kept = _scripts(state, pick, move, new_z, index)
    executed = simulator.execute(scripts, observations)
    proposed = Sites.of(executed)
    possible = ~picked | _reversible(current, proposed, pick, kept)
    log_ratio = np.where(possible, log_acceptance(current, proposed, picked), -np.inf)
    acceptance = np.exp(np.minimum(log_ratio, 0.0))
    accepted = rng.random(len(current)) < acceptance
    after = State(state.seed, _merge(current, proposed, accepted), categorical)
    return after, Info(accepted, acceptance, move, address_id, executed)


def log_acceptance(current: Sites, proposed: Sites, picked: Bools) -> Floats:
    """log acceptance ratio of reversible moves, `(C,)`: `L' n / (L n')`, or `L' / L` where no site was picked."""
    # Where there is nothing to pick n is 0, and n' too if the move is reversible.
    dimension = np.log(np.maximum(current.counts, 1) / np.maximum(proposed.counts, 1))
    log_ratio = proposed.log_likelihood - current.log_likelihood
    return np.asarray(log_ratio + np.where(picked, dimension, 0.0))


def pick_rows(rng: np.random.Generator, sites: Sites) -> Ints:
    """One row of every trace, uniformly, as `(C,)`; -1 where there is none."""
    counts = sites.counts
    chosen = sites.offsets[:-1] + np.minimum((rng.random(len(counts)) * counts).astype(np.int64), counts - 1)
    return np.where(counts > 0, chosen, -1)


def compact(traces: TraceBatch) -> TraceBatch:
    """The same traces without parameter vectors that none of their draws uses."""
    used = np.zeros(len(traces.params), bool)
    used[traces.params_id] = True
    if used.all():
        return traces
    positions, offsets = gather(traces.params.offsets, used)
    params_id = (np.cumsum(used) - 1).astype(np.int32)[traces.params_id]
    return replace(traces, params=Params(traces.params.data[positions], offsets), params_id=params_id)


def _at(column: NDArray[Any], rows: Ints | Ids, missing: float) -> NDArray[Any]:
    """Values of a column at rows, `missing` where the row is -1."""
    there = rows >= 0
    if there.all():
        return column[rows]
    return np.where(there, column[rows] if len(column) else missing, missing).astype(column.dtype)


def _categorical(addresses: AddressTable, known: Bools) -> Bools:
    """`State.categorical`, with the addresses that are new."""
    if len(known) == len(addresses):
        return known
    families = [addresses[i].family for i in range(len(known), len(addresses))]
    new = [family in FAMILIES and FAMILIES[family].kind is Kind.CATEGORICAL for family in families]
    return np.concatenate([known, np.array(new, bool)])


def _offsets(counts: Ints) -> Ints:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _scripts(
    state: State, pick: Ints, move: NDArray[np.int8], new_z: Floats, index: Ints
) -> tuple[ScriptBatch, Ints]:
    """The scripts of the moves, and `(C,)` how many rows a REDRAW keeps (-1 for other moves)."""
    current, there = state.sites, np.flatnonzero(pick >= 0)
    begins, ends = current.offsets[:-1], current.offsets[1:]
    redraw = (move == _REDRAW) & (pick >= 0)
    if redraw.any():
        ends = np.where(redraw, current.first[pick], ends)
    # A script forces the first draws of a trace: all, those before the picked one, or none.
    kept = np.where(move == _RESTART, 0, ends - begins)
    forced = np.flatnonzero(np.arange(len(current.site)) < (begins + kept)[current.trace])
    z = current.z.copy()
    z[pick[there]] = new_z[there]
    site = current.site[forced]
    scripts = ScriptBatch(
        seed=state.seed,
        index=index,
        offsets=_offsets(kept),
        address_id=(site >> 32).astype(np.int32),
        instance=site.astype(np.int32),
        value=np.full(len(site), np.nan),
        z=z[forced],
    )
    return scripts, np.where(redraw, kept, -1)


def _reversible(current: Sites, proposed: Sites, pick: Ints, kept: Ints) -> Bools:
    """`(C,)`, whether the reverse of each move exists; see the module's docstring."""
    trace, there = proposed.trace, np.zeros(len(pick), bool)
    there[trace[proposed.site == _at(current.site, pick, -1)[trace]]] = True
    there |= (pick < 0) & (proposed.counts == 0)
    redraw = kept >= 0
    if not redraw.any():
        return there
    # REDRAW: the sites up to and including the picked one agree, so that both directions force the same ones.
    nth = np.arange(len(trace)) - proposed.offsets[trace]
    compared = np.flatnonzero(nth <= kept[trace])
    chain = trace[compared]
    differs = proposed.site[compared] != current.site[current.offsets[chain] + nth[compared]]
    agree = proposed.counts > kept
    agree[chain[differs]] = False
    return np.asarray(there & (agree | ~redraw))


def _merge(current: Sites, proposed: Sites, accepted: Bools) -> Sites:
    """Per chain the proposed sites where accepted, else the current ones."""
    if not accepted.any():
        return current
    counts = np.where(accepted, proposed.counts, current.counts)
    begins = np.where(accepted, proposed.offsets[:-1] + len(current.site), current.offsets[:-1])
    offsets = _offsets(counts)
    rows = np.repeat(begins - offsets[:-1], counts) + np.arange(offsets[-1])
    return Sites(
        offsets,
        np.concatenate([current.site, proposed.site])[rows],
        np.concatenate([current.z, proposed.z])[rows],
        np.where(accepted, proposed.log_likelihood, current.log_likelihood),
    )

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
- L' = 0 (log likelihood -inf) is a rejection.
- Draws that the simulator does not control (`control=False`) are drawn anew in every execution: their prior density
  stands in target and proposal alike. They can change which sites are read; a move counts only if its reverse exists,
  that is if i is in R' and, for REDRAW, the sites before i are the same in R and R'. RESTART, always reversible, lets
  chains cross between executions that have no site in common.

The kind of move may depend on i and its address only, which both directions share. One `execute` per step moves all
chains. Letters: C chains, N draws of all current traces together.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ppx_inference.diagnostics import refuse_undefined
from ppx_inference.quantities import element_in_draw
from ppx_server.address import AddressTable
from ppx_server.distributions import FAMILIES, Kind
from ppx_server.errors import ObservationError
from ppx_server.executor import Executes, Observations
from ppx_server.script import ScriptBatch
from ppx_server.trace import Floats, Ids, Ints, Params, TraceBatch, gather

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


class State(NamedTuple):
    """Where C chains are.

    Attributes:
        traces: Their current traces, all of non-zero likelihood.
    """

    traces: TraceBatch


class Info(NamedTuple):
    """What a step did, one entry per chain.

    Attributes:
        accepted: Whether the proposal became the state.
        acceptance: Probability with which it would.
        move: A `Move`.
        address_id: Address of the draw that was changed; -1 if the trace has none to change.
    """

    accepted: Bools
    acceptance: Floats
    move: NDArray[np.int8]
    address_id: Ids


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


def init(simulator: Executes, observations: Observations, num_chains: int, seed: int) -> tuple[State, int]:
    """Finds first states: a sample without replacement of prior executions, weighted by their likelihood.

    Args:
        simulator: The simulator.
        observations: Values by name.
        num_chains: C.
        seed: Seed of the run.

    Returns:
        The state, and the number of executions made; the next free trace index.

    Raises:
        ObservationError: The observations have likelihood zero in every prior execution.
    """
    found: list[TraceBatch] = []
    num_found = num_executed = 0
    for _ in range(_MAX_ROUNDS):
        index = np.arange(num_executed, num_executed + _CANDIDATES * num_chains)
        traces = simulator.execute(ScriptBatch.empty(seed, index), observations)
        num_executed += len(index)
        refuse_undefined(traces.log_likelihood, traces)
        possible = np.flatnonzero(traces.log_likelihood > -np.inf)
        if len(possible):
            found.append(compact(traces.select(possible)))
            num_found += len(possible)
        if num_found >= num_chains:
            break
    if not num_found:
        raise ObservationError(
            f"the observations have likelihood zero in all {num_executed} prior executions, so no chain can start; "
            "check their values and units, widen the observation noise, or use inference_compilation"
        )
    traces = TraceBatch.concatenate(found)
    # The largest of log weight + Gumbel noise are a weighted sample without replacement (Efraimidis and Spirakis 2006).
    noisy = traces.log_likelihood + np.random.default_rng([seed, _INIT_STREAM]).gumbel(size=num_found)
    chosen = np.argsort(-noisy, kind="stable")[:num_chains]
    return State(compact(traces.select(np.resize(chosen, num_chains)))), num_executed


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
    current = state.traces
    pick = pick_rows(rng, current)
    address_id, z = _at(current.address_id, pick, -1), _at(current.z, pick, 0.0)
    move, new_z = kernel.propose(rng, z, address_id, _categorical(current.addresses, address_id))
    picked = move != Move.RESTART
    pick, address_id = np.where(picked, pick, -1), np.where(picked, address_id, -1)
    scripts, kept = _scripts(current, pick, move, new_z, index)
    proposed = simulator.execute(scripts, observations)
    refuse_undefined(proposed.log_likelihood, proposed)
    possible = ~picked | _reversible(current, proposed, pick, kept)
    log_ratio = np.where(possible, log_acceptance(current, proposed, picked), -np.inf)
    acceptance = np.exp(np.minimum(log_ratio, 0.0))
    accepted = rng.random(len(current)) < acceptance
    return State(_merge(current, proposed, accepted)), Info(accepted, acceptance, move, address_id)


def log_acceptance(current: TraceBatch, proposed: TraceBatch, picked: Bools) -> Floats:
    """log acceptance ratio of reversible moves, `(C,)`: `L' n / (L n')`, or `L' / L` where no site was picked."""
    # Where there is nothing to pick n is 0, and n' too if the move is reversible.
    n, n_new = np.maximum(num_controlled(current), 1), np.maximum(num_controlled(proposed), 1)
    log_ratio = proposed.log_likelihood - current.log_likelihood
    return np.asarray(log_ratio + np.where(picked, np.log(n) - np.log(n_new), 0.0))


def num_controlled(traces: TraceBatch) -> Ints:
    """`(C,)` number of controlled scalar draws of each trace."""
    return np.diff(_controlled_rows(traces)[1])


def pick_rows(rng: np.random.Generator, traces: TraceBatch) -> Ints:
    """One controlled row of every trace, uniformly, as `(C,)`; -1 where there is none."""
    rows, offsets = _controlled_rows(traces)
    counts = np.diff(offsets)
    chosen = offsets[:-1] + np.minimum((rng.random(len(counts)) * counts).astype(np.int64), counts - 1)
    return np.where(counts > 0, rows[chosen] if len(rows) else -1, -1)


def compact(traces: TraceBatch) -> TraceBatch:
    """The same traces without parameter vectors that none of their draws uses."""
    used, params_id = np.unique(traces.params_id, return_inverse=True)
    positions, offsets = gather(traces.params.offsets, used)
    return replace(
        traces, params=Params(traces.params.data[positions], offsets), params_id=params_id.astype(np.int32)
    )


def _at(column: NDArray[Any], rows: Ints, missing: float) -> NDArray[Any]:
    """Values of a column at rows, `missing` where the row is -1."""
    return np.where(rows >= 0, column[rows] if len(column) else missing, missing).astype(column.dtype)


def _controlled_rows(traces: TraceBatch) -> tuple[Ints, Ints]:
    """Rows of the controlled draws, and where each trace's begin: `(M,)` and `(C + 1,)`."""
    rows = np.flatnonzero(traces.controlled)
    return rows, np.searchsorted(rows, traces.offsets)


def _categorical(addresses: AddressTable, address_id: Ids) -> Bools:
    return np.array(
        [i >= 0 and FAMILIES[addresses[i].family].kind is Kind.CATEGORICAL for i in address_id.tolist()], bool
    )


def _scripts(
    current: TraceBatch, pick: Ints, move: NDArray[np.int8], new_z: Floats, index: Ints
) -> tuple[ScriptBatch, Ints]:
    """The scripts of the moves, and `(C,)` how many controlled rows a REDRAW keeps (-1 for other moves)."""
    trace = np.repeat(np.arange(len(current)), current.length)
    rows = np.arange(len(trace))
    redraw, restart = (move == Move.REDRAW) & (pick >= 0), move == Move.RESTART
    first = pick - element_in_draw(trace, current.address_id, current.instance)[pick] if len(rows) else pick
    forced = current.controlled & ~restart[trace] & (~redraw[trace] | (rows < first[trace]))
    z = current.z.copy()
    z[pick[pick >= 0]] = new_z[pick >= 0]
    offsets = np.concatenate(
        [np.zeros(1, np.int64), np.cumsum(np.bincount(trace[forced], minlength=len(current)))]
    )
    scripts = ScriptBatch(
        seed=current.seed,
        index=index,
        offsets=offsets,
        address_id=current.address_id[forced],
        instance=current.instance[forced],
        value=np.full(int(offsets[-1]), np.nan),
        z=z[forced],
    )
    return scripts, np.where(redraw, np.diff(offsets), -1)


def _reversible(current: TraceBatch, proposed: TraceBatch, pick: Ints, kept: Ints) -> Bools:
    """`(C,)`, whether the reverse of each move exists; see the module's docstring."""
    rows, offsets = _controlled_rows(proposed)
    trace = np.repeat(np.arange(len(proposed)), np.diff(offsets))
    # One number per (address, instance); -1 for chains without a draw to pick.
    width = 1 + max(int(current.instance.max(initial=0)), int(proposed.instance.max(initial=0)))
    site = proposed.address_id[rows].astype(np.int64) * width + proposed.instance[rows]
    old_site = current.address_id.astype(np.int64) * width + current.instance
    picked = np.where(pick >= 0, old_site[pick] if len(old_site) else -1, -1)
    there = np.bincount(trace[site == picked[trace]], minlength=len(picked)) > 0
    there |= (pick < 0) & (np.diff(offsets) == 0)
    # REDRAW: the sites up to and including the picked one agree, so that both directions force the same ones.
    redraw, fits = kept >= 0, np.diff(offsets) > kept
    compared = np.where(redraw & fits & there, kept + 1, 0)
    old_rows, old_offsets = _controlled_rows(current)
    chain = np.repeat(np.arange(len(compared)), compared)
    nth = np.arange(len(chain)) - np.repeat(np.cumsum(compared) - compared, compared)
    differs = site[offsets[chain] + nth] != old_site[old_rows[old_offsets[chain] + nth]]
    agree = np.bincount(chain[differs], minlength=len(compared)) == 0
    return np.asarray(there & (~redraw | (fits & agree)))


def _merge(current: TraceBatch, proposed: TraceBatch, accepted: Bools) -> TraceBatch:
    """Per chain the proposed trace where accepted, else the current one."""
    if not accepted.any():
        return current
    both = TraceBatch.concatenate([current, proposed])
    chains = np.arange(len(accepted))
    return compact(both.select(np.where(accepted, chains + len(accepted), chains)))

"""Lightweight Metropolis-Hastings: one draw at a time is drawn anew from its prior (Wingate et al., AISTATS 2011)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_inference.chains import Schedule, run_chains
from ppx_inference.keeping import ALL, Kept
from ppx_inference.metropolis import Bools, Info, Move
from ppx_inference.posterior import Posterior
from ppx_inference.progress import Progress
from ppx_server.executor import Executes
from ppx_server.observations import Observations, ObservationSet, Partial
from ppx_server.trace import Floats, Ids

REDRAW_PROBABILITY = 0.1
"""Share of steps that draw everything anew from the picked draw on: how chains get from one branch to another whose
later draws would not fit the old ones."""
RESTART_PROBABILITY = 0.02
"""Share of steps that draw everything anew, so that every possible trace can be reached from every other."""

_MOVES = np.array([Move.RESTART, Move.REDRAW, Move.RESAMPLE], np.int8)


class Lightweight(NamedTuple):
    """The kernel of `lightweight_mh`.

    Attributes:
        redraw: Probability of a REDRAW move.
        restart: Probability of a RESTART move.
    """

    redraw: float = REDRAW_PROBABILITY
    restart: float = RESTART_PROBABILITY

    def propose(
        self, rng: np.random.Generator, z: Floats, address_id: Ids, categorical: Bools
    ) -> tuple[NDArray[np.int8], Floats]:
        """A prior draw for every chain; see `metropolis.Kernel`."""
        thresholds = np.cumsum([self.restart, self.redraw])
        return _MOVES[np.searchsorted(thresholds, rng.random(len(z)))], rng.standard_normal(len(z))


def lightweight_mh(
    simulator: Executes,
    observations: Observations,
    *,
    num_traces: int,
    seed: int = 0,
    num_chains: int | None = None,
    burn_in: int | None = None,
    thinning: int = 1,
    partial: Partial = False,
    keep: Kept = ALL,
    progress: Progress | None = None,
) -> Posterior:
    """Markov chains that draw one random choice at a time anew from its prior, or all choices from one on.

    Args:
        simulator: The simulator.
        observations: Values by name, or by (name, visit); None or NaN for what was not measured.
        partial: Names of which not all visits are given; True for all. Of the others, a trace that makes more or fewer
            visits than were given has weight zero.
        num_traces: Executions after burn-in, over all chains; rounded up to a multiple of `num_chains`.
        seed: Seed of the run.
        num_chains: Chains, which move in lock step; by default one per 500 traces, at least 4 and at most 16, and in
            long runs one per 2000, at most 64. A fast simulator makes 64 steps at once in about the time of one.
        burn_in: Executions before the first that counts, over all chains; by default a fifth of `num_traces`. Finding
            the first states takes some more.
        thinning: Keep every so-manyth state of each chain.
        keep: What to keep of traces: `"all"`, `"named"` (draws that have a name, and tags), or names and patterns of
            draws and tags; weights and results always are. Memory is then that of what is kept.
        progress: Who is told how far it is; None for a bar if stderr is a terminal.

    Returns:
        `num_traces / thinning` equally weighted traces, one chain after the other.

    Raises:
        ObservationError: A value is no number, the simulator never observes a name, or no prior execution can explain
            what was given.
        SimulatorError: A simulator failed.

    Whichever is raised in mid-run, `error.partial` is the posterior of what had finished, or None.
    """
    return run_chains(
        "lightweight_mh",
        simulator,
        ObservationSet.of(observations, partial),
        kernel=Lightweight(),
        adapt=_unchanged,
        settings=lambda kernel, simulator: kernel._asdict(),
        schedule=Schedule.of(num_traces, seed, num_chains, burn_in, thinning),
        keep=keep,
        progress=progress,
    )


def _unchanged(kernel: Lightweight, info: Info) -> Lightweight:
    return kernel

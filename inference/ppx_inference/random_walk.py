"""Random-walk Metropolis-Hastings in standard coordinates: small prior-reversible steps, one draw at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

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

RESAMPLE_PROBABILITY = 0.1
"""Share of steps that draw the picked draw anew from its prior, to reach what is far."""
MIRROR_PROBABILITY = 0.1
"""Share of steps from the mirror image of the coordinate, to reach what is as likely by symmetry."""
REDRAW_PROBABILITY = 0.1
"""Share of steps that draw everything anew from the picked draw on; see `lightweight`."""
RESTART_PROBABILITY = 0.02
"""Share of steps that draw everything anew, so that every possible trace can be reached from every other."""
FIRST_STEP = 0.5
TARGET_ACCEPTANCE = 0.44
"""Best acceptance rate of a random walk in one dimension (Gelman, Roberts and Gilks 1996, table 1)."""
_SMALLEST_STEP = 1e-4
_GAIN_DECAY = 0.6
"""Robbins-Monro gains n^-0.6 (Andrieu and Thoms 2008, section 4.2: between 1/2 and 1)."""

_MOVES = np.array([Move.RESTART, Move.REDRAW, Move.RESAMPLE, Move.MIRROR, Move.WALK], np.int8)
_, _, _RESAMPLE, _MIRROR, _WALK = _MOVES.tolist()


class RandomWalk(NamedTuple):
    """The kernel of `random_walk_mh`.

    Attributes:
        first_step: Step size, in (0, 1], of addresses that have none of their own; 1 is a prior draw.
        log_step: `(A,)` log step size by address id.
        num_walks: `(A,)` walks that the step size has been learnt from.
        resample: Probability of a prior draw.
        mirror: Probability of a MIRROR move.
        redraw: Probability of a REDRAW move.
        restart: Probability of a RESTART move.
    """

    first_step: float = FIRST_STEP
    log_step: Floats = np.empty(0)
    num_walks: Floats = np.empty(0)
    resample: float = RESAMPLE_PROBABILITY
    mirror: float = MIRROR_PROBABILITY
    redraw: float = REDRAW_PROBABILITY
    restart: float = RESTART_PROBABILITY

    def step_size(self, address_id: Ids) -> Floats:
        """`(C,)` step sizes at addresses."""
        known = (address_id >= 0) & (address_id < len(self.log_step))
        steps = np.full(len(address_id), self.first_step)
        steps[known] = np.exp(self.log_step[address_id[known]])
        return steps

    def propose(
        self, rng: np.random.Generator, z: Floats, address_id: Ids, categorical: Bools
    ) -> tuple[NDArray[np.int8], Floats]:
        """A small step for every chain, sometimes or for categorical draws a prior draw; see `metropolis.Kernel`."""
        kind, noise = rng.random(len(z)), rng.standard_normal(len(z))
        thresholds = np.cumsum([self.restart, self.redraw, self.resample, self.mirror])
        move = _MOVES[np.searchsorted(thresholds, kind)]
        move[categorical & ((move == _MIRROR) | (move == _WALK))] = _RESAMPLE
        step = np.where(move == _RESAMPLE, 1.0, self.step_size(address_id))
        rho = np.where(move == _MIRROR, -1.0, 1.0) * np.sqrt(1 - step**2)
        return move, rho * z + step * noise

    def adapted(self, info: Info) -> RandomWalk:
        """The kernel after learning from one step: larger steps where too many are accepted, else smaller."""
        walked = info.move == _WALK
        walked &= info.address_id >= 0
        ids, excess = info.address_id[walked], info.acceptance[walked] - TARGET_ACCEPTANCE
        size = max(len(self.log_step), int(ids.max(initial=-1)) + 1)
        log_step = np.full(size, np.log(self.first_step))
        log_step[: len(self.log_step)] = self.log_step
        num_walks = np.zeros(size)
        num_walks[: len(self.num_walks)] = self.num_walks
        num_walks += np.bincount(ids, minlength=size)
        log_step += (
            np.bincount(ids, weights=excess, minlength=size) * np.maximum(num_walks, 1) ** -_GAIN_DECAY
        )
        return self._replace(log_step=np.clip(log_step, np.log(_SMALLEST_STEP), 0.0), num_walks=num_walks)


def random_walk_mh(
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
    step_size: float | None = None,
    progress: Progress | None = None,
) -> Posterior:
    """Markov chains that move one random choice at a time by a small step, sometimes by a prior draw.

    Steps are taken in standard coordinates, for continuous and ordered families; categorical draws are drawn anew.

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
        step_size: Size of a step in standard coordinates, in (0, 1], for all draws; by default every address's is
            learnt during burn-in.
        progress: Who is told how far it is; None for a bar if stderr is a terminal.

    Returns:
        `num_traces / thinning` equally weighted traces, one chain after the other.

    Raises:
        ObservationError: A value is no number, the simulator never observes a name, or no prior execution can explain
            what was given.
        SimulatorError: A simulator failed.

    Whichever is raised in mid-run, `error.partial` is the posterior of what had finished, or None.
        ValueError: A number is out of range.
    """
    if step_size is not None and not 0 < step_size <= 1:
        raise ValueError(f"step_size must be in (0, 1], where 1 is a prior draw; not {step_size}")
    return run_chains(
        "random_walk_mh",
        simulator,
        ObservationSet.of(observations, partial),
        kernel=RandomWalk(FIRST_STEP if step_size is None else step_size),
        adapt=RandomWalk.adapted if step_size is None else _unchanged,
        settings=_settings,
        schedule=Schedule.of(num_traces, seed, num_chains, burn_in, thinning),
        keep=keep,
        progress=progress,
    )


def _unchanged(kernel: RandomWalk, info: Info) -> RandomWalk:
    return kernel


def _settings(kernel: RandomWalk, simulator: Executes) -> dict[str, Any]:
    learnt = np.flatnonzero(kernel.num_walks > 0)
    steps = {simulator.addresses[int(i)].address: float(np.exp(kernel.log_step[i])) for i in learnt}
    shares = {name: getattr(kernel, name) for name in ("resample", "mirror", "redraw", "restart")}
    return {"first_step": kernel.first_step, "step_size": steps, **shares}

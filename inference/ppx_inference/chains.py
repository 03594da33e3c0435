"""Runs Metropolis chains in lock step, from first states through burn-in to a `Posterior`.

Letters: C chains, T kept states per chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from ppx_inference import metropolis
from ppx_inference.arguments import checked_count, checked_seed, observed_names
from ppx_inference.metropolis import Info, Kernel, State
from ppx_inference.posterior import Posterior
from ppx_inference.progress import Progress, Reporter, reporting
from ppx_inference.provenance import Provenance, first_failures, given_values
from ppx_server.errors import PPXError
from ppx_server.executor import Executes
from ppx_server.interrupts import finishing
from ppx_server.observations import Observations, ObservationSet
from ppx_server.trace import Ints, TraceBatch

_FEWEST_CHAINS = 4
_CHAIN_RULES = ((500, 16), (2000, 64))
"""Executions that a chain should get before there are more chains, up to a number of chains. A short chain has not
forgotten where it began; but moving 64 chains takes a fast simulator hardly longer than moving 16."""
_DEFAULT_BURN_IN = 0.2
"""Burn-in executions per kept execution, unless told otherwise."""
_PIECES = 256
"""How many small batches are collected before they are joined."""
_PIECES_BYTES = 64e6
"""And how much memory they may take, about."""

KernelT = TypeVar("KernelT", bound=Kernel)


def default_chains(num_traces: int) -> int:
    """Chains for a run of `num_traces` executions: many keep the simulators busy, few give each of them time."""
    return max(_FEWEST_CHAINS, *(min(num_traces // least, most) for least, most in _CHAIN_RULES))


@dataclass(frozen=True)
class Schedule:
    """How long chains run. All numbers of executions are sums over the chains.

    Attributes:
        num_traces: Executions after burn-in; rounded up to a multiple of `num_chains`.
        seed: Seed of the run.
        num_chains: C.
        burn_in: Executions before the first that counts; rounded up likewise.
        thinning: Every `thinning`-th state of a chain is kept.
    """

    num_traces: int
    seed: int
    num_chains: int
    burn_in: int
    thinning: int

    @classmethod
    def of(
        cls, num_traces: int, seed: int, num_chains: int | None, burn_in: int | None, thinning: int
    ) -> Schedule:
        """Checks the arguments of an engine and fills in defaults.

        Raises:
            ValueError: A number is out of range, or thinning leaves no state.
        """
        num_traces = checked_count("num_traces", num_traces)
        chains = checked_count("num_chains", default_chains(num_traces) if num_chains is None else num_chains)
        burn_in = math.ceil(_DEFAULT_BURN_IN * num_traces) if burn_in is None else burn_in
        schedule = cls(
            num_traces,
            checked_seed(seed),
            min(chains, num_traces),
            checked_count("burn_in", burn_in, least=0),
            checked_count("thinning", thinning),
        )
        if schedule.steps < schedule.thinning:
            raise ValueError(
                f"thinning {thinning} keeps none of the {schedule.steps} states of each of {schedule.num_chains} "
                "chains; raise num_traces or lower thinning"
            )
        return schedule

    @property
    def steps(self) -> int:
        """Steps of each chain after burn-in."""
        return math.ceil(self.num_traces / self.num_chains)

    @property
    def burn_in_steps(self) -> int:
        """Steps of each chain before that."""
        return math.ceil(self.burn_in / self.num_chains)


class _History:
    """The kept states of all chains; a state that stays is stored once.

    What was proposed is collected as it came, and sorted out once in a while: most of it is not kept.
    """

    def __init__(self, first: TraceBatch) -> None:
        self._num_chains = len(first)
        self._joined: list[TraceBatch] = []
        self._positions: list[Ints] = []
        self._most_pieces = _PIECES
        self._pieces = [replace(first, failures={})]
        self._kept: list[Ints] = []
        self._chains = np.arange(len(first))
        self._where: Ints = self._chains

    def __len__(self) -> int:
        return sum(len(p) for p in self._positions) + len(self._kept)

    def moved(self, info: Info) -> None:
        """Notes where a step has taken the chains."""
        new = len(self._pieces) * self._num_chains + self._chains
        self._pieces.append(info.proposed)
        self._where = np.where(info.accepted, new, self._where)
        if len(self._pieces) == 2:
            self._most_pieces = min(int(_PIECES_BYTES / max(info.proposed.nbytes, 1)), _PIECES)
        if len(self._pieces) > self._most_pieces:
            self._join()

    def keep(self) -> None:
        """Keeps the chains' current states."""
        self._kept.append(self._where)

    def traces(self) -> TraceBatch:
        """C x T traces, one chain after the other."""
        self._join()
        distinct = TraceBatch.concatenate(self._joined)
        return metropolis.compact(distinct.select(np.concatenate(self._positions).ravel(order="F")))

    def _join(self) -> None:
        """Stores the kept states, and forgets all that no chain is at."""
        traces = replace(TraceBatch.concatenate(self._pieces), failures={})
        if self._kept:
            kept: Ints = np.stack(self._kept)
            used = np.zeros(len(traces), bool)
            used[kept] = True
            self._positions.append(sum(map(len, self._joined)) + (np.cumsum(used) - 1)[kept])
            self._joined.append(metropolis.compact(traces.select(used)))
        self._pieces = [metropolis.compact(traces.select(self._where))]
        self._kept, self._where = [], self._chains


class _Run(Generic[KernelT]):
    """One run of an engine."""

    def __init__(
        self,
        engine: str,
        simulator: Executes,
        observations: ObservationSet,
        kernel: KernelT,
        adapt: Callable[[KernelT, Info], KernelT],
        settings: Callable[[KernelT, Executes], Mapping[str, Any]],
        schedule: Schedule,
    ) -> None:
        self._engine, self._simulator, self._observations = engine, simulator, observations
        self._kernel, self._adapt, self._settings = kernel, adapt, settings
        self._schedule = schedule
        self._rng = np.random.default_rng(schedule.seed)
        self._history: _History | None = None
        self._failures: dict[int, str] = {}
        self._num_executed = self._num_accepted = self._num_counted = self._num_failed = 0

    def run(self, reporter: Reporter) -> Posterior:
        """First states, burn-in, then the states that are kept; Ctrl-C ends it early."""
        interrupted = False
        try:
            self._walk(reporter)
        except KeyboardInterrupt:
            if not self._history:
                raise
            interrupted = True
        except PPXError as error:
            error.partial = self._posterior(reporter, interrupted=True) if self._history else None
            raise
        return self._posterior(reporter, interrupted=interrupted)

    def _walk(self, reporter: Reporter) -> None:
        schedule = self._schedule
        first, self._num_executed = metropolis.init(
            self._simulator, self._observations, schedule.num_chains, schedule.seed
        )
        self._note_failures(first)
        self._history, state = _History(first), State.of(first)
        for _ in range(schedule.burn_in_steps):
            state, info = self._step(state)
            self._kernel = self._adapt(self._kernel, info)
            reporter.advance(schedule.num_chains, "(burn-in)")
        for n in range(1, schedule.steps + 1):
            state, info = self._step(state)
            self._num_accepted += int(np.count_nonzero(info.accepted))
            self._num_counted += schedule.num_chains
            if n % schedule.thinning == 0:
                self._history.keep()
            reporter.advance(schedule.num_chains, f"(accepted {self._num_accepted / self._num_counted:.0%})")

    def _step(self, state: State) -> tuple[State, Info]:
        assert self._history is not None
        index = np.arange(self._num_executed, self._num_executed + self._schedule.num_chains)
        state, info = metropolis.step(
            self._rng, state, self._simulator, self._observations, self._kernel, index=index
        )
        self._num_executed += len(index)
        self._note_failures(info.proposed)
        self._history.moved(info)
        return state, info

    def _note_failures(self, traces: TraceBatch) -> None:
        if traces.failures:
            self._num_failed += len(traces.failures)
            self._failures = first_failures(self._failures, traces.failures)

    def _posterior(self, reporter: Reporter, *, interrupted: bool) -> Posterior:
        assert self._history is not None
        with finishing("putting the finished traces together"):
            traces = self._history.traces()
        schedule = self._schedule
        settings = {"burn_in": schedule.burn_in, "thinning": schedule.thinning}
        provenance = Provenance(
            engine=self._engine,
            seed=schedule.seed,
            model_name=self._simulator.model_name,
            observations=observed_names(self._observations),
            given=given_values(self._observations),
            num_executions=self._num_executed,
            num_failed=self._num_failed,
            failures=self._failures,
            wall_seconds=reporter.seconds,
            num_chains=schedule.num_chains,
            acceptance_rate=self._num_accepted / self._num_counted,
            interrupted=interrupted,
            settings=settings | dict(self._settings(self._kernel, self._simulator)),
        )
        return Posterior(traces, np.zeros(len(traces)), provenance)


def run_chains(
    engine: str,
    simulator: Executes,
    observations: Observations,
    *,
    kernel: KernelT,
    adapt: Callable[[KernelT, Info], KernelT],
    settings: Callable[[KernelT, Executes], Mapping[str, Any]],
    schedule: Schedule,
    progress: Progress | None,
) -> Posterior:
    """Runs a Metropolis engine.

    Args:
        engine: Its name.
        simulator: The simulator.
        observations: Values by name.
        kernel: How it proposes, at first.
        adapt: How the kernel learns from a step of burn-in; afterwards it is fixed, as detailed balance asks.
        settings: What to note of the final kernel.
        schedule: How long it runs.
        progress: Who is told.

    Returns:
        Equally weighted traces, one chain after the other.
    """
    total = (schedule.burn_in_steps + schedule.steps) * schedule.num_chains
    with reporting(progress, total, engine.replace("_", " ")) as reporter:
        run = _Run(engine, simulator, ObservationSet.of(observations), kernel, adapt, settings, schedule)
        posterior = run.run(reporter)
    posterior.warn_if_doubtful()
    return posterior

"""Executing a batch of scripts: what its traces share, and what is computed for all of them at once."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, nan
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from ppx_client.buffers import MalformedError
from ppx_client.columns import COMPLETE, DENSITY, FAILED, MODEL, NOT_CHOSEN, PENDING, BatchResult, RunBatch
from ppx_client.densities import log_prob
from ppx_client.distributions import Categorical
from ppx_client.philox import Numbers, Stream, uniforms
from ppx_client.scripts import Choices, Cursor, ScriptedTrace
from ppx_client.sites import Site, Sites

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ppx_client.buffers import Tensor

    Floats = NDArray[np.float64]

Execute = Callable[[ScriptedTrace], tuple["Tensor | None", str | None]]
"""Runs the model once; its result, or else what went wrong in it."""

_BLOCK = 1 << 15
"""Random numbers made at once, at most."""
_MOST = 1024
"""Random numbers made in advance for a trace, at most."""
_CATEGORICAL = Categorical.code


@dataclass
class Expected:
    """How many random numbers traces take, judged by those that have run.

    They are made for many traces at once; more than that are made when they are needed, which costs more.
    """

    draws: int = 8
    observations: int = 8

    def learn(self, draws: Sequence[int], observations: Sequence[int]) -> None:
        """Takes the numbers that the traces of a batch used into account."""
        self.draws = _most(draws, self.draws)
        self.observations = _most(observations, self.observations)


def _most(counts: Sequence[int], before: int) -> int:
    """What nine of ten traces do with, slowly forgetting the batches before."""
    if not counts:
        return before
    return max(sorted(counts)[int(0.9 * len(counts))], int(0.9 * before)) + 1


class Batch:
    """Executes K scripts.

    Args:
        script: The scripts.
        sites: The addresses of the simulator.
        chosen: The site of every forced choice.
        observations: Values to condition on, None if observations are drawn.
        max_bytes: The longest message that the controller takes.

    Attributes:
        sites: The addresses of the simulator.
        choices: What the scripts force.
        observations: Values to condition on, None if observations are drawn.
        asks: Whether traces end at a draw that their script does not cover.
        result: What happened so far.
    """

    def __init__(
        self,
        script: RunBatch,
        sites: Sites,
        chosen: Sequence[Site | None],
        observations: dict[tuple[str, int], Tensor] | None,
        max_bytes: int,
    ) -> None:
        self.sites = sites
        self.observations = observations
        self.asks = script.ask
        self.choices = Choices(chosen, script.instance.tolist(), script.value.tolist(), script.z.tolist())
        self.result = BatchResult(script.batch)
        self._script = script
        self._max_bytes = max_bytes
        self._used: list[Site] = []
        self._num_draws: list[int] = []
        self._num_observed: list[int] = []
        self._weighed: dict[tuple[int, int], tuple[array[int], array[float], array[float]]] = {}

    def run(self, execute: Execute, expected: Expected) -> BatchResult:
        """Executes all of them.

        Raises:
            MalformedError: What they do does not fit into a message.
        """
        start = time.perf_counter()
        try:
            draws = self._numbers(Stream.DRAWS, expected.draws)
            drawn = expected.observations if self.observations is None else 0
            observed = self._numbers(Stream.OBSERVATIONS, drawn)
            limits = pairwise(self._script.offsets.tolist())
            for own, own_observed, (first, stop) in zip(draws, observed, limits, strict=True):
                cursor = None if first == stop else Cursor(self.choices, first, stop, follows=self.asks)
                self._run_trace(ScriptedTrace(self, cursor, own, own_observed), execute)
                if self.result.num_bytes > self._max_bytes:
                    self._refuse_size()
        finally:
            for site in self._used:
                site.vector = None
        expected.learn(self._num_draws, self._num_observed)
        self._weigh_draws()
        self._weigh_observations()
        self.result.seconds = time.perf_counter() - start
        return self.result

    def _refuse_size(self) -> None:
        """Refuses a batch whose result is too long; of a single trace there is nothing smaller to ask for."""
        num_traces = len(self._script.index)
        if num_traces > 1:
            raise MalformedError(
                f"the first {len(self.result.status)} of {num_traces} traces fill a message of {self._max_bytes} "
                "bytes; send fewer scripts in a batch"
            )
        self.result = result = BatchResult(self._script.batch, status=bytearray([FAILED]))
        for columns in (result, result.observations, result.tags, result.results, result.loops):
            columns.offsets.append(0)
        reason = (
            f"the trace does not fit into a message of {self._max_bytes} bytes; set PPX_MAX_MESSAGE to more, for the "
            "simulator and for the controller"
        )
        result.failures.append((0, MODEL, reason))

    def _numbers(self, stream: Stream, expected: int) -> Iterator[Numbers]:
        """The random numbers of each trace."""
        seed, index = self._script.seed, self._script.index
        count = min(expected, _MOST)
        if not count:
            yield from (Numbers(seed, number, stream) for number in index.tolist())
            return
        block = _BLOCK // count
        for first in range(0, len(index), block):
            part = index[first : first + block]
            u = uniforms(seed, part, 0, count, stream)
            for number, row, normals in zip(part.tolist(), u.tolist(), ndtri(u).tolist(), strict=True):
                yield Numbers(seed, number, stream, (row, normals))

    def _run_trace(self, trace: ScriptedTrace, execute: Execute) -> None:
        result = self.result
        value, failure = execute(trace)
        position = len(result.status)
        status = COMPLETE
        # Why the trace was ended holds, whatever the model made of it.
        if trace.failure is not None or (failure is not None and not trace.pending):
            kind, reason = trace.failure or (MODEL, failure or "")
            result.failures.append((position, kind, reason))
            status = FAILED
        elif trace.pending:
            status = PENDING
        elif isinstance(value, float):
            result.results.add(self.sites.number("", "", 0, ()), 0, value)
        elif value is not None and value.size:
            result.results.add(self.sites.number("", "", 0, value.shape), 0, value)
        trace.close()
        self._num_draws.append(trace.num_draws - trace.num_in_arrays)
        if self.observations is None:
            self._num_observed.append(trace.num_observed - trace.num_observed_in_arrays)
        result.status.append(status)
        result.offsets.append(len(result.address))
        for columns in (result.observations, result.tags, result.results, result.loops):
            columns.offsets.append(len(columns.address))

    def intern(self, site: Site, vector: Sequence[float]) -> int:
        """The number of a parameter vector; equal neighbours at a site share it."""
        if site.vector is None:
            self._used.append(site)
        elif site.vector == vector:
            site.vector = vector
            return site.params
        result = self.result
        site.vector = vector
        site.params = len(result.params_offsets) - 1
        result.params_data.extend(vector)
        result.params_offsets.append(len(result.params_data))
        return site.params

    def weigh(self, code: int, value: float, vector: Sequence[float]) -> None:
        """The density of the observation added last is to be computed."""
        log_probs = self.result.observations.log_prob
        key = code, len(vector)
        columns = self._weighed.get(key)
        if columns is None:
            columns = self._weighed[key] = array("i"), array("d"), array("d")
        columns[0].append(len(log_probs))
        columns[1].append(value)
        columns[2].extend(vector)
        log_probs.append(nan)

    def _weigh_draws(self) -> None:
        result = self.result
        values, params = np.array(result.value), np.array(result.params, np.int64)
        log_probs = np.full(len(values), nan)
        codes = np.array(self.sites.families, np.uint8)[np.array(result.address, np.int64)]
        offsets, data = np.array(result.params_offsets, np.int64), np.array(result.params_data)
        starts, sizes = offsets[params], offsets[params + 1] - offsets[params]
        for code in np.unique(codes).tolist():
            of_family = np.flatnonzero(codes == code)
            for size in np.unique(sizes[of_family]).tolist():
                rows = of_family if code != _CATEGORICAL else of_family[sizes[of_family] == size]
                matrix = data[starts[rows, None] + np.arange(size)]
                log_probs[rows] = log_prob(code, values[rows], _columns(code, matrix))
        chosen = (np.frombuffer(result.flags, np.uint8) & NOT_CHOSEN) == 0
        result.log_prob = self._checked(log_probs, chosen, "draw", result.offsets, result.address)

    def _weigh_observations(self) -> None:
        columns = self.result.observations
        log_probs = np.array(columns.log_prob)
        for (code, size), (rows, values, params) in self._weighed.items():
            matrix = np.array(params).reshape(-1, size)
            log_probs[np.array(rows, np.int64)] = log_prob(code, np.array(values), _columns(code, matrix))
        everywhere = np.ones(len(log_probs), np.bool_)
        log_probs = self._checked(log_probs, everywhere, "observation", columns.offsets, columns.address)
        columns.log_prob = array("d", log_probs.tobytes())

    def _checked(
        self,
        log_probs: Floats,
        rows: NDArray[np.bool_],
        what: str,
        offsets: array[int],
        addresses: array[int],
    ) -> Floats:
        """Densities that are NaN or infinite make their traces fail, and become those of weight 0."""
        wrong = rows & (np.isnan(log_probs) | (log_probs == inf))
        if not wrong.any():
            return log_probs
        result = self.result
        for row in np.flatnonzero(wrong).tolist():
            trace = int(np.searchsorted(np.array(offsets), row, side="right")) - 1
            if result.status[trace] != FAILED:
                result.status[trace] = FAILED
                address = self.sites.addresses[addresses[row]].address
                reason = (
                    f"the log density of the {what} at {address} is {log_probs[row]}; check its parameters"
                )
                result.failures.append((trace, DENSITY, reason))
        return np.where(wrong, -inf, log_probs)


def _columns(code: int, matrix: Floats) -> tuple[Floats, ...]:
    """Parameters of many draws, from their vectors `(N, P)`."""
    return (matrix,) if code == _CATEGORICAL else tuple(matrix.T)

"""Stability diagnostics of external simulators, and of the proposal network on traces.

`ForcedRuns` makes of a simulator the black box of `ppx_proposals.optim.stability`: scripts force some draws to theta,
and the draws that are left open get numbers that are a function of (seed, trace index, ordinal of the draw), whatever
theta is. They are common random numbers as long as both runs make the same draws in the same order, and as long as the
simulator draws everything through PPX; `finite_difference_sensitivity` finds out where it does not.

    runs = ForcedRuns(simulator, ["log_r"])
    print(finite_difference_sensitivity(runs, [3.0], seeds=range(20)))

Letters: R runs, P forced draws, T steps of the network, B traces, d size of the core's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppx_proposals.batching import encode, pack
from ppx_proposals.forcing import ForcedDraws, Name, name_and_visit
from ppx_proposals.optim.stability.recurrent import RecurrentCore, recurrent_core
from ppx_proposals.proposal import Proposal
from ppx_server.errors import AddressError, SimulatorError
from ppx_server.executor import Executes
from ppx_server.script import ScriptBatch
from ppx_server.trace import Floats, Status, TensorTable, TraceBatch


class ForcedRuns:
    """Runs of a simulator as a function of some of its draws: `f(theta, seed)`, one script per run in one batch.

    The seed of a run is its trace index.

    Args:
        simulator: The simulator. One prior trace is executed to learn its addresses.
        forced: Scalar draws that theta stands for.
        outputs: Names of observations or tags, in the order of the output; None for the simulator's result.
            Observations are drawn, from numbers that are common too.
        seed: Seed of the run.

    Raises:
        AddressError: The first trace does not visit a name, or it is not a scalar that scripts can force.
        SimulatorError: The prior trace failed.
        ValueError: No draw is named, or one twice.
    """

    def __init__(
        self,
        simulator: Executes,
        forced: Sequence[Name],
        *,
        outputs: Sequence[Name] | None = None,
        seed: int = 0,
    ) -> None:
        self._simulator, self._seed = simulator, seed
        self._outputs = None if outputs is None else [name_and_visit(name) for name in outputs]
        first = simulator.execute(ScriptBatch.empty(seed, [0]), None)
        if first.status[0] != Status.OK:
            raise _failure(first)
        self._forced = ForcedDraws.of(first, forced)
        self._read(first)

    def __call__(self, theta: Floats, seed: NDArray[np.int64]) -> Floats:
        """Outputs, `(R, ...)`; NaN for runs that failed, or in which theta lies outside a support.

        Args:
            theta: `(R, P)` values of the forced draws.
            seed: `(R,)` trace indices.

        Raises:
            AddressError: A run does not make a forced draw, or an output.
            SimulatorError: All runs failed, or more than the simulator's `FailurePolicy` allows.
            ValueError: The prior cannot give any of the values.
        """
        everything = self._simulator.execute(self._forced.by_value(theta, seed, seed=self._seed), None)
        succeeded = everything.status == Status.OK
        if not succeeded.any():
            raise _failure(everything)
        traces = everything.select(succeeded)
        inside = np.ones(len(traces), dtype=bool)
        for address, visit in zip(*self._forced, strict=True):
            rows, name = traces.rows([address], visit), traces.addresses[address].address
            if (rows < 0).any():
                raise AddressError(
                    f"a run does not visit {name!r}, so that theta has no effect; force others"
                )
            inside &= traces.log_prob[rows] > -np.inf
            if not inside.any():
                raise ValueError(
                    f"theta lies outside the support of {name!r} in all runs; choose other values"
                )
        read = self._read(traces)
        output = np.full((len(theta), *read.shape[1:]), np.nan)
        output[np.flatnonzero(succeeded)[inside]] = read[inside]
        return output

    def _read(self, traces: TraceBatch) -> Floats:
        if self._outputs is None:
            if not (np.diff(traces.results.offsets) == 1).all():
                raise AddressError("the simulator returns no numbers; name the outputs")
            return _dense(traces.results, np.arange(len(traces)))
        columns = [_column(traces, *output) for output in self._outputs]
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)


class DrivenCore(NamedTuple):
    """A recurrent core with what it takes in; what `lyapunov` and `jacobian_spectrum` want.

    Attributes:
        core: The step.
        inputs: `(T, B, d)`.
    """

    core: RecurrentCore
    inputs: Tensor


def proposal_core(proposal: Proposal, traces: TraceBatch, num_steps: int) -> DrivenCore:
    """The LSTM of a proposal with its inputs on traces, which start from a state of zeros.

    The core uses the proposal's weights themselves, in float32.

    Args:
        proposal: The proposal.
        traces: Traces with their observations, such as prior ones.
        num_steps: T; traces of fewer controlled draws are left out, and so are failed ones.

    Raises:
        ObservationError: The traces do not hold the proposal's observations.
        ValueError: No trace has so many draws.
    """
    traces = traces.select(np.flatnonzero(traces.status == Status.OK))
    steps = encode(traces, proposal.vocabulary, grow=False)
    longest = int(steps.length.max(initial=0))
    if not 1 <= num_steps <= longest:
        raise ValueError(f"num_steps is {num_steps}; the longest of {len(traces)} traces has {longest} draws")
    packed = pack(steps, proposal.layout.of_traces(traces), device=proposal.device)
    network, sizes = proposal.network, packed.batch_sizes.tolist()
    with torch.no_grad():
        embedded, _, x = network.core_inputs(packed, network.categories())
        rows = torch.cat([embedded[packed.trace], x], dim=1)
    at_step = torch.split(rows, sizes)
    inputs = torch.stack([at_step[t][: sizes[num_steps - 1]] for t in range(num_steps)])
    return DrivenCore(recurrent_core(network.lstm), inputs)


def _column(traces: TraceBatch, name: str, visit: int) -> Floats:
    """Values of an observation or tag, `(R, ...)`."""
    ids = traces.addresses.find(name)
    for table in (traces.observations, traces.tags):
        rows = table.rows(ids, visit)
        if (rows >= 0).all():
            return _dense(table, rows)
    raise AddressError(f"not every run observes or tags visit {visit} of {name!r}; name other outputs")


def _dense(table: TensorTable, rows: NDArray[np.int64]) -> Floats:
    size = int(table.data_offsets[rows[0] + 1] - table.data_offsets[rows[0]])
    values = table.dense(rows, (size,))
    return values[:, 0] if size == 1 else values


def _failure(traces: TraceBatch) -> SimulatorError:
    index = int(traces.index[0])
    reason = traces.failures.get(index, "no reason given")
    return SimulatorError(f"no run succeeded, the first with: {reason}", seed=traces.seed, index=index)

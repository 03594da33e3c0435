"""Traces that cannot be computed: counted, kept with their reasons, and when to give up.

A failed trace is part of the result, with status FAILED, because to leave it out silently is a bias. What is inferred
then is inferred given that the simulator finishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ppx_server.address import AddressTable
from ppx_server.errors import SimulatorError
from ppx_server.script import ScriptBatch
from ppx_server.trace import DrawFlag, LoopTable, Params, Status, TensorTable, TraceBatch

_FEW = 10
"""So many failures say nothing yet about their share."""
_RARE = 0.0101
"""Probability below which only failures are no accident; two of them if a tenth may fail."""


class FailureTally:
    """Counts executed and failed traces over the life of an executor.

    Args:
        most: Share of traces that may fail before it is time to give up; 1 for never.
        advice: What to do about a reason, in words; or nothing.

    Attributes:
        num_executed: Traces executed.
        num_failed: Traces that failed, of those.
        first: The first failure.
    """

    def __init__(self, most: float, advice: Callable[[str], str] = lambda reason: "") -> None:
        self.num_executed = 0
        self.num_failed = 0
        self.first: SimulatorError | None = None
        self._most = most
        self._advice = advice

    def count(self, num_traces: int, failed: Sequence[SimulatorError] = ()) -> None:
        """Adds executed traces, of which some may have failed."""
        self.num_executed += num_traces
        self.num_failed += len(failed)
        if failed and self.first is None:
            self.first = failed[0]

    def verdict(self) -> SimulatorError | None:
        """The error to give up with, or None: too many failed, or so many and none succeeded that it is no accident."""
        if self.first is None:
            return None
        by_accident = self._most**self.num_failed
        none_succeeds = self.num_failed == self.num_executed and by_accident <= _RARE
        too_many = self.num_failed > max(_FEW, self._most * self.num_executed)
        if not none_succeeds and not too_many:
            return None
        first = self.first
        counts = f"{self.num_failed} of {self.num_executed} traces failed"
        error = type(first)(f"{first}; {counts}{self._advice(str(first))}")
        error.seed, error.index = first.seed, first.index
        error.__cause__ = first.__cause__
        return error


def uncomputed(scripts: ScriptBatch, addresses: AddressTable, reason: str) -> TraceBatch:
    """Failed traces of which nothing is known but their scripts.

    Args:
        scripts: K scripts, with ids of `addresses`.
        addresses: The simulator's address table.
        reason: Why they failed.

    Returns:
        K traces of status FAILED, whose draws are the forced choices, with an empty parameter vector.
    """
    count, rows = len(scripts), len(scripts.value)
    unknown = np.full(rows, np.nan)
    return TraceBatch(
        addresses=addresses,
        seed=scripts.seed,
        index=scripts.index,
        status=np.full(count, Status.FAILED, np.uint8),
        offsets=scripts.offsets,
        address_id=scripts.address_id,
        instance=scripts.instance,
        params_id=np.zeros(rows, np.int32),
        params=Params(np.empty(0), np.zeros(2, np.int64)),
        value=scripts.value,
        z=scripts.z,
        log_prob=unknown,
        log_q=unknown,
        flags=np.full(rows, DrawFlag.CONTROLLED | DrawFlag.FORCED, np.uint8),
        observations=TensorTable.empty(count),
        tags=TensorTable.empty(count),
        results=TensorTable.empty(count),
        loops=LoopTable.empty(count),
        failures={int(i): reason for i in scripts.index},
    )

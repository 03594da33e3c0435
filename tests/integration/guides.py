"""Guides for tests of the executor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ppx_server.address import AddressTable
from ppx_server.script import Ask, Choice, Tails
from ppx_server.trace import Status, TraceBatch


class PriorGuide:
    """Chooses what the prior would, one draw at a time, when the simulator is there."""

    def begin(self, num_traces: int, addresses: AddressTable) -> None:
        """Nothing to prepare."""

    def choose(self, asks: Sequence[Ask], normals: np.ndarray) -> list[Choice]:
        """For simulators that take no batches."""
        return [Choice(math.nan, z, 0.0) for z in normals[:, 0].tolist()]

    def restart(self, slot: int) -> None:
        """Nothing to forget."""

    def speculate(
        self, slots: np.ndarray, traces: TraceBatch | None, normals: Callable[..., np.ndarray]
    ) -> Tails:
        """One choice for every draw that waits."""
        none, no_ids = np.empty(0), np.empty(0, np.int32)
        if traces is None:
            zeros = np.zeros(len(slots), np.int64)
            return Tails(zeros, none, np.zeros(len(slots) + 1, np.int64), no_ids, no_ids, none, none)
        pending = traces.status == Status.PENDING
        holds = traces.length - pending
        last = traces.offsets[1:][pending] - 1
        z = [normals(slots[k : k + 1], int(holds[k]), 1)[0, 0, 0] for k in np.flatnonzero(pending)]
        return Tails(
            holds,
            np.zeros(len(traces.value)),
            np.concatenate([[0], np.cumsum(pending)]),
            traces.address_id[last],
            traces.instance[last],
            np.full(len(last), np.nan),
            np.array(z),
        )

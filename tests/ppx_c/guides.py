"""A guide that ends every trace early at each of its draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ppx_server.script import Tails
from ppx_server.trace import DrawFlag, TraceBatch
from tests.integration.guides import PriorGuide


class ArrayGuide(PriorGuide):
    """Chooses what the prior would, one draw at a time, arrays included."""

    def speculate(
        self, slots: np.ndarray, traces: TraceBatch | None, normals: Callable[..., np.ndarray]
    ) -> Tails:
        """Choices for all elements of the draws that wait."""
        if traces is None:
            return super().speculate(slots, traces, normals)
        waits = (traces.flags & DrawFlag.PENDING) != 0
        counts = np.add.reduceat(waits, traces.offsets[:-1]) * (traces.length > 0)
        holds = traces.length - counts
        z = [
            normals(slots[k : k + 1], int(holds[k]), int(counts[k]))[0, :, 0] for k in np.flatnonzero(counts)
        ]
        return Tails(
            holds,
            np.zeros(len(traces.value)),
            np.concatenate([[0], np.cumsum(counts)]),
            traces.address_id[waits],
            traces.instance[waits],
            np.full(int(counts.sum()), np.nan),
            np.concatenate([*z, np.empty(0)]),
        )

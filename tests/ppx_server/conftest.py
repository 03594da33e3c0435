from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ppx_server.address import Address, AddressTable
from ppx_server.trace import LoopTable, Params, Status, TensorTable, TraceBatch

MakeTraces = Callable[..., TraceBatch]

ADDRESSES = (
    Address("detector/mu", "mu", "Normal", ()),
    Address("sim.py:3:f", "", "Uniform", (2,)),
    Address("y", "y", "Normal", (3,)),
    Address("étape", "étape", "", ()),
    Address("", "", "", (2,)),
    Address("detector/accept", "accept", "", ()),
)


def _tensors(rng: np.random.Generator, num_traces: int, address_id: int, size: int) -> TensorTable:
    counts = rng.integers(0, 2, num_traces)
    rows = int(counts.sum())
    return TensorTable(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        address_id=np.full(rows, address_id, np.int32),
        instance=np.zeros(rows, np.int32),
        data=rng.normal(size=rows * size),
        data_offsets=np.arange(rows + 1) * size,
        log_prob=rng.normal(size=rows),
    )


def _loops(rng: np.random.Generator, lengths: np.ndarray) -> LoopTable:
    counts = rng.integers(0, 3, len(lengths))
    begin = rng.integers(0, 5, int(counts.sum()))
    end = begin + rng.integers(0, 3, len(begin))
    return LoopTable(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        address_id=np.full(len(begin), 5, np.int32),
        begin=begin.astype(np.int32),
        end=end.astype(np.int32),
    )


@pytest.fixture
def make_traces() -> MakeTraces:
    """Makes K traces of random length with every column filled, the first draw of each -inf or NaN now and then."""

    def make(
        num_traces: int,
        *,
        first: int = 0,
        seed: int = 7,
        addresses: AddressTable | None = None,
        result_size: int = 2,
    ) -> TraceBatch:
        rng = np.random.default_rng([first, seed])
        counts = rng.integers(0, 5, num_traces)
        rows = int(counts.sum())
        status = rng.integers(0, 2, num_traces).astype(np.uint8)
        index = np.arange(first, first + num_traces)
        value = rng.normal(size=rows)
        log_prob = rng.normal(size=rows)
        value[::7], log_prob[::5] = np.nan, -np.inf
        return TraceBatch(
            addresses=AddressTable(ADDRESSES) if addresses is None else addresses,
            seed=seed,
            index=index,
            status=status,
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            address_id=rng.integers(0, 2, rows).astype(np.int32),
            instance=rng.integers(0, 3, rows).astype(np.int32),
            params_id=rng.integers(0, 3, rows).astype(np.int32),
            params=Params(rng.normal(size=7), np.array([0, 2, 3, 7])),
            value=value,
            z=rng.normal(size=rows),
            log_prob=log_prob,
            log_q=rng.normal(size=rows),
            flags=rng.integers(0, 8, rows).astype(np.uint8),
            observations=_tensors(rng, num_traces, 2, 3),
            tags=_tensors(rng, num_traces, 3, 1),
            results=_tensors(rng, num_traces, 4, result_size),
            loops=_loops(rng, counts),
            failures={int(i): f"trace {i} fell over" for i in index[status == Status.FAILED]},
        )

    return make

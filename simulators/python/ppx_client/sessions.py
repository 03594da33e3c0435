"""What a simulator remembers of each controller, and the execution of the batches it sends.

This module needs SciPy, which takes long to import; it is imported when the first batch comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppx_client.batches import Batch, Expected
from ppx_client.buffers import MalformedError
from ppx_client.columns import Address, decode_run_batch, encode_batch_result
from ppx_client.quantiles import SCALAR
from ppx_client.sites import NEVER, Site, Sites
from ppx_client.traces import MAX_TRACES

if TYPE_CHECKING:
    from ppx_client.batches import Execute
    from ppx_client.buffers import Tensor
    from ppx_client.columns import RunBatch


class Executor:
    """What the batches of all controllers share.

    Attributes:
        sites: The addresses of the simulator.
        expected: How many random numbers traces take.
    """

    def __init__(self) -> None:
        self.sites = Sites()
        self.expected = Expected()


_MAX_KNOWN_BYTES = 1 << 25
"""Memory for addresses that a controller defines and the model has not mentioned."""
_ADDRESS_BYTES = 250
"""What an entry takes besides its text."""


class BatchSession:
    """One controller's batches: the meaning of its address numbers, what it knows of ours, its observations.

    Args:
        executor: What all sessions share.
        max_bytes: The longest message that the controller takes.

    Attributes:
        num_bytes: Memory for what the controller has defined.
    """

    def __init__(self, executor: Executor, max_bytes: int) -> None:
        self.num_bytes = 0
        self._executor = executor
        self._max_bytes = max_bytes
        self._theirs: list[Site | Address | None] = []
        self._told = 0
        self._observations_id = 0
        self._observations: dict[tuple[str, int], Tensor] = {}

    def run(self, data: bytes, execute: Execute) -> bytearray:
        """Executes a RunBatch message, and returns the BatchResult message.

        Raises:
            MalformedError: It makes no sense, or asks for too much; nothing comes of it.
        """
        message = decode_run_batch(data)
        if len(message.index) > MAX_TRACES:
            raise MalformedError(
                f"{len(message.index)} traces, and a batch may have {MAX_TRACES}; send smaller batches"
            )
        executor = self._executor
        try:
            self._learn(message)
            chosen = self._sites(message)
            batch = Batch(message, executor.sites, chosen, self._given(message), self._max_bytes)
            result = batch.run(execute, executor.expected)
        finally:
            executor.sites.forget_expected()
        first, addresses = self._told, executor.sites.addresses
        self._told = len(addresses)
        return encode_batch_result(result, first, addresses[first:])

    def _learn(self, message: RunBatch) -> None:
        """Takes what the controller's numbers mean."""
        if not message.addresses:
            return
        theirs = self._theirs
        if not 0 <= message.first_address <= len(theirs):
            raise MalformedError(
                f"addresses from number {message.first_address} on, but {len(theirs)} were defined before"
            )
        draws = self._executor.sites.draws
        theirs[message.first_address :] = [
            draws.get((a.address, a.name, a.family, a.shape), a) if a.family in SCALAR else None
            for a in message.addresses
        ]
        if sum(map(_num_bytes, theirs)) > _MAX_KNOWN_BYTES:
            num_defined = len(theirs)
            theirs.clear()
            raise MalformedError(
                f"{num_defined} addresses are defined, most of which the model has never mentioned; they would take "
                f"more than {_MAX_KNOWN_BYTES} bytes. All of them are forgotten; define those that scripts use"
            )
        self._count_bytes()

    def _sites(self, message: RunBatch) -> list[Site | None]:
        """The site of every forced choice."""
        theirs, numbers = self._theirs, message.address
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(theirs):
            raise MalformedError(
                f"choices at addresses {numbers.min()} to {numbers.max()}, of which {len(theirs)} are defined"
            )
        used: dict[int, Site | None] = {}
        for number in np.unique(numbers).tolist():
            entry = theirs[number]
            if isinstance(entry, Address):
                entry = self._executor.sites.expect(entry)
                if entry.number != NEVER:
                    theirs[number] = entry
            used[number] = entry
        return [used[number] for number in numbers.tolist()]

    def _given(self, message: RunBatch) -> dict[tuple[str, int], Tensor] | None:
        """The values to condition on, None if observations are to be drawn."""
        if message.observations_id == 0:
            return None
        if message.observations is not None:
            self._observations_id, self._observations = message.observations_id, message.observations
            self._count_bytes()
        elif message.observations_id != self._observations_id:
            raise MalformedError(
                f"observations {message.observations_id}, but the set sent last is {self._observations_id}"
            )
        return self._observations

    def _count_bytes(self) -> None:
        given = sum(
            _ADDRESS_BYTES + len(name) + 8 * np.size(v) for (name, _), v in self._observations.items()
        )
        self.num_bytes = given + sum(map(_num_bytes, self._theirs))


def _num_bytes(entry: Site | Address | None) -> int:
    """About the memory that is taken for an entry of a controller's table."""
    if not isinstance(entry, Address):
        return 8
    return _ADDRESS_BYTES + len(entry.address) + len(entry.name) + 8 * len(entry.shape)

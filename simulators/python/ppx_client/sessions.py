"""What a simulator remembers of each controller, and the execution of the batches it sends.

This module needs SciPy, which takes long to import; it is imported when the first batch comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppx_client.batches import Batch, Expected
from ppx_client.buffers import MalformedError
from ppx_client.columns import decode_run_batch, encode_batch_result
from ppx_client.sites import Left, Site, Sites

if TYPE_CHECKING:
    from ppx_client.batches import Execute
    from ppx_client.columns import Given, RunBatch


class Executor:
    """What the batches of all controllers share.

    Attributes:
        sites: The addresses of the simulator.
        expected: How many random numbers traces take.
    """

    def __init__(self) -> None:
        self.sites = Sites()
        self.expected = Expected()


class BatchSession:
    """One controller's batches: the meaning of its address numbers, what it knows of ours, its observations.

    Args:
        executor: What all controllers share.
        patterns: Draws that match one are left to the prior.
        omits: Whether draws that are not controlled have no rows.
        draws_missing: Whether an observe is drawn that the controller has no fitting value for; else its trace fails.
    """

    def __init__(
        self, executor: Executor, patterns: tuple[str, ...] = (), *, omits: bool = False, draws_missing: bool
    ) -> None:
        self._executor = executor
        self._left = Left(patterns, omits=omits)
        self._draws_missing = draws_missing
        self._theirs: list[Site | None] = []
        self._told = 0
        self._observations_id = 0
        self._observations: Given = {}

    def run(self, data: bytes, execute: Execute) -> bytearray:
        """Executes a RunBatch message, and returns the BatchResult message.

        Raises:
            MalformedError: It makes no sense; nothing was executed.
        """
        message = decode_run_batch(data)
        executor = self._executor
        chosen = self._sites(message)
        given = self._given(message)
        batch = Batch(message, executor.sites, chosen, given, self._left, draws_missing=self._draws_missing)
        result = batch.run(execute, executor.expected)
        first, addresses = self._told, executor.sites.addresses
        self._told = len(addresses)
        return encode_batch_result(result, first, addresses[first:])

    def _sites(self, message: RunBatch) -> list[Site | None]:
        """The site of every forced choice."""
        theirs = self._theirs
        if message.addresses:
            if not 0 <= message.first_address <= len(theirs):
                raise MalformedError(
                    f"addresses from number {message.first_address} on, but {len(theirs)} were defined before"
                )
            theirs[message.first_address :] = map(self._executor.sites.find, message.addresses)
        if len(message.address) and not 0 <= message.address.min() <= message.address.max() < len(theirs):
            raise MalformedError(
                f"choices at addresses {message.address.min()} to {message.address.max()}, of which "
                f"{len(theirs)} are defined"
            )
        return [theirs[number] for number in message.address.tolist()]

    def _given(self, message: RunBatch) -> Given | None:
        """The values to condition on, None if observations are to be drawn."""
        if message.observations_id == 0:
            return None
        if message.observations is not None:
            self._observations_id, self._observations = message.observations_id, message.observations
        elif message.observations_id != self._observations_id:
            raise MalformedError(
                f"observations {message.observations_id}, but the set sent last is {self._observations_id}"
            )
        return self._observations

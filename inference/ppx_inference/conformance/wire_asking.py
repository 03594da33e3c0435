"""Batches by hand: what is sent, and whether what comes back is what the protocol says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_inference.conformance.differences import first_difference
from ppx_inference.conformance.wire_link import DefectError, Link, Stage
from ppx_server.address import AddressTable
from ppx_server.audit import DefectiveClientError, check_densities
from ppx_server.distributions import FAMILIES, family_codes
from ppx_server.errors import DistributionError, RemoteProtocolError
from ppx_server.numbering import Numbering
from ppx_server.observations import ObservationSet
from ppx_server.protocol import CAPABILITIES, BatchResult, Error, Reset, RunBatch, TensorColumns, WireAddress
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

Ids = NDArray[np.int32]
_DENSITIES = "compute log densities as the table of families in docs/protocol.md says"


class Answer(NamedTuple):
    """What came back for a batch: as sent, and in our own terms."""

    result: BatchResult
    traces: TraceBatch


class Asker:
    """One controller that sends batches.

    Args:
        stage: What is judged.
        link: Its connection; it is greeted.
        addresses: What ids stand for; shared by all whose traces are compared.
    """

    def __init__(self, stage: Stage, link: Link, addresses: AddressTable) -> None:
        self.link = link
        self._stage = stage
        self._addresses = addresses
        self._number = 0
        self.begin()

    def begin(self) -> None:
        """Greets: both sides forget all numbers."""
        self.link.greet(CAPABILITIES)
        self.numbering = Numbering(self._addresses)
        self.known: list[WireAddress] = []

    def request(self, scripts: ScriptBatch, observations: ObservationSet | None = None) -> RunBatch:
        """The next batch."""
        self._number += 1
        return self.numbering.request(self._number, scripts, observations)

    def empty(self, index: Sequence[int], seed: int | None = None) -> ScriptBatch:
        """Scripts that force nothing."""
        return ScriptBatch.empty(self._stage.subject.seed if seed is None else seed, index)

    def execute(self, scripts: ScriptBatch, observations: ObservationSet | None = None) -> Answer:
        """Sends a batch and checks the answer."""
        self.link.send(self.request(scripts, observations))
        return self.receive(scripts)

    def receive(self, scripts: ScriptBatch) -> Answer:
        """The answer to a batch that was sent.

        Raises:
            DefectError: It is not what the protocol says.
        """
        result = self.link.receive()
        if isinstance(result, Error | Reset):
            reason = f": {result.message}" if isinstance(result, Error) else ""
            raise DefectError(
                f"a RunBatch of {len(scripts)} scripts is answered by {type(result).__name__}{reason}"
            )
        assert isinstance(result, BatchResult)
        self._learn(result)
        check_columns(result, self.known)
        try:
            traces = self.numbering.traces(result, scripts)
            status = np.repeat(traces.status, traces.length)
            # Draws are for the parts to look at, which know best what is wrong with them.
            check_densities(traces, np.flatnonzero(status == Status.OK), family_codes(traces.addresses))
            return Answer(result, traces)
        except DefectiveClientError as error:
            raise DefectError(str(error), remedy=_DENSITIES) from error
        except (DistributionError, RemoteProtocolError) as error:
            raise DefectError(str(error)) from error

    def _learn(self, result: BatchResult) -> None:
        if result.addresses and result.first_address != len(self.known):
            raise DefectError(
                f"addresses are numbered from {result.first_address} on, where {len(self.known)} is due",
                remedy="number addresses from 0 without gaps, and tell each controller those it was not told yet; "
                "a Handshake makes it forget all",
            )
        for number, address in enumerate(result.addresses, start=len(self.known)):
            if address in self.known:
                raise DefectError(
                    f"address {address.address!r} gets number {number}, and has {self.known.index(address)}",
                    remedy="give equal addresses one number",
                )
            self.known.append(address)


def check_columns(result: BatchResult, known: Sequence[WireAddress]) -> None:
    """What columns must be that the decoder cannot know.

    Raises:
        DefectError: They are not.
    """
    used = [
        result.address,
        *(t.address for t in (result.observations, result.tags, result.results, result.loops)),
    ]
    numbers = np.concatenate(used)
    if len(numbers) and numbers.max() >= len(known):
        raise DefectError(
            f"address number {numbers.max()} is used, of which {len(known)} are defined",
            remedy="define an address at the latest in the message that uses it first",
        )
    _check_families(result, known)
    _check_visits(result, known)
    done = np.repeat(result.status, np.diff(result.offsets)) == Status.OK
    odd = done & (np.isnan(result.log_prob) | (result.log_prob == np.inf) | ~np.isfinite(result.value))
    if odd.any():
        row = int(np.flatnonzero(odd)[0])
        raise DefectError(
            f"the draw at {known[result.address[row]].address!r} has value {result.value[row]} "
            f"and log_prob {result.log_prob[row]}",
            remedy="let such a trace fail, with kind Density",
        )


def _check_families(result: BatchResult, known: Sequence[WireAddress]) -> None:
    for number in np.unique(result.address):
        if known[number].family not in FAMILIES:
            raise DefectError(f"the draw at {known[number].address!r} has no family")
    for number in np.unique(result.observations.address):
        if known[number].family not in FAMILIES:
            raise DefectError(f"the observation at {known[number].address!r} has no family")
    for what, table in (("tag", result.tags), ("result", result.results)):
        for number in np.unique(table.address):
            if known[number].family:
                raise DefectError(
                    f"the {what} at {known[number].address!r} has the family {known[number].family}"
                )
    for number in np.unique(result.results.address):
        if known[number].address or known[number].name:
            raise DefectError(f"the model's result has the address {known[number].address!r} instead of none")


def _check_visits(result: BatchResult, known: Sequence[WireAddress]) -> None:
    """Numbers of visits count from 0, per trace and place; the rows of an array draw share theirs."""
    for k in range(len(result.status)):
        visits: dict[tuple[str, str], int] = {}
        row, stop = int(result.offsets[k]), int(result.offsets[k + 1])
        while row < stop:
            address = known[result.address[row]]
            size = int(np.prod(address.shape, dtype=np.int64))
            place = address.address, address.name
            visit = visits.get(place, 0)
            rows = slice(row, row + max(size, 1))
            same = (result.address[rows] == result.address[row]).all()
            if size == 0 or row + size > stop or not same or (result.instance[rows] != visit).any():
                raise DefectError(
                    f"trace {k}: the {visit + 1}. draw at {address.address!r} of shape {address.shape} has rows of "
                    f"visits {result.instance[rows].tolist()[:4]}",
                    remedy="count the visits of each (address, name) in each trace from 0; an array draw has one row "
                    "for each element, in C order, with one visit",
                )
            visits[place] = visit + 1
            row += size
        _check_table(result.observations, k, known, "observation")
        _check_table(result.tags, k, known, "tag")


def _check_table(table: TensorColumns, k: int, known: Sequence[WireAddress], what: str) -> None:
    visits: dict[tuple[str, str], int] = {}
    for row in range(int(table.offsets[k]), int(table.offsets[k + 1])):
        address = known[table.address[row]]
        place = (address.address, address.name) if what == "tag" else ("", address.name or address.address)
        visit = visits.get(place, 0)
        if table.instance[row] != visit:
            raise DefectError(
                f"trace {k}: the {visit + 1}. {what} at {address.address!r} has the visit {table.instance[row]}",
                remedy="count visits of tags by (address, name), of observations by name, in each trace from 0",
            )
        visits[place] = visit + 1


def expect_same(first: TraceBatch, again: TraceBatch, how: str, *, tolerance: float = 0.0) -> None:
    """Compares traces, to the last bit unless a relative tolerance is given.

    Raises:
        DefectError: They differ.
    """
    difference = first_difference(first, again, tolerance=tolerance)
    if difference is not None:
        raise DefectError(f"{how}: {difference.text}")

"""Between the columns of the wire and ours: address numbers translated, definitions exchanged, traces checked."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ppx_server.address import Address, AddressTable
from ppx_server.audit import Audit
from ppx_server.distributions import FAMILIES, to_z_columns
from ppx_server.errors import RemoteProtocolError
from ppx_server.observations import ObservationSet
from ppx_server.protocol import BatchResult, Observation, RunBatch, TensorColumns, WireAddress
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import Floats, Ids, LoopTable, Params, Status, TensorTable, TraceBatch
from ppx_server.worker import Worker


class Numbering:
    """What the address numbers of both sides mean, in one conversation.

    Args:
        addresses: The controller's table, which learns the simulator's addresses.
    """

    def __init__(self, addresses: AddressTable) -> None:
        self._addresses = addresses
        self._num_told = 0
        self._ids: Ids = np.empty(0, np.int32)
        self._identical = True
        self._codes: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._sizes = np.empty(0, np.int64)
        self._told_observations = 0
        self._audit = Audit()

    def request(self, number: int, scripts: ScriptBatch, observations: ObservationSet | None) -> RunBatch:
        """The message that has a simulator execute scripts.

        Args:
            number: Number of the batch.
            scripts: K scripts, with ids of the controller's table.
            observations: What to condition on, or None for a prior run.
        """
        first = self._num_told
        needed = int(scripts.address_id.max(initial=-1)) + 1
        self._num_told = max(first, needed)
        told = [self._addresses[i] for i in range(first, needed)]
        observation_set = None
        set_number = 0 if observations is None else observations.number
        if observations is not None and set_number != self._told_observations:
            observation_set = tuple(Observation(name, visit, v) for (name, visit), v in observations.items())
            self._told_observations = set_number
        return RunBatch(
            batch=number,
            seed=scripts.seed,
            index=scripts.index.astype(np.uint64),
            ask=scripts.otherwise is Otherwise.ASK,
            offsets=scripts.offsets.astype(np.int32),
            address=scripts.address_id,
            instance=scripts.instance,
            value=scripts.value,
            z=scripts.z,
            first_address=first,
            addresses=tuple(WireAddress(*address) for address in told),
            observations_id=set_number,
            observations=observation_set,
        )

    def tell_again(self) -> None:
        """Defines and sends everything once more: a simulator that refuses a batch may have read nothing of it."""
        self._num_told = self._told_observations = 0

    def traces(self, result: BatchResult, scripts: ScriptBatch) -> TraceBatch:
        """What a simulator did with scripts, with ids of the controller's table.

        Raises:
            RemoteProtocolError: It uses numbers that it has not defined, or stopped where it was not to ask.
            DistributionError: It reports parameters that its distributions do not have.
        """
        if scripts.otherwise is not Otherwise.ASK and (result.status == Status.PENDING).any():
            raise RemoteProtocolError("the simulator asks how a trace goes on, where it was not to ask")
        self._learn(result.first_address, result.addresses)
        ids = self._ours(result.address)
        params = Params(result.params_data, result.params_offsets.astype(np.int64))
        offsets = result.offsets.astype(np.int64)
        forced_by_value = len(scripts.value) > 0 and not np.isnan(scripts.value).all()
        z = self._coordinates(result, ids, params, offsets, scripts) if forced_by_value else result.z
        failures = {int(scripts.index[f.trace]): f.message for f in result.failures}
        return TraceBatch(
            addresses=self._addresses,
            seed=scripts.seed,
            index=scripts.index,
            status=result.status,
            offsets=offsets,
            address_id=ids,
            instance=result.instance,
            params_id=result.params,
            params=params,
            value=result.value,
            z=z,
            log_prob=result.log_prob,
            log_q=result.log_prob,
            flags=result.flags,
            observations=self._table(result.observations),
            tags=self._table(result.tags),
            results=self._table(result.results),
            loops=LoopTable(
                result.loops.offsets.astype(np.int64),
                self._ours(result.loops.address),
                result.loops.begin,
                result.loops.end,
            ),
            failures=failures,
        )

    def audit(self, traces: TraceBatch, scripts: ScriptBatch) -> None:
        """Looks at some of the traces; see `Audit.check`."""
        ordinal = np.arange(len(traces.value)) - np.repeat(traces.offsets[:-1], traces.length)
        self._audit.check(traces, scripts, ordinal, self._codes)

    def _learn(self, first: int, addresses: tuple[WireAddress, ...]) -> None:
        if not addresses:
            return
        if first != len(self._ids):
            raise RemoteProtocolError(
                f"the simulator defines addresses from number {first} on, where {len(self._ids)} is due"
            )
        for address in addresses:
            if address.family and address.family not in FAMILIES:
                raise RemoteProtocolError(
                    f"address {address.address!r} has the unknown family {address.family!r}"
                )
        new = np.array([self._addresses.intern(Address(*address)) for address in addresses], np.int32)
        self._ids = np.concatenate([self._ids, new])
        self._identical = bool((self._ids == np.arange(len(self._ids))).all())
        self._sizes = np.array([math.prod(a.shape) for a in self._addresses], np.int64)
        self._codes = np.array(
            [FAMILIES[a.family].code if a.family else 0 for a in self._addresses], np.uint8
        )

    def _ours(self, numbers: Ids) -> Ids:
        if not len(numbers):
            return numbers
        if int(numbers.max()) >= len(self._ids):
            raise RemoteProtocolError(
                f"the simulator uses address number {int(numbers.max())}, but has defined {len(self._ids)}"
            )
        return numbers if self._identical else self._ids[numbers]

    def _table(self, columns: TensorColumns) -> TensorTable:
        rows = len(columns.address)
        ids, lengths = self._ours(columns.address), np.diff(columns.data_offsets)
        misfits = np.flatnonzero((lengths != 0) & (lengths != self._sizes[ids]))
        if len(misfits):
            address = self._addresses[int(ids[misfits[0]])]
            raise RemoteProtocolError(
                f"the simulator sends {lengths[misfits[0]]} numbers for {address.address!r} of shape {address.shape}"
            )
        return TensorTable(
            offsets=columns.offsets.astype(np.int64),
            address_id=ids,
            instance=columns.instance,
            data=columns.data,
            data_offsets=columns.data_offsets.astype(np.int64),
            log_prob=columns.log_prob if len(columns.log_prob) else np.zeros(rows),
        )

    def _coordinates(
        self, result: BatchResult, ids: Ids, params: Params, offsets: NDArray[np.int64], scripts: ScriptBatch
    ) -> Floats:
        """z of all draws; simulators do not tell that of values which a script forced."""
        z: Floats = result.z.copy()
        unknown = np.flatnonzero(np.isnan(z) & (result.flags & 8 == 0))
        if not len(unknown):
            return z
        if scripts.otherwise is Otherwise.ASK:
            # Choices hold in order, so the n-th forced draw of a trace is the n-th choice of its script.
            forced = result.flags & 2 != 0
            before = np.concatenate([[0], np.cumsum(forced)])
            trace = np.searchsorted(offsets, unknown, side="right") - 1
            rank = before[unknown] - before[offsets[trace]]
            z[unknown] = scripts.z[scripts.offsets[trace] + rank]
            unknown = unknown[np.isnan(z[unknown])]
        z[unknown] = to_z_columns(
            result.value[unknown], self._codes[ids[unknown]], params, result.params[unknown]
        )
        return z


class Numberings:
    """What address numbers mean in the present conversation with each of several simulators.

    Args:
        addresses: The controller's table.
    """

    def __init__(self, addresses: AddressTable) -> None:
        self._addresses = addresses
        self._known: dict[Worker, tuple[int, Numbering]] = {}

    def of(self, worker: Worker) -> Numbering:
        """That of a simulator; a new one if it was greeted anew."""
        conversation, numbering = self._known.get(worker, (-1, None))
        if numbering is None or conversation != worker.conversation:
            numbering = Numbering(self._addresses)
            self._known[worker] = worker.conversation, numbering
        return numbering

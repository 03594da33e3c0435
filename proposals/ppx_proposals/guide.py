"""The proposal network as a guide, which answers draws one by one or chooses them ahead; see `ppx_server.script`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ppx_proposals.cell import Cell, State
from ppx_proposals.config import NetworkConfig
from ppx_proposals.entries import PRIOR, Entries, Ints
from ppx_proposals.vocabulary import Vocabulary
from ppx_proposals.weights import Weights
from ppx_server.address import AddressTable
from ppx_server.script import Ask, Choice
from ppx_server.trace import Params

Double = NDArray[np.float64]


class NetworkGuide:
    """Answers draws from a proposal network; implements `ppx_server.script.Guide`.

    It must see every controlled draw of a trace from the first one on, that is, guide scripts that force nothing.

    Args:
        config: Sizes of the network.
        vocabulary: The draws it knows.
        weights: See `Weights`.
        check: Called with the address table at the start of every batch; raises if the network knows none of it.

    Attributes:
        num_asks: Draws chosen so far.
        fallbacks: How many draws of each address came from the prior, because the network does not know it.
        cell: The network.
    """

    def __init__(
        self,
        config: NetworkConfig,
        vocabulary: Vocabulary,
        weights: Weights,
        check: Callable[[AddressTable], None],
    ) -> None:
        self.num_asks = 0
        self.fallbacks: Counter[str] = Counter()
        self.cell = Cell(config, weights, Entries(vocabulary, weights))
        self._check = check
        self._addresses = AddressTable()
        self._begin(0)

    def begin(self, num_traces: int, addresses: AddressTable) -> None:
        """See `Guide.begin`.

        Raises:
            CheckpointError: The proposal knows none of the simulator's addresses.
        """
        self._check(addresses)
        if addresses is not self._addresses:
            self.cell.entries.begin(addresses)
        self._addresses = addresses
        self._begin(num_traces)

    def _begin(self, num_traces: int) -> None:
        self._state = State.fresh(num_traces, self.cell.size)
        # Address id, visit and element of the draw before, per slot.
        self._last = np.full((3, num_traces), -1)

    def restart(self, slot: int) -> None:
        """See `Guide.restart`."""
        self._last[:, slot] = -1
        self._state.put(np.array([slot]), State.fresh(1, self.cell.size))

    def choose(self, asks: Sequence[Ask], normals: Double) -> Sequence[Choice]:
        """See `Guide.choose`. Unknown addresses are drawn from the prior."""
        columns = np.array([(a.slot, a.address_id, a.instance, len(a.params)) for a in asks]).T
        slots, address_id, instance, size = columns
        offsets = np.zeros(len(asks) + 1, np.int64)
        size.cumsum(out=offsets[1:])
        params = Params(np.array([p for ask in asks for p in ask.params]), offsets)
        again = (self._last[:2, slots] == columns[1:3]).all(axis=0)
        element = np.where(again, self._last[2, slots] + 1, 0)
        entry = self.cell.entries.find(address_id, size)
        with np.errstate(all="ignore"):  # weights that are not finite end in draws from the prior
            h, c = self.cell.advance(self._state.take(slots), entry, instance, element)
            chosen = self.cell.choose(h, entry, params, np.arange(len(asks)), normals)
        self._state.put(slots, State(h, c, chosen.before, chosen.feature))
        self._last[:2, slots], self._last[2, slots] = columns[1:3], element
        self.count(entry)
        return list(map(Choice, chosen.value.tolist(), chosen.z.tolist(), chosen.log_ratio.tolist()))

    def count(self, entry: Ints) -> None:
        """Counts choices by entry."""
        self.num_asks += len(entry)
        entries = self.cell.entries
        unknown = entries.address_id[entry[entries.kind[entry] == PRIOR]]
        if len(unknown):
            for address_id, count in enumerate(np.bincount(unknown).tolist()):
                if count:
                    self.fallbacks[self._addresses[address_id].address] += count

"""Scripts: what one execution of the simulator must do.

A script forces choices by (address, instance), either by value or by z-coordinate (the standard normal quantile of the
draw's prior CDF), and says what happens at a draw it does not cover. Engines send scripts and get traces; that is the
whole border between inference and simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from ppx_server.address import AddressTable
    from ppx_server.trace import TraceBatch


class Otherwise(Enum):
    """What happens at a draw that the script does not cover."""

    PRIOR = "prior"
    """Draw from the prior. Forced choices are looked up by (address, instance), wherever in the trace they occur."""
    ASK = "ask"
    """Ask the guide. Forced choices hold while the trace follows them in order; at the first draw that differs the
    rest is dropped, because it was chosen for another past."""


@dataclass(frozen=True, eq=False)
class ScriptBatch:
    """Scripts for K executions, in columns; C forced choices in all, one scalar each.

    An array draw of n elements is n choices with the same address and instance, in C order.

    Attributes:
        seed: Seed of the run.
        index: `(K,)` int64, trace index of each execution; with the seed it fixes all prior draws.
        offsets: `(K + 1,)` int64; choices of script k are rows `offsets[k]:offsets[k + 1]`.
        address_id: `(C,)` int32, in `addresses`.
        instance: `(C,)` int32, number of the visit, from 0.
        value: `(C,)` float64; NaN where the choice is given by its coordinate.
        z: `(C,)` float64, standard coordinate; used where `value` is NaN.
        otherwise: What happens at draws not covered.
        addresses: What `address_id` stands for; None means the table of the simulator that will execute the scripts.
    """

    seed: int
    index: NDArray[np.int64]
    offsets: NDArray[np.int64]
    address_id: NDArray[np.int32]
    instance: NDArray[np.int32]
    value: NDArray[np.float64]
    z: NDArray[np.float64]
    otherwise: Otherwise = Otherwise.PRIOR
    addresses: AddressTable | None = None

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def empty(cls, seed: int, index: ArrayLike, otherwise: Otherwise = Otherwise.PRIOR) -> ScriptBatch:
        """Scripts that force nothing: prior executions, or with `Otherwise.ASK` fully guided ones.

        Args:
            seed: Seed of the run.
            index: `(K,)` trace indices.
            otherwise: What happens at every draw.
        """
        index = np.asarray(index, np.int64)
        return cls(
            seed=seed,
            index=index,
            offsets=np.zeros(len(index) + 1, np.int64),
            address_id=np.empty(0, np.int32),
            instance=np.empty(0, np.int32),
            value=np.empty(0),
            z=np.empty(0),
            otherwise=otherwise,
        )

    def part(self, start: int, stop: int) -> ScriptBatch:
        """Scripts `start` to `stop - 1`, as views."""
        first, last = self.offsets[start], self.offsets[stop]
        return replace(
            self,
            index=self.index[start:stop],
            offsets=self.offsets[start : stop + 1] - first,
            address_id=self.address_id[first:last],
            instance=self.instance[first:last],
            value=self.value[first:last],
            z=self.z[first:last],
        )

    @classmethod
    def replay(cls, traces: TraceBatch, *, by_z: bool = False) -> ScriptBatch:
        """Scripts that repeat recorded traces, with their own seed and indices, on whichever simulator.

        Args:
            traces: K traces.
            by_z: Force z-coordinates rather than values, so that a changed parent moves its children with it.
        """
        value = np.full_like(traces.value, np.nan) if by_z else traces.value
        return cls(
            seed=traces.seed,
            index=traces.index,
            offsets=traces.offsets,
            address_id=traces.address_id,
            instance=traces.instance,
            value=value,
            z=traces.z,
            addresses=traces.addresses,
        )


class Ask(NamedTuple):
    """A draw for which a running trace wants a choice.

    Attributes:
        slot: Row of the trace within the batch being executed, `0 <= slot < K`.
        address_id: Which draw, in the simulator's address table.
        instance: Number of the visit, from 0.
        params: Parameters of the draw's prior, one float each (for Categorical: the probabilities).
    """

    slot: int
    address_id: int
    instance: int
    params: tuple[float, ...]


class Choice(NamedTuple):
    """The answer to an `Ask`.

    Attributes:
        value: The value, or NaN where `z` holds.
        z: The standard coordinate of the value; used where `value` is NaN.
        log_ratio: log of proposal density over prior density at the choice, log q - log p (0 for a prior draw).
    """

    value: float
    z: float
    log_ratio: float


class Guide(Protocol):
    """Who answers draws that scripts leave open, such as a proposal network."""

    def begin(self, num_traces: int, addresses: AddressTable) -> None:
        """Called once at the start of a batch of `num_traces` executions; slots count from 0."""

    def choose(self, asks: Sequence[Ask], normals: NDArray[np.float64]) -> Sequence[Choice]:
        """Answers pending asks, at most one per slot, in one pass.

        Args:
            asks: The draws to choose.
            normals: `(len(asks), 2)` independent standard normal numbers, fixed by (seed, index, ordinal of the draw):
                all the randomness a guide may use, so that a run does not depend on who asks first. Column 0 is the
                coordinate that a prior draw would have there.

        Returns:
            One choice per ask, in the same order.
        """

    def restart(self, slot: int) -> None:
        """The trace in a slot begins again from its first draw, because its simulator crashed."""


class Tails(NamedTuple):
    """How traces go on, as a guide foresees it; n traces, C choices, one scalar each.

    Attributes:
        holds: `(n,)` int64: how many draws of each trace hold, of those that were executed. Where fewer hold than were
            made, the guide had foreseen something else there (such as other parameters), and the trace goes on from
            that draw. A complete or failed trace, all of whose draws hold, is finished.
        log_ratio: `(N,)` log q - log p of the executed draws, N of all traces together; 0 for those that the guide did
            not choose. Only that of draws that hold counts.
        offsets: `(n + 1,)` int64; the tail of trace k is rows `offsets[k]:offsets[k + 1]`, empty for a finished trace.
        address_id: `(C,)` int32. The first choice is for the draw at which the trace goes on.
        instance: `(C,)` int32, number of the visit.
        value: `(C,)` float64; NaN where the choice is given by its coordinate.
        z: `(C,)` float64, standard coordinate.
    """

    holds: NDArray[np.int64]
    log_ratio: NDArray[np.float64]
    offsets: NDArray[np.int64]
    address_id: NDArray[np.int32]
    instance: NDArray[np.int32]
    value: NDArray[np.float64]
    z: NDArray[np.float64]


class SpeculativeGuide(Guide, Protocol):
    """A guide that chooses draws before the simulator gets there, as far as it can foresee which draws come.

    Choices hold while the trace follows them. They were drawn from q given the draws before them, so weights are exact
    whatever was foreseen; a bad forecast costs time only.
    """

    def speculate(
        self,
        slots: NDArray[np.int64],
        traces: TraceBatch | None,
        normals: Callable[[NDArray[np.int64], int, int], NDArray[np.float64]],
    ) -> Tails:
        """Settles what the executed traces did, and chooses how they go on.

        Args:
            slots: `(n,)` rows of the traces within the batch that `begin` announced.
            traces: What they did, from their first draw on; None if none of them has run yet. The last rows of a
                pending trace are flagged PENDING: the elements of the draw it waits for, with its parameters.
            normals: `normals(slots, start, count)` gives `(len(slots), count, 2)` independent standard normal numbers
                for the draws with ordinals from `start` on, as in `Guide.choose`. All scalar draws of a trace count,
                controlled or not.

        Returns:
            The tails. A tail must not be empty for a pending trace.
        """

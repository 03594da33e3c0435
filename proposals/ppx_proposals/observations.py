"""Observations as the network sees them: which ones, in which shapes, standardised.

Observations of three dimensions are *grids*, embedded by convolutions; all others are flattened and laid side by side,
the *flat* part, followed by one number per slot that may be missing: 1 where it is there. Letters: K traces, F flat
numbers, C = 2 channels of a grid: linear, and asinh on the scale of a typical voxel's spread, which shows faint
voxels beside bright ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_server.address import AddressTable
from ppx_server.errors import CheckpointError, ObservationError
from ppx_server.observations import Observations, ObservationSet
from ppx_server.trace import TraceBatch

_FLAT_LIMIT = 100.0
"""Standardised numbers are kept within this, so that one absurd observation cannot overflow the network."""


class Slot(NamedTuple):
    """One observation that the network takes.

    Attributes:
        name: Its name.
        visit: Which visit of that name.
        shape: Its shape.
        always: Every trace has it.
    """

    name: str
    visit: int
    shape: tuple[int, ...]
    always: bool

    @property
    def is_grid(self) -> bool:
        """Embedded by convolutions."""
        return len(self.shape) == 3

    def __str__(self) -> str:
        return f"{self.name!r}" if self.visit == 0 else f"({self.name!r}, {self.visit})"


class ObservationBatch(NamedTuple):
    """Standardised observations of K traces.

    Attributes:
        flat: `(K, F)` float32.
        grids: One `(K, 2, D, H, W)` float32 per grid.
    """

    flat: NDArray[np.float32]
    grids: tuple[NDArray[np.float32], ...]

    def select(self, traces: NDArray[np.int64]) -> ObservationBatch:
        """The observations of chosen traces."""
        return ObservationBatch(self.flat[traces], tuple(g[traces] for g in self.grids))


@dataclass(frozen=True, eq=False)
class ObservationLayout:
    """Which observations a network takes, and their statistics.

    Attributes:
        slots: The observations, in order.
        means: Per slot, what is subtracted: one number per element, or one for a grid.
        scales: Per slot, what it is divided by; for a grid two numbers, one per channel.
    """

    slots: tuple[Slot, ...]
    means: tuple[NDArray[np.float64], ...]
    scales: tuple[NDArray[np.float64], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names, each once."""
        return tuple(dict.fromkeys(slot.name for slot in self.slots))

    @property
    def flat_size(self) -> int:
        """F, numbers of the flat part."""
        values = sum(int(np.prod(s.shape, dtype=np.int64)) for s in self.slots if not s.is_grid)
        return values + sum(not s.always for s in self.slots)

    @property
    def grid_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the grids."""
        return tuple(slot.shape for slot in self.slots if slot.is_grid)

    @classmethod
    def from_traces(cls, traces: TraceBatch, observed: Sequence[str]) -> ObservationLayout:
        """Takes shapes and statistics from prior traces.

        Args:
            traces: Traces whose observations were drawn.
            observed: Names; every visit of a name that occurs in `traces` is taken.

        Raises:
            ObservationError: A name is never observed, or its shape varies.
        """
        if not observed or isinstance(observed, str):
            raise ObservationError(
                f"observed must be a list of at least one observation's name, not {observed!r}"
            )
        slots: list[Slot] = []
        values: list[NDArray[np.float64]] = []
        for name in dict.fromkeys(observed):
            found = _visits(traces, name)
            if not found:
                raise ObservationError(
                    f"the simulator never observes {name!r}; in {len(traces)} traces it observed "
                    f"{', '.join(map(repr, observed_names(traces))) or 'nothing'}"
                )
            for slot, present in found:
                slots.append(slot)
                values.append(present)
        statistics = [_statistics(s, v) for s, v in zip(slots, values, strict=True)]
        return cls(tuple(slots), tuple(m for m, _ in statistics), tuple(s for _, s in statistics))

    def of_traces(self, traces: TraceBatch) -> ObservationBatch:
        """The observations that were drawn in prior traces.

        Raises:
            ObservationError: A trace lacks an observation that the network needs, or the traces were conditioned.
        """
        values: list[NDArray[np.float64]] = []
        present: list[NDArray[np.bool_]] = []
        for slot in self.slots:
            rows = traces.observations.rows(_ids(traces.addresses, slot.name), slot.visit)
            there = rows >= 0
            if slot.always and not there.all():
                index = int(traces.index[np.argmin(there)])
                raise ObservationError(f"trace {index} does not observe {slot}, which the proposal needs")
            try:
                dense = traces.observations.dense(rows[there], slot.shape)
            except ValueError:
                raise ObservationError(
                    f"observation {slot} is not of shape {slot.shape} in every trace, or it was given and not drawn; "
                    "pass the observations that were given"
                ) from None
            if not there.all():
                found, dense = dense, np.zeros((len(traces), *slot.shape))
                dense[there] = found
            values.append(dense)
            present.append(there)
        return self._standardised(values, present)

    def of_values(self, observations: Observations) -> ObservationBatch:
        """Given observations, as a batch of one.

        Args:
            observations: Values by name, or by (name, visit). Others than the network's are ignored.

        Raises:
            CheckpointError: One is of another shape, or something of it was not measured.
        """
        given = ObservationSet.of(observations)
        values: list[NDArray[np.float64]] = []
        present: list[NDArray[np.bool_]] = []
        for slot in self.slots:
            # Where a name is given, its visits are those that there are; what is not given was not measured.
            first = given.get((slot.name, 0))
            is_empty = first is not None and np.size(first) == 0
            complete = given.is_complete(slot.name)
            there = slot.always or not (is_empty or (complete and (slot.name, slot.visit) not in given))
            array = self._measured(slot, given) if there else np.zeros(slot.shape)
            values.append(array[None])
            present.append(np.array([there]))
        return self._standardised(values, present)

    def _measured(self, slot: Slot, given: ObservationSet) -> NDArray[np.float64]:
        value = given.get((slot.name, slot.visit))
        if value is None:
            raise CheckpointError(
                f"the proposal was trained on observation {slot}, which is not among those given "
                f"({', '.join(map(repr, given.names)) or 'none'}) or was not measured; give it ([] if it was not "
                "made), train on what you have, or use random_walk_mh"
            )
        array = np.asarray(value, np.float64)
        if array.shape != slot.shape:
            raise CheckpointError(
                f"observation {slot} has shape {array.shape}, but the proposal was trained on shape {slot.shape}; "
                "train one for this shape"
            )
        if missing := int(np.isnan(array).sum()):
            raise CheckpointError(
                f"{missing} of {array.size} elements of observation {slot} were not measured, but the proposal was "
                "trained on all of them; use random_walk_mh or importance_sampling, or train without this observation"
            )
        return array

    def _standardised(
        self, values: Sequence[NDArray[np.float64]], present: Sequence[NDArray[np.bool_]]
    ) -> ObservationBatch:
        num_traces = len(values[0])
        flat: list[NDArray[np.float64]] = []
        grids: list[NDArray[np.float32]] = []
        for slot, value, there, mean, scale in zip(
            self.slots, values, present, self.means, self.scales, strict=True
        ):
            if slot.is_grid:
                centred = (value - mean).astype(np.float32)
                centred[~there] = 0.0
                channels = np.empty((num_traces, 2, *slot.shape), np.float32)
                np.divide(centred, np.float32(scale[0]), out=channels[:, 0])
                np.arcsinh(centred / np.float32(scale[1]), out=channels[:, 1])
                grids.append(np.nan_to_num(channels, copy=False))
            else:
                z = np.clip((value - mean) / scale, -_FLAT_LIMIT, _FLAT_LIMIT).reshape(num_traces, -1)
                flat.append(np.where(there[:, None], z, 0.0))
        flat += [
            there[:, None].astype(np.float64)
            for slot, there in zip(self.slots, present, strict=True)
            if not slot.always
        ]
        columns = np.concatenate([np.zeros((num_traces, 0)), *flat], axis=1)
        return ObservationBatch(np.nan_to_num(columns).astype(np.float32), tuple(grids))

    def to_json(self) -> list[dict[str, Any]]:
        """Slots without their statistics, which are arrays."""
        return [
            {"name": s.name, "visit": s.visit, "shape": list(s.shape), "always": s.always} for s in self.slots
        ]

    @classmethod
    def from_json(
        cls,
        slots: list[dict[str, Any]],
        means: Sequence[NDArray[np.float64]],
        scales: Sequence[NDArray[np.float64]],
    ) -> ObservationLayout:
        """The inverse of `to_json`."""
        return cls(
            tuple(
                Slot(str(s["name"]), int(s["visit"]), tuple(int(n) for n in s["shape"]), bool(s["always"]))
                for s in slots
            ),
            tuple(means),
            tuple(scales),
        )


def observed_names(traces: TraceBatch) -> list[str]:
    """Names of everything that the traces observed."""
    return sorted({traces.addresses[i].name for i in np.unique(traces.observations.address_id).tolist()})


def _ids(addresses: AddressTable, name: str) -> tuple[int, ...]:
    return addresses.find(name)


def _visits(traces: TraceBatch, name: str) -> list[tuple[Slot, NDArray[np.float64]]]:
    """The slots of a name, with the values of the traces that have them."""
    found: list[tuple[Slot, NDArray[np.float64]]] = []
    ids = _ids(traces.addresses, name)
    visit = 0
    while True:
        rows = traces.observations.rows(ids, visit)
        there = np.flatnonzero(rows >= 0)
        if not len(there):
            return found
        shapes = {traces.addresses[int(i)].shape for i in traces.observations.address_id[rows[there]]}
        if len(shapes) > 1:
            raise ObservationError(
                f"observation {name!r} has several shapes, {', '.join(map(str, sorted(shapes)))}; "
                "a proposal needs one, so give them different names"
            )
        shape = shapes.pop()
        slot = Slot(name, visit, shape, len(there) == len(traces))
        found.append((slot, traces.observations.dense(rows[there], shape)))
        visit += 1


def _statistics(slot: Slot, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if slot.is_grid:
        # Most voxels of most grids hold noise only: their spread is what asinh must resolve.
        typical = float(np.median(values.std(axis=0)))
        overall = float(values.std())
        scales = np.array([overall, typical if typical > 0.0 else overall])
        return np.array(values.mean()), np.where(scales > 0.0, scales, 1.0)
    mean, scale = values.mean(axis=0), values.std(axis=0)
    return mean, np.where(scale > 1e-12 * np.abs(mean), scale, 1.0)

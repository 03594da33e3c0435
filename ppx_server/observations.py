"""Observed values: what a run conditions on, by name and visit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppx_server.errors import ObservationError

Tensor = float | NDArray[np.float64]
ObservationKey = tuple[str, int]
Observations = (
    Mapping[str, ArrayLike] | Mapping[ObservationKey, ArrayLike] | Mapping[str | ObservationKey, ArrayLike]
)
"""Observed values by name, or by (name, visit) for repeated visits."""

_numbers = itertools.count(1)


class ObservationSet(Mapping[ObservationKey, Tensor]):
    """Observed values by (name, visit), checked and copied: scalars as floats, everything else as float64 arrays.

    Simulators are told a set once, however many batches condition on it. An engine makes one per run.

    Args:
        observations: Values by name, or by (name, visit).

    Attributes:
        number: Different for every set of this process.

    Raises:
        ObservationError: A value is not numeric or not finite.
    """

    def __init__(self, observations: Observations) -> None:
        self.number = next(_numbers)
        self._values: dict[ObservationKey, Tensor] = {}
        for key, value in observations.items():
            try:
                array = np.array(value, np.float64)
            except (TypeError, ValueError) as error:
                raise ObservationError(f"observation {key!r} is not numeric: {error}") from error
            if not np.isfinite(array).all():
                raise ObservationError(
                    f"observation {key!r} holds NaN or infinity; every value must be finite"
                )
            array.flags.writeable = False
            name_visit = (key, 0) if isinstance(key, str) else key
            self._values[name_visit] = array if array.shape else float(array)

    @classmethod
    def of(cls, observations: Observations) -> ObservationSet:
        """The set of the given values; a set is returned as it is.

        Raises:
            ObservationError: They are no mapping, or as for the set.
        """
        if not isinstance(observations, Mapping):
            raise ObservationError(
                f"observations are given by name, as in {{'y': 1.5}}, not as {type(observations).__name__} "
                f"{observations!r:.60}"
            )
        return observations if isinstance(observations, ObservationSet) else cls(observations)

    def __getitem__(self, key: ObservationKey) -> Tensor:
        return self._values[key]

    def __iter__(self) -> Iterator[ObservationKey]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

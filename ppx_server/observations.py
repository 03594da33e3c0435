"""Observed values: what a run conditions on, by name and visit, and what of it was not measured."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from numbers import Complex, Real
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppx_server.errors import ObservationError

Tensor = float | NDArray[np.float64]
ObservationKey = tuple[str, int]
Observations = (
    Mapping[str, ArrayLike | None]
    | Mapping[ObservationKey, ArrayLike | None]
    | Mapping[str | ObservationKey, ArrayLike | None]
)
"""Observed values by name, or by (name, visit) for repeated visits; None and NaN stand for what was not measured."""
Partial = bool | Collection[str]
"""Names of which not all visits are given; True for all of them."""

EVERY_VISIT: Final = -1
"""Stands for the visits of a name that are not given one by one."""
_MISSING_TYPES = {"NAType", "NaTType"}
"""pandas.NA and pandas.NaT, without importing pandas."""

_numbers = itertools.count(1)


class NotGiven:
    """The type of `NOT_GIVEN`."""


NOT_GIVEN: Final = NotGiven()
"""No entry of a set is about an observe."""


class ObservationSet(Mapping[ObservationKey, Tensor | None]):
    """Observed values by (name, visit), checked and copied: scalars as floats, everything else as float64 arrays.

    NaN marks an element that was not measured, None a whole visit; the key (name, EVERY_VISIT) with None says that of
    all visits of a name which no other entry gives. What was not measured is drawn from its distribution and
    contributes no likelihood. So is a name that is left out.

    A name that is given is complete: a trace that makes more or fewer visits of it, or observes another shape, has
    weight zero. Of partial names, other visits are not measured, and visits that a trace does not make do not count.

    Simulators are told a set once, however many batches condition on it. An engine makes one per run.

    Args:
        observations: Values by name, or by (name, visit). Not measured are None, NaN, `pandas.NA`, and elements that a
            masked array masks.
        partial: Names that are partial; True for all.

    Attributes:
        number: Different for every set of this process.

    Raises:
        ObservationError: A value holds something else than finite numbers, a visit is given twice, or a key is no
            name or (name, visit).
    """

    def __init__(self, observations: Observations, partial: Partial = False) -> None:
        self.number = next(_numbers)
        self._values: dict[ObservationKey, Tensor | None] = {}
        if not isinstance(observations, Mapping):
            raise ObservationError(
                f"observations are given by name, as in {{'y': 1.5}}, not as {type(observations).__name__} "
                f"{observations!r:.60}"
            )
        for key, value in observations.items():
            measured = None if value is None else as_numbers(value, f"observation {key!r}")
            name_visit = _checked_key(key, every_visit=measured is None)
            if name_visit in self._values:
                raise ObservationError(
                    f"visit 0 of observation {name_visit[0]!r} is given twice; give it once"
                )
            self._values[name_visit] = measured
        self.names = tuple(dict.fromkeys(name for name, _ in self._values))
        self._partial = self._names_of(partial)

    @classmethod
    def of(cls, observations: Observations, partial: Partial = False) -> ObservationSet:
        """The set of the given values; a set is returned as it is, unless more of it is partial."""
        if isinstance(observations, ObservationSet) and not partial:
            return observations
        return cls(observations, partial)

    @property
    def partial(self) -> tuple[str, ...]:
        """Names of which not all visits are given."""
        return tuple(sorted(self._partial))

    def is_complete(self, name: str) -> bool:
        """Whether the visits of a name are given that there are, no more and no fewer."""
        return name in self.names and name not in self._partial and (name, EVERY_VISIT) not in self._values

    def given(self, by_name: ObservationKey, by_address: ObservationKey) -> Tensor | NotGiven | None:
        """The entry about an observe: that of its name, else of its full address, visit by visit or for all.

        Args:
            by_name: Its name (or else address), and number of the visit by that name.
            by_address: Its full address, and number of the visit to that address.

        Returns:
            The value, None if it was not measured, NOT_GIVEN if nothing is said of it.
        """
        values = self._values
        # Where both are the same, only visits by name count, which other scopes may have made too.
        keys = (by_name, by_address) if by_name[0] != by_address[0] else (by_name,)
        for key in keys:
            if key in values:
                return values[key]
        return None if any((name, EVERY_VISIT) in values for name, _ in keys) else NOT_GIVEN

    def __getitem__(self, key: ObservationKey) -> Tensor | None:
        return self._values[key]

    def __iter__(self) -> Iterator[ObservationKey]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _names_of(self, partial: Partial) -> frozenset[str]:
        if isinstance(partial, bool):
            return frozenset(self.names if partial else ())
        named = frozenset((partial,) if isinstance(partial, str) else partial)
        if unknown := sorted(named.difference(self.names), key=str):
            raise ObservationError(
                f"partial names {', '.join(map(repr, unknown))}, which is not among the observations given "
                f"({', '.join(map(repr, self.names)) or 'none'}); name those that are incomplete"
            )
        return named


def as_numbers(value: Any, what: str) -> Tensor:
    """A measured value as a float or an array of doubles, with NaN for what was not measured.

    Args:
        value: A number, an array, or nested lists; what was not measured is None, NaN, NA or masked.
        what: What it is, for the error.

    Raises:
        ObservationError: It holds something that is no finite real number.
    """
    array = _doubles(value, what)
    if np.isinf(array).any():
        raise ObservationError(
            f"{what} holds infinity; give a finite number, or None if it was not measured (a limit that was exceeded "
            "is an observe of its own in the model, such as a Bernoulli)"
        )
    array = np.array(array, np.float64)
    array.flags.writeable = False
    return array if array.shape else float(array)


def is_missing(value: object) -> bool:
    """Whether a single value says that nothing was measured: None, NaN, pandas.NA or NaT, or a masked element."""
    if value is None or value is np.ma.masked or type(value).__name__ in _MISSING_TYPES:
        return True
    return isinstance(value, (float, Decimal, np.floating)) and bool(value != value)


def _checked_key(key: object, *, every_visit: bool) -> ObservationKey:
    if isinstance(key, str):
        return key, EVERY_VISIT if every_visit else 0
    match key:
        case (str(name), int(visit)) if visit >= (EVERY_VISIT if every_visit else 0):
            return name, visit
        case (str(name), np.integer() as number) if number >= 0:
            return name, int(number)
    raise ObservationError(
        f"observations have the key {key!r}; give a name, or (name, visit) with visits counted from 0"
    )


def _doubles(value: Any, what: str) -> NDArray[np.float64]:
    if isinstance(value, (list, tuple)):
        return _stacked(value, what)
    mask = np.ma.getmaskarray(value) if isinstance(value, np.ma.MaskedArray) else None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ObservationError(f"{what} is not an array of numbers: {error}") from error
    if array.dtype.kind == "O":
        elements = [
            _number(x, what) if m else np.nan for x, m in zip(array.ravel(), _kept(mask, array), strict=True)
        ]
        return np.array(elements, np.float64).reshape(array.shape)
    if array.dtype.kind not in "biuf":
        raise _refused(array.dtype, what)
    array = array.astype(np.float64)
    return array if mask is None else np.where(mask, np.nan, array)


def _kept(mask: NDArray[np.bool_] | None, array: NDArray[Any]) -> list[bool]:
    return [True] * array.size if mask is None else (~mask).ravel().tolist()


def _stacked(values: list[Any] | tuple[Any, ...], what: str) -> NDArray[np.float64]:
    """Nested lists; each part by itself, since NumPy would look behind the mask of one that is masked."""
    if all(type(v) in (float, int, bool) for v in values):
        return np.array(values, np.float64)
    parts = [np.array(np.nan) if is_missing(v) else _doubles(v, what) for v in values]
    if len(shapes := {part.shape for part in parts}) > 1:
        raise ObservationError(
            f"{what} is no array: its parts have shapes {', '.join(map(str, sorted(shapes)))}; give what the model "
            "observes in one piece as an array, and repeated visits one by one, as (name, 0), (name, 1), ..."
        )
    return np.stack(parts) if parts else np.empty(0)


def _number(value: Any, what: str) -> float:
    """An element of an array of objects."""
    if is_missing(value):
        return np.nan
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        if value.dtype.kind not in "biuf":
            raise _refused(value.dtype, what)
        return float(value)
    if isinstance(value, (Real, Decimal)):
        return float(value)
    if isinstance(value, Complex):
        raise _refused(np.dtype(complex), what)
    raise ObservationError(
        f"{what} holds {value!r}, a {type(value).__name__}, which is no number; give numbers, and None where nothing "
        "was measured"
    )


def _refused(dtype: np.dtype[Any], what: str) -> ObservationError:
    remedies = {
        "c": "observe real and imaginary parts under names of their own",
        "M": "give numbers in the model's unit of time, such as (times - start) / numpy.timedelta64(1, 's')",
        "m": "give numbers in the model's unit of time, such as durations / numpy.timedelta64(1, 's')",
        "U": "convert text to numbers first, as numpy.asarray(text, float) does",
        "S": "convert text to numbers first, as numpy.asarray(text, float) does",
    }
    remedy = remedies.get(dtype.kind, "give an array of real numbers")
    return ObservationError(f"{what} is of type {dtype}, not of real numbers; {remedy}")

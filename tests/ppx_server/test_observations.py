"""What may be given as observed, and what it is taken for."""

from __future__ import annotations

import itertools
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ppx_server.errors import ObservationError
from ppx_server.observations import EVERY_VISIT, NOT_GIVEN, ObservationSet

NAN = np.nan


class NAType:
    """As pandas.NA: it has no truth value and compares as itself."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class Column:
    """As a pandas column of nullable numbers: an array of objects."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return np.array([1, NAType(), 3.5], object)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (NAN, NAN),
        (np.ma.masked, NAN),
        (NAType(), NAN),
        (Decimal("1.5"), 1.5),
        ([0.1, None, 0.3], [0.1, NAN, 0.3]),
        ([0.1, NAType(), np.ma.masked, Decimal("NaN")], [0.1, NAN, NAN, NAN]),
        ([[1, None], (3, 4)], [[1, NAN], [3, 4]]),
        ([Fraction(1, 4), np.bool_(True)], [0.25, 1.0]),
        (np.ma.masked_array([0.1, 9.0, 0.3], [False, True, False]), [0.1, NAN, 0.3]),
        (np.ma.masked_array([1, 999], [False, True]), [1, NAN]),
        (np.ma.masked_array([1.0, 2.0]), [1, 2]),
        ([np.ma.masked_array([1.0, 9.0], [False, True]), [3.0, 4.0]], [[1, NAN], [3, 4]]),
        (np.ma.masked_array(np.array([1, "x"], object), [False, True]), [1, NAN]),
        (np.ma.masked_equal([1.0, np.inf], np.inf), [1, NAN]),
        (Column(), [1, NAN, 3.5]),
        ([], []),
        ([[], []], [[], []]),
    ],
    ids=itertools.count(),
)
def test_values_and_what_is_missing_of_them(value: Any, expected: Any) -> None:
    found = ObservationSet({"y": value})["y", 0]
    np.testing.assert_array_equal(found, expected)
    assert np.shape(found) == np.shape(expected)
    assert type(found) is float or found.dtype == np.float64  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1 + 2j, "complex128.*real and imaginary parts under names of their own"),
        ([1.0, 2j], "complex"),
        (np.array([1.0, 2j], object), "complex"),
        (np.array(["2024-01-01"], "datetime64[D]"), "datetime64.*unit of time"),
        ([np.datetime64("2024-01-01")], "datetime64"),
        (np.timedelta64(3, "s"), "timedelta64.*unit of time"),
        ("1.5", "type <U3, not of real numbers; convert text"),
        (["1.5", 2.0], "<U3"),
        (b"1.5", "S3"),
        ({"a": 1}, "holds {'a': 1}, a dict"),
        (object(), "which is no number"),
        ([1.0, np.inf], "holds infinity"),
        (-np.inf, "holds infinity"),
        ([[1, 2], [3]], r"its parts have shapes \(1,\), \(2,\)"),
        (np.zeros(2, [("a", float)]), "not of real numbers"),
    ],
    ids=itertools.count(),
)
def test_what_is_no_measured_number_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ObservationError, match=words) as error:
        ObservationSet({"y": value})
    assert "observation 'y'" in str(error.value)


@pytest.mark.parametrize(
    ("observations", "words"),
    [
        ([1.0], "observations are given by name, as in"),
        ({3: 1.0}, "key 3; give a name, or"),
        ({("y", -1): 1.0}, "visits counted from 0"),
        ({("y", 0.5): 1.0}, "visits counted from 0"),
        ({"y": 1.0, ("y", 0): 2.0}, "visit 0 of observation 'y' is given twice"),
    ],
)
def test_keys(observations: Any, words: str) -> None:
    with pytest.raises(ObservationError, match=re.escape(words)):
        ObservationSet(observations)


def test_a_whole_name_a_visit_and_all_other_visits() -> None:
    given = ObservationSet(
        {"whole": None, "y": 1.0, ("y", 1): None, "a/z": 2.0, "z": None, ("s", np.int64(2)): 3}
    )
    assert given["whole", EVERY_VISIT] is None
    assert given.given(("whole", 7), ("b/whole", 0)) is None
    assert given.given(("y", 1), ("y", 1)) is None
    assert given.given(("y", 2), ("y", 2)) is NOT_GIVEN
    assert given.given(("z", 0), ("a/z", 0)) == 2.0  # what is said of a visit goes before what is said of all
    assert given.given(("z", 1), ("a/z", 1)) is None
    assert given.given(("x", 0), ("y", 0)) == 1.0  # by full address
    assert given.given(("y", 3), ("y", 0)) is NOT_GIVEN  # a name that is its own address counts by name only
    complete = {name for name in given.names if given.is_complete(name)}
    assert complete == {"y", "a/z", "s"}


def test_partial_names() -> None:
    values = {"y": 1.0, "z": 2.0}
    assert ObservationSet(values).is_complete("y")
    some = ObservationSet(values, partial=["y"])
    assert (some.is_complete("y"), some.is_complete("z")) == (False, True)
    assert not ObservationSet(values, partial=True).is_complete("z")
    assert ObservationSet.of(some) is some
    assert ObservationSet.of(some, partial=True) is not some
    with pytest.raises(ObservationError, match="partial names 'x', which is not among"):
        ObservationSet(values, partial=["x"])


def test_values_are_copied() -> None:
    array = np.array([1.0, 2.0])
    given = ObservationSet({"y": array})
    array[0] = 9.0
    np.testing.assert_array_equal(given["y", 0], [1.0, 2.0])
    with pytest.raises(ValueError, match="read-only"):
        given["y", 0][0] = 3.0  # type: ignore[index]

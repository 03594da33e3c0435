"""What a guide foresees: which draw comes next, and with which parameters."""

from __future__ import annotations

import numpy as np
import pytest

from ppx_proposals.forecast import NONE, Past, TableForecast, Transitions
from ppx_proposals.parameters import ParameterMemory, same_vectors
from ppx_server.address import Address, AddressTable
from ppx_server.trace import Params


def _past(site: int, instance: int = 0, outcome: int = 0, earlier: int = NONE) -> Past:
    return Past(*(np.array([column]) for column in (site, instance, outcome, earlier)))


def test_forecast_tells_visits_and_outcomes_apart() -> None:
    forecast = TableForecast()
    table = AddressTable([Address(n, n, "Normal", ()) for n in "abc"])
    forecast.begin(table)

    def observe(past: Past, site: int, count: int = 10) -> None:
        for _ in range(count):
            forecast.observe(Transitions(past, np.array([site])))

    observe(_past(1, instance=0), 1)
    observe(_past(1, instance=1, earlier=1), 3)
    observe(_past(3, outcome=2, earlier=1), 5)
    observe(_past(3, outcome=4, earlier=1), NONE)
    observe(_past(3, outcome=4, earlier=1), 5, count=4)
    assert _next(forecast, _past(1, instance=0)) == (1, 1.0)
    assert _next(forecast, _past(1, instance=1, earlier=1)) == (3, 1.0)
    assert _next(forecast, _past(3, outcome=2, earlier=1)) == (5, 1.0)
    assert _next(forecast, _past(3, outcome=4, earlier=1)) == (NONE, pytest.approx(10 / 14))
    # What was never met: the earlier site does not matter, then the outcome.
    assert _next(forecast, _past(3, outcome=2, earlier=5)) == (5, 1.0)
    assert _next(forecast, _past(3, outcome=7, earlier=5)) == (5, pytest.approx(14 / 24))
    assert _next(forecast, _past(5)) == (NONE, 0.0)
    # Another simulator has other numbers, and does not have all of the addresses yet.
    copy = forecast.copy()
    copy.begin(AddressTable([Address(n, n, "Normal", ()) for n in "ba"]))
    assert _next(copy, _past(3, instance=1, earlier=3)) == (1, 1.0)
    assert _next(copy, _past(1, outcome=2, earlier=3)) == (NONE, 0.0)


def _next(forecast: TableForecast, past: Past) -> tuple[int, float]:
    site, share = forecast.next(past)
    return int(site[0]), float(share[0])


def test_forecast_keeps_the_commonest_rows(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("ppx_proposals.forecast._MOST_ROWS", 50)
    forecast = TableForecast()
    forecast.begin(AddressTable([Address("a", "a", "Normal", ())]))
    rng = np.random.default_rng(0)
    for _ in range(20):
        outcome = rng.integers(0, 255, 60)
        ones = np.ones_like(outcome)
        outcome[:20] = 3
        forecast.observe(Transitions(Past(ones, ones, outcome, ones), ones))
    copy = forecast.copy()
    assert len(copy.counts) <= 50
    assert copy.counts[copy.counts[:, 2] == 3, 5] >= 400


def test_parameters_are_remembered_by_visit_and_element() -> None:
    memory = ParameterMemory()
    params = Params(np.array([1.0, 2.0, 3.0, 0.5, 0.5]), np.array([0, 1, 2, 3, 5]))
    one = np.array([0])
    for instance, row in ((0, 0), (1, 1), (0, 2)):
        memory.learn(one, np.array([instance]), one, params, np.array([row]))
    memory.learn(one + 1, one, one, params, np.array([3]))

    def recall(entry: int, instance: int, element: int = 0) -> list[float]:
        row = memory.find(*(np.array([i]) for i in (entry, instance, element)))[0]
        return [] if row == NONE else memory.params[int(row)].tolist()

    assert recall(0, 0) == [3.0]
    assert recall(0, 1) == [2.0]
    assert recall(0, 9, 9) == [3.0]  # the last one of the entry
    assert recall(1, 0) == [0.5, 0.5]
    assert recall(2, 0) == []


def test_vectors_are_compared_exactly() -> None:
    a = Params(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 3]))
    b = Params(np.array([2.0, 3.0, 1.0, 2.0, 3.0 + 1e-15]), np.array([0, 2, 3, 5]))
    i, j = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 2])
    assert same_vectors(a, i, b, j).tolist() == [False, True, True, False, False]

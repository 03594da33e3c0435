"""Which traces observe what was given, compared with a plain reckoning of every trace by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ppx_inference.ruled_out import explain
from ppx_server.completeness import Mismatch, mismatches
from ppx_server.observations import ObservationSet
from ppx_server.script import ScriptBatch
from ppx_server.trace import TraceBatch


def varying(ppx: Any) -> None:
    """Some measurements of y, in two scopes and as numbers or pairs, and sometimes one of z."""
    mu = ppx.sample("Normal", 0.0, 1.0, name="mu")
    for _ in range(int(ppx.sample("Poisson", 1.5, name="n"))):
        if ppx.sample("Bernoulli", 0.3, name="pair"):
            ppx.observe("Normal", np.array([mu, mu]), 1.0, name="y")
        elif ppx.sample("Bernoulli", 0.3, name="inner"):
            with ppx.scope("a"):
                ppx.observe("Normal", mu, 1.0, name="y")
        else:
            ppx.observe("Normal", mu, 1.0, name="y")
    if ppx.sample("Bernoulli", 0.5, name="has_z"):
        ppx.observe("Normal", mu, 1.0, name="z")


SETS: list[tuple[dict[Any, Any], Any]] = [
    ({"y": 0.5}, False),
    ({"y": 0.5, ("y", 1): [0.1, 0.2]}, False),
    ({"y": 0.5, ("y", 1): None}, False),
    ({"y": 0.5, ("y", 1): np.nan}, False),
    ({("y", 1): 0.5}, False),
    ({("y", 1): 0.5, "a/y": 0.25}, False),
    ({"a/y": 0.25}, False),
    ({"a/y": 0.25, "y": None}, False),
    ({"y": None}, False),
    ({"y": []}, False),
    ({"z": 1.0}, False),
    ({"y": [], "z": []}, False),
    ({"y": 0.5, ("y", 1): 0.5, ("y", 2): 0.5, "z": 1.0}, False),
    ({"y": 0.5, "z": 0.5}, ["z"]),
    ({"y": 0.5, ("y", 1): 0.5}, True),
    ({}, False),
]


def fits(made: list[tuple[str, str, tuple[int, ...]]], given: ObservationSet) -> bool:
    """Whether a trace with these observes, (name, address, shape), observes what was given."""
    counts: dict[tuple[str, str], int] = {}
    visits = []
    for name, address, shape in made:
        by_name, by_address = counts.get(("n", name), 0), counts.get(("a", address), 0)
        counts["n", name], counts["a", address] = by_name + 1, by_address + 1
        visits.append(((name, by_name), (address, by_address), shape))
    reached = set()
    for by_name, by_address, shape in visits:
        keys = [by_name] if by_name[0] == by_address[0] else [by_name, by_address]
        reached.update(key for key in keys if key in given)
        key = next((key for key in keys if key in given), None)
        if key is not None:
            value = given[key]
            if value is not None and np.shape(value) != shape:
                return False
        elif any(given.is_complete(name) for name, _ in keys) and not any(
            (name, -1) in given for name, _ in keys
        ):
            return False
    stated = {key for key in given if key[1] >= 0 and (given[key] is None or np.size(given[key]))}  # type: ignore[arg-type]
    required = {key for key in stated if given.is_complete(key[0])}
    return required <= reached


def observes(traces: TraceBatch, k: int) -> list[tuple[str, str, tuple[int, ...]]]:
    table = traces.observations
    entries = [
        traces.addresses[i] for i in table.address_id[table.offsets[k] : table.offsets[k + 1]].tolist()
    ]
    return [(e.name, e.address, e.shape) for e in entries if e.family]


@pytest.fixture(scope="module")
def executed(in_process: Any) -> Any:
    def execute(given: ObservationSet | None, count: int = 150) -> TraceBatch:
        traces: TraceBatch = in_process(varying).execute(ScriptBatch.empty(3, np.arange(count)), given)
        return traces

    return execute


@pytest.mark.filterwarnings("ignore:no trace made")
@pytest.mark.parametrize(("values", "partial"), SETS, ids=str)
def test_traces_that_observe_something_else_have_weight_zero(
    executed: Any, values: Any, partial: Any
) -> None:
    given = ObservationSet(values, partial)
    traces = executed(given)
    expected = [fits(observes(traces, k), given) for k in range(len(traces))]
    np.testing.assert_array_equal(traces.log_weight > -np.inf, expected)
    assert not traces.status.any()
    ruled_out = len(traces) - sum(expected)
    assert (f"rule out {ruled_out} of 150" in explain(traces)) == (0 < ruled_out < 150)
    # All else is as it was: one row more for each name that rules a trace out.
    table = traces.observations
    assert len(mismatches(traces)) >= ruled_out
    kept = np.setdiff1d(np.arange(len(table.address_id)), mismatches(traces))
    plain = executed(None).observations
    np.testing.assert_array_equal(table.instance[kept], plain.instance)
    selected = traces.select(np.arange(0, 150, 7))
    np.testing.assert_array_equal(selected.log_weight, traces.log_weight[::7])


def test_what_is_said_of_traces_that_are_ruled_out(executed: Any) -> None:
    def said(values: Any, **options: Any) -> str:
        return explain(executed(ObservationSet(values, **options)))

    assert "made more visits of 'y' than were given (1)" in said({"y": 0.5})
    assert "made fewer visits of 'y' than were given" in said({("y", i): 0.5 for i in range(3)})
    assert "observe 'y' in shape (), where shape (3,) was given" in said({"y": [1, 2, 3]})
    assert "give ('y', 0), ('y', 1), ... one by one" in said({"y": [1, 2, 3]})
    assert "observe 'y', of which an empty measurement was given" in said({"y": []})
    every = said({("y", i): 0.5 for i in range(30)})
    assert "rule out all 150 traces" in every
    assert "partial=['y']" in every
    assert said({}) == said({"y": None}) == ""


def test_density_zero_is_said_with_the_name(in_process: Any) -> None:
    def model(ppx: Any) -> None:
        a = ppx.sample("Uniform", 0.0, 1.0, name="a")
        ppx.observe("Uniform", a, 2.0, name="y")

    traces = in_process(model).execute(ScriptBatch.empty(1, np.arange(40)), {"y": 5.0})
    assert "all 40 traces: they give the value of 'y' density zero; check values and units" in explain(traces)
    some = in_process(model).execute(ScriptBatch.empty(1, np.arange(40)), {"y": 0.5})
    assert "of 40 traces: they give the value of 'y' density zero" in explain(some)


def test_addresses_say_what_was_missed() -> None:
    address = Mismatch.SHAPE.address("y", (3,))
    assert Mismatch.of(address) is Mismatch.SHAPE
    assert Mismatch.of(address._replace(family="Normal")) is None
    assert Mismatch.of(address._replace(address="y")) is None

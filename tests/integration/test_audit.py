"""What the controller believes of the draws that a simulator reports: nothing that it can compute itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ppx_inference.simulator import Simulator
from ppx_server.audit import Audit, DefectiveClientError, WrongDrawError
from ppx_server.distributions import family_codes, log_prob_columns
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import DrawFlag, Status, TraceBatch

MODEL = Path(__file__).resolve().parent / "audited_model.py"
SEED, NUM_TRACES = 11, 400


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator([sys.executable, str(MODEL)], num_workers=1, keep_uncontrolled=True) as sim:
        yield sim


@pytest.fixture(scope="module")
def drawn(simulator: Simulator) -> TraceBatch:
    return simulator.prior(NUM_TRACES, seed=SEED)


def check(traces: TraceBatch, scripts: ScriptBatch) -> None:
    """Looks at all of it."""
    ordinal = np.arange(len(traces.value)) - np.repeat(traces.offsets[:-1], traces.length)
    Audit().check(traces, scripts, ordinal, family_codes(traces.addresses))


def unscripted(traces: TraceBatch) -> ScriptBatch:
    return ScriptBatch.empty(traces.seed, traces.index)


def with_values(traces: TraceBatch, rows: list[int], values: list[float]) -> TraceBatch:
    """Traces with other values, whose densities are honest."""
    value = traces.value.copy()
    value[rows] = values
    codes = family_codes(traces.addresses)[traces.address_id]
    return replace(
        traces, value=value, log_prob=log_prob_columns(value, codes, traces.params, traces.params_id)
    )


def rows_of(traces: TraceBatch, name: str) -> list[int]:
    return traces.rows(traces.addresses.find(name)).tolist()


def test_honest_draws_of_all_families_pass(drawn: TraceBatch) -> None:
    check(drawn, unscripted(drawn))
    assert len({drawn.addresses[i].family for i in drawn.address_id.tolist()}) == 12


@pytest.mark.parametrize(
    ("name", "change"),
    [("array", 1e-5), ("count", 1), ("coin", 1), ("kind", 2), ("hits", -1), ("time", 1e-6), ("cut", 1e-6)],
)
def test_one_value_that_was_made_up_is_found(drawn: TraceBatch, name: str, change: float) -> None:
    row = rows_of(drawn, name)[-1]
    value = 1 - drawn.value[row] if name == "coin" else drawn.value[row] + change
    value = (value % 4) if name == "kind" else value
    lie = with_values(drawn, [row], [float(value)])
    trace = int(np.searchsorted(drawn.offsets, row, side="right")) - 1
    ordinal = row - int(drawn.offsets[trace])
    place = rf"'{name}' \(\w+, visit 0; seed 11, trace {trace}, ordinal {ordinal}\)"
    with pytest.raises(WrongDrawError, match=rf"reports the value .*{place}, where these give"):
        check(lie, unscripted(drawn))


def test_coordinates_that_were_made_up_are_found_although_values_are_right(drawn: TraceBatch) -> None:
    z = drawn.z.copy()
    z[rows_of(drawn, "coin")[7]] += 1e-3
    with pytest.raises(WrongDrawError, match="'coin'"):
        check(replace(drawn, z=z), unscripted(drawn))


def test_draws_of_another_trace_or_seed_are_found(drawn: TraceBatch) -> None:
    with pytest.raises(WrongDrawError):
        check(replace(drawn, index=drawn.index + 1), unscripted(drawn))
    with pytest.raises(WrongDrawError):
        check(drawn, ScriptBatch.empty(SEED + 1, drawn.index))


def test_values_that_rounding_decides_pass(drawn: TraceBatch) -> None:
    # The interval from -1 to 1: near 0 the value is a difference of numbers near 1.
    rows = rows_of(drawn, "shift")
    near = min(rows, key=lambda row: abs(drawn.value[row]))
    check(with_values(drawn, [near], [drawn.value[near] + 2e-16]), unscripted(drawn))


@pytest.mark.parametrize("by_z", [False, True])
def test_scripts_that_were_followed_pass(simulator: Simulator, drawn: TraceBatch, by_z: bool) -> None:
    some = drawn.select(np.arange(50))
    scripts = ScriptBatch.replay(some, by_z=by_z)
    check(simulator.execute(scripts, None), scripts)


def backwards(traces: TraceBatch) -> ScriptBatch:
    """Choices in another order than draws come, for some draws only; arrays stay together, and end early."""
    name = [traces.addresses[i].name for i in traces.address_id.tolist()]
    trace = np.repeat(np.arange(len(traces)), traces.length)
    element = np.zeros(len(name), np.int64)
    for row in range(1, len(name)):
        same = name[row] == name[row - 1] == "array"
        element[row] = element[row - 1] + 1 if same else 0
    kept = np.flatnonzero((element < 2) & np.array([n not in ("share", "hits") for n in name]))
    order = kept[np.lexsort((element[kept], -traces.address_id[kept], trace[kept]))]
    counts = np.bincount(trace[order], minlength=len(traces))
    return ScriptBatch(
        seed=traces.seed + 1,
        index=traces.index,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        address_id=traces.address_id[order],
        instance=traces.instance[order],
        value=traces.value[order],
        z=traces.z[order],
    )


def test_scripts_in_another_order_pass_and_draws_that_pass_them_over_do_not(
    simulator: Simulator, drawn: TraceBatch
) -> None:
    scripts = backwards(drawn.select(np.arange(50)))
    traces = simulator.execute(scripts, None)
    check(traces, scripts)
    forced = np.flatnonzero(traces.flags & DrawFlag.FORCED)
    assert 0 < len(forced) < len(traces.value)
    row = int(forced[5])
    flags = traces.flags.copy()
    flags[row] ^= DrawFlag.FORCED
    with pytest.raises(WrongDrawError, match=r"not forced, of the draw .* its script forces the value"):
        check(replace(traces, flags=flags), scripts)
    other = with_values(traces, [row], [traces.value[row] + 1.0])
    with pytest.raises(WrongDrawError, match=r"forced, of the draw .* its script forces the value"):
        check(other, scripts)
    flags = traces.flags.copy()
    flags[rows_of(traces, "hits")[3]] |= DrawFlag.FORCED
    with pytest.raises(WrongDrawError, match=r"'hits' .* its script forces nothing there"):
        check(replace(traces, flags=flags), scripts)


def test_a_coordinate_that_is_forced_must_be_taken(simulator: Simulator, drawn: TraceBatch) -> None:
    scripts = ScriptBatch.replay(drawn.select(np.arange(20)), by_z=True)
    traces = simulator.execute(scripts, None)
    row = rows_of(traces, "energy")[4]
    with pytest.raises(WrongDrawError, match=r"'energy' .* its script gives the value"):
        check(with_values(traces, [row], [traces.value[row] * 1.001]), scripts)


def test_a_draw_that_should_have_asked_is_found(drawn: TraceBatch) -> None:
    scripts = replace(unscripted(drawn), otherwise=Otherwise.ASK)
    with pytest.raises(WrongDrawError, match="its script ends before, so that the draw is pending"):
        check(drawn, scripts)


def test_densities_are_looked_at_and_failed_traces_are_not(drawn: TraceBatch) -> None:
    log_prob = drawn.log_prob.copy()
    log_prob[3] += 0.1
    with pytest.raises(DefectiveClientError, match="reports log_prob"):
        check(replace(drawn, log_prob=log_prob), unscripted(drawn))
    status = drawn.status.copy()
    status[0] = Status.FAILED
    check(replace(drawn, log_prob=log_prob, status=status), unscripted(drawn))


def test_later_batches_are_looked_at_by_chance_and_a_liar_is_found_soon(drawn: TraceBatch) -> None:
    rows = rows_of(drawn, "time")
    lie = with_values(drawn, rows, (drawn.value[rows] + 1.0).tolist())
    ordinal = np.arange(len(drawn.value)) - np.repeat(drawn.offsets[:-1], drawn.length)
    codes = family_codes(drawn.addresses)
    audit = Audit()
    for _ in range(3):
        audit.check(drawn, unscripted(drawn), ordinal, codes)
    found = 0
    for _ in range(100):  # each is looked at with a probability of 0.4
        try:
            audit.check(lie, unscripted(drawn), ordinal, codes)
        except WrongDrawError:
            found += 1
    assert 0 < found < 100

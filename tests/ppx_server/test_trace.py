from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppx_server.address import Address, AddressTable
from ppx_server.trace import DrawFlag, LoopTable, Params, Status, TensorTable, TraceBatch, gather, segment_sum

inf = np.inf


def offsets_of(counts: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def test_segment_sum_keeps_infinities_in_their_segment() -> None:
    values = np.array([1.0, 2.0, -inf, 4.0, 5.0])
    np.testing.assert_array_equal(segment_sum(values, offsets_of([0, 2, 0, 2, 1, 0])), [0, 3, 0, -inf, 5, 0])
    np.testing.assert_array_equal(segment_sum(np.empty(0), offsets_of([0, 0])), [0, 0])
    assert segment_sum(np.empty(0), offsets_of([])).shape == (0,)


@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=12), data=st.data())
def test_gather_is_indexing_a_list_of_lists(counts: list[int], data: st.DataObject) -> None:
    offsets = offsets_of(counts)
    flat = np.arange(offsets[-1]) * 10
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8))
    positions, new_offsets = gather(offsets, chosen)
    expected = [flat[offsets[k] : offsets[k + 1]].tolist() for k in chosen]
    found = [flat[positions][a:b].tolist() for a, b in pairwise(new_offsets)]
    assert found == expected


def test_gather_takes_masks_and_counts_from_the_end() -> None:
    offsets = offsets_of([1, 2, 3])
    assert gather(offsets, np.array([False, True, True]))[0].tolist() == [1, 2, 3, 4, 5]
    assert gather(offsets, [-1])[0].tolist() == [3, 4, 5]
    assert gather(offsets, [])[0].tolist() == []


TABLE = TensorTable(
    offsets=offsets_of([2, 0, 1, 2]),
    address_id=np.array([0, 1, 0, 0, 0], np.int32),
    instance=np.array([0, 0, 0, 0, 1], np.int32),
    data=np.arange(11.0),
    data_offsets=offsets_of([2, 3, 2, 0, 4]),
    log_prob=np.array([-1.0, -2.0, -inf, -4.0, 0.0]),
)


def test_rows_of_a_tensor_table() -> None:
    assert TABLE.rows([0]).tolist() == [0, -1, 2, 3]
    assert TABLE.rows([0], instance=1).tolist() == [-1, -1, -1, 4]
    assert TABLE.rows([1]).tolist() == [1, -1, -1, -1]
    assert TABLE.rows([0, 1], instance=7).tolist() == [-1] * 4
    assert TensorTable.empty(3).rows([0]).tolist() == [-1] * 3


def test_dense_values_of_a_tensor_table() -> None:
    np.testing.assert_array_equal(TABLE.dense([0, 2], (2,)), [[0, 1], [5, 6]])
    np.testing.assert_array_equal(TABLE.dense([4], (2, 2)), [[[7, 8], [9, 10]]])
    assert TABLE.dense([], (2, 3)).shape == (0, 2, 3)
    with pytest.raises(ValueError, match="do not all hold 2 values"):
        TABLE.dense([0, 3], (2,))


def test_select_and_concatenate_tensor_tables() -> None:
    chosen = TABLE.select([3, 0, 3])
    assert chosen.offsets.tolist() == [0, 2, 4, 6]
    assert chosen.log_prob.tolist() == [-4, 0, -1, -2, -4, 0]
    np.testing.assert_array_equal(chosen.dense([1], (4,)), [[7, 8, 9, 10]])
    both = TensorTable.concatenate([TABLE, TensorTable.empty(2), chosen])
    assert both.rows([1]).tolist() == [1, -1, -1, -1, -1, -1, -1, 8, -1]
    np.testing.assert_array_equal(both.dense([8], (3,)), [[2, 3, 4]])


def test_params_are_read_in_rows_of_one_length() -> None:
    params = Params(np.arange(7.0), offsets_of([2, 3, 2]))
    assert len(params) == 3
    np.testing.assert_array_equal(params[1], [2, 3, 4])
    np.testing.assert_array_equal(params.matrix([2, 0, 2]), [[5, 6], [0, 1], [5, 6]])
    assert params.matrix([]).shape == (0, 0)
    with pytest.raises(ValueError, match="group them first"):
        params.matrix([0, 1])


def traces_of(
    log_prob: list[list[float]], log_q: list[list[float]], controlled: list[list[bool]]
) -> TraceBatch:
    """Traces without observations."""
    counts = [len(row) for row in log_prob]
    rows, num_traces = sum(counts), len(counts)
    flat = np.array([f for row in controlled for f in row], bool)
    return TraceBatch(
        addresses=AddressTable([Address("x", "x", "Normal", ())]),
        seed=0,
        index=np.arange(num_traces),
        status=np.zeros(num_traces, np.uint8),
        offsets=offsets_of(counts),
        address_id=np.zeros(rows, np.int32),
        instance=np.zeros(rows, np.int32),
        params_id=np.zeros(rows, np.int32),
        params=Params(np.array([0.0, 1.0]), np.array([0, 2])),
        value=np.zeros(rows),
        z=np.zeros(rows),
        log_prob=np.array([v for row in log_prob for v in row], float),
        log_q=np.array([v for row in log_q for v in row], float),
        flags=np.where(flat, DrawFlag.CONTROLLED, 0).astype(np.uint8),
        observations=TensorTable.empty(num_traces),
        tags=TensorTable.empty(num_traces),
        results=TensorTable.empty(num_traces),
        loops=LoopTable.empty(num_traces),
    )


def test_weights_are_ratios_over_controlled_draws() -> None:
    traces = traces_of(
        [[-1.0, -2.0], [], [-3.0, -5.0], [-1.0]],
        [[-1.5, -2.25], [], [-3.0, -7.0], [-1.0]],
        [[True, True], [], [True, False], [True]],
    )
    np.testing.assert_array_equal(traces.log_weight, [0.75, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(traces.log_prior, [-3.0, 0.0, -3.0, -1.0])
    assert traces.length.tolist() == [2, 0, 2, 1]
    observed = replace(traces, observations=TABLE)
    np.testing.assert_array_equal(observed.log_likelihood, [-3, 0, -inf, -4])
    np.testing.assert_array_equal(observed.log_weight, [-2.25, 0, -inf, -4])


@pytest.mark.parametrize("log_q", [-inf, -1.0])
@pytest.mark.parametrize("controlled", [True, False])
def test_a_draw_outside_its_support_gives_minus_infinity_and_never_nan(
    log_q: float, controlled: bool
) -> None:
    traces = traces_of([[-1.0, -inf], [-1.0]], [[-1.0, log_q], [-1.0]], [[True, controlled], [True]])
    np.testing.assert_array_equal(traces.log_weight, [-inf, 0.0])


def test_an_array_draw_is_found_by_its_first_row(make_traces) -> None:
    traces = traces_of([[0.0] * 5, [0.0], [], [0.0] * 2], [[0.0] * 5, [0.0], [], [0.0] * 2], [[True] * 5] * 4)
    traces = replace(
        traces,
        flags=np.ones(8, np.uint8),
        address_id=np.array([1, 0, 0, 0, 1, 1, 0, 0], np.int32),
        instance=np.array([0, 0, 0, 0, 1, 0, 0, 0], np.int32),
    )
    assert traces.rows([0]).tolist() == [1, -1, -1, 6]
    assert traces.rows([1]).tolist() == [0, 5, -1, -1]
    assert traces.rows([1], instance=1).tolist() == [4, -1, -1, -1]
    assert traces.rows([0, 1]).tolist() == [0, 5, -1, 6]
    assert traces.rows([]).tolist() == [-1] * 4


def test_selected_traces_keep_their_columns_together(make_traces) -> None:
    traces = make_traces(12)
    chosen = traces.select([7, 3, 7])
    assert chosen.index.tolist() == [7, 3, 7]
    np.testing.assert_array_equal(chosen.log_weight, traces.log_weight[[7, 3, 7]])
    np.testing.assert_array_equal(chosen.length, traces.length[[7, 3, 7]])
    a, b = traces.offsets[3:5]
    for name in ("address_id", "instance", "params_id", "value", "z", "log_prob", "log_q", "flags"):
        row = getattr(chosen, name)[chosen.offsets[1] : chosen.offsets[2]]
        np.testing.assert_array_equal(row, getattr(traces, name)[a:b])


def test_select_takes_masks(make_traces) -> None:
    traces = make_traces(12)
    finished = traces.status == 0
    chosen = traces.select(finished)
    assert chosen.index.tolist() == np.flatnonzero(finished).tolist()
    assert len(chosen.tags.offsets) == len(chosen) + 1
    assert len(traces.select([])) == 0


def test_concatenated_batches_are_their_parts(make_traces) -> None:
    table = make_traces(0).addresses
    parts = [make_traces(n, first=first, addresses=table) for n, first in ((5, 0), (0, 5), (8, 5))]
    whole = TraceBatch.concatenate(parts)
    assert whole.index.tolist() == list(range(13))
    np.testing.assert_array_equal(whole.log_weight, np.concatenate([p.log_weight for p in parts]))
    again = whole.select(np.arange(5, 13))
    np.testing.assert_array_equal(again.value, parts[2].value)
    np.testing.assert_array_equal(again.tags.data, parts[2].tags.data)
    for ours, theirs in zip(again.params_id, parts[2].params_id, strict=True):
        np.testing.assert_array_equal(again.params[ours], parts[2].params[theirs])
    assert whole.params_id.dtype == np.int32
    assert whole.failures == {**parts[0].failures, **parts[2].failures}


def test_batches_that_do_not_belong_together_are_refused(make_traces) -> None:
    with pytest.raises(ValueError, match="no batch"):
        TraceBatch.concatenate([])
    with pytest.raises(ValueError, match="do not share an address table"):
        TraceBatch.concatenate([make_traces(1), make_traces(1)])


def test_reasons_belong_to_the_traces_that_failed() -> None:
    traces = traces_of([[-1.0], [-1.0], [-1.0]], [[-1.0]] * 3, [[True]] * 3)
    status = np.array([Status.FAILED, Status.OK, Status.FAILED], np.uint8)
    traces = replace(traces, status=status, failures={0: "zero", 2: "two"})
    assert dict(traces.select([1, 2]).failures) == {2: "two"}
    assert dict(traces.select([1]).failures) == {}
    assert np.isneginf(traces.log_weight).tolist() == [True, False, True]

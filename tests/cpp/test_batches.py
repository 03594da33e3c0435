"""Scripts that C++ simulators execute by whole batches: what is forced, asked for, observed and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from ppx_server.distributions import family
from ppx_server.philox import Stream, normals
from ppx_server.protocol import CAPABILITIES, BatchResult, FailureKind, WireAddress

NAN = float("nan")
FAULT = WireAddress("fault", "fault", "Categorical", ())
N = WireAddress("n", "n", "Poisson", ())
X = WireAddress("x", "x", "Normal", ())
FREE = WireAddress("free", "free", "Uniform", ())
R = WireAddress("r", "r", "Uniform", ())
ARRAY = WireAddress("array", "array", "Normal", (2, 2))
CALL_SITE = WireAddress("batches_cpp:13:twice_at_one_line", "", "Exponential", ())
IMAGE = np.array([[0.5, 0.25], [1.0, 2.0]])
GIVEN: dict[tuple[str, int], Any] = {("y", 0): 0.5, ("y", 1): -0.5, ("image", 0): IMAGE}
CONTROLLED, FORCED, PENDING = 1, 2, 8


class Row(NamedTuple):
    """A scalar draw."""

    address: WireAddress
    instance: int
    params: tuple[float, ...]
    value: float
    z: float
    log_prob: float
    flags: int


class Tensor(NamedTuple):
    """A row of a tensor table."""

    address: WireAddress
    instance: int
    data: list[float]
    log_prob: float


@pytest.fixture(scope="module")
def served(compiled: Any, serving: Any) -> Iterator[Any]:
    """The simulator batches.cpp, which lives for all tests of this file but one."""
    with serving(compiled("batches")) as served:
        yield served


@pytest.fixture
def controller(served: Any, connected: Any) -> Iterator[Any]:
    with connected(served.address) as controller:
        yield controller


def rows(controller: Any, result: BatchResult, trace: int = 0) -> list[Row]:
    """The draws of a trace."""
    found = []
    for row in range(result.offsets[trace], result.offsets[trace + 1]):
        number = result.params[row]
        params = result.params_data[result.params_offsets[number] : result.params_offsets[number + 1]]
        found.append(
            Row(
                controller.known[result.address[row]],
                int(result.instance[row]),
                tuple(params.tolist()),
                float(result.value[row]),
                float(result.z[row]),
                float(result.log_prob[row]),
                int(result.flags[row]),
            )
        )
    return found


def tensors(controller: Any, columns: Any, trace: int = 0) -> list[Tensor]:
    """The observations, tags or results of a trace."""
    found = []
    for row in range(columns.offsets[trace], columns.offsets[trace + 1]):
        data = columns.data[columns.data_offsets[row] : columns.data_offsets[row + 1]].tolist()
        log_prob = float(columns.log_prob[row]) if len(columns.log_prob) else 0.0
        found.append(
            Tensor(controller.known[columns.address[row]], int(columns.instance[row]), data, log_prob)
        )
    return found


def by_address(draws: list[Row], address: WireAddress) -> list[Row]:
    return [row for row in draws if row.address == address]


def script(*choices: tuple[Any, ...]) -> list[tuple[WireAddress, int, float, float]]:
    """Choices (address, visit, value) behind the one that no fault occurs."""
    return [(FAULT, 0, 0.0, NAN), *((*choice, NAN) for choice in choices)]


def test_the_greeting_says_what_it_can_do(controller: Any) -> None:
    assert set(controller.greeting.capabilities) >= {"batch", "rejection", "shutdown"}
    assert controller.greeting.fingerprint == "version 1"


def test_random_numbers_are_counted_over_all_draws_of_a_trace(controller: Any) -> None:
    # Forced, uncontrolled and array draws count, too.
    result = controller.play([7, 8], [script((N, 0, 2.0), (ARRAY, 0, 9.0))] * 2, seed=5)
    for trace in range(2):
        draws = rows(controller, result, trace)
        z = normals(5, [7 + trace], len(draws))[0]
        for ordinal, row in enumerate(draws):
            kind = family(row.address.family)
            params = (np.array(row.params),) if row.address == FAULT else row.params
            if not row.flags & FORCED:
                np.testing.assert_allclose(row.z, z[ordinal], rtol=1e-12)
                np.testing.assert_allclose(row.value, kind.from_z(z[ordinal], params), rtol=1e-9)
            np.testing.assert_allclose(row.log_prob, kind.log_prob(row.value, params), rtol=1e-9)
        assert [row.flags for row in by_address(draws, FREE)] == [0]
        assert [row.flags for row in by_address(draws, ARRAY)] == [3, 1, 1, 1]
        assert [row.params for row in by_address(draws, ARRAY)] == [(0, 1), (0, 1), (1, 1), (2, 1)]
        assert [(row.instance, row.params) for row in by_address(draws, CALL_SITE)] == [(0, (1,)), (1, (2,))]
    array = by_address(rows(controller, result), ARRAY)
    first = result.address.tolist().index(controller.known.index(ARRAY))
    assert result.params[first] == result.params[first + 1]  # equal neighbours share their parameters
    assert tensors(controller, result.tags)[1].data == [row.value for row in array]


def test_choices_hold_wherever_in_the_script_they_stand(controller: Any) -> None:
    unused = (WireAddress("nowhere", "nowhere", "Normal", ()), 0, 1.0)
    in_order = script((N, 0, 3.0), (X, 0, 0.1), (X, 1, 0.2), (X, 2, 0.3), (FREE, 0, 0.4), (R, 0, 0.25))
    for choices in (in_order, in_order[::-1], [*in_order[3:], (*unused, NAN), *in_order[:3], *in_order[:1]]):
        draws = rows(controller, controller.play([1], [choices]))
        assert [row.value for row in by_address(draws, X)] == [0.1, 0.2, 0.3]
        assert [(row.value, row.flags) for row in by_address(draws, FREE)] == [(0.4, FORCED)]
        assert [row.params[0] for row in by_address(draws, X)] == pytest.approx([0, 0.1, 0.3])
        assert len(by_address(draws, R)) == 1


def test_the_first_of_equal_choices_holds(controller: Any) -> None:
    choices = script((X, 0, 1.0), (N, 0, 1.0), (X, 0, 2.0))
    (row,) = by_address(rows(controller, controller.play([1], [choices])), X)
    assert row.value == 1.0


def test_elements_beyond_the_script_are_drawn(controller: Any) -> None:
    choices = script((N, 0, 0.0), (ARRAY, 0, 5.0), (ARRAY, 0, 6.0))
    draws = by_address(rows(controller, controller.play([1], [choices])), ARRAY)
    assert [row.value for row in draws[:2]] == [5.0, 6.0]
    assert [row.flags for row in draws] == [3, 3, 1, 1]
    assert np.isnan([row.z for row in draws]).tolist() == [True, True, False, False]


def test_arrays_are_forced_by_coordinate(controller: Any) -> None:
    choices = script((N, 0, 0.0)) + [(ARRAY, 0, NAN, z) for z in (-1.0, 0.5, 0.0, 20.0)]
    draws = by_address(rows(controller, controller.play([1], [choices])), ARRAY)
    assert [row.value for row in draws] == [-1.0, 0.5, 1.0, 22.0]
    assert [row.z for row in draws] == [-1.0, 0.5, 0.0, 20.0]


def test_asking_ends_the_trace_at_the_first_draw_not_covered(controller: Any) -> None:
    followed = script((N, 0, 2.0), (X, 0, 0.5))
    result = controller.play([1, 2, 3], [[], followed, [*followed[:2], (X, 1, 9.0, NAN)]], ask=True)
    assert result.status.tolist() == [2, 2, 2]
    last = [rows(controller, result, trace)[-1] for trace in range(3)]
    assert [(row.address, row.instance, row.flags) for row in last] == [
        (FAULT, 0, CONTROLLED | PENDING),
        (X, 1, CONTROLLED | PENDING),
        (X, 0, CONTROLLED | PENDING),  # the script says something else: the rest of it is dropped
    ]
    assert last[1].params == (0.5, 1.0)
    assert all(np.isnan([row.value, row.z, row.log_prob]).all() for row in last)
    assert len(result.results.address) == len(result.observations.address) == len(result.failures) == 0


def test_asking_draws_what_inference_may_not_choose(controller: Any) -> None:
    result = controller.play([1], [script((N, 0, 0.0), (R, 0, 0.1))], ask=True)
    draws = rows(controller, result)
    assert [row.flags for row in by_address(draws, FREE)] == [0]
    assert [row.address for row in draws[-4:]] == [ARRAY] * 4
    assert [row.flags for row in draws[-4:]] == [CONTROLLED | PENDING] * 4
    assert [row.params for row in draws[-4:]] == [(0, 1), (0, 1), (1, 1), (2, 1)]


def test_asking_for_the_rest_of_an_array(controller: Any) -> None:
    choices = script((N, 0, 0.0), (R, 0, 0.1), (ARRAY, 0, 1.5), (ARRAY, 0, 2.5))
    draws = by_address(rows(controller, controller.play([1], [choices], ask=True)), ARRAY)
    assert [row.flags for row in draws] == [3, 3, 9, 9]
    assert [row.value for row in draws[:2]] == [1.5, 2.5]
    assert np.isnan([row.value for row in draws[2:]]).all()


def test_a_script_that_covers_everything_is_never_pending(controller: Any) -> None:
    prior = controller.play([4], [script()])
    choices = [
        (row.address, row.instance, row.value, NAN)
        for row in rows(controller, prior)
        if row.flags & CONTROLLED
    ]
    replay = controller.play([4], [choices], ask=True)
    assert replay.status.tolist() == [0]
    np.testing.assert_array_equal(replay.value, prior.value)
    np.testing.assert_array_equal(replay.log_prob, prior.log_prob)


def test_observations_are_drawn_or_given(controller: Any) -> None:
    choices = [script((N, 0, 1.0))]
    drawn = tensors(controller, controller.play([6], choices).observations)
    names = [(row.address.address, row.address.name, row.address.shape, row.instance) for row in drawn]
    assert names == [
        ("y", "y", (), 0),
        ("inner/y", "y", (), 1),
        ("coded", "coded", (), 0),
        ("image", "image", (2, 2), 0),
        ("counts", "counts", (2,), 0),
    ]
    z = normals(1, [6], 9, stream=Stream.OBSERVATIONS)[0]
    mean = drawn[0].data[0] - z[0]
    np.testing.assert_allclose([row.data[0] - mean for row in drawn[:3]], z[:3], rtol=1e-9)
    np.testing.assert_allclose(drawn[4].data, family("Poisson").from_z(z[7:9], (4.0,)))

    result = controller.play([6], choices, observations=GIVEN, observations_id=4)
    given = tensors(controller, result.observations)
    array = np.array([row.value for row in by_address(rows(controller, result), ARRAY)]).reshape(2, 2)
    assert [row.data for row in given] == [[]] * 5
    normal, poisson = family("Normal"), family("Poisson")
    expected = [float(normal.log_prob(x, (mean, 1.0))) for x in (0.5, -0.5, 3.0)]
    expected.append(float(normal.log_prob(IMAGE, (array, 1.0)).sum()))
    expected.append(float(poisson.log_prob([3.0, 4.0], (4.0,)).sum()))
    np.testing.assert_allclose([row.log_prob for row in given], expected, rtol=1e-9)


def test_observations_are_given_by_address_and_override_the_code(controller: Any) -> None:
    by_full_address = {("y", 0): 0.5, ("inner/y", 0): 7.0, ("image", 0): IMAGE, ("coded", 0): 1.5}
    result = controller.play(
        [6],
        [script((N, 0, 2.0))],
        observations={**by_full_address, ("counts", 0): np.zeros(2)},
        observations_id=1,
    )
    y, inner, coded, _, counts = tensors(controller, result.observations)
    mean = tensors(controller, result.tags)[0].data[0]
    densities = [float(family("Normal").log_prob(x, (mean, 1.0))) for x in (0.5, 7.0, 1.5)]
    np.testing.assert_allclose([y.log_prob, inner.log_prob, coded.log_prob], densities, rtol=1e-9)
    np.testing.assert_allclose(counts.log_prob, -8.0)
    assert tensors(controller, result.results)[0].data == [0.5, 1.5]


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        ({}, "the simulator observes 'y', which is not among the observations given (none); add it"),
        ({("z", 0): 1.0, ("a", 0): 1.0}, "observations given (a, z); add it"),
        ({("y", 0): 1.0}, "observes 'y' again (visit 2); give that value as observations[('y', 1)]"),
        (
            {**GIVEN, ("image", 0): np.zeros(4)},
            "observation 'image' has shape (4), but the simulator observes",
        ),
        (
            {**GIVEN, ("y", 0): np.zeros(1)},
            "observation 'y' has shape (1), but the simulator observes shape ()",
        ),
    ],
)
def test_what_is_not_given_fails_the_trace_for_a_controller_that_knows_no_missing(
    controller: Any, observations: Any, message: str
) -> None:
    controller.greet([name for name in CAPABILITIES if name != "missing"])
    result = controller.play([1, 2], [script()] * 2, observations=observations, observations_id=9)
    assert result.status.tolist() == [1, 1]
    assert [(failure.trace, failure.kind) for failure in result.failures] == [
        (0, FailureKind.OBSERVATION),
        (1, FailureKind.OBSERVATION),
    ]
    assert message in result.failures[0].message
    assert len(rows(controller, result)) > 2  # what came before is kept


def test_what_was_not_measured_is_drawn_and_does_not_count(controller: Any) -> None:
    choices = [script((N, 0, 1.0))]
    marks = np.array([0, 1, 0, 0], np.uint8)
    nothing = np.empty(0), np.ones(1, np.uint8)
    observations = {
        ("y", 0): 0.5,  # its second visit is left out
        ("coded", 0): nothing,
        ("image", 0): (IMAGE, marks),
        ("counts", -1): nothing,
    }
    result = controller.play([6], choices, observations=observations, observations_id=6)
    assert result.status.tolist() == [0], result.failures
    y, inner, coded, image, counts = tensors(controller, result.observations)
    z = normals(1, [6], 8, stream=Stream.OBSERVATIONS)[0]
    mean = tensors(controller, result.tags)[0].data[0]
    array = np.array([row.value for row in by_address(rows(controller, result), ARRAY)])
    np.testing.assert_allclose([*inner.data, *coded.data], mean + z[:2], rtol=1e-9)
    expected = np.where(marks, array + z[2:6], IMAGE.ravel())
    np.testing.assert_allclose(image.data, expected, rtol=1e-9)
    np.testing.assert_allclose(counts.data, family("Poisson").from_z(z[6:8], (4.0,)))
    assert [row.log_prob for row in (inner, coded, counts)] == [0.0] * 3
    densities = family("Normal").log_prob(IMAGE.ravel(), (array, 1.0))
    np.testing.assert_allclose(image.log_prob, densities[marks == 0].sum(), rtol=1e-9)
    assert y.data == []


def test_values_of_another_shape_are_drawn_for_the_controller_to_judge(controller: Any) -> None:
    given = {**GIVEN, ("image", 0): np.zeros(4)}
    result = controller.play([1], [script()], observations=given, observations_id=9)
    image = tensors(controller, result.observations)[3]
    assert (result.status.tolist(), len(image.data), image.log_prob) == ([0], 4, 0.0)


def test_marks_that_do_not_fit_are_refused(controller: Any) -> None:
    # No encoder would write it: the length of the marks is patched.
    marked = controller.batch(
        [1],
        [script()],
        observations={("image", 0): (IMAGE, np.array([1, 0, 0, 0], np.uint8))},
        observations_id=2,
    )
    message = controller.connection.send(marked)
    assert message.count(b"\x04\0\0\0\x01\0\0\0") == 1
    controller.socket.send_multipart([b"", message.replace(b"\x04\0\0\0\x01\0\0\0", b"\x03\0\0\0\x01\0\0\0")])
    assert "4 elements and 3 marks" in controller.receive().message


def test_the_set_of_observations_is_sent_once(controller: Any, served: Any, connected: Any) -> None:
    first = controller.play([1], [script()], observations=GIVEN, observations_id=4)
    controller.play([1], [script()])  # draws them
    with connected(served.address) as other:
        other.play([1], [script()], observations={**GIVEN, ("y", 0): 9.0}, observations_id=4)
        again = controller.play([1], [script()], observations_id=4)
        np.testing.assert_array_equal(again.observations.log_prob, first.observations.log_prob)
        answer = other.exchange(other.batch([1], observations_id=5))
        assert "set of observations 5, which was not sent" in answer.message


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (1, FailureKind.MODEL, "the detector melted"),
        (2, FailureKind.MODEL, "no std::exception"),
        (4, FailureKind.MODEL, "draw 'negative': Normal: stddev = -1, but it must be finite and > 0"),
        (5, FailureKind.DENSITY, "log_prob of 'dense' is inf"),
        (7, FailureKind.MODEL, "tag 'misshapen' holds 3 numbers, which do not fill its shape (2, 2)"),
    ],
)
def test_a_trace_that_fails_keeps_its_rows_and_the_batch_goes_on(
    controller: Any, fault: int, kind: FailureKind, message: str
) -> None:
    failing = [(FAULT, 0, float(fault), NAN), (N, 0, 2.0, NAN)]
    result = controller.play([1, 2, 3], [script(), failing, script()])
    assert result.status.tolist() == [0, 1, 0]
    (failure,) = result.failures
    assert (failure.trace, failure.kind) == (1, kind)
    assert message in failure.message
    assert [row.address for row in rows(controller, result, 1)] == [FAULT, N, X, X, FREE]
    assert len(tensors(controller, result.observations, 1)) == 0
    alone = controller.play([3], [script()])
    np.testing.assert_array_equal(alone.value, result.value[result.offsets[2] :])


def test_a_model_that_swallows_the_end_of_its_trace_meets_it_again(controller: Any) -> None:
    choices = [(FAULT, 0, 3.0, NAN), (N, 0, 0.0, NAN)]
    result = controller.play([1], [choices], ask=True)
    assert result.status.tolist() == [2]
    assert rows(controller, result)[-1].address.address == "swallowed"
    assert len(result.tags.address) == len(result.results.address) == 0
    assert controller.play([1], [[*choices, (FAULT, 1, 0.0, NAN)]]).status.tolist() == [0]


def test_rejection_loops_are_recorded(controller: Any) -> None:
    tries = [(R, 0, 0.75), (R, 1, 0.875), (R, 2, 0.125)]
    result = controller.play([1, 2], [script((N, 0, 1.0), *tries), script((N, 0, 0.0), (R, 0, 0.1))])
    loops = result.loops
    assert loops.offsets.tolist() == [0, 2, 4]
    assert [controller.known[number].address for number in loops.address[:2]] == [
        "outer",
        "batches_cpp:63:batches",
    ]
    assert loops.begin.tolist() == [4, 4, 3, 3]
    assert loops.end.tolist() == [7, 7, 4, 4]


def test_loops_that_are_open_end_with_the_trace(controller: Any) -> None:
    result = controller.play([1], [script((N, 0, 0.0), (R, 0, 0.75))], ask=True)
    assert (result.loops.begin.tolist(), result.loops.end.tolist()) == ([3, 3], [5, 5])


def test_a_loop_left_by_an_exception_ends_there(controller: Any) -> None:
    loops = controller.play([1], [[(FAULT, 0, 8.0, NAN), (N, 0, 0.0, NAN), (R, 0, 0.25, NAN)]]).loops
    assert controller.known[loops.address[0]].name == "caught"
    assert (loops.begin.tolist(), loops.end.tolist()) == ([3, 3, 3], [3, 4, 4])


def test_results_of_any_shape(controller: Any) -> None:
    result = controller.play([1, 2, 3], [script((N, 0, n)) for n in (0.0, 1.0, 2.0)])
    found = [tensors(controller, result.results, trace) for trace in range(3)]
    assert [[(row.address, len(row.data)) for row in trace] for trace in found] == [
        [],
        [(WireAddress("", "", "", ()), 1)],
        [(WireAddress("", "", "", (2, 1)), 2)],
    ]


def test_tags_are_recorded(controller: Any) -> None:
    total, array = tensors(controller, controller.play([1], [script()]).tags)
    assert total.address == WireAddress("sum", "sum", "", ())
    assert array.address == WireAddress("array", "array", "", (2, 2))
    assert len(array.data) == 4


def test_queued_batches_are_answered_in_order(controller: Any, served: Any, connected: Any) -> None:
    with connected(served.address) as other:
        for number in range(5):
            controller.send(controller.batch([number], number=number))
            other.send(other.batch([number], number=10 + number))
        assert [controller.receive().batch for _ in range(5)] == list(range(5))
        assert [other.receive().batch for _ in range(5)] == list(range(10, 15))
        ours, theirs = (each.play([3, 4], [script()] * 2) for each in (controller, other))
        np.testing.assert_array_equal(ours.value, theirs.value)
        np.testing.assert_array_equal(ours.address, theirs.address)
        assert controller.known[: len(other.known)] == other.known[: len(controller.known)]


def test_a_new_handshake_starts_afresh(controller: Any) -> None:
    before = controller.play([1], [script()], observations=GIVEN, observations_id=4)
    controller.greet()
    answer = controller.exchange(controller.batch([1], observations_id=4))
    assert "which was not sent" in answer.message
    after = controller.play([1], [script()])
    assert after.first_address == 0
    np.testing.assert_array_equal(after.value, before.value)


def test_a_batch_of_nothing(controller: Any) -> None:
    result = controller.play([])
    assert (len(result.status), result.offsets.tolist()) == (0, [0])

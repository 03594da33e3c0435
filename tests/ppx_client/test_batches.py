"""Batches: scripts in, columns out, against the controller's own random numbers and distributions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

import ppx_client as ppx
from ppx_server.distributions import FAMILIES
from ppx_server.philox import Stream, normals
from ppx_server.protocol import Error, Observation, RunBatch, WireAddress, encode
from ppx_server.protocol.events import FailureKind

Serve = Callable[..., Any]
NAN, INF = float("nan"), float("inf")
CONTROLLED, FORCED, PENDING_DRAW = 1, 2, 8
COMPLETE, FAILED, PENDING = 0, 1, 2
X = WireAddress("x", "x", "Normal", ())
Y = WireAddress("y", "y", "Normal", ())


def script(
    num_traces: int = 1,
    choices: Sequence[Sequence[tuple[int, int, float, float]]] = (),
    addresses: Sequence[WireAddress] = (),
    **fields: Any,
) -> RunBatch:
    """Scripts; a choice is (address, instance, value, z). Scripts without choices are appended to make `num_traces`."""
    scripts = [*choices, *[()] * (num_traces - len(choices))]
    rows = np.array([row for rows in scripts for row in rows]).reshape(-1, 4)
    offsets = np.cumsum([0, *map(len, scripts)]).astype(np.int32)
    message = RunBatch(
        batch=5,
        seed=11,
        index=np.arange(100, 100 + len(scripts), dtype=np.uint64),
        ask=False,
        offsets=offsets,
        address=rows[:, 0].astype(np.int32),
        instance=rows[:, 1].astype(np.int32),
        value=rows[:, 2].copy(),
        z=rows[:, 3].copy(),
        addresses=tuple(addresses),
    )
    return message._replace(**fields)


def given(values: Mapping[tuple[str, int], ArrayLike]) -> dict[str, Any]:
    """The fields of a set of observations."""
    rows = [Observation(*key, np.array(v) if np.ndim(v) else float(v)) for key, v in values.items()]  # type: ignore[arg-type]
    return {"observations_id": 3, "observations": tuple(rows)}


DISTRIBUTIONS = [
    "Normal(0.5, 2.0)",
    "Uniform(-1.0, 3.0)",
    "Categorical([0.2, 0.0, 0.3, 1.5])",
    "Poisson(3.5)",
    "Poisson(250.0)",
    "Poisson(0.0)",
    "Bernoulli(0.3)",
    "Beta(0.5, 2.0)",
    "Exponential(4.0)",
    "Gamma(0.3, 2.0)",
    "LogNormal(0.5, 0.75)",
    "Binomial(7, 0.4)",
    "Binomial(10000, 0.001)",
    "Weibull(2.0, 0.7)",
    "TruncatedNormal(1.0, 2.0, 0.0, 1.5)",
    "TruncatedNormal(0.0, 1.0, 9.0, np.inf)",
    "TruncatedNormal(0.0, 0.001, -np.inf, -3.0)",
]


@pytest.mark.parametrize("text", DISTRIBUTIONS)
def test_values_and_densities_are_those_of_the_controller(serve: Serve, text: str) -> None:
    controller = serve(
        f"""
        d = ppx.{text}
        for _ in range(20):
            ppx.sample(d, name="x")
            ppx.observe(d, name="y")
        """
    ).connect_for_batches()
    distribution = eval(text, {**vars(ppx), "np": np})
    family = FAMILIES[type(distribution).__name__]
    result = controller.ask(script(50))
    assert (result.status == COMPLETE).all()
    z = normals(11, np.arange(100, 150), 20)
    expected = family.from_z(z, distribution.params)
    np.testing.assert_allclose(result.value.reshape(50, 20), expected, rtol=1e-9)
    np.testing.assert_allclose(result.z.reshape(50, 20), z, rtol=1e-12)
    log_prob = family.log_prob(result.value, distribution.params)
    np.testing.assert_allclose(result.log_prob, log_prob, rtol=1e-9)
    assert (result.flags == CONTROLLED).all()
    assert result.params_data.tolist() == list(np.ravel(distribution.params))
    assert (result.instance.reshape(50, 20) == np.arange(20)).all()
    observed = family.from_z(
        normals(11, np.arange(100, 150), 20, stream=Stream.OBSERVATIONS), distribution.params
    )
    np.testing.assert_allclose(result.observations.data.reshape(50, 20), observed, rtol=1e-9)
    log_prob = family.log_prob(result.observations.data, distribution.params)
    np.testing.assert_allclose(result.observations.log_prob, log_prob, rtol=1e-9)


@pytest.mark.parametrize("text", DISTRIBUTIONS)
def test_choices_by_coordinate_and_by_value(serve: Serve, text: str) -> None:
    controller = serve(f"return ppx.sample(ppx.{text}, name='x')").connect_for_batches()
    distribution = eval(text, {**vars(ppx), "np": np})
    family = FAMILIES[type(distribution).__name__]
    address = WireAddress("x", "x", family.name, ())
    z = np.concatenate([np.linspace(-40.0, 40.0, 41), [-1e-3, 1e-3]])
    result = controller.ask(script(choices=[[(0, 0, NAN, c)] for c in z], addresses=[address]))
    np.testing.assert_allclose(result.value, family.from_z(z, distribution.params), rtol=1e-9)
    np.testing.assert_array_equal(result.z, z)
    np.testing.assert_array_equal(result.results.data, result.value)
    assert (result.flags == CONTROLLED | FORCED).all()
    values = [0.0, 1.0, 2.0, 3.0, 9.5, -4.0]
    if distribution.discrete:
        values[4:] = []
    result = controller.ask(script(choices=[[(0, 0, v, 0.25)] for v in values]))
    assert (result.status == COMPLETE).all()
    assert result.value.tolist() == values
    assert np.isnan(result.z).all()
    np.testing.assert_allclose(result.log_prob, family.log_prob(values, distribution.params), rtol=1e-9)


MIXED = """
x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
with ppx.scope("inner"):
    u = ppx.sample(ppx.Uniform(0.0, 1.0), name="u", control=False)
y = ppx.sample(ppx.Normal(x, 1.0), name="y")
x2 = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
return np.array([x, u, y, x2])
"""


def test_choices_hold_wherever_they_stand(serve: Serve) -> None:
    controller = serve(MIXED).connect_for_batches()
    u = WireAddress("inner/u", "u", "Uniform", ())
    forced = [(2, 0, 9.0, NAN), (0, 1, 8.0, NAN), (1, 0, 0.125, NAN), (0, 7, 6.0, NAN)]
    result = controller.ask(script(2, [forced], [X, u, Y]))
    z = normals(11, [100, 101], 4)
    assert result.value[:4].tolist() == [z[0, 0], 0.125, 9.0, 8.0]
    assert result.flags[:4].tolist() == [CONTROLLED, FORCED, CONTROLLED | FORCED, CONTROLLED | FORCED]
    np.testing.assert_allclose(result.results.data[:4], result.value[:4])
    # The ordinals of forced draws count too: the second trace is as if nothing were forced elsewhere.
    assert result.value[4:].tolist() == pytest.approx([z[1, 0], result.value[5], z[1, 0] + z[1, 2], z[1, 3]])
    assert result.flags[4:].tolist() == [CONTROLLED, 0, CONTROLLED, CONTROLLED]
    entries = [controller.addresses[i] for i in result.address[:4]]
    assert entries == [X, u, Y, X]
    assert result.instance[:4].tolist() == [0, 0, 0, 1]
    assert result.params_data.reshape(-1, 2)[result.params[2]].tolist() == [z[0, 0], 1.0]


def test_a_script_in_order_and_the_same_out_of_order(serve: Serve) -> None:
    controller = serve(MIXED).connect_for_batches()
    rows = [(0, 0, 1.0, NAN), (1, 0, 2.0, NAN), (0, 1, 3.0, NAN)]
    result = controller.ask(script(choices=[rows, rows[::-1], [*rows, *rows]], addresses=[X, Y]))
    values = result.value.reshape(3, 4)[:, [0, 2, 3]]
    assert values.tolist() == [[1.0, 2.0, 3.0]] * 3


def test_asking_ends_a_trace_where_the_script_does_not_follow(serve: Serve) -> None:
    simulator = serve(MIXED)
    controller = simulator.connect_for_batches()
    scripts = [
        [],
        [(0, 0, 1.0, NAN)],
        [(1, 0, 1.0, NAN), (0, 0, 2.0, NAN)],
        [(0, 0, 1.0, NAN), (1, 0, 2.0, NAN), (0, 1, NAN, 0.5)],
        [(0, 0, 1.0, NAN), (0, 1, 2.0, NAN)],
    ]
    result = controller.ask(script(choices=scripts, addresses=[X, Y], ask=True))
    assert result.status.tolist() == [PENDING, PENDING, PENDING, COMPLETE, PENDING]
    assert np.diff(result.offsets).tolist() == [1, 3, 1, 4, 3]
    last = result.offsets[1:] - 1
    assert result.flags[last].tolist() == [9, 9, 9, 3, 9]
    pending = last[result.status == PENDING]
    for column in (result.value, result.z, result.log_prob):
        assert np.isnan(column[pending]).all()
    names = [controller.addresses[i].name for i in result.address[pending]]
    assert names == ["x", "y", "x", "y"]
    params = result.params_data.reshape(-1, 2)[result.params[pending]]
    assert params.tolist() == [[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    # Uncontrolled draws come from the prior, and choices go on behind them.
    assert result.flags[result.offsets[3] : result.offsets[4]].tolist() == [3, 0, 3, 3]
    assert np.diff(result.results.offsets).tolist() == [0, 0, 0, 1, 0]


def test_a_model_that_swallows_the_end_of_a_pending_trace_meets_it_again(serve: Serve) -> None:
    controller = serve(
        """
        for i in range(3):
            try:
                ppx.sample(ppx.Normal(0.0, 1.0), name="x")
                ppx.tag(1.0, name="t")
            except BaseException:
                pass
        return 1.0
        """
    ).connect_for_batches()
    result = controller.ask(script(choices=[[(0, 0, 1.0, NAN)]], addresses=[X], ask=True))
    assert result.status.tolist() == [PENDING]
    assert result.flags.tolist() == [3, 9]
    assert len(result.tags.address) == 1
    assert len(result.results.address) == 0
    assert result.failures == ()


def test_array_draws(serve: Serve) -> None:
    controller = serve(
        """
        x = ppx.sample(ppx.Normal(np.zeros((2, 2)), [1.0, 2.0]), name="x")
        k = ppx.sample(ppx.Categorical([[0.5, 0.5], [0.1, 0.9], [0.1, 0.9]]), name="k")
        assert x.shape == (2, 2) and k.shape == (3,) and k.dtype == np.int64
        ppx.sample(ppx.Poisson(np.zeros((0, 2))), name="nothing")
        return x
        """
    ).connect_for_batches()
    result = controller.ask(script(2))
    z = normals(11, [100, 101], 7)
    np.testing.assert_allclose(result.value.reshape(2, 7)[:, :4], z[:, :4] * [1.0, 2.0, 1.0, 2.0], rtol=1e-12)
    probs = np.array([[0.5, 0.5], [0.1, 0.9], [0.1, 0.9]])
    np.testing.assert_array_equal(
        result.value.reshape(2, 7)[:, 4:], FAMILIES["Categorical"].from_z(z[:, 4:], (probs,))
    )
    assert controller.addresses[:2] == [
        WireAddress("x", "x", "Normal", (2, 2)),
        WireAddress("k", "k", "Categorical", (3,)),
    ]
    assert result.params[4] + 1 == result.params[5] == result.params[6]
    np.testing.assert_allclose(
        result.log_prob[:4],
        FAMILIES["Normal"].log_prob(result.value[:4], (0.0, np.array([1.0, 2.0, 1.0, 2.0]))),
    )
    rows = [(0, 0, 7.0, NAN), (0, 0, NAN, 3.0)]
    result = controller.ask(script(choices=[rows], addresses=[controller.addresses[0]]))
    assert result.value[:4].tolist() == [7.0, 6.0, z[0, 2], 2.0 * z[0, 3]]
    assert result.flags[:4].tolist() == [3, 3, 1, 1]
    assert np.isnan(result.z[0])
    assert result.z[1:4].tolist() == [3.0, z[0, 2], z[0, 3]]
    result = controller.ask(script(choices=[rows], ask=True))
    assert result.status.tolist() == [PENDING]
    assert result.flags.tolist() == [3, 3, 9, 9]
    assert result.params_data.reshape(-1, 2)[result.params].tolist() == [[0.0, 1.0], [0.0, 2.0]] * 2


@pytest.mark.parametrize(
    ("distribution", "value", "z", "words"),
    [
        ("Normal(0.0, 1.0)", INF, NAN, "finite"),
        ("Normal(0.0, 1.0)", NAN, NAN, "finite"),
        ("Poisson(1.0)", 0.5, NAN, "whole"),
        ("Categorical([0.5, 0.5])", 2.0, NAN, "2 categories"),
        ("Categorical([0.5, 0.5])", -1.0, NAN, "2 categories"),
    ],
)
def test_values_a_draw_cannot_have(
    serve: Serve, distribution: str, value: float, z: float, words: str
) -> None:
    controller = serve(
        f"try:\n    ppx.sample(ppx.{distribution}, name='x')\nexcept BaseException:\n    pass\nreturn 1.0"
    ).connect_for_batches()
    address = WireAddress("x", "x", distribution.split("(")[0], ())
    result = controller.ask(script(2, choices=[[(0, 0, value, z)]], addresses=[address]))
    assert result.status.tolist() == [FAILED, COMPLETE]
    assert result.failures[0][:2] == (0, FailureKind.CHOICE)
    assert words in result.failures[0].message
    assert "for x " in result.failures[0].message
    assert np.diff(result.results.offsets).tolist() == [0, 1]


def test_failures_in_mid_batch(serve: Serve) -> None:
    controller = serve(
        """
        ppx.scope("left open").__enter__()
        x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
        with ppx.rejection("loop"):
            if x == 1.0:
                raise ValueError("no such channel")
            if x == 2.0:
                raise SystemExit(3)
            if x == 3.0:
                raise BaseException("odd")
            if x == 4.0:
                return "text"
        if x == 5.0:
            ppx.sample(ppx.Normal(0.0, -1.0), name="y")
        return x
        """
    ).connect_for_batches()
    address = WireAddress("left open/x", "x", "Normal", ())
    choices = [[(0, 0, float(v), NAN)] for v in (0, 1, 2, 3, 4, 5, 6)]
    result = controller.ask(script(choices=choices, addresses=[address]))
    assert result.status.tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert result.value.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert [f.trace for f in result.failures] == [1, 2, 3, 4, 5]
    assert {f.kind for f in result.failures} == {FailureKind.MODEL}
    messages = [f.message for f in result.failures]
    assert messages[:3] == [
        "ValueError: no such channel (model.py:9 in forward)",
        "SystemExit: 3 (model.py:11 in forward)",
        "BaseException: odd (model.py:13 in forward)",
    ]
    assert "the result of model is a str" in messages[3]
    assert "stddev = -1.0" in messages[4]
    assert result.results.data.tolist() == [0.0, 6.0]


OBSERVING = """
ppx.observe(ppx.Normal(0.0, 1.0), name="y")
with ppx.scope("a"):
    ppx.observe(ppx.Normal(1.0, 1.0), name="y")
k = ppx.observe(ppx.Poisson(2.0), 4, name="k")
image = ppx.observe(ppx.Normal(0.0, [[1.0, 2.0]]), name="image")
many = ppx.observe(ppx.Normal(0.0, 1.0), [0.0, 1.0, 2.0], name="many")
assert type(k) is int and image.shape == (1, 2) and many.shape == (3,)
return np.concatenate([[k], image.ravel(), many])
"""


def normal(x: ArrayLike, mean: ArrayLike = 0.0, stddev: ArrayLike = 1.0) -> float:
    return float(FAMILIES["Normal"].log_prob(x, (mean, stddev)).sum())


def test_given_observations(serve: Serve) -> None:
    controller = serve(OBSERVING).connect_for_batches()
    image = np.array([[0.5, -0.5]])
    values = {("y", 0): 2.0, ("y", 1): 3.0, ("image", 0): image}
    result = controller.ask(script(2, **given(values)))
    assert result.status.tolist() == [COMPLETE] * 2, result.failures
    rows = result.observations
    assert [controller.addresses[i] for i in rows.address[:5]] == [
        WireAddress("y", "y", "Normal", ()),
        WireAddress("a/y", "y", "Normal", ()),
        WireAddress("k", "k", "Poisson", ()),
        WireAddress("image", "image", "Normal", (1, 2)),
        WireAddress("many", "many", "Normal", (3,)),
    ]
    assert rows.instance[:5].tolist() == [0, 1, 0, 0, 0]
    assert len(rows.data) == 0
    expected = [
        normal(2.0),
        normal(3.0, 1.0),
        float(FAMILIES["Poisson"].log_prob(4.0, (2.0,))),
        normal(image, 0.0, np.array([[1.0, 2.0]])),
        normal([0.0, 1.0, 2.0]),
    ]
    np.testing.assert_allclose(rows.log_prob, expected * 2, rtol=1e-9)
    assert result.results.data[:6].tolist() == [4.0, 0.5, -0.5, 0.0, 1.0, 2.0]
    # The set is remembered by its number; a full address names one of two scopes; given values override the model's.
    again = controller.ask(script(1, observations_id=3))
    assert again.observations.log_prob.tolist() == rows.log_prob[:5].tolist()
    values = {("y", 0): 2.0, ("a/y", 0): 5.0, ("image", 0): image, ("k", 0): 7.0}
    other = controller.ask(script(1, **{**given(values), "observations_id": 4}))
    assert other.observations.log_prob[1] == pytest.approx(normal(5.0, 1.0))
    assert other.results.data[0] == 7.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "'y', which is not among the observations given (none); add it"),
        ({("x", 0): 1.0}, "not among the observations given (x)"),
        ({("y", 0): 1.0}, "observes 'y' again (visit 2); give that value as observations[('y', 1)]"),
        ({("y", 0): np.ones(2)}, "observation 'y' has shape (2,), but the simulator observes shape ()"),
    ],
)
def test_observations_that_are_missing_or_of_another_shape(
    serve: Serve, values: dict[tuple[str, int], Any], words: str
) -> None:
    controller = serve(OBSERVING).connect_for_batches()
    result = controller.ask(script(1, **given(values)))
    assert result.status.tolist() == [FAILED]
    assert result.failures[0][:2] == (0, FailureKind.OBSERVATION)
    assert words in result.failures[0].message


def test_what_was_not_measured_is_drawn_and_does_not_count(serve: Serve) -> None:
    controller = serve(OBSERVING).connect_for_batches()
    controller.handshake("missing")
    nothing = np.empty(0), np.ones(1, np.uint8)
    rows = [
        Observation("y", 0, 2.0),  # the second visit is left out
        Observation("k", 0, *nothing),
        Observation("image", 0, np.array([[7.0, 0.0]]), np.array([0, 1], np.uint8)),
        Observation("many", -1, *nothing),
    ]
    result = controller.ask(script(1, observations_id=3, observations=tuple(rows)))
    assert result.status.tolist() == [COMPLETE], result.failures
    z = normals(11, [100], 7, stream=Stream.OBSERVATIONS)[0]
    k = FAMILIES["Poisson"].from_z(z[1], (2.0,))
    observed = result.observations
    np.testing.assert_allclose(observed.data, [1.0 + z[0], k, 7.0, 2.0 * z[3], *z[4:7]], rtol=1e-9)
    assert observed.data_offsets.tolist() == [0, 0, 1, 2, 4, 7]
    np.testing.assert_allclose(observed.log_prob, [normal(2.0), 0.0, 0.0, normal(7.0), 0.0], rtol=1e-9)
    assert result.results.data.tolist() == observed.data[1:].tolist()  # the model went on with these


def test_values_of_another_shape_are_drawn_for_a_controller_that_judges(serve: Serve) -> None:
    controller = serve(OBSERVING).connect_for_batches()
    controller.handshake("missing")
    result = controller.ask(script(1, **given({("y", 0): np.ones(2), ("k", 0): 4.0})))
    assert result.status.tolist() == [COMPLETE]
    assert result.observations.log_prob[0] == 0.0
    assert np.diff(result.observations.data_offsets).tolist() == [1, 1, 0, 2, 0]


def test_marks_that_do_not_fit_are_refused(serve: Serve) -> None:
    controller = serve(OBSERVING).connect_for_batches()
    controller.handshake("missing")
    marked = Observation("image", 0, np.array([[7.0, 0.0, 1.0, 2.0]]), np.array([1, 0, 0, 0], np.uint8))
    message = encode(script(1, observations_id=3, observations=(marked,)))
    four, three = b"\x04\0\0\0\x01\0\0\0", b"\x03\0\0\0\x01\0\0\0"
    assert message.count(four) == 1
    answer = controller.ask(message.replace(four, three))
    assert isinstance(answer, Error)
    assert "3 marks of missing elements" in answer.message


def test_densities_that_are_no_numbers(serve: Serve) -> None:
    controller = serve(OBSERVING).connect_for_batches()
    values = {("y", 0): NAN, ("y", 1): INF, ("image", 0): np.ones((1, 2))}
    result = controller.ask(script(2, **given(values)))
    assert result.status.tolist() == [FAILED, FAILED]
    assert [f.kind for f in result.failures] == [FailureKind.DENSITY] * 2
    assert "observation at y is nan" in result.failures[0].message
    assert result.observations.log_prob[1] == -INF


def test_drawn_observations_have_numbers_of_their_own(serve: Serve) -> None:
    controller = serve("ppx.sample(ppx.Normal(0.0, 1.0), name='x')\n" + OBSERVING).connect_for_batches()
    result = controller.ask(script(1))
    z = normals(11, [100], 8, stream=Stream.OBSERVATIONS)[0]
    poisson = FAMILIES["Poisson"].from_z(z[2], (2.0,))
    expected = [z[0], 1.0 + z[1], poisson, z[3], 2.0 * z[4], z[5], z[6], z[7]]
    np.testing.assert_allclose(result.observations.data, expected, rtol=1e-9)
    assert result.observations.data_offsets.tolist() == [0, 1, 2, 3, 5, 8]
    assert result.observations.log_prob[3] == pytest.approx(normal([z[3], 2.0 * z[4]], 0.0, [1.0, 2.0]))


def test_rejection_loops(serve: Serve) -> None:
    controller = serve(
        """
        def positive():
            with ppx.rejection("positive"):
                while True:
                    x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
                    if x > 0.0:
                        return x
        ppx.sample(ppx.Normal(0.0, 1.0), name="before")
        with ppx.rejection():
            with ppx.scope("in"):
                positive()
            ppx.sample(ppx.Normal(np.zeros(2), 1.0), name="pair")
        ppx.rejection("open").__enter__()
        ppx.sample(ppx.Normal(0.0, 1.0), name="after")
        """
    ).connect_for_batches()
    forced = [[(0, 0, -1.0, NAN), (0, 1, 1.0, NAN)], [(0, 0, 1.0, NAN)]]
    result = controller.ask(script(choices=forced, addresses=[WireAddress("in/x", "x", "Normal", ())]))
    loops = result.loops
    assert loops.offsets.tolist() == [0, 3, 6]
    outer, positive, left_open = (controller.addresses[i] for i in loops.address[:3])
    assert positive == WireAddress("in/positive", "positive", "", ())
    assert outer.name == ""
    assert outer.address.startswith("model:")
    assert left_open.name == "open"
    assert loops.begin.tolist() == [1, 1, 5, 1, 1, 4]
    assert loops.end.tolist() == [5, 3, 6, 4, 2, 5]


def test_a_loop_of_a_pending_trace_ends_with_it(serve: Serve) -> None:
    controller = serve(
        """
        with ppx.rejection("loop"):
            while ppx.sample(ppx.Normal(0.0, 1.0), name="x") < 0.0:
                pass
        """
    ).connect_for_batches()
    forced = [[(0, i, -1.0, NAN) for i in range(3)]]
    result = controller.ask(script(choices=forced, addresses=[X], ask=True))
    assert (result.loops.begin.tolist(), result.loops.end.tolist()) == ([0], [4])


@pytest.mark.parametrize(
    ("result", "shape", "values"),
    [
        ("None", None, []),
        ("2", (), [2.0]),
        ("np.arange(6).reshape(2, 3)", (2, 3), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        ("[]", None, []),
    ],
)
def test_results(serve: Serve, result: str, shape: tuple[int, ...] | None, values: list[float]) -> None:
    controller = serve(
        f"ppx.tag([[1.0]], name='t')\nppx.tag(2.0, name='t')\nreturn {result}"
    ).connect_for_batches()
    answer = controller.ask(script(2))
    assert answer.results.data.tolist() == values * 2
    entries = [controller.addresses[i] for i in answer.results.address]
    assert entries == ([] if shape is None else [WireAddress("", "", "", shape)] * 2)
    assert answer.tags.data.tolist() == [1.0, 2.0] * 2
    assert answer.tags.instance.tolist() == [0, 1] * 2
    assert [controller.addresses[i].shape for i in answer.tags.address] == [(1, 1), ()] * 2


def test_names_share_visits_whatever_the_family(serve: Serve) -> None:
    controller = serve(
        """
        for d in (ppx.Normal(0.0, 1.0), ppx.Poisson(1.0), ppx.Normal(np.zeros(2), 1.0), ppx.Normal(0.0, 1.0)):
            ppx.sample(d, name="x")
        """
    ).connect_for_batches()
    result = controller.ask(script(1))
    assert result.instance.tolist() == [0, 1, 2, 2, 3]
    assert result.address.tolist() == [0, 1, 2, 2, 0]


def test_threads_of_the_model(serve: Serve) -> None:
    controller = serve(
        """
        import contextvars, threading
        def draw():
            ppx.sample(ppx.Normal(0.0, 1.0), name="x")
        for target in (lambda: contextvars.copy_context().run(draw), contextvars.copy_context().run):
            thread = threading.Thread(target=contextvars.copy_context().run, args=(draw,))
            thread.start()
            thread.join()
        """
    ).connect_for_batches()
    result = controller.ask(script(3))
    assert np.diff(result.offsets).tolist() == [2, 2, 2]
    assert result.value.tolist() == normals(11, [100, 101, 102], 2).ravel().tolist()


@pytest.mark.parametrize("length", [1, 100, 3000])
def test_traces_of_any_length_have_the_same_numbers(serve: Serve, length: int) -> None:
    controller = serve(
        f"""
        count = 1 if ppx.sample(ppx.Uniform(0.0, 1.0), name="u") < 0.7 else {length}
        for _ in range(count):
            ppx.sample(ppx.Normal(0.0, 1.0), name="x")
        """
    ).connect_for_batches()
    z = normals(11, np.arange(100, 120), length + 1)
    for _ in range(3):
        result = controller.ask(script(20))
        for k in range(20):
            own = result.z[result.offsets[k] : result.offsets[k + 1]]
            np.testing.assert_array_equal(own, z[k, : len(own)])


def test_batches_answer_in_order_and_definitions_come_once(serve: Serve) -> None:
    controller = serve(MIXED).connect_for_batches()

    def start(batch: int) -> None:
        addresses = [X] if batch == 0 else []
        controller.start(script(3, [[(0, 0, float(batch), NAN)]], addresses, batch=batch))

    start(0)
    for batch in range(5):
        start(batch + 1)  # two may be unanswered
        result = controller.receive()
        assert result.batch == batch
        assert result.value[0] == batch
        assert result.seconds > 0.0
        assert len(result.addresses) == (4 if batch == 0 else 0)


def test_no_traces_at_all(serve: Serve) -> None:
    result = serve(MIXED).connect_for_batches().ask(script(0))
    assert result.offsets.tolist() == [0]
    assert result.batch == 5


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"address": np.array([3], np.int32)}, "of which 1 are defined"),
        ({"first_address": 2}, "0 were defined before"),
        ({"observations_id": 9}, "observations 9"),
    ],
)
def test_batches_that_make_no_sense_are_refused_as_a_whole(
    serve: Serve, fields: dict[str, Any], words: str
) -> None:
    controller = serve(MIXED).connect_for_batches()
    good = script(choices=[[(0, 0, 1.0, NAN)]], addresses=[X])
    answer = controller.ask(good._replace(**fields))
    assert type(answer) is Error
    assert words in answer.message
    assert controller.ask(good).status.tolist() == [COMPLETE]

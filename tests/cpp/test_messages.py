"""What a C++ simulator sends, read by code that is not ours (pyprob's generated FlatBuffers readers)."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ppx_server.protocol import CAPABILITIES, Connection, Handshake, HandshakeResult, Role

SCALAR: list[int] = []
"""The shape of a single number."""

# The first draws in everything.cpp: name, family, parameters.
PRIORS: list[tuple[str, str, dict[str, list[float]]]] = [
    ("mu", "Normal", {"Mean": [0.5], "Stddev": [2.0]}),
    ("uniform", "Uniform", {"Low": [-1.0], "High": [2.0]}),
    ("categorical", "Categorical", {"Probs": [0.2, 0.0, 0.8]}),
    ("poisson", "Poisson", {"Rate": [4.0]}),
    ("bernoulli", "Bernoulli", {"Probs": [0.25]}),
    ("beta", "Beta", {"Concentration1": [2.0], "Concentration0": [3.0]}),
    ("exponential", "Exponential", {"Rate": [2.0]}),
    ("gamma", "Gamma", {"Concentration": [2.5], "Rate": [0.5]}),
    ("log_normal", "LogNormal", {"Loc": [0.1], "Scale": [0.2]}),
    ("binomial", "Binomial", {"TotalCount": [10.0], "Probs": [0.3]}),
    ("weibull", "Weibull", {"Scale": [1.5], "Concentration": [2.0]}),
]


def choose(sample: Any) -> tuple[float, ...]:
    """Values by name; integers, which every family but Beta and Uniform allows."""
    return (1.0, 2.0, 7.0) if sample.Name() == b"array" else (1.0,)


@pytest.fixture
def messages(compiled: Any, serving: Any, tools: Any) -> Any:
    """One trace of everything."""
    with serving(compiled("everything")) as served:
        controller = tools.controller(served.address)
        kind, greeting = controller.handshake()
        assert (kind, greeting.ModelName()) == ("HandshakeResult", b"everything")
        assert greeting.SystemName().startswith(b"ppx_client C++")
        yield controller.trace(choose)


def test_every_family_is_read_by_another_implementation(messages: Any, tools: Any) -> None:
    for (name, family, params), (kind, sample) in zip(PRIORS, messages, strict=False):
        assert (kind, sample.Name(), sample.Address()) == ("Sample", name.encode(), name.encode())
        assert sample.Control() == (name != "uniform")
        shape = [3] if family == "Categorical" else SCALAR
        found = tools.distribution_of(sample)
        assert found == (family, {key: (pytest.approx(values), shape) for key, values in params.items()})


def test_arrays_keep_their_shape_and_scalars_stay_compact(messages: Any, tools: Any) -> None:
    by_name = {table.Name(): table for kind, table in messages if kind in ("Sample", "Observe")}
    assert tools.distribution_of(by_name[b"array"]) == (
        "Normal",
        {"Mean": ([1.0, 2.0, 3.0], [3]), "Stddev": ([0.1], SCALAR)},
    )
    _, params = tools.distribution_of(by_name[b"image"])
    assert params["Mean"] == ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1, 2, 3])


def test_observations_carry_the_value_in_the_code_or_none(messages: Any, tools: Any) -> None:
    observes = {table.Name(): table for kind, table in messages if kind == "Observe"}
    assert observes[b"y"].Value() is None
    assert tools.tensor_of(observes[b"given"].Value()) == ([3.0], SCALAR)
    assert tools.tensor_of(observes[b"repeated"].Value()) == ([3.0, 4.0], [2])
    assert tools.distribution_of(observes[b"repeated"])[1]["Mean"] == ([1.0], SCALAR)


def test_tags_are_sent(messages: Any, tools: Any) -> None:
    tags = {table.Name(): tools.tensor_of(table.Value()) for kind, table in messages if kind == "Tag"}
    assert tags == {b"twice": ([2.0], SCALAR), b"array": ([1.0, 2.0, 7.0], [3])}


def test_the_result_of_a_1_0_controller_does_not_know_the_observations(messages: Any, tools: Any) -> None:
    kind, result = messages[-1]
    assert kind == "RunResult"
    data, shape = tools.tensor_of(result.Result())
    y, given, image, *rest = data
    assert (math.isnan(y), given, math.isnan(image)) == (True, 3.0, True)
    assert (rest, shape) == ([1.0, 1.0, 7.0], [2, 3])


def test_draws_without_a_name_have_their_call_site_and_scopes_come_first(messages: Any) -> None:
    sent = [(table.Address().decode(), table.Name()) for kind, table in messages if kind == "Sample"]
    unnamed = [address for address, name in sent if not name]
    assert [address.split(":")[0::2] for address in unnamed] == [
        ["everything_cpp", "in_an_anonymous_namespace"],
        ["everything_cpp", "operator()"],
    ]
    assert [address for address, name in sent if name == b"e"] == ["detector/e", "detector/inner/e", "e"]
    assert ("elsewhere/mu", b"mu") in sent


def test_addresses_are_the_same_at_every_start(compiled: Any, serving: Any, tools: Any) -> None:
    traces = []
    for _ in range(2):
        with serving(compiled("everything")) as served:
            controller = tools.controller(served.address)
            controller.handshake()
            traces.append(
                [table.Address() for kind, table in controller.trace(choose) if kind != "RunResult"]
            )
    assert traces[0] == traces[1]
    assert len(traces[0]) == 24


def test_capabilities_are_announced_only_to_controllers_that_have_some(
    compiled: Any, serving: Any, tools: Any
) -> None:
    with serving(compiled("everything")) as served:
        controller = tools.controller(served.address)
        for offered, expected in [((), ()), (CAPABILITIES, tuple(sorted(CAPABILITIES)))]:
            connection = Connection(Role.CONTROLLER)
            controller.socket.send(connection.send(Handshake("test", offered)))
            answer = connection.receive(controller.socket.recv())
            assert isinstance(answer, HandshakeResult)
            assert tuple(sorted(answer.capabilities)) == expected

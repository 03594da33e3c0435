"""A C++ simulator among broken models, broken controllers and signals: it answers, and lives until told to stop."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import zmq

from ppx_server.protocol import (
    CAPABILITIES,
    Connection,
    Error,
    Handshake,
    HandshakeResult,
    Observe,
    ObserveResult,
    Role,
    Run,
    RunResult,
    Sample,
    SampleResult,
    TagResult,
)


@pytest.fixture
def faults(compiled: Any, serving: Any, tools: Any) -> Any:
    """A running faulty model, and how to connect to it with our own protocol."""
    with serving(compiled("faults")) as served:

        def connect() -> Any:
            socket = tools.controller(served.address).socket
            connection = Connection(Role.CONTROLLER)

            def exchange(event: Any) -> Any:
                socket.send(connection.send(event))
                return connection.receive(socket.recv())

            assert isinstance(exchange(Handshake("test", CAPABILITIES)), HandshakeResult)
            return exchange

        yield served, connect, tools


def assert_serves(exchange: Any) -> None:
    """The next trace is a good one."""
    case = exchange(Run())
    assert isinstance(case, Sample)
    assert case.address == "case"
    last = exchange(SampleResult(0.0))
    assert isinstance(last, Sample)
    assert last.address == "x"
    assert exchange(SampleResult(2.5)) == RunResult(2.5)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (1, "the detector melted"),
        (2, "no std::exception"),
        (3, "draw 'negative': Normal: stddev = -1, but it must be finite and > 0"),
        (4, "draw 'nan': Uniform: low = nan, but it must be finite"),
        (5, "draw 'misshapen': Normal: mean holds 3 numbers, which do not fill its shape (2, 2)"),
        (8, "statement 'elsewhere' was made on a thread that does not run serve()"),
        (9, "draw 'shapes': Normal: stddev has shape (3) beside (2)"),
        (10, "inside a scope"),
    ],
)
def test_a_model_that_throws_ends_its_trace_with_the_reason(faults: Any, case: int, message: str) -> None:
    _, connect, _ = faults
    exchange = connect()
    exchange(Run())
    answer = exchange(SampleResult(float(case)))
    assert isinstance(answer, Error)
    assert message in answer.message
    assert_serves(exchange)


def test_a_1_0_controller_gets_a_reset_and_stderr_the_reason(faults: Any) -> None:
    served, _, tools = faults
    controller = tools.controller(served.address)
    controller.handshake()
    for case, reason in ((1, "the detector melted"), (6, "TruncatedNormal is not part of PPX 1.0")):
        controller.run()
        assert controller.answer(float(case))[0] == "Reset"
        assert reason in served.process.stderr.readline()
    assert controller.run()[0] == "Sample"


def test_truncated_normals_need_the_capability(faults: Any) -> None:
    _, connect, _ = faults
    exchange = connect()
    exchange(Run())
    answer = exchange(SampleResult(6.0))
    assert answer.distribution == ("TruncatedNormal", (0.0, 1.0, 0.0, 1.0))


@pytest.mark.parametrize("value", [-1.0, 12.0, 99.0, 0.5, math.nan, math.inf, 1e300])
def test_a_value_that_is_no_index_is_refused(faults: Any, value: float) -> None:
    _, connect, _ = faults
    exchange = connect()
    exchange(Run())
    answer = exchange(SampleResult(value))
    assert isinstance(answer, Error)
    assert f"SampleResult for 'case' holds {value:.9g}, but a Categorical must be" in answer.message
    assert_serves(exchange)


GOOD: dict[str, float | np.ndarray[Any, np.dtype[np.float64]]] = {
    "case": 11.0,
    "normal": -2.5,
    "count": 3.0,
    "normals": -np.ones((2, 3)),
    "flags": np.array([0.0, 1.0]),
    "indices": np.array([2.0, 0.0]),
    "y": -0.5,
    "index": 1.0,
    "repeated": np.array([0.0, 1.0, 0.0]),
    "x": 2.5,
}
"""Values that are right for case 11 of faults.cpp, by the draw's or observation's name."""


def last_of_trace(exchange: Any, values: Mapping[str, Any]) -> Any:
    """What ends a trace that is answered with these values."""
    event = exchange(Run())
    while isinstance(event, Sample | Observe):
        answer = SampleResult if isinstance(event, Sample) else ObserveResult
        event = exchange(answer(values[event.name]))
    return event


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("normal", math.nan, "'normal' holds nan, but a Normal must be finite"),
        ("normal", -math.inf, "'normal' holds -inf, but"),
        ("normal", np.ones((1, 1)), "'normal' has shape (1, 1) where () is wanted"),
        ("count", -1.0, "'count' holds -1, but a Poisson must be whole and >= 0"),
        ("count", 1e300, "draw 'count': Poisson: 1e+300 is no whole number up to 2^53"),
        (
            "normals",
            np.array([[0, 0, 0], [0, math.nan, 0]]),
            "'normals' holds nan as element 4, but a Normal",
        ),
        ("normals", np.ones((3, 2)), "'normals' has shape (3, 2) where (2, 3) is wanted"),
        ("normals", np.ones(5), "'normals' holds 5 numbers where 6 are wanted"),
        ("flags", np.array([0.5, 1.0]), "'flags' holds 0.5 as element 0, but a Bernoulli"),
        ("indices", np.array([0.0, -1.0]), "'indices' holds -1 as element 1, but a Categorical"),
        (
            "indices",
            np.array([3.0, 0.0]),
            "'indices' holds 3 as element 0, but a Categorical must be whole and >= 0",
        ),
        ("y", math.nan, "ObserveResult for 'y' holds nan, but a Normal must be finite"),
        ("y", None, "ObserveResult for 'y' holds 0 numbers where 1 are wanted"),
        ("index", 2.0, "'index' holds 2, but a Categorical must be whole and >= 0 and < 2"),
        ("repeated", np.array([0.0, 1.0, 99.0]), "'repeated' holds 99 as element 2, but"),
    ],
)
def test_a_value_that_the_distribution_cannot_have_is_refused(
    faults: Any, name: str, value: Any, message: str
) -> None:
    _, connect, _ = faults
    exchange = connect()
    refusal = last_of_trace(exchange, {**GOOD, name: value})
    assert isinstance(refusal, Error)
    assert message in refusal.message
    assert_serves(exchange)


@pytest.mark.parametrize("flat", [False, True])
def test_values_that_the_distributions_can_have_are_taken(faults: Any, flat: bool) -> None:
    _, connect, _ = faults
    values = {**GOOD, "normals": np.ones(6), "repeated": None} if flat else GOOD
    assert last_of_trace(connect(), values) == RunResult(2.5)


def test_a_1_0_controller_gets_a_reset_for_such_a_value(faults: Any) -> None:
    served, _, tools = faults
    controller = tools.controller(served.address)
    controller.handshake()
    for value in (-1.0, 99.0, math.nan):
        controller.run()
        assert controller.answer(value)[0] == "Reset"
        assert f"'case' holds {value:.9g}, but a Categorical" in served.process.stderr.readline()
    assert controller.run()[0] == "Sample"


def test_an_answer_of_another_size_is_refused(faults: Any) -> None:
    served, _, tools = faults
    controller = tools.controller(served.address)
    controller.handshake()
    controller.run()
    assert controller.answer(1.0, 2.0)[0] == "Reset"
    assert "'case' holds 2 numbers where 1 are wanted" in served.process.stderr.readline()
    assert controller.run()[0] == "Sample"


@pytest.mark.parametrize("case", [None, 0, 7])
def test_a_handshake_in_mid_trace_starts_afresh(faults: Any, case: int | None) -> None:
    # Case 7 catches everything that goes through it.
    _, connect, _ = faults
    first = connect()
    first(Run())
    if case is not None:
        first(SampleResult(float(case)))
    assert_serves(connect())


def test_who_was_taken_over_is_told_so_and_disturbs_nobody(faults: Any) -> None:
    served, connect, tools = faults
    old = tools.controller(served.address)
    old.handshake()
    old.run()
    new = connect()
    new(Run())
    assert old.answer(1.0)[0] == "Reset"
    assert old.run()[0] == "Reset"
    last = new(SampleResult(0.0))
    assert last.address == "x"
    assert new(SampleResult(1.0)) == RunResult(1.0)


def test_messages_out_of_turn_end_the_trace(faults: Any) -> None:
    served, connect, tools = faults
    exchange = connect()
    exchange(Run())
    controller = tools.controller(served.address)
    assert controller.answer(1.0)[0] == "Reset"  # has not shaken hands
    controller.handshake()
    assert controller.answer(1.0)[0] == "Reset"  # no trace is running
    controller.run()
    assert controller.go_on("Observe")[0] == "Reset"  # a SampleResult is due
    assert controller.run()[0] == "Sample"


def test_no_bytes_crash_it(faults: Any) -> None:
    served, _, tools = faults
    controller = tools.controller(served.address)
    rng = random.Random(1)
    valid = [
        controller.encode_handshake(),
        controller.encode_sample_result((1.0,)),
        controller.encode_sample_result((1.0, 2.0, 3.0)),
    ]
    messages = [b"", b"\0" * 64, b"\xff" * 64, *(rng.randbytes(64) for _ in range(50))]
    for message in valid:
        messages += [message[:n] for n in range(0, len(message), 3)]
        for _ in range(150):
            mutant = bytearray(message)
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
            messages.append(bytes(mutant))
    controller.handshake()
    for number, message in enumerate(messages):
        if number % 2:
            controller.handshake()
            controller.run()
        controller.exchange(message)  # whatever: an answer
    controller.handshake()
    assert controller.run()[0] == "Sample"
    assert controller.answer(0.0)[0] == "Sample"
    kind, result = controller.answer(0.25)
    assert (kind, tools.tensor_of(result.Result())[0]) == ("RunResult", [0.25])


def test_odd_envelopes_are_no_harm(faults: Any) -> None:
    served, connect, _ = faults
    with zmq.Context.instance().socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVTIMEO, 20_000)
        dealer.connect(served.address)
        for frames in ([b"no delimiter"], [b"a", b"b", b"c"], [b""], [b"", b"x", b"y"], [b"", b"body"]):
            dealer.send_multipart(frames)
        assert [len(dealer.recv_multipart()) for _ in range(2)] == [2, 2]  # the last two are answered
        assert_serves(connect())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("busy", [False, True])
def test_signals_stop_it_cleanly(faults: Any, number: signal.Signals, busy: bool) -> None:
    served, connect, _ = faults
    if busy:
        connect()(Run())
    served.process.send_signal(number)
    assert served.process.wait(5.0) == 0


def test_a_taken_address_is_an_error_with_a_remedy(faults: Any, compiled: Any) -> None:
    program = compiled("faults")
    environment = {**os.environ, "PPX_BIND": "tcp://no-such-interface:1"}
    outcome = subprocess.run(
        [str(program)], env=environment, capture_output=True, text=True, check=False, timeout=20
    )
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("faults: cannot serve PPX at tcp://no-such-interface:1: ")
    assert "PPX_BIND" in outcome.stderr


def test_the_controller_says_what_was_observed(compiled: Any, serving: Any, tools: Any) -> None:
    with serving(compiled("everything")) as served:
        socket = tools.controller(served.address).socket
        connection = Connection(Role.CONTROLLER)

        def exchange(event: Any) -> Any:
            socket.send(connection.send(event))
            return connection.receive(socket.recv())

        exchange(Handshake("test", CAPABILITIES))
        event = exchange(Run())
        image = np.arange(6.0).reshape(1, 2, 3)
        observed = {"y": 0.125, "given": None, "image": image, "repeated": None}
        while not isinstance(event, RunResult):
            match type(event).__name__:
                case "Sample":
                    event = exchange(SampleResult(np.ones(3) if event.name == "array" else 1.0))
                case "Observe":
                    event = exchange(ObserveResult(observed[event.name]))
                case "Tag":
                    event = exchange(TagResult())
        assert np.asarray(event.result).ravel().tolist()[:3] == [0.125, 3.0, 5.0]

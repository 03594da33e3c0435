"""A C++ simulator among several controllers, of batches and of single traces, well-behaved and not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import zmq

from ppx_server.protocol import (
    BatchResult,
    Error,
    Observe,
    ObserveResult,
    Rejection,
    RejectionResult,
    Reset,
    Run,
    RunResult,
    Sample,
    SampleResult,
    Shutdown,
    ShutdownResult,
    Tag,
    TagResult,
    WireAddress,
)

NAN = float("nan")
FAULT = WireAddress("fault", "fault", "Categorical", ())
X = WireAddress("x", "x", "Normal", ())
SCRIPT = [(FAULT, 0, 0.0, NAN), (X, 0, 0.5, NAN)]


@pytest.fixture
def served(compiled: Any, serving: Any) -> Iterator[Any]:
    with serving(compiled("batches")) as served:
        yield served


@pytest.fixture
def controller(served: Any, connected: Any) -> Iterator[Any]:
    with connected(served.address) as controller:
        yield controller


def raw(address: str, message: bytes) -> bytes:
    """The answer to a message of a stranger."""
    with zmq.Context.instance().socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, 20_000)
        socket.connect(address)
        socket.send(message)
        return socket.recv()


def trace(exchange: Any, fault: float = 0.0) -> list[Any]:
    """The events of one trace of PPX 1.0."""
    events = [exchange(Run())]
    while not isinstance(events[-1], RunResult):
        match events[-1]:
            case Sample(address, _, distribution):
                shape = np.shape(distribution.params[0]) if distribution.family == "Normal" else ()
                value = {"fault": fault, "r": 0.25, "x": 0.5, "n": 1.0}.get(address, 0.0)
                events.append(exchange(SampleResult(np.zeros(shape) if shape else value)))
            case Observe(_, name, _, value):
                events.append(
                    exchange(
                        ObserveResult(
                            np.zeros((2, 2)) if name == "image" else 0.5 if value is None else value
                        )
                    )
                )
            case Tag():
                events.append(exchange(TagResult()))
            case Rejection():
                events.append(exchange(RejectionResult()))
            case other:
                raise AssertionError(other)
    return events


def test_traces_report_rejection_loops_to_controllers_that_want_them(controller: Any) -> None:
    events = trace(controller.exchange)
    loops = [(event.name, event.begin) for event in events if isinstance(event, Rejection)]
    assert loops == [("outer", True), ("", True), ("", False), ("outer", False)]
    place = [type(event).__name__ for event in events].index("Rejection")
    assert events[place + 2].address == "r"


def test_a_loop_left_by_an_exception_is_reported(controller: Any) -> None:
    events = trace(controller.exchange, fault=8.0)
    loops = [(event.name, event.begin) for event in events if isinstance(event, Rejection)]
    assert loops[:3] == [("caught", True), ("caught", False), ("outer", True)]


def test_a_handshake_takes_over_inside_a_loop(controller: Any, served: Any, connected: Any) -> None:
    event = controller.exchange(Run())
    while not isinstance(event, Rejection):
        event = controller.exchange(SampleResult(0.0))
    with connected(served.address) as other:
        trace(other.exchange)
    assert isinstance(controller.exchange(RejectionResult()), Error)
    trace(controller.exchange)


def test_a_controller_without_the_capability_hears_nothing_of_loops(served: Any, tools: Any) -> None:
    controller = tools.controller(served.address)
    controller.handshake()
    answers = {b"fault": (0.0,), b"n": (0.0,), b"r": (0.25,), b"array": (0.0,) * 4}
    kinds = [kind for kind, _ in controller.trace(lambda table: answers.get(table.Address(), (0.5,)))]
    assert "Error" not in kinds
    assert kinds[-1] == "RunResult"


def test_batches_and_traces_take_turns(controller: Any) -> None:
    first = controller.play([1], [SCRIPT])
    trace(controller.exchange)
    np.testing.assert_array_equal(controller.play([1], [SCRIPT]).value, first.value)


def test_a_batch_of_another_waits_for_no_running_trace(controller: Any, served: Any, connected: Any) -> None:
    with connected(served.address) as other:
        assert isinstance(controller.exchange(Run()), Sample)
        refusal = other.exchange(other.batch([1]))
        assert isinstance(refusal, Error)
        assert "runs a trace for another controller" in refusal.message
        assert isinstance(controller.exchange(SampleResult(0.0)), Sample)


def test_who_has_no_session_gets_a_reset(controller: Any, served: Any) -> None:
    stranger = raw(served.address, controller.connection.send(controller.batch([1])))
    assert isinstance(controller.connection.receive(stranger), Reset)


def test_seventeen_controllers_push_the_first_one_out(controller: Any, served: Any, connected: Any) -> None:
    controller.play([1], [SCRIPT])
    with ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(connected(served.address)).play([1], [SCRIPT])
        assert isinstance(controller.exchange(controller.batch([1])), Reset)
    controller.greet()
    controller.play([1], [SCRIPT])


def test_a_shutdown_ends_the_process(controller: Any, served: Any) -> None:
    controller.play([1])
    assert isinstance(controller.exchange(Shutdown()), ShutdownResult)
    assert served.process.wait(5.0) == 0


def test_numbers_that_were_not_defined_are_refused(controller: Any) -> None:
    batch = controller.batch([1], [SCRIPT])
    for wrong, message in [
        (batch._replace(address=np.array([0, 2], np.int32)), "address number 2, of which 2 were defined"),
        (batch._replace(first_address=7), "defines addresses from number 7 on, where 2 are defined"),
    ]:
        answer = controller.exchange(wrong)
        assert isinstance(answer, Error)
        assert message in answer.message
    assert isinstance(controller.exchange(batch._replace(addresses=(), first_address=0)), BatchResult)


@pytest.mark.parametrize(
    ("column", "wrong", "message"),
    [
        ([3, 0, 2, 4], [3, 0, 5, 4], "its offsets do not fit its choices"),
        ([3, 0, 2, 4], [3, 0, 2, 3], "its offsets do not fit its choices"),
        ([3, 0, 2, 4], [3, 1, 2, 4], "its offsets do not fit its choices"),
        ([3, 0, 2, 4], [2, 0, 2, 4], "its offsets do not fit its choices"),
        ([3, 0, 2, 4], [0, 0, 2, 4], "it has choices, but no offsets"),
        ([4, 0, 1, 0, 1], [3, 0, 1, 0, 1], "the columns of its choices differ in length"),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    controller: Any, column: list[int], wrong: list[int], message: str
) -> None:
    event = controller.batch([1, 2], [SCRIPT, SCRIPT])
    good = controller.connection.send(event)
    before, after = (np.array(each, "<i4").tobytes() for each in (column, wrong))
    assert good.count(before) == 1
    controller.socket.send_multipart([b"", good.replace(before, after)])
    answer = controller.receive()
    assert isinstance(answer, Error)
    assert message in answer.message
    assert isinstance(controller.exchange(event), BatchResult)


def test_no_batch_crashes_it(controller: Any, served: Any) -> None:
    rng = random.Random(2)
    observations = {("y", 0): 0.5, ("image", 0): np.zeros((2, 2))}
    event = controller.batch([1, 2], [SCRIPT, SCRIPT], observations=observations, observations_id=3)
    good = controller.connection.send(event)
    shutdown = 17  # the only byte that may not occur: as the kind of message it ends the process
    answers = set()
    for number in range(1000):
        mutant = bytearray(good[: rng.randrange(len(good))] if number % 10 == 0 else good)
        for _ in range(rng.randrange(1, 4)):
            if mutant:
                mutant[rng.randrange(len(mutant))] = rng.choice([b for b in range(256) if b != shutdown])
        controller.socket.send_multipart([b"", bytes(mutant)])
        answers.add(len(controller.socket.recv_multipart()[1]))  # whatever: an answer
    assert len(answers) > 10  # executed, failed and refused in many ways
    assert served.process.poll() is None
    controller.greet()
    assert isinstance(controller.exchange(event._replace(first_address=0)), BatchResult)

"""Conversations between a controller's and a simulator's Connection, and everything that may not be said."""

from __future__ import annotations

import numpy as np
import pytest

from ppx_server.errors import LocalProtocolError, RemoteProtocolError
from ppx_server.protocol import (
    CAPABILITIES,
    BatchResult,
    Connection,
    Error,
    Event,
    Handshake,
    HandshakeResult,
    Observe,
    ObserveResult,
    Rejection,
    Reset,
    Role,
    Run,
    RunBatch,
    RunResult,
    Sample,
    SampleResult,
    Shutdown,
    ShutdownResult,
    State,
    Tag,
    TagResult,
    WireDistribution,
    encode,
)
from ppx_server.protocol.states import SENT_BY_CONTROLLER, TRANSITIONS
from ppx_server.protocol.wire import MESSAGES
from tests.ppx_server.protocol.examples import (
    EXAMPLES,
    NORMAL,
    RUN_BATCH,
    no_loops,
    no_tensors,
    same,
)

HANDSHAKE = [EXAMPLES[Handshake], EXAMPLES[HandshakeResult]]
# A shortest way into every state
WAYS: dict[State, list[Event]] = {
    State.IDLE: [],
    State.GREETING: HANDSHAKE[:1],
    State.READY: HANDSHAKE,
    State.RUNNING: [*HANDSHAKE, Run()],
    State.SAMPLING: [*HANDSHAKE, Run(), EXAMPLES[Sample]],
    State.OBSERVING: [*HANDSHAKE, Run(), EXAMPLES[Observe]],
    State.TAGGING: [*HANDSHAKE, Run(), EXAMPLES[Tag]],
    State.MARKING: [*HANDSHAKE, Run(), EXAMPLES[Rejection]],
    State.BATCHING: [*HANDSHAKE, RUN_BATCH],
    State.ENDING: [*HANDSHAKE, Shutdown()],
}


class ConnectionPair:
    """Both ends of one conversation."""

    def __init__(self) -> None:
        self.controller = Connection(Role.CONTROLLER)
        self.simulator = Connection(Role.SIMULATOR)

    def say(self, *events: Event) -> None:
        """Sends events from whoever sends events of their type; both ends must agree on everything."""
        for event in events:
            ends = [self.controller, self.simulator]
            sender, receiver = ends if type(event) in SENT_BY_CONTROLLER else ends[::-1]
            received = receiver.receive(sender.send(event))
            assert same(received, event)
            assert sender.state is receiver.state


def at(state: State) -> ConnectionPair:
    pair = ConnectionPair()
    pair.say(*WAYS[state])
    assert pair.controller.state is state
    return pair


def test_a_run_from_handshake_to_result() -> None:
    pair = ConnectionPair()
    pair.say(*HANDSHAKE)
    for _ in range(3):
        pair.say(Run(), EXAMPLES[Sample], SampleResult(1.5), EXAMPLES[Observe], ObserveResult(8.0))
        pair.say(EXAMPLES[Tag], TagResult(), EXAMPLES[Sample], SampleResult(-2.0), RunResult(None))
    assert pair.simulator.peer_capabilities == pair.controller.peer_capabilities == set(CAPABILITIES)


@pytest.mark.parametrize("state", WAYS)
@pytest.mark.parametrize("event_type", MESSAGES)
def test_every_event_in_every_state(state: State, event_type: type[Event]) -> None:
    event, pair = EXAMPLES[event_type], at(state)
    from_controller = event_type in SENT_BY_CONTROLLER
    sender, receiver = (
        (pair.controller, pair.simulator) if from_controller else (pair.simulator, pair.controller)
    )
    if event_type in TRANSITIONS[state]:
        pair.say(event)
        assert sender.state is TRANSITIONS[state][event_type]
        return
    with pytest.raises(LocalProtocolError, match=f"cannot send {event_type.__name__} in state {state.name}"):
        sender.send(event)
    assert sender.state is state
    if event_type is Handshake:  # from another controller
        assert same(receiver.receive(encode(event)), event)
        assert receiver.state is State.GREETING
        return
    with pytest.raises(RemoteProtocolError, match=f"received {event_type.__name__} in state {state.name}"):
        receiver.receive(encode(event))
    assert receiver.state is State.ERROR
    receiver.reset()
    assert receiver.state is State.IDLE


@pytest.mark.parametrize("state", WAYS)
@pytest.mark.parametrize("event_type", MESSAGES)
def test_nobody_sends_what_is_the_others_to_send(state: State, event_type: type[Event]) -> None:
    pair = at(state)
    wrong = pair.simulator if event_type in SENT_BY_CONTROLLER else pair.controller
    with pytest.raises(LocalProtocolError):
        wrong.send(EXAMPLES[event_type])


def test_requests_and_replies_alternate() -> None:
    for state, transitions in TRANSITIONS.items():
        senders = {event_type in SENT_BY_CONTROLLER for event_type in transitions}
        assert len(senders) == {State.ERROR: 0, State.BATCHING: 2}.get(state, 1)


def batch(number: int, count: int = 2) -> RunBatch:
    index = np.arange(count, dtype=np.uint64)
    none = np.zeros(count + 1, np.int32)
    return RUN_BATCH._replace(batch=number, index=index, offsets=none, **dict.fromkeys(CHOICES, np.empty(0)))


CHOICES = ("address", "instance", "value", "z")


def answer_to(number: int, count: int = 2) -> BatchResult:
    return BatchResult(
        number,
        0.0,
        np.zeros(count, np.uint8),
        np.zeros(count + 1, np.int32),
        *[np.empty(0, np.int32)] * 3,
        *[np.empty(0)] * 3,
        np.empty(0, np.uint8),
        np.zeros(1, np.int32),
        np.empty(0),
        *[no_tensors(count)] * 3,
        no_loops(count),
    )


def queued(*events: Event) -> ConnectionPair:
    """Three batches on their way; the simulator has seen what is sent by `events`."""
    pair = at(State.READY)
    for number in (1, 2, 3):
        pair.simulator.receive(pair.controller.send(batch(number)))
    return pair


def test_batches_are_answered_in_order_while_more_are_sent() -> None:
    pair = queued()
    assert pair.controller.outstanding == pair.simulator.outstanding == 3
    for number in range(1, 10):
        pair.controller.receive(pair.simulator.send(answer_to(number)))
        pair.simulator.receive(pair.controller.send(batch(number + 3)))
        assert pair.controller.state is pair.simulator.state is State.BATCHING
    for number in (10, 11, 12):
        assert pair.controller.outstanding == 13 - number
        assert pair.controller.state is pair.simulator.state is State.BATCHING
        pair.controller.receive(pair.simulator.send(answer_to(number)))
    assert pair.controller.state is pair.simulator.state is State.READY
    pair.say(Run(), RunResult(1.0), batch(0, 0), answer_to(0, 0))


@pytest.mark.parametrize("refusal", [Error("no such observations"), Reset()])
def test_a_batch_that_is_refused_is_answered(refusal: Event) -> None:
    pair = queued()
    for answer, left in ((answer_to(1), 2), (refusal, 1), (answer_to(3), 0)):
        pair.controller.receive(pair.simulator.send(answer))
        assert pair.controller.outstanding == pair.simulator.outstanding == left
    assert pair.controller.state is pair.simulator.state is State.READY


@pytest.mark.parametrize("wrong", [answer_to(2), answer_to(1, 3), answer_to(0)])
def test_an_answer_to_another_batch_is_refused(wrong: BatchResult) -> None:
    pair = queued()
    with pytest.raises(LocalProtocolError, match="for 2 of batch 1; batches are answered in the order"):
        pair.simulator.send(wrong)
    assert pair.simulator.state is State.BATCHING
    with pytest.raises(RemoteProtocolError, match="for 2 of batch 1; batches are answered in the order"):
        pair.controller.receive(encode(wrong))
    assert pair.controller.state is State.ERROR
    assert pair.simulator.outstanding == 3
    pair.controller.reset()
    assert pair.controller.outstanding == 0
    pair.say(*HANDSHAKE)
    assert pair.simulator.outstanding == 0


def test_answers_of_an_earlier_conversation_may_come_before_the_handshake_result() -> None:
    pair = queued()
    late = [pair.simulator.send(e) for e in (answer_to(1), Error("no"), Reset())]
    greeting = pair.controller.send(EXAMPLES[Handshake])
    for data in late:
        pair.controller.receive(data)
        assert pair.controller.state is State.GREETING
    pair.simulator.receive(greeting)
    pair.controller.receive(pair.simulator.send(EXAMPLES[HandshakeResult]))
    pair.say(batch(1), answer_to(1))


def test_a_handshake_abandons_what_is_outstanding() -> None:
    pair = queued()
    pair.say(*HANDSHAKE)
    assert pair.controller.outstanding == pair.simulator.outstanding == 0
    pair.say(batch(1), answer_to(1))


@pytest.mark.parametrize("unasked", [answer_to(1), Error("no"), Reset()])
def test_an_answer_that_nobody_waits_for_is_refused_in_greeting(unasked: Event) -> None:
    pair = at(State.GREETING)
    with pytest.raises(RemoteProtocolError, match=r"in state GREETING.*no batch is outstanding"):
        pair.controller.receive(encode(unasked))


def test_garbage_between_batches_is_answered_in_its_turn() -> None:
    pair = at(State.READY)
    pair.simulator.receive(pair.controller.send(batch(1)))
    pair.controller.send(batch(2))
    pair.controller.receive(pair.simulator.send(answer_to(1)))
    with pytest.raises(RemoteProtocolError):
        pair.simulator.receive(encode(batch(2))[:50])
    pair.controller.receive(pair.simulator.send(Error("not a message")))
    assert pair.controller.state is pair.simulator.state is State.READY


def test_a_simulator_in_error_still_owes_the_earlier_answers() -> None:
    pair = at(State.READY)
    pair.simulator.receive(pair.controller.send(batch(1)))
    with pytest.raises(RemoteProtocolError):
        pair.simulator.receive(b"")
    pair.simulator.send(Error("not a message"))
    assert pair.simulator.state is State.BATCHING
    assert pair.simulator.outstanding == 1
    pair.simulator.send(answer_to(1))
    assert pair.simulator.state is State.READY


def test_a_shut_down_simulator_can_be_greeted_by_its_successor() -> None:
    pair = at(State.READY)
    pair.say(Shutdown(), ShutdownResult())
    assert pair.controller.state is State.IDLE
    pair.say(*HANDSHAKE)


@pytest.mark.parametrize("answer", [Error("no message"), Reset()])
def test_a_simulator_that_receives_garbage_says_so_and_is_ready(answer: Event) -> None:
    pair = at(State.SAMPLING)
    pair.controller.send(SampleResult(1.0))
    with pytest.raises(RemoteProtocolError):
        pair.simulator.receive(b"\x99" * 64)
    assert pair.simulator.state is State.ERROR
    pair.controller.receive(pair.simulator.send(answer))
    assert pair.controller.state is pair.simulator.state is State.READY
    pair.say(Run(), RunResult(1.0))


def test_a_controller_in_error_can_only_be_reset() -> None:
    pair = at(State.RUNNING)
    with pytest.raises(RemoteProtocolError):
        pair.controller.receive(b"")
    with pytest.raises(LocalProtocolError, match="only reset"):
        pair.controller.send(Run())
    with pytest.raises(RemoteProtocolError):
        pair.controller.receive(encode(RunResult(1.0)))
    pair.controller.reset()
    assert pair.controller.peer_capabilities == frozenset()
    pair.say(*HANDSHAKE, Run(), RunResult(1.0))


@pytest.mark.parametrize("state", WAYS)
def test_a_new_controller_takes_over(state: State) -> None:
    pair = at(state)
    pair.controller = Connection(Role.CONTROLLER)
    pair.say(Handshake("another, of PPX 1.0"), HandshakeResult("simulator", "model"))
    assert pair.simulator.peer_capabilities == frozenset()
    pair.say(Run(), RunResult(1.0))


def test_a_simulator_under_a_ppx_1_0_controller_stays_within_ppx_1_0() -> None:
    pair = ConnectionPair()
    pair.say(Handshake("pyprob 1.5.0"), HandshakeResult("simulator", "model", CAPABILITIES), Run())
    truncated = Sample("f/x", "x", WireDistribution("TruncatedNormal", (0.0, 1.0, 0.0, 2.0)), True)
    with pytest.raises(LocalProtocolError, match="truncated_normal"):
        pair.simulator.send(truncated)
    with pytest.raises(LocalProtocolError, match="Reset"):
        pair.simulator.send(Error("the model uses TruncatedNormal"))
    pair.say(Reset())  # nothing was sent: the conversation goes on
    pair.say(Run(), RunResult(None))


def test_a_controller_of_a_ppx_1_0_simulator_keeps_the_observed_value() -> None:
    pair = ConnectionPair()
    pair.say(Handshake("controller", CAPABILITIES), HandshakeResult("pyprob_cpp", "model"), Run())
    pair.say(EXAMPLES[Observe])
    with pytest.raises(LocalProtocolError, match="observed_value"):
        pair.controller.send(ObserveResult(8.0))
    pair.say(ObserveResult(None))


def test_byte_identical_draws_are_read_once_but_never_confused() -> None:
    controller = at(State.RUNNING).controller
    first = encode(Sample("f/x", "x", NORMAL, True))
    other = encode(Sample("f/x", "x", WireDistribution("Normal", (0.0, 2.0)), True))
    seen = []
    for data in (first, other, bytes(bytearray(first))):
        seen.append(controller.receive(data))
        controller.send(SampleResult(0.0))
    assert seen[0] is seen[2]
    assert seen[1].distribution.params == (0.0, 2.0)


def test_memory_for_draws_read_is_bounded() -> None:
    controller = at(State.RUNNING).controller
    for i in range(5000):
        controller.receive(encode(Sample("f/x", "x", WireDistribution("Normal", (float(i), 1.0)), True)))
        controller.send(SampleResult(0.0))
    assert len(controller._kept) <= 2048
    long = encode(Sample("f/" * 10_000, "x", NORMAL, True))
    controller.receive(long)
    assert long not in controller._kept

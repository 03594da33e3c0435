"""Whatever bytes come: an event or RemoteProtocolError, in bounded memory; and a connection survives them."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppx_server.errors import LocalProtocolError, RemoteProtocolError
from ppx_server.protocol import Connection, Event, Role, State, decode, encode
from ppx_server.protocol.states import SENT_BY_CONTROLLER, TRANSITIONS
from tests.fuzz.mutations import CORPUS, attempt, mutate
from tests.ppx_server.protocol.examples import EXAMPLES, events, same

words = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 512)


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    attempt(data)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(range(len(CORPUS))), st.binary(max_size=300))
def test_random_bytes_behind_a_valid_beginning(which: int, data: bytes) -> None:
    attempt(CORPUS[which][:32] + data)


@settings(max_examples=1000, deadline=None)
@given(
    st.sampled_from(CORPUS) | events.map(encode),
    st.lists(st.tuples(st.integers(0, 2**16), words), min_size=1, max_size=4),
)
def test_other_offsets_and_lengths(data: bytes, changes: list[tuple[int, int]]) -> None:
    made = bytearray(data)
    for place, word in changes:
        place = 4 * (place % (len(data) // 4))
        made[place : place + 4] = word.to_bytes(4, "little")
    attempt(bytes(made))


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(CORPUS) | events.map(encode), st.integers(0, 2**32))
def test_mutated_messages(data: bytes, seed: int) -> None:
    attempt(mutate(data, Random(seed)))


def test_mutations_reach_beyond_the_first_check() -> None:
    rng = Random(1)
    read = [attempt(mutate(rng.choice(CORPUS), rng)) for _ in range(20_000)]
    assert 2_000 < sum(read) < 18_000


def test_reading_takes_no_more_memory_than_the_message_explains() -> None:
    rng = Random(2)
    tracemalloc.start()
    try:
        for _ in range(3_000):
            data = mutate(rng.choice(CORPUS), rng)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with suppress(RemoteProtocolError):
                decode(data)
            assert tracemalloc.get_traced_memory()[1] - before < 50_000 + 64 * len(data)
    finally:
        tracemalloc.stop()


def sendable(connection: Connection) -> list[Event]:
    """Events that the connection may try to send now."""
    ours = connection.role is Role.CONTROLLER
    found = [EXAMPLES[kind] for kind in TRANSITIONS[connection.state] if (kind in SENT_BY_CONTROLLER) == ours]
    return found or [EXAMPLES[kind] for kind in EXAMPLES if kind.__name__ in ("Reset", "Error", "Handshake")]


@pytest.mark.parametrize("role", Role)
@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.0, 0.1, 0.5]))
def test_a_connection_fed_garbage(role: Role, seed: int, share: float) -> None:
    """A session in which the peer says anything at any time, some of it damaged."""
    rng = Random(seed)
    connection = Connection(role)
    for _ in range(20):
        if rng.random() < 0.5:
            with suppress(LocalProtocolError):
                connection.send(rng.choice(sendable(connection)))
            continue
        data = rng.choice(CORPUS)
        if rng.random() < share:
            data = mutate(data, rng)
        try:
            connection.receive(data)
        except RemoteProtocolError:
            assert connection.state is State.ERROR
        if connection.state is State.ERROR and rng.random() < 0.5:
            connection.reset()
            assert connection.state is State.IDLE
            assert connection.outstanding == 0
    connection.reset()
    converse(connection)


def converse(connection: Connection) -> None:
    """A conversation of each kind, from the first handshake on."""
    names = [
        "Handshake",
        "HandshakeResult",
        "Run",
        "Sample",
        "SampleResult",
        "RunResult",
        "RunBatch",
        "BatchResult",
    ]
    by_name = {kind.__name__: event for kind, event in EXAMPLES.items()}
    for event in map(by_name.__getitem__, names):
        if (type(event) in SENT_BY_CONTROLLER) == (connection.role is Role.CONTROLLER):
            connection.send(event)
        else:
            assert same(connection.receive(encode(event)), event)
    assert connection.state is State.READY

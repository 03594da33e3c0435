"""What strangers on the network do to a simulator, and a simulator to its controller: little."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import zmq

from ppx_client.cpp_build import compile_simulator, toolchain_missing
from ppx_inference.simulator import Simulator
from ppx_server.errors import LocalProtocolError
from ppx_server.executor import FailurePolicy
from ppx_server.protocol import (
    CAPABILITIES,
    BatchResult,
    Connection,
    Error,
    Event,
    Handshake,
    HandshakeResult,
    Reset,
    Role,
    RunBatch,
    Shutdown,
    WireAddress,
    decode,
    encode,
)
from tests.integration.faults import HERE, assert_same

NO_IDS, NO_NUMBERS = np.empty(0, np.int32), np.empty(0)
SLOW = 2000  # microseconds per trace
LONG = 1000  # traces


class Peer:
    """A controller that keeps to no rule."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)

    def send(self, message: Event | bytes) -> None:
        body = message if isinstance(message, bytes) else encode(message)
        self.socket.send_multipart([b"", body])

    def receive(self) -> Event:
        assert self.socket.poll(30_000), "no answer"
        return decode(self.socket.recv_multipart()[1])

    def ask(self, message: Event | bytes) -> Event:
        self.send(message)
        return self.receive()

    def greet(self) -> HandshakeResult:
        answer = self.ask(Handshake("stranger", CAPABILITIES))
        assert isinstance(answer, HandshakeResult)
        return answer


def batch(count: int, number: int = 1, addresses: Sequence[WireAddress] = ()) -> RunBatch:
    index, offsets = np.arange(count, dtype=np.uint64), np.zeros(count + 1, np.int32)
    none = (NO_IDS, NO_IDS, NO_NUMBERS, NO_NUMBERS)
    return RunBatch(number, 4, index, False, offsets, *none, 0, tuple(addresses))


class Victim(NamedTuple):
    """A simulator on the network, and strangers for it."""

    process: subprocess.Popen[bytes]
    address: str
    count: Path
    stranger: Callable[[], Peer]

    @property
    def num_traces(self) -> int:
        return self.count.stat().st_size

    @property
    def mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024


@pytest.fixture(scope="module", params=["python", "c++"])
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if request.param == "python":
        return sys.executable, str(HERE / "attacked_model.py")
    missing = toolchain_missing()
    if missing:
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    build = HERE.parents[1] / "build" / "tests"
    return (str(compile_simulator(HERE / "attacked_simulator.cpp", build / "attacked", flags=["-O0"])),)


@pytest.fixture
def serve(command: tuple[str, ...], tmp_path: Path) -> Iterator[Callable[..., Victim]]:
    """Starts the simulator: `serve()`, or `serve(microseconds per trace)`."""
    with ExitStack() as stack:
        context = zmq.Context()
        stack.callback(context.term)
        peers: list[Peer] = []

        def stranger(address: str) -> Peer:
            peers.append(Peer(context, address))
            return peers[-1]

        def start(pause: int = 0, bind: str = "tcp://127.0.0.1:*") -> Victim:
            count = tmp_path / "count"
            count.touch()
            process = subprocess.Popen(
                [*command, str(count), str(pause)],
                env={**os.environ, "PPX_BIND": bind},
                stderr=subprocess.PIPE,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stderr is not None
            stack.callback(process.stderr.close)
            address = process.stderr.readline().decode().rsplit(" ", 1)[1].strip()
            return Victim(process, address, count, lambda: stranger(address))

        yield start
        for peer in peers:
            peer.socket.close(0)


def test_greetings_push_nobody_out(serve: Callable[..., Victim]) -> None:
    victim = serve()
    honest = victim.stranger()
    honest.greet()
    assert isinstance(honest.ask(batch(1)), BatchResult)
    strangers = [victim.stranger() for _ in range(260)]
    for stranger in strangers:
        stranger.send(Handshake("stranger", CAPABILITIES))
    for stranger in strangers:
        assert isinstance(stranger.receive(), HandshakeResult)
    assert isinstance(honest.ask(batch(1, 2)), BatchResult)


def test_sessions_end_with_their_connections(serve: Callable[..., Victim]) -> None:
    victim = serve()
    first = victim.stranger()
    first.greet()  # and does nothing
    for _ in range(300):
        stranger = victim.stranger()
        stranger.greet()
        stranger.socket.close()
    assert isinstance(first.ask(batch(1)), BatchResult)


def test_on_a_network_nobody_ends_the_process(serve: Callable[..., Victim]) -> None:
    victim = serve()
    stranger = victim.stranger()
    assert "shutdown" not in stranger.greet().capabilities
    answer = stranger.ask(Shutdown())
    assert isinstance(answer, Error)
    assert "owner only" in answer.message
    assert isinstance(stranger.ask(batch(1)), BatchResult)


def test_a_batch_of_millions_is_refused_at_once(serve: Callable[..., Victim]) -> None:
    victim = serve()
    stranger = victim.stranger()
    most = stranger.greet().max_traces
    assert most == 1 << 16
    for count in (most + 1, 4_000_000):
        answer = stranger.ask(batch(count))
        assert isinstance(answer, Error)
        assert f"a batch may have {most}; send smaller batches" in answer.message
    assert victim.num_traces == 0


@pytest.mark.slow
def test_addresses_that_a_controller_defines_are_forgotten(serve: Callable[..., Victim]) -> None:
    victim = serve()
    stranger = victim.stranger()
    stranger.greet()
    assert isinstance(stranger.ask(batch(1)), BatchResult)
    before = victim.mib
    for k in range(3):
        addresses = [WireAddress(f"hostile/{k}/{i}" + "x" * 2000, "n", "Normal", ()) for i in range(10_000)]
        assert isinstance(stranger.ask(batch(1, k + 2, addresses)), BatchResult)
    answer = stranger.ask(
        batch(1, 7, [WireAddress(f"{i}" + "x" * 4000, "n", "Normal", ()) for i in range(10_000)])
    )
    assert isinstance(answer, Error)
    assert "never mentioned" in answer.message
    stranger.greet()
    assert victim.mib < 1.2 * before + 64
    assert isinstance(stranger.ask(batch(1)), BatchResult)


def test_a_forced_draw_that_came_later_is_known_from_then_on(serve: Callable[..., Victim]) -> None:
    stranger = serve().stranger()
    stranger.greet()
    mu = [WireAddress("mu", "mu", "Normal", ()), WireAddress("nu", "nu", "Normal", ())]
    script = batch(1, 1, mu)._replace(
        offsets=np.array([0, 2], np.int32),
        address=np.array([1, 0], np.int32),
        instance=np.zeros(2, np.int32),
        value=np.array([7.0, 8.0]),
        z=np.zeros(2),
    )
    for number, addresses in ((1, tuple(mu)), (2, ()), (3, ())):
        answer = stranger.ask(
            script._replace(batch=number, addresses=addresses, first_address=2 - len(addresses))
        )
        assert isinstance(answer, BatchResult)
        assert answer.value.tolist() == [8.0]
        assert answer.flags.tolist() == [3]


def test_an_honest_run_beside_strangers_gives_the_same_traces(
    serve: Callable[..., Victim], command: tuple[str, ...]
) -> None:
    with Simulator(list(command), num_workers=1) as alone:
        undisturbed = alone.prior(200, seed=4)
    victim = serve(SLOW)
    strangers = [victim.stranger() for _ in range(5)]
    strangers[1].greet()
    assert isinstance(strangers[1].ask(batch(1)), BatchResult)
    before = victim.mib
    with Simulator(address=victim.address) as sim:
        for _ in range(4):
            strangers[0].send(bytes(30 << 20))  # without a greeting
            strangers[1].send(b"x" * (30 << 20))
        for stranger in strangers[2:4]:
            stranger.send(Handshake("stranger", CAPABILITIES))
            for number in range(1, 4):
                stranger.send(batch(50, number))
        strangers[4].send(encode(batch(10)))
        assert_same(sim.prior(200, seed=4), undisturbed)
    answers = [strangers[2].receive() for _ in range(4)]
    assert isinstance(answers[0], HandshakeResult)
    assert all(isinstance(answer, BatchResult | Error) for answer in answers[1:])
    assert isinstance(strangers[4].receive(), Reset)
    for _ in range(4):  # whatever was sent has been handled
        assert isinstance(strangers[0].receive(), Reset)
        assert isinstance(strangers[1].receive(), Error)
    assert victim.mib < 1.2 * before + 64


def test_others_are_greeted_while_a_batch_is_executed_and_more_than_two_are_refused_in_order(
    serve: Callable[..., Victim],
) -> None:
    victim = serve(SLOW)
    busy, other = victim.stranger(), victim.stranger()
    connection = Connection(Role.CONTROLLER)
    busy.send(connection.send(Handshake("busy", CAPABILITIES)))
    connection.receive(encode(busy.receive()))
    for number in (1, 2, 3):
        busy.send(connection.send(batch(LONG if number == 1 else 1, number)))
    other.greet()
    assert victim.num_traces < LONG
    answers = [connection.receive(encode(busy.receive())) for _ in range(3)]
    assert [type(answer) for answer in answers] == [BatchResult, BatchResult, Error]
    assert "2 requests of this controller were unanswered" in answers[2].message  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["closes", "greets again"])
def test_a_batch_that_nobody_waits_for_is_given_up(serve: Callable[..., Victim], how: str) -> None:
    victim = serve(SLOW)
    gone, other = victim.stranger(), victim.stranger()
    gone.greet()
    gone.send(batch(LONG))
    while victim.num_traces == 0:
        pass
    if how == "closes":
        gone.socket.close()
    else:
        gone.send(Handshake("stranger", CAPABILITIES))
    other.greet()
    assert isinstance(other.ask(batch(1)), BatchResult)
    assert victim.num_traces < LONG


def test_strange_messages_change_nothing(serve: Callable[..., Victim]) -> None:
    victim = serve()
    stranger = victim.stranger()
    stranger.greet()
    whole = encode(batch(3))
    for message in (b"", whole[:40], whole + bytes(7), bytes(1000), b"\xff" * 64):
        assert isinstance(stranger.ask(message), Error | BatchResult)
    stranger.socket.send_multipart([b"no envelope", whole])
    stranger.socket.send_multipart([b"", whole, whole])
    assert isinstance(stranger.receive(), Error)
    negative = batch(3)._replace(seed=(1 << 64) - 1, index=np.array([1 << 63, 0, (1 << 64) - 1], np.uint64))
    answer = stranger.ask(negative)
    assert isinstance(answer, BatchResult)
    assert np.isfinite(answer.value).all()
    assert isinstance(stranger.ask(batch(1)), BatchResult)


def test_who_can_do_what_is_said_where_other_machines_can_reach_it(
    command: tuple[str, ...], serve: Callable[..., Victim]
) -> None:
    for bind, warned in (("tcp://0.0.0.0:*", True), ("tcp://127.0.0.1:*", False)):
        victim = serve(bind=bind)
        victim.stranger().greet()  # then everything is said
        victim.process.terminate()
        assert victim.process.stderr is not None
        said = victim.process.stderr.read().decode()
        assert ("anyone who can reach tcp://0.0.0.0:" in said and "run this model" in said) is warned


@pytest.mark.slow
def test_a_limit_of_messages_is_a_setting_and_what_does_not_fit_fails_by_name(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPX_MAX_MESSAGE", str(1 << 16))
    with Simulator(list(command), num_workers=1, policy=FailurePolicy(most=0.0)) as sim:
        few = sim.prior(2000, seed=4)  # more than one message
    monkeypatch.delenv("PPX_MAX_MESSAGE")
    with Simulator(list(command), num_workers=1) as sim:
        assert_same(few, sim.prior(2000, seed=4))
    monkeypatch.setenv("PPX_MAX_MESSAGE", "64 MiB")
    with pytest.raises(LocalProtocolError, match="PPX_MAX_MESSAGE='64 MiB' is no number of bytes"):
        Simulator(list(command), num_workers=1)


FLOODING = """
import os, sys, zmq
from ppx_server.protocol import CAPABILITIES, HandshakeResult, encode
socket = zmq.Context.instance().socket(zmq.ROUTER)
socket.bind(os.environ["PPX_BIND"])
while True:
    sender, _, _ = socket.recv_multipart()
    socket.send_multipart([sender, b"", encode(HandshakeResult("hostile", "model", CAPABILITIES))])
    for _ in range(20):
        socket.send_multipart([sender, b"", bytes(30 << 20)])
"""


def test_a_controller_takes_memory_for_few_messages_that_it_did_not_ask_for() -> None:
    program = f"""
import resource, sys
from ppx_inference.simulator import Simulator
from ppx_server.errors import SimulatorError
import time
with Simulator([sys.executable, "-c", {FLOODING!r}], num_workers=1) as sim:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    time.sleep(0.5)
    try:
        sim.prior(2)
    except SimulatorError as error:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    assert int(done.stdout) < 200 * 1024  # KiB at most: of 600 MiB that are sent

"""Simulators whose answers are cut, garbled, too long or wrong."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zmq

from ppx_inference.simulator import Simulator
from ppx_server.errors import RemoteProtocolError, SimulatorError, SimulatorFailedError
from ppx_server.executor import FailurePolicy
from ppx_server.protocol import CAPABILITIES, BatchResult, Connection, Handshake, Role, RunBatch, decode
from ppx_server.trace import Status, TraceBatch
from tests.integration.fault_models import CUTS
from tests.integration.faults import SERVE, assert_same, in_python
from tests.ppx_server.protocol.examples import same

pytestmark = pytest.mark.usefixtures("nothing_left")

NUM_TRACES, SEED = 240, 4


@pytest.fixture(scope="module")
def undisturbed() -> TraceBatch:
    with Simulator(in_python("none", np.inf), num_workers=1) as sim:
        return sim.prior(NUM_TRACES, seed=SEED)


@pytest.fixture
def count(nothing_left: Path) -> Path:
    """The file in which a proxy counts its answers."""
    file = nothing_left / "count"
    file.touch()
    return file


def between(lie: str, count: Path) -> tuple[str, ...]:
    return (*SERVE, "between", lie, str(count))


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ("log_prob", "log_prob.*where it is.*client is defective"),
        ("number", "BatchResult.*answers the RunBatch"),
        ("count", "BatchResult for 2 executions.*answers the RunBatch for 1"),
        ("address", "uses address number"),
        ("params", "Normal takes 2 parameters"),
        ("pending", "was not to ask"),
        ("garbage", "broke off"),
        ("empty", "broke off"),
    ],
)
def test_lies_are_refused(lie: str, message: str, count: Path) -> None:
    policy = FailurePolicy(retries=0, most=0.0)
    with (
        Simulator(between(lie, count), num_workers=1, policy=policy) as sim,
        pytest.raises(SimulatorFailedError, match=re.compile(message, re.DOTALL)) as caught,
    ):
        sim.prior(2, seed=SEED)
    assert caught.value.completed is not None
    assert (caught.value.completed.status == Status.FAILED).all()


def test_a_client_with_wrong_densities_ends_the_run_at_once(count: Path) -> None:
    with (
        Simulator(between("log_prob", count), num_workers=1) as sim,
        pytest.raises(SimulatorFailedError, match="client is defective"),
    ):
        sim.prior(NUM_TRACES, seed=SEED)
    assert count.stat().st_size <= 2  # batches in flight


def test_traces_with_nan_densities_have_failed(count: Path, undisturbed: TraceBatch) -> None:
    above = np.add.reduceat(undisturbed.value > 2.0, undisturbed.offsets[:-1]) > 0
    failed = np.flatnonzero(above).tolist()
    assert failed
    policy = FailurePolicy(most=1.0)
    with Simulator(between("nan", count), num_workers=1, policy=policy) as sim:
        traces = sim.prior(NUM_TRACES, seed=SEED)
    assert_same(traces, undisturbed, failed)
    assert all("NaN" in reason for reason in traces.failures.values())


@pytest.mark.parametrize("lie", ["slow", "endless"])
def test_what_a_simulator_says_of_its_speed_changes_no_trace(
    lie: str, count: Path, undisturbed: TraceBatch
) -> None:
    with Simulator(between(lie, count), num_workers=1) as sim:
        assert_same(sim.prior(NUM_TRACES, seed=SEED), undisturbed)


def test_answers_that_are_cut_are_asked_for_again(count: Path, undisturbed: TraceBatch) -> None:
    policy = FailurePolicy(retries=len(CUTS))
    with Simulator(between("cut", count), num_workers=1, policy=policy) as sim:
        traces = sim.prior(NUM_TRACES, seed=SEED)
    assert count.stat().st_size > len(CUTS)
    assert_same(traces, undisturbed)


def test_no_part_of_an_answer_passes_for_the_whole(nothing_left: Path) -> None:
    none, no_ids = np.empty(0), np.empty(0, np.int32)
    offsets = np.zeros(4, np.int32)
    request = RunBatch(1, SEED, np.arange(3, dtype=np.uint64), False, offsets, no_ids, no_ids, none, none)
    address = f"ipc://{nothing_left}/socket"
    with (
        subprocess.Popen(in_python("none", np.inf), env={**os.environ, "PPX_BIND": address}) as process,
        zmq.Context() as context,
        context.socket(zmq.REQ) as socket,
    ):
        socket.connect(address)
        whole = talk(socket, request)
        process.terminate()
    event = decode(whole)
    assert isinstance(event, BatchResult)
    for length in range(len(whole)):
        try:
            part = decode(whole[:length])
        except RemoteProtocolError:
            continue
        assert same(part, event)  # what was cut off was padding


def talk(socket: zmq.Socket[bytes], request: RunBatch) -> bytes:
    """The answer of a simulator to its first batch."""
    connection = Connection(Role.CONTROLLER)
    socket.send(connection.send(Handshake("test", CAPABILITIES)))
    connection.receive(socket.recv())
    socket.send(connection.send(request))
    return socket.recv()


@pytest.mark.parametrize(
    ("num_bytes", "message"),
    [(1 << 62, "closed the connection"), (1 << 29, "closed the connection"), (1 << 26, "sent nothing")],
)
def test_messages_that_claim_to_be_long_take_no_memory(num_bytes: int, message: str) -> None:
    policy = FailurePolicy(retries=0, most=0.0)
    with Simulator((*SERVE, "header", str(num_bytes)), num_workers=1, timeout=0.5, policy=policy) as sim:
        before = resident_bytes()
        with pytest.raises(SimulatorError, match=message):
            sim.prior(1)
        assert resident_bytes() - before < 1 << 26


def resident_bytes() -> int:
    """Memory of this process."""
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

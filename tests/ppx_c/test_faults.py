"""C models whose traces end early, fail, or never end: they coast, nothing leaks, and the process serves on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import zmq

from ppx_inference import Simulator
from ppx_server import protocol
from ppx_server.executor import FailurePolicy
from ppx_server.protocol import Connection, Role
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import Status
from tests.ppx_c.guides import ArrayGuide

ANY_MAY_FAIL = FailurePolicy(most=1.0)
FORKED = "statement '{}' was made in a process that the model forked"
Build = Callable[[str], list[str]]


class Controller:
    """Draw by draw, with a process whose standard error is read at its end."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self._socket.connect(address)
        self.greet()

    def greet(self, *capabilities: str) -> None:
        self._connection = Connection(Role.CONTROLLER)
        assert isinstance(self.ask(protocol.Handshake("test", capabilities)), protocol.HandshakeResult)

    def send(self, event: Any) -> None:
        self._socket.send_multipart([b"", self._connection.send(event)])

    def ask(self, event: Any) -> Any:
        self.send(event)
        return self._connection.receive(self._socket.recv_multipart()[1])

    def stop(self) -> str:
        """Ends the process by SIGTERM; returns what it said."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, said
        return said

    def close(self) -> None:
        self._socket.close()
        self.process.kill()
        self.process.communicate()


@contextmanager
def controlled(command: list[str]) -> Iterator[Controller]:
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/s"
        process = subprocess.Popen(
            command, env={**os.environ, "PPX_BIND": address}, stderr=subprocess.PIPE, text=True
        )
        controller = Controller(process, address)
        try:
            yield controller
        finally:
            controller.close()


def traces_of(controller: Controller, number: int) -> list[Any]:
    """Whole traces of PPX 1.0: every draw is 2, and a trace has other draws with an odd number."""
    events = []
    for index in range(number):
        events.append(controller.ask(protocol.Run()))
        while isinstance(events[-1], protocol.Sample | protocol.Observe):
            if isinstance(events[-1], protocol.Observe):
                answer: Any = protocol.ObserveResult(None)
            elif events[-1].address == "other":
                answer = protocol.SampleResult(np.array([0.5, 1.5]))
            else:
                answer = protocol.SampleResult(2.0 + index % 2)
            events.append(controller.ask(answer))
    return events


def batch_of_one() -> protocol.RunBatch:
    """One trace, all of it from the prior."""
    none, ids = np.empty(0), np.empty(0, np.int32)
    index, offsets = np.array([0], np.uint64), np.zeros(2, np.int32)
    return protocol.RunBatch(1, 1, index, False, offsets, ids, ids, none, none, 0, (), 0, None)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("returns", "the model returned 3"),
        ("fails", "the detector melted"),
        ("negative", "draw 'negative': Normal: stddev = -1, but it must be finite and > 0"),
        ("array", "draw 'array': Normal: stddev[1] = -1, but it must be finite and > 0"),
        ("shape", "'array': the array has no elements, no axes or more than 32"),
        ("params", "'array': Normal takes 2 parameters, not 1"),
        ("leaves", "ppx_scope_leave: no scope is open"),
        ("nameless", "a statement has no name"),
        ("serves", "ppx_serve is called by a model"),
        ("latin", "the name 'caf?' is not UTF-8"),
        ("says_latin", "the caf? is shut"),
        ("no_category", "draw 'none': Categorical: probs holds 0 numbers"),
        ("threads", "statement 'elsewhere' was made on a thread that does not run serve()"),
        ("tags_on_a_thread", "statement 'elsewhere' was made on a thread that does not run serve()"),
        ("forks", FORKED.format("x")),
        ("forks_array", FORKED.format("scope/array")),
    ],
)
def test_a_trace_fails_with_the_reason_and_the_next_one_runs(in_c: Build, model: str, reason: str) -> None:
    with Simulator([*in_c("faults"), model], num_workers=1, policy=ANY_MAY_FAIL) as sim:
        traces = sim.prior(3)
    assert (traces.status == Status.FAILED).all()
    assert all(reason in text for text in traces.failures.values()), traces.failures


@pytest.mark.parametrize(
    ("model", "reason"), [("forks", FORKED.format("x")), ("forks_array", FORKED.format("scope/array"))]
)
def test_draw_by_draw_too_a_forked_process_fails_the_trace(in_c: Build, model: str, reason: str) -> None:
    with Simulator([*in_c("faults"), model], num_workers=1, batches=False, policy=ANY_MAY_FAIL) as sim:
        traces = sim.prior(3)
    assert (traces.status == Status.FAILED).all()
    assert all(reason in text for text in traces.failures.values()), traces.failures


def test_what_traces_took_is_freed_when_they_end_early(in_c: Build) -> None:
    scripts = ScriptBatch.empty(1, np.arange(1000), Otherwise.ASK)
    with controlled([*in_c("faults"), "allocates"]) as controller:
        address = controller.address
        with Simulator(address=address, keep_uncontrolled=True) as sim:
            guided = sim.execute(scripts, {"y": 1.0}, ArrayGuide())
            expected = sim.prior(1000, seed=1, observations={"y": 1.0})
        np.testing.assert_allclose(guided.value, expected.value, rtol=1e-9)
        np.testing.assert_allclose(guided.results.data, expected.results.data, rtol=1e-9)
        said = controller.stop()
    taken, left, early = map(int, re.search(r"taken (\d+), left (\d+), ended early (\d+)", said).groups())  # type: ignore[union-attr]
    assert (left, taken - early) == (0, 2000)
    assert early > 4000


def test_a_controller_of_1_0_may_leave_a_trace_at_every_draw(in_c: Build) -> None:
    with controlled([*in_c("faults"), "allocates"]) as controller:
        expected = traces_of(controller, 2)
        assert [type(event).__name__ for event in expected] == [
            *["Sample"] * 4, "Observe", "RunResult", *["Sample"] * 5, "Observe", "RunResult"
        ]  # fmt: skip
        for num_draws in range(4):
            controller.ask(protocol.Run())
            for _ in range(num_draws):
                controller.ask(protocol.SampleResult(2.0))
            controller.greet()
        # A value that cannot be ends a trace, too.
        controller.ask(protocol.Run())
        assert isinstance(controller.ask(protocol.SampleResult(-1.0)), protocol.Reset)
        again = traces_of(controller, 2)
        assert [repr(event) for event in again] == [repr(event) for event in expected]
        assert "taken 9, left 0, ended early 5" in controller.stop()


def test_the_reason_of_a_failure_goes_to_stderr_under_1_0(in_c: Build) -> None:
    with controlled([*in_c("faults"), "negative"]) as controller:
        assert isinstance(controller.ask(protocol.Run()), protocol.Reset)
        assert isinstance(controller.ask(protocol.Run()), protocol.Reset)
        assert "negative: trace failed: draw 'negative': Normal: stddev = -1" in controller.stop()


def test_a_model_that_never_ends_is_left(in_c: Build) -> None:
    with controlled([*in_c("faults"), "endless", "1000"]) as controller:
        for _ in range(3):
            assert isinstance(controller.ask(protocol.Run()), protocol.Reset)
        said = controller.stop()
    assert said.count("made more than 1000 statements after the end of its trace") == 1
    with Simulator([*in_c("faults"), "endless"], num_workers=1, policy=ANY_MAY_FAIL) as sim:
        traces = sim.prior(3)
    assert all("draw 'bad'" in reason for reason in traces.failures.values())


def test_scopes_and_loops_that_stay_open_end_with_their_trace(in_c: Build) -> None:
    with Simulator([*in_c("faults"), "leaves_open"], num_workers=1) as sim:
        traces = sim.prior(30)
    names = {re.sub(":[0-9]+:", ":LINE:", traces.addresses[i].address) for i in traces.address_id.tolist()}
    assert names == {"open/faults_c:LINE:leaves_open", "x"}
    assert traces.loops.end.tolist() == [1] * 30


@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_model_that_asks_whether_its_trace_is_over(
    in_c: Build, by_batch: bool, number: signal.Signals
) -> None:
    with controlled([*in_c("faults"), "slow"]) as controller:
        if by_batch:
            controller.greet(*protocol.CAPABILITIES)
            controller.send(batch_of_one())
        else:
            assert isinstance(controller.ask(protocol.Run()), protocol.Sample)
        controller.process.send_signal(number)
        _, said = controller.process.communicate(timeout=20)
    assert controller.process.returncode == 0
    assert "taken 0" in said


def test_without_a_controller_the_message_goes_to_stderr(in_c: Build) -> None:
    outcome = subprocess.run(
        [*in_c("faults"), "array", "once"], capture_output=True, text=True, check=False, timeout=20
    )
    assert outcome.returncode == 0
    assert outcome.stderr == (
        "ppx: draw 'array': Normal: stddev[1] = -1, but it must be finite and > 0; correct it in the model\n"
    )


def test_an_address_that_is_none_is_told_to_the_program(in_c: Build) -> None:
    outcome = subprocess.run(
        [*in_c("faults"), "returns"],
        env={**os.environ, "PPX_BIND": "nonsense://here"},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert outcome.returncode == 2
    assert "returns: cannot serve PPX at nonsense" in outcome.stderr

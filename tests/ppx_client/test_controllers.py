"""Several controllers at one simulator, draw by draw and by batches; how they come and go."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from ppx_client.channels import Channel
from ppx_server.philox import normals
from ppx_server.protocol import BatchResult, Error, Reset, Run, RunBatch, RunResult, Shutdown, ShutdownResult

Serve = Callable[..., Any]
MODEL = """
x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
y = ppx.sample(ppx.Normal(x, 1.0), name="y")
return x + y
"""


def batch(num_traces: int = 2, **fields: Any) -> RunBatch:
    """Empty scripts."""
    ids, floats = np.empty(0, np.int32), np.empty(0)
    message = RunBatch(
        batch=1,
        seed=3,
        index=np.arange(num_traces, dtype=np.uint64),
        ask=False,
        offsets=np.zeros(num_traces + 1, np.int32),
        address=ids,
        instance=ids,
        value=floats,
        z=floats,
    )
    return message._replace(**fields)


def test_every_controller_is_told_the_addresses_it_does_not_know(serve: Serve) -> None:
    simulator = serve(MODEL)
    first, second = simulator.connect_for_batches(), simulator.connect_for_batches()
    z = normals(3, [0, 1], 2)
    for controller in (first, second, first):
        result = controller.ask(batch())
        assert result.z.tolist() == z.ravel().tolist()
        assert [a.name for a in controller.addresses] == ["x", "y", ""]
    assert result.addresses == ()
    # Another Handshake begins again with the numbering.
    second.handshake()
    assert len(second.ask(batch()).addresses) == 3


def test_a_batch_between_the_draws_of_another_controllers_trace(serve: Serve) -> None:
    simulator = serve(MODEL)
    by_batches = simulator.connect_for_batches()
    by_draws = simulator.connect()
    by_draws.handshake("error")
    assert by_draws.send("Run").name == "x"
    # The running trace is not disturbed; a Handshake would take the simulator over.
    refusal = by_batches.ask(batch())
    assert type(refusal) is Error
    assert "runs a trace for another controller" in refusal.message
    assert by_draws.send("SampleResult", 1.0).name == "y"
    assert by_draws.send("SampleResult", 2.0).value == 3.0
    assert by_batches.ask(batch()).status.tolist() == [0, 0]
    assert by_draws.send("Run").name == "x"
    by_batches.handshake()
    assert by_batches.ask(batch()).status.tolist() == [0, 0]
    assert "between traces" in by_draws.send("SampleResult", 1.0).text[0]
    assert by_draws.send("Run").name == "x"


def test_one_controller_may_do_both(serve: Serve) -> None:
    controller = serve("return 2.0").connect_for_batches()
    result = controller.ask(Run())
    assert type(result) is RunResult
    assert result.result == 2.0
    assert type(controller.ask(batch())) is BatchResult


def test_who_is_forgotten_for_sixteen_others_is_answered_by_reset(serve: Serve) -> None:
    simulator = serve(MODEL)
    controller = simulator.connect_for_batches()
    assert type(controller.ask(batch())) is BatchResult
    others = [simulator.connect_for_batches() for _ in range(16)]
    for other in others:
        assert type(other.ask(batch())) is BatchResult
    assert type(controller.ask(batch())) is Reset
    controller.handshake()
    assert type(controller.ask(batch())) is BatchResult


def test_garbage_among_batches(serve: Serve) -> None:
    controller = serve(MODEL).connect_for_batches()
    for data in (b"", b"garbage", bytes(100)):
        assert type(controller.ask(data)) is Error
    assert type(controller.ask(batch())) is BatchResult


def test_shutdown_ends_the_process(serve: Serve) -> None:
    simulator = serve(MODEL)
    controller = simulator.connect_for_batches()
    assert type(controller.ask(Shutdown())) is ShutdownResult
    assert simulator.process.wait(10) == 0
    assert not Path(simulator.endpoint.removeprefix("ipc://")).exists()


def test_a_stranger_cannot_shut_it_down(serve: Serve) -> None:
    simulator = serve(MODEL)
    assert simulator.connect().send("Shutdown").body == "Reset"
    assert type(simulator.connect_for_batches().ask(batch())) is BatchResult


def test_rejection_loops_draw_by_draw(serve: Serve) -> None:
    simulator = serve(
        """
        with ppx.scope("s"):
            with ppx.rejection("loop"):
                ppx.sample(ppx.Normal(0.0, 1.0), name="x")
        """
    )
    controller = simulator.connect()
    controller.handshake("rejection", "error")
    seen = controller.send("Run")
    assert seen[:3] == ("Rejection", "s/loop", "loop")
    assert seen.value == 1.0
    assert controller.send("RejectionResult").body == "Sample"
    seen = controller.send("SampleResult", 0.0)
    assert seen[:3] == ("Rejection", "s/loop", "loop")
    assert seen.value == 0.0
    assert controller.send("RejectionResult").body == "RunResult"
    # A trace that is abandoned in mid-loop does not speak of it again.
    controller.send("Run")
    controller.send("RejectionResult")
    assert "SAMPLE_RESULT was due" in controller.send("TagResult").text[0]
    old = simulator.connect()
    old.handshake()
    assert old.send("Run").body == "Sample"
    assert old.send("SampleResult", 0.0).body == "RunResult"


@pytest.mark.parametrize("argument", [None, "version 2"])
def test_fingerprint(serve: Serve, tmp_path: Path, argument: str | None) -> None:
    script = tmp_path / "fingerprinted.py"
    fingerprint = "" if argument is None else f", fingerprint={argument!r}"
    script.write_text(
        "import functools\nimport ppx_client as ppx\ndef forward(x):\n    return x\n"
        f"ppx.serve(functools.partial(forward, 1.0), 'model'{fingerprint})\n"
    )
    expected = argument or hashlib.sha256(script.read_bytes()).hexdigest()[:32]
    simulator = serve(script)
    assert simulator.connect_for_batches().handshake().fingerprint == expected
    # PPX 1.0 has no place for it.
    assert simulator.connect().handshake().text == simulator.connect().handshake("error").text[:2]


def test_answers_to_a_controller_that_does_not_read_hold_nobody_up_for_long() -> None:
    channel = Channel("tcp://127.0.0.1:*", "deaf")
    with zmq.Context() as context, context.socket(zmq.DEALER) as deaf:
        deaf.setsockopt(zmq.LINGER, 0)
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.setsockopt(zmq.RCVBUF, 1 << 12)
        deaf.connect(channel.endpoint)
        deaf.send_multipart([b"", b"hello"])
        sender = channel.receive().sender
        sent = [channel.send(sender, bytes(1 << 20), patient=False) for _ in range(100)]
        assert sent[0]
        assert not sent[-1]
        assert not channel.send(sender, b"more")
    channel.close()

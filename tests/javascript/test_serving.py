"""Serving JavaScript simulators: signals, errors, garbage, controllers that come and go."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

Serve = Callable[..., Any]
DRAW = 'return ppx.sample(ppx.Normal(0, 1), "x");'
LOOP = 'for (;;) await ppx.sample(ppx.Normal(0, 1), "x");'


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_between_traces_end_the_process_with_0(serve: Serve, number: signal.Signals) -> None:
    simulator = serve("return 1;")
    simulator.connect()
    assert simulator.stop(number) == (0, f"model: serving PPX at {simulator.endpoint}\n")
    assert not os.path.exists(simulator.endpoint.removeprefix("ipc://"))


@pytest.mark.parametrize("model", [LOOP, "await new Promise((done) => setTimeout(done, 60_000));"])
def test_signals_in_mid_trace_end_the_process_with_0(serve: Serve, model: str) -> None:
    simulator = serve(model)
    controller = simulator.connect()
    if model is LOOP:
        controller.send("Run")
        controller.send("SampleResult", 0.0)
    else:
        controller.start("Run")
        time.sleep(0.1)
    assert simulator.stop()[0] == 0


def test_shutdown_ends_the_process_with_0(serve: Serve) -> None:
    simulator = serve(DRAW)
    assert simulator.connect("shutdown").send("Shutdown").body == "ShutdownResult"
    assert simulator.end()[0] == 0


def test_an_exception_ends_the_trace_only(serve: Serve) -> None:
    simulator = serve(
        """
        const x = await ppx.sample(ppx.Normal(0, 1), "x");
        if (x < 0) throw new RangeError("no such channel");
        return x;
        """
    )
    words = "RangeError: no such channel (model.mjs:4 in forward)"
    new, old = simulator.connect("error"), simulator.connect()
    new.send("Run")
    assert new.send("SampleResult", -1.0)[::7] == ("Error", (words,))
    old.send("Run")
    assert old.send("SampleResult", -1.0).body == "Reset"
    for controller in (new, old):
        assert controller.send("Run").name == "x"
        assert controller.send("SampleResult", 2.0).value == 2.0
    # PPX 1.0 has no words for it, so the simulator says it on stderr.
    assert f"model: {words}\n" in simulator.stop()[1]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            'ppx.sample(ppx.Normal(0, 1), "x");\nreturn 1;',
            "the model returned before x had its answer: use await",
        ),
        (
            'const draws = ["x", "y"].map((name) => ppx.sample(ppx.Normal(0, 1), name));\nreturn Promise.all(draws);',
            "y came before x had its answer: use await",
        ),
        (
            'try { ppx.sample(ppx.Normal(0, 1), "x"); ppx.tag(1, "y"); } catch {}\nreturn 1;',
            "y came before x had its answer: use await",
        ),
    ],
)
def test_statements_that_are_not_awaited_end_the_trace_only(serve: Serve, model: str, words: str) -> None:
    controller = serve(model).connect("error")
    for _ in range(2):
        assert controller.send("Run").name == "x"
        seen = controller.send("SampleResult", 1.0)
        assert seen.body == "Error"
        assert words in seen.text[0]


def test_a_handshake_in_mid_trace_starts_afresh(serve: Serve) -> None:
    simulator = serve(
        """
        let x = 0;
        try { x = await ppx.sample(ppx.Normal(0, 1), "x"); } catch {}
        return x + await ppx.sample(ppx.Normal(0, 1), "y");
        """
    )
    first = simulator.connect()
    first.send("Run")
    second = simulator.connect("error")
    # The first controller's trace is gone: it is told so in its own words, and the second is not disturbed.
    assert first.send("SampleResult", 1.0).body == "Reset"
    assert second.send("Run").name == "x"
    assert first.send("Run").body == "Reset"
    assert second.send("SampleResult", 1.0).name == "y"
    assert second.send("SampleResult", 2.0).value == 3.0
    assert first.send("Run").name == "x"


def test_a_controller_that_vanished_in_mid_trace(serve: Serve) -> None:
    simulator = serve(LOOP)
    first = simulator.connect()
    first.send("Run")
    first.close()
    assert simulator.connect().send("Run").name == "x"


def test_messages_out_of_order(serve: Serve) -> None:
    simulator = serve(DRAW)
    controller = simulator.stranger()
    assert controller.send("Run").body == "Reset"  # as after a restart of the simulator
    controller.handshake("error")
    for body in ("SampleResult", "TagResult", "Reset"):
        assert "between traces" in controller.send(body).text[0]
    controller.send("Run")
    assert "Run where SampleResult was due" in controller.send("Run").text[0]
    assert controller.send("Run").body == "Sample"
    assert "TagResult where SampleResult was due" in controller.send("TagResult").text[0]
    assert "no message" in controller.send("Sample").text[0]
    assert controller.send("Run").body == "Sample"
    assert controller.send("SampleResult", 0.5).value == 0.5


def test_garbage_does_not_disturb_the_next_trace(serve: Serve, write: Callable[..., bytes]) -> None:
    simulator = serve(DRAW)
    controller, old = simulator.connect("error"), simulator.connect()
    rng = random.Random(1)
    valid = write("SampleResult", [1.0, 2.0])
    damaged = [rng.randbytes(size) for size in (0, 1, 3, 4, 8, 64, 64, 64, 1000)]
    damaged += [valid[:cut] for cut in range(0, len(valid), 3)]
    for data in damaged:
        assert controller.raw(data).body == "Error"
        controller.send("Run")
        assert controller.raw(data).body == "Error"
    for _ in range(300):  # whatever the bytes say, there is one answer
        changed = bytearray(valid)
        changed[rng.randrange(len(changed))] = rng.randrange(256)
        controller.send("Run")
        assert controller.raw(bytes(changed)).body in ("Error", "RunResult")
    assert old.raw(b"garbage").body == "Reset"
    controller.send("Run")
    assert controller.send("SampleResult", 1.0).value == 1.0
    assert "no message of PPX" in simulator.stop()[1]


def test_an_address_in_use(serve: Serve) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        code, output = serve(DRAW, endpoint=endpoint).end()
    assert code == 1
    assert f"model cannot bind {endpoint}" in output
    assert "PPX_BIND" in output


def test_only_this_machine_is_served_by_default(serve: Serve) -> None:
    simulator = serve("process.kill(process.pid);", endpoint="")
    assert simulator.process.stderr.readline().startswith("model: serving PPX at tcp://127.0.0.1:5555")


def test_so_many_controllers_are_remembered(serve: Serve) -> None:
    simulator = serve(DRAW)
    first, *others = [simulator.connect() for _ in range(257)]
    assert first.send("Run").body == "Reset"
    for controller in others[:20]:
        assert controller.send("Run").body == "Sample"
        assert controller.send("SampleResult", 1.0).value == 1.0

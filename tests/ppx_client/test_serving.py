"""Serving: signals, errors, garbage, controllers that come and go."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ppx_client as ppx

Serve = Callable[..., Any]
LOOP = "while True:\n    ppx.sample(ppx.Normal(0.0, 1.0), name='x')"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_between_traces_end_the_process_with_0(serve: Serve, number: signal.Signals) -> None:
    simulator = serve("return 1.0")
    simulator.connect().handshake()
    code, output = simulator.stop(number)
    assert code == 0
    assert output == f"model: serving PPX at {simulator.endpoint}\n"
    assert not os.path.exists(simulator.endpoint.removeprefix("ipc://"))


@pytest.mark.parametrize("model", [LOOP, "while True: pass", "import time; time.sleep(60)"])
def test_signals_in_mid_trace_end_the_process_with_0(serve: Serve, model: str) -> None:
    simulator = serve(model)
    controller = simulator.connect()
    controller.handshake()
    if model is LOOP:
        controller.send("Run")
        controller.send("SampleResult", 0.0)
    else:
        controller.start("Run")
        time.sleep(0.1)
    assert simulator.stop()[0] == 0


@pytest.mark.parametrize("exception", ["ValueError('no such channel')", "SystemExit(3)"])
def test_an_exception_ends_the_trace_only(serve: Serve, exception: str) -> None:
    simulator = serve(
        f"""
        scope = ppx.scope("left open")
        scope.__enter__()
        x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
        if x < 0.0:
            raise {exception}
        return x
        """
    )
    new = simulator.connect()
    new.handshake("error")
    new.send("Run")
    seen = new.send("SampleResult", -1.0)
    assert seen.body == "Error"
    kind, message = exception.removesuffix(")").split("(")
    message = message.strip("'")
    assert seen.text[0] == f"{kind}: {message} (model.py:9 in forward)"
    assert new.send("Run").address == "left open/x"
    assert new.send("SampleResult", 2.0).value == 2.0

    old = simulator.connect()
    old.handshake()
    old.send("Run")
    assert old.send("SampleResult", -1.0).body == "Reset"
    assert old.send("Run").address == "left open/x"
    assert old.send("SampleResult", 2.0).value == 2.0
    # PPX 1.0 has no words for it, so the simulator says it on stderr.
    assert f"{kind}: {message} (model.py:9 in forward)" in simulator.stop()[1]


def test_a_handshake_in_mid_trace_starts_afresh(serve: Serve) -> None:
    simulator = serve(
        """
        try:
            x = ppx.sample(ppx.Normal(0.0, 1.0), name="x")
        except BaseException:
            x = 0.0
        return x + ppx.sample(ppx.Normal(0.0, 1.0), name="y")
        """
    )
    first = simulator.connect()
    first.handshake()
    first.send("Run")
    second = simulator.connect()
    assert second.handshake("error").body == "HandshakeResult"
    # The first controller's trace is gone: it is told so in its own words, and the second is not disturbed.
    assert first.send("SampleResult", 1.0).body == "Reset"
    assert second.send("Run").name == "x"
    assert second.send("SampleResult", 1.0).name == "y"
    assert second.send("SampleResult", 2.0).value == 3.0


def test_a_controller_that_vanished_in_mid_trace(serve: Serve) -> None:
    simulator = serve(LOOP)
    first = simulator.connect()
    first.handshake()
    first.send("Run")
    first.close()
    second = simulator.connect()
    second.handshake()
    assert second.send("Run").name == "x"


def test_messages_out_of_order(serve: Serve) -> None:
    simulator = serve("return ppx.sample(ppx.Normal(0.0, 1.0), name='x')")
    controller = simulator.connect()
    assert controller.send("Run").body == "Reset"  # the simulator cannot know what this controller can do
    controller.handshake("error")
    for body in ("SampleResult", "TagResult", "Reset"):
        assert "between traces" in controller.send(body).text[0]
    controller.send("Run")
    assert "RUN where SAMPLE_RESULT was due" in controller.send("Run").text[0]
    controller.send("Run")
    assert "TAG_RESULT" in controller.send("TagResult").text[0]
    assert "controllers do not send" in controller.send("Sample").text[0]
    controller.send("Run")
    assert controller.send("SampleResult", 0.5).value == 0.5


def test_garbage_does_not_disturb_the_next_trace(serve: Serve, wire: Any) -> None:
    simulator = serve("return ppx.sample(ppx.Normal(0.0, 1.0), name='x')")
    controller = simulator.connect()
    controller.handshake("error")
    rng = random.Random(1)
    for size in (0, 1, 3, 4, 8, 64, 64, 64, 1000):
        assert controller.raw(rng.randbytes(size)).body == "Error"
        controller.send("Run")
        assert controller.raw(rng.randbytes(size)).body == "Error"
    valid = wire.write("SampleResult", 1.0)
    for cut in range(0, len(valid), 3):
        controller.send("Run")
        assert controller.raw(valid[:cut]).body == "Error"
    controller.send("Run")
    assert controller.send("SampleResult", 1.0).value == 1.0


def test_an_address_in_use(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPX_BIND", "tcp://127.0.0.1:*")
    import zmq

    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(ppx.ServeError, match=rf"'gauss' cannot bind tcp://127.0.0.1:{port}.*PPX_BIND"):
            ppx.serve(lambda: None, "gauss", address=f"tcp://127.0.0.1:{port}")
    with pytest.raises(ppx.ServeError, match="nonsense"):
        ppx.serve(lambda: None, "gauss", address="nonsense")


def test_forward_that_needs_arguments() -> None:
    def forward(x: float) -> float:
        return x

    with pytest.raises(ppx.ServeError, match=r"cannot be called without arguments.*functools\.partial"):
        ppx.serve(forward, "gauss")  # type: ignore[arg-type]
    assert partial(forward, 1.0)() == 1.0


def test_signal_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(ppx.ServeError):
        ppx.serve(lambda: None, "gauss", address="nonsense")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_default_address_is_loopback(tmp_path: Path) -> None:
    script = tmp_path / "model.py"
    script.write_text(
        "import ppx_client as ppx\nppx.serve(lambda: None, 'model', address='tcp://127.0.0.1:*')\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.terminate()
        assert process.wait(10) == 0
    assert line.startswith("model: serving PPX at tcp://127.0.0.1:")
    assert int(line.rsplit(":", 1)[1]) > 0

"""Draws on other threads are followed; draws in other processes, or without order, make the trace fail by name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ppx_inference import Simulator
from ppx_server.address import Address
from ppx_server.errors import PPXError
from ppx_server.executor import FailurePolicy
from ppx_server.script import ScriptBatch
from ppx_server.trace import TraceBatch

SCRIPT = str(Path(__file__).with_name("drawing_elsewhere.py"))
Execute = Callable[..., TraceBatch]


@pytest.fixture(scope="module", params=[True, False], ids=["batches", "draw by draw"])
def execute(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Execute]:
    """Runs three traces of the model of a name."""
    chosen = tmp_path_factory.mktemp("elsewhere") / "model"
    command = [sys.executable, SCRIPT, str(chosen)]
    policy = FailurePolicy(most=1.0)
    with Simulator(command, num_workers=1, timeout=30, batches=request.param, policy=policy) as simulator:

        def run(model: str, forced: float | None = None) -> TraceBatch:
            chosen.write_text(model)
            script = ScriptBatch.empty(7, range(3))
            if forced is not None:
                coin = simulator.addresses.intern(Address("coin", "coin", "Categorical", ()))
                script = replace(
                    script,
                    offsets=np.arange(4),
                    address_id=np.full(3, coin, np.int32),
                    instance=np.zeros(3, np.int32),
                    value=np.full(3, forced),
                    z=np.full(3, np.nan),
                )
            return simulator.execute(script, None)

        yield run


def reason(execute: Execute, model: str, forced: float | None = None) -> str:
    """Why traces of a model fail."""
    try:
        failures = execute(model, forced).failures
    except PPXError as error:
        return str(error)
    return " ".join(failures.values())


@pytest.mark.parametrize("way", ["on_thread", "executor", "thread_pool", "kept", "in_context", "nested"])
def test_threads_that_the_model_waits_for_are_followed(execute: Execute, way: str) -> None:
    expected, found = execute("directly"), execute(way)
    assert found.failures == {}
    np.testing.assert_array_equal(found.value, expected.value)
    np.testing.assert_array_equal(found.results.data, expected.results.data)
    # Scopes are followed, too.
    assert {found.addresses[i].address for i in found.address_id} == {"x", "inner/x"}


def test_patched_functions_are_followed(execute: Execute) -> None:
    found = execute("patched")
    assert found.failures == {}
    assert found.length.tolist() == [5, 5, 5]


@pytest.mark.parametrize("model", ["refused", "waits_for_ever"])
def test_the_end_of_a_trace_on_a_thread_ends_it(execute: Execute, model: str) -> None:
    assert re.search("there are 2 categories|sent 7.0 for coin", reason(execute, model, forced=7.0))


def test_a_thread_that_outlives_its_trace_is_named(execute: Execute) -> None:
    assert "at work when the trace began" in reason(execute, "outlives")


def test_threads_that_draw_at_the_same_time_are_named(execute: Execute) -> None:
    assert "draw at the same time" in reason(execute, "together")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
@pytest.mark.parametrize("model", [
    "forked", "forked_thread", "forked_observe", "forked_tag", "forked_generator", "forked_patched", "fork_pool",
    "early_pool",
])  # fmt: skip
def test_draws_in_forked_processes_are_named(execute: Execute, model: str) -> None:
    why = reason(execute, model)
    assert "made in a forked process (drawing_elsewhere.py:" in why
    assert "draw in the process that serves the model, and hand the numbers to its children" in why


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_draws_in_spawned_processes_are_named(execute: Execute) -> None:
    assert "made in a child process (drawing_elsewhere.py:" in reason(execute, "spawn_pool")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
def test_forked_processes_that_do_not_draw_are_left_alone(execute: Execute) -> None:
    assert execute("runs_on").results.data.tolist() == [1.0] * 3
    assert execute("exits").results.data.tolist() == [3.0] * 3


def test_threads_that_live_at_the_same_time_are_told_once(tmp_path: Path) -> None:
    chosen = tmp_path / "model"
    chosen.write_text("several")
    command = [sys.executable, SCRIPT, str(chosen)]
    with (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            command, stderr=stderr, env=os.environ | {"PPX_BIND": f"ipc://{tmp_path}/s"}
        )
        try:
            with Simulator(address=f"ipc://{tmp_path}/s") as simulator:
                assert simulator.prior(5).failures == {}
        finally:
            process.terminate()
            process.wait(20)
    told = [line for line in (tmp_path / "stderr").read_text().splitlines() if "ppx: " in line]
    assert len(told) == 1
    assert "their order is left to chance" in told[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
def test_without_a_controller_forked_processes_have_numbers_of_their_own() -> None:
    code = """
import os, sys
import ppx_client as ppx

def forked():
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, repr([ppx.sample(ppx.Normal(0.0, 1.0)) for _ in range(2)]).encode())
        os._exit(0)
    return eval(os.read(read, 100))

if sys.argv[1] == "early":
    ppx.sample(ppx.Normal(0.0, 1.0))
print(forked() + forked() + [ppx.sample(ppx.Normal(0.0, 1.0)) for _ in range(2)])
"""
    for when in ("early", "late"):
        command = [sys.executable, "-c", code, when]
        environment = os.environ | {"PPX_SEED": "3"}
        line = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert len(set(line.split(","))) == 6

"""One `Simulator` used by threads, by itself from within, by forked processes; and very many of them."""

from __future__ import annotations

import gc
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ppx_inference import Simulator
from ppx_server.errors import ArgumentError, LocalProtocolError, PPXError, SimulatorStartError
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.transport import Channel, context_for
from tests.integration.faults import HERE, in_python
from tests.integration.test_executor import command

NUM_TRACES = 200


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(command("gaussian"), num_workers=2) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def alone(sim: Simulator) -> list[np.ndarray]:
    """What one thread gets, for each of some seeds."""
    return [sim.prior(NUM_TRACES, seed=seed).value for seed in range(6)]


def test_threads_that_share_a_simulator_get_what_one_alone_gets(sim: Simulator, alone: list) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda seed: sim.prior(NUM_TRACES, seed=seed).value, range(6)))
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_guide_that_executes_on_its_own_simulator_is_refused(sim: Simulator, alone: list) -> None:
    class Guide:
        def begin(self, num_traces, addresses):
            sim.prior(1)

    scripts = ScriptBatch.empty(1, [0], Otherwise.ASK)
    with pytest.raises(LocalProtocolError, match="while this thread executes some on it, as from a guide"):
        sim.execute(scripts, None, Guide())
    np.testing.assert_array_equal(sim.prior(NUM_TRACES, seed=1).value, alone[1])


def test_ctrl_c_reaches_a_thread_that_waits_for_its_turn(sim: Simulator, alone: list) -> None:
    begun, end = threading.Event(), threading.Event()

    class Guide:
        def begin(self, num_traces, addresses):
            begun.set()
            end.wait(60)
            raise ValueError("enough")

    def run() -> None:
        with pytest.raises(ValueError, match="enough"):
            sim.execute(ScriptBatch.empty(1, [0], Otherwise.ASK), None, Guide())

    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    thread = threading.Thread(target=run)
    thread.start()
    begun.wait(60)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            sim.prior(1)
    finally:
        signal.signal(signal.SIGALRM, previous)
        end.set()
        thread.join()
    np.testing.assert_array_equal(sim.prior(NUM_TRACES, seed=1).value, alone[1])


@pytest.mark.parametrize("batches", [True, False])
def test_closing_ends_what_another_thread_executes(batches: bool, nothing_left: Path) -> None:
    caught: list[PPXError] = []

    def run() -> None:
        try:
            simulator.prior(100_000)
        except PPXError as error:
            caught.append(error)

    simulator = Simulator(in_python("none", np.inf, 0.001), num_workers=1, batches=batches)
    simulator.prior(1)
    thread = threading.Thread(target=run)
    thread.start()
    _wait_until_busy(simulator)
    simulator.close()
    thread.join()
    assert "was closed while it was executing" in str(caught[0])
    with pytest.raises(LocalProtocolError, match="is closed; open a new one"):
        simulator.prior(1)


def test_a_signal_handler_may_close(nothing_left: Path) -> None:
    def kill() -> None:
        _wait_until_busy(simulator)
        os.kill(os.getpid(), signal.SIGALRM)

    simulator = Simulator(in_python("none", np.inf, 0.001), num_workers=1)
    previous = signal.signal(signal.SIGALRM, lambda number, frame: simulator.close())
    thread = threading.Thread(target=kill)
    try:
        thread.start()
        with pytest.raises(LocalProtocolError, match="was closed while it was executing"):
            simulator.prior(100_000)
    finally:
        thread.join()
        signal.signal(signal.SIGALRM, previous)
    simulator.close()


def _wait_until_busy(simulator: Simulator) -> None:
    while not simulator._executor._turns._thread:
        time.sleep(0.01)


def _use(sim: Simulator) -> None:
    with pytest.raises(
        LocalProtocolError, match=rf"opened in process {os.getppid()} .* process {os.getpid()}"
    ):
        sim.prior(1)


def _collect(sim: Simulator) -> None:
    simulators = [sim]
    sim.__dict__.clear()
    simulators.clear()
    gc.collect()


@pytest.mark.parametrize(
    "what", [_use, _collect, Simulator.close, lambda sim: sim.__exit__(None, None, None), lambda sim: None]
)
def test_a_forked_process_leaves_its_parents_simulator_alone(
    what: Callable[[Simulator], object], sim: Simulator, alone: list
) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            what(sim)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(sim.prior(NUM_TRACES, seed=1).value, alone[1])


def test_forked_processes_end_as_others_do_and_open_their_own(nothing_left: Path) -> None:
    """With what Python does at exit; and simulators die with the controller though a forked process lives on."""
    code = f"""
import multiprocessing, os, sys, time
from ppx_inference import Simulator
from ppx_server.errors import PPXError
sim = Simulator({command("gaussian")!r}, num_workers=1)
values = sim.prior(5).value.tolist()
def use(i):
    try:
        sim.prior(1)
    except PPXError as error:
        return "forked off" in str(error)
def own(i):
    with Simulator({command("gaussian")!r}, num_workers=1) as other:
        return other.prior(5).value.tolist() == values
fork = multiprocessing.get_context("fork")
for task in (use, own):
    with fork.Pool(1) as pool:
        assert pool.map(task, [0]) == [True], task
child = os.fork()
if child == 0:
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert sim.prior(5).value.tolist() == values
if os.fork() == 0:
    time.sleep(20)
    os._exit(0)
print(sim._executor._workers[0]._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == -9
    deadline = time.monotonic() + 10
    while Path(f"/proc/{done.stdout.strip()}/exe").exists() or any(nothing_left.glob("ppx-*")):
        assert time.monotonic() < deadline, "the simulator outlives its controller"
        time.sleep(0.05)


def test_a_simulator_cannot_be_pickled(sim: Simulator) -> None:
    with pytest.raises(ArgumentError, match="cannot be sent to another process"):
        pickle.dumps(sim)


def test_there_are_sockets_for_more_simulators_than_zeromq_has_by_default(tmp_path: Path) -> None:
    context = context_for(400)
    channels = [Channel(context, f"ipc://{tmp_path}/socket", 1 << 20) for _ in range(400)]
    for channel in channels:
        channel.close()
    context.destroy()


def test_more_simulators_than_there_can_be_are_refused() -> None:
    with pytest.raises(SimulatorStartError, match=r"40,000 simulators are too many .* 65,535"):
        context_for(40_000)
    code = """
import resource
from ppx_inference import Simulator
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
for num_workers in (50, 500):
    try:
        Simulator(["true"], num_workers=num_workers)
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    few, many = done.stdout.splitlines()
    assert re.fullmatch(
        r"SimulatorStartError 50 simulators need 2\d\d open files, and this process may have 200: raise the limit "
        r"\(ulimit -n 2\d\d\) or open fewer",
        few,
    )
    assert "the hard limit of 300 must be raised" in many


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": []}, "the list of addresses is empty"),
        ({"address": 5555}, "an address is text such as 'tcp://host:5555'.*not 5555"),
        ({"address": ["tcp://a:1", "tcp://b:1", "tcp://a:1"]}, "the address 'tcp://a:1' is given twice"),
        ({"address": "tcp://a:1", "cwd": "."}, "a running simulator has its own directory"),
        ({"command": "true", "address": "tcp://a:1"}, "either a command"),
        ({"command": "true", "num_workers": 0}, "num_workers must be at least 1, not 0"),
        ({"command": "true", "num_workers": 2.0}, "num_workers must be a whole number, not 2.0; write 2"),
        ({"command": "true", "timeout": -1}, "timeout must be a number of seconds above 0, not -1"),
        ({"command": "true", "timeout": "3"}, "timeout must be a number of seconds above 0, not '3'"),
        ({"command": "true", "start_timeout": np.nan}, "start_timeout must be .* not nan"),
        ({"command": "true", "memory_limit": 0.5}, "memory_limit must be a whole number, not 0.5"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Simulator(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_traces": 100.5}, "num_traces must be a whole number, not 100.5"),
        ({"num_traces": -1}, "num_traces must be at least 1, not -1"),
        ({"num_traces": 5, "seed": -1}, "seed must be at least 0, not -1"),
        ({"num_traces": 5, "seed": 2**64}, "seed must be at most 18446744073709551615"),
    ],
)
def test_wrong_counts_and_seeds_are_refused(arguments: dict, message: str, sim: Simulator) -> None:
    with pytest.raises(ArgumentError, match=message):
        sim.prior(**arguments)


def test_a_start_takes_as_long_as_it_was_given(nothing_left: Path) -> None:
    slow = [sys.executable, str(HERE / "directory_models.py"), "sleeps"]
    with pytest.raises(SimulatorStartError, match=r"within 0\.2 s.* raise start_timeout \(--start-timeout\)"):
        Simulator(slow, num_workers=1, timeout=60.0, start_timeout=0.2)
    for seconds, expected in ((3.0, 30.0), (90.0, 90.0)):
        with Simulator(command("gaussian"), num_workers=1, timeout=seconds) as simulator:
            assert simulator._executor._workers[0].config.start_timeout == expected

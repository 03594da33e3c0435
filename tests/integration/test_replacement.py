"""Simulators are replaced without leaks, without a stop, and without waiting for those that cannot be."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from ppx_inference.simulator import Simulator
from ppx_server.address import AddressTable
from ppx_server.executor import FailurePolicy
from ppx_server.script import Ask, Choice, Otherwise, ScriptBatch
from ppx_server.trace import DrawFlag, Status, TraceBatch
from tests.integration.faults import HERE, assert_same, in_python
from tests.integration.guides import PriorGuide

pytestmark = pytest.mark.usefixtures("nothing_left")

Cpp = Callable[[str, float], tuple[str, ...]]


def resident_bytes() -> int:
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_restarts_leak_no_file_descriptors(in_cpp: Cpp) -> None:
    policy = FailurePolicy(retries=0, most=1.0)
    with Simulator(in_cpp("segfault", 1.0), num_workers=2, policy=policy) as sim:
        sim.prior(20, seed=4)
        before, memory = open_files(), resident_bytes()
        traces = sim.prior(200, seed=4)
        assert (traces.status == Status.FAILED).sum() > 20
        assert open_files() <= before + 10  # ZeroMQ closes sockets a little later
        assert resident_bytes() < memory + (1 << 25)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_guided_traces_outlast_crashes_too(num_workers: int, in_cpp: Cpp) -> None:
    with Simulator(in_cpp("none", np.inf), num_workers=1) as sim:
        expected = sim.prior(300, seed=4)
    first = expected.value[expected.offsets[:-1]]
    failed = np.flatnonzero(first > 2.0)
    assert len(failed)
    with Simulator(in_cpp("segfault", 2.0), num_workers=num_workers, keep_uncontrolled=True) as sim:
        scripts = ScriptBatch.empty(4, np.arange(300), Otherwise.ASK)
        traces = sim.execute(scripts, None, PriorGuide())
    assert sorted(traces.failures) == failed.tolist()
    kept = np.flatnonzero(traces.status == Status.OK)
    np.testing.assert_array_equal(kept, np.setdiff1d(np.arange(300), failed))
    found = traces.select(kept)
    assert ((found.flags & DrawFlag.GUIDED) != 0).all()
    np.testing.assert_allclose(found.value, expected.select(kept).value, rtol=1e-12)


class KillingGuide:
    """Chooses draw by draw what the prior would; at its first choice the simulator is killed."""

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim
        self.killed: int | None = None

    def begin(self, num_traces: int, addresses: AddressTable) -> None:
        """Nothing to prepare."""

    def choose(self, asks: Sequence[Ask], normals: np.ndarray) -> list[Choice]:
        """A choice for every draw."""
        process = self.sim._executor._workers[0]._process
        if self.killed is None and process is not None:
            self.killed = process.pid
            os.killpg(process.pid, signal.SIGKILL)
        return [Choice(math.nan, z, 0.0) for z in normals[:, 0].tolist()]

    def restart(self, slot: int) -> None:
        """Nothing to forget."""


def test_a_simulator_replaced_in_a_run_draw_by_draw_numbers_its_addresses_anew(nothing_left: Path) -> None:
    with Simulator(in_python("none", np.inf), num_workers=1) as sim:
        expected = sim.prior(50, seed=4)
        guide = KillingGuide(sim)
        guided = sim.execute(ScriptBatch.empty(4, np.arange(20), Otherwise.ASK), None, guide)
        assert guide.killed is not None
        assert (guided.status == Status.OK).all()
        assert_same(sim.prior(50, seed=4), expected)


@pytest.mark.slow
def test_a_trace_that_hangs_does_not_hold_up_the_others(in_cpp: Cpp) -> None:
    with Simulator(in_cpp("none", np.inf), num_workers=1) as sim:
        expected = sim.prior(20_000, seed=4)
    first = expected.value[expected.offsets[:-1]]
    hanging = int(np.argmax(first))
    threshold = float(np.sort(first)[-2:].mean())
    with Simulator(in_cpp("hang", threshold), num_workers=2, timeout=2.0) as sim:
        found: list[TraceBatch] = []
        thread = threading.Thread(target=lambda: found.append(sim.prior(20_000, seed=4)))
        thread.start()
        thread.join(1.5)
        # The other simulator has done all but what the first one holds: a batch, and the one after it.
        assert sim._executor._tally.num_executed > 15_000
        thread.join()
    assert_same(found[0], expected, [hanging])


@pytest.mark.parametrize("batches", [True, False])
def test_the_run_goes_on_with_the_simulators_that_can_be_started(batches: bool, nothing_left: Path) -> None:
    """The second process and those after the first two are killed at once, and no more can be started."""
    with Simulator(in_python("none", np.inf), num_workers=1, batches=batches) as sim:
        expected = sim.prior(600, seed=4)
    program = nothing_left / "program"
    program.write_text("#!/bin/sh\n" + " ".join(in_python("none", np.inf, 0.0005)) + "\n")
    program.chmod(0o755)
    with Simulator([str(program)], num_workers=2, batches=batches) as sim:
        sim.prior(1)
        program.write_text("#!/bin/sh\nexit 1\n")
        process = sim._executor._workers[0]._process
        assert process is not None
        os.killpg(process.pid, signal.SIGKILL)
        assert_same(sim.prior(600, seed=4), expected)
        assert [worker.ready for worker in sim._executor._workers] == [False, True]
        assert_same(sim.prior(600, seed=4), expected)


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.3, 0.7])
def test_interrupting_while_simulators_restart_leaves_nothing_and_goes_on(
    seconds: float, in_cpp: Cpp
) -> None:
    policy = FailurePolicy(most=1.0)
    with Simulator(in_cpp("segfault", 0.0), num_workers=2, policy=policy) as sim:
        ctrl_c = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
        ctrl_c.start()
        with pytest.raises(KeyboardInterrupt):
            sim.prior(20_000, seed=4)
        traces = sim.prior(8, seed=4)
    with Simulator(in_cpp("none", np.inf), num_workers=1) as sim:
        expected = sim.prior(8, seed=4)
    first = expected.value[expected.offsets[:-1]]
    assert_same(traces, expected, np.flatnonzero(first > 0.0).tolist())


def test_a_guard_that_was_killed_is_replaced(nothing_left: Path) -> None:
    code = f"""
import os, signal
from ppx_inference.simulator import Simulator
from ppx_server.guard import guard
command = {list(in_python("none", np.inf))!r}
one = Simulator(command, num_workers=1)
os.kill(guard._process.pid, signal.SIGKILL)
guard._process.wait()
two = Simulator(command, num_workers=1)
print(*[sim._executor._workers[0]._process.pid for sim in (one, two)], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = str(HERE.parents[1])
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in ended.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids) or list(nothing_left.glob("ppx-*")):
        assert time.monotonic() < deadline, "simulators or folders are left"
        time.sleep(0.02)

"""Simulators at addresses come and go and serve several controllers; controllers sleep and are killed."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ppx_inference.simulator import Simulator
from ppx_server.errors import SimulatorError, SimulatorStartError
from ppx_server.executor import Executor, FailurePolicy
from ppx_server.observations import ObservationSet
from ppx_server.script import ScriptBatch
from ppx_server.trace import TraceBatch
from ppx_server.worker import WorkerConfig
from tests.integration.faults import HERE, SERVE, assert_same, in_python

pytestmark = pytest.mark.usefixtures("nothing_left")

NUM_TRACES, SEED = 1500, 4
OBSERVED = {"y": 1.0}
PACE = 0.0005
"""Seconds a trace takes, so that it is in mid-run that things happen."""
PATIENT = FailurePolicy(retries=20)


@pytest.fixture(scope="module")
def undisturbed() -> TraceBatch:
    with Simulator(in_python("none", np.inf), num_workers=1) as sim:
        return sim.prior(NUM_TRACES, seed=SEED, observations=OBSERVED)


class Owner:
    """Who runs a simulator at an address, kills it and starts it again."""

    def __init__(self, address: str, command: tuple[str, ...]) -> None:
        self.address = address
        self.command = command
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PPX_BIND": self.address}
        self.process = subprocess.Popen(self.command, env=environment, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()


@pytest.fixture
def owners(nothing_left: Path) -> Iterator[Callable[..., list[Owner]]]:
    """Simulators at addresses: `owners(count, *command)`."""
    running: list[Owner] = []

    def start(count: int, command: tuple[str, ...] = in_python("none", np.inf, PACE)) -> list[Owner]:
        running.extend(Owner(f"ipc://{nothing_left}/{i}", command) for i in range(count))
        return running

    yield start
    for owner in running:
        owner.kill()


@contextmanager
def meanwhile(action: Callable[[], None], *pauses: float) -> Iterator[None]:
    """Does something after each of the pauses, while the block goes on."""
    ended = threading.Event()

    def act() -> None:
        for pause in pauses:
            if not ended.wait(pause):
                action()

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def prior(sim: Simulator) -> TraceBatch:
    return sim.prior(NUM_TRACES, seed=SEED, observations=OBSERVED)


@pytest.mark.parametrize("batches", [True, False])
def test_simulators_killed_at_random_moments_lose_no_trace(batches: bool, undisturbed: TraceBatch) -> None:
    random = np.random.default_rng(1)
    kills = []
    with Simulator(in_python("none", np.inf, PACE), num_workers=2, batches=batches, policy=PATIENT) as sim:

        def kill() -> None:
            process = random.choice(sim._executor._workers)._process
            if process is not None:
                os.kill(process.pid, signal.SIGKILL)
                kills.append(process.pid)

        with meanwhile(kill, *random.uniform(0.05, 0.5, 6)):
            assert_same(prior(sim), undisturbed)
        assert kills
        assert_same(prior(sim), undisturbed)


def test_a_simulator_its_owner_restarts_in_mid_run_is_found_again(
    owners: Callable[..., list[Owner]], undisturbed: TraceBatch
) -> None:
    (owner,) = owners(1)
    with Simulator(address=owner.address, policy=PATIENT) as sim:
        with meanwhile(owner.restart, 0.2, 1.0):
            assert_same(prior(sim), undisturbed)
        owner.restart()  # between two runs
        assert_same(prior(sim), undisturbed)


@pytest.mark.parametrize("batches", [True, False])
def test_a_restart_between_runs_costs_no_trace(
    batches: bool, owners: Callable[..., list[Owner]], undisturbed: TraceBatch
) -> None:
    (owner,) = owners(1)
    with Simulator(address=owner.address, batches=batches, policy=FailurePolicy(retries=0)) as sim:
        for _ in range(2):
            assert_same(sim.prior(5, seed=SEED, observations=OBSERVED), undisturbed.select(np.arange(5)))
            owner.restart()


def test_simulators_that_are_gone_for_good_are_done_without(
    owners: Callable[..., list[Owner]], undisturbed: TraceBatch
) -> None:
    one, other = owners(2)
    with Simulator(address=[one.address, other.address], policy=PATIENT, start_timeout=20.0) as sim:
        with meanwhile(one.kill, 0.2):
            assert_same(prior(sim), undisturbed)
        began = time.monotonic()
        assert_same(prior(sim), undisturbed)
        assert time.monotonic() - began < 15.0  # it did not wait for the one that is gone
        one.start()
        assert_same(prior(sim), undisturbed)


def test_a_run_ends_when_all_simulators_are_gone_and_another_can_begin(
    owners: Callable[..., list[Owner]], undisturbed: TraceBatch
) -> None:
    def kill_all() -> None:
        for owner in both:
            owner.kill()

    both = owners(2)
    with Simulator(address=[owner.address for owner in both], start_timeout=6.0) as sim:
        with (
            meanwhile(kill_all, 0.2),
            pytest.raises(SimulatorStartError, match="no simulator answered") as caught,
        ):
            prior(sim)
        finished = caught.value.completed
        assert finished is not None
        assert_same(finished, undisturbed.select(finished.index))
        with pytest.raises(SimulatorStartError, match="no simulator answered"):
            prior(sim)
        both[1].start()
        assert_same(prior(sim), undisturbed)


def test_a_simulator_that_becomes_another_model_is_refused(
    owners: Callable[..., list[Owner]],
) -> None:
    (owner,) = owners(1)
    with Simulator(address=owner.address) as sim:
        prior(sim)
        owner.command = in_python("raise", np.inf, PACE)  # its fingerprint differs
        owner.restart()
        with pytest.raises(SimulatorError, match="has become another"):
            prior(sim)


def test_a_simulator_that_is_restarted_while_it_is_greeted_is_greeted_again(
    owners: Callable[..., list[Owner]], undisturbed: TraceBatch
) -> None:
    def become_able() -> None:
        owner.command = in_python("none", np.inf)
        owner.restart()

    (owner,) = owners(1, (*SERVE, "mute"))
    with meanwhile(become_able, 1.0), Simulator(address=owner.address, start_timeout=20.0) as sim:
        assert_same(prior(sim), undisturbed)


@pytest.mark.parametrize("ways", [(True, True), (True, False)], ids=["batches", "both ways"])
def test_two_controllers_share_a_simulator(
    ways: tuple[bool, bool], owners: Callable[..., list[Owner]], undisturbed: TraceBatch
) -> None:
    (owner,) = owners(1)
    found: dict[int, TraceBatch] = {}

    def run(number: int) -> None:
        with Simulator(address=owner.address, batches=ways[number]) as sim:
            for start in range(0, NUM_TRACES, 100):
                part = ScriptBatch.empty(SEED, np.arange(start, start + 100))
                traces = sim.execute(part, OBSERVED)
                found[number] = TraceBatch.concatenate([found[number], traces]) if start else traces

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(found[0], undisturbed)
    assert_same(found[1], undisturbed)


def controller(out: Path, *where: str) -> subprocess.Popen[str]:
    """A controller in a process of its own, which has begun."""
    command = [sys.executable, str(HERE / "controller.py"), str(out), str(NUM_TRACES), str(SEED), *where]
    root = str(HERE.parents[1])
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline() == "begun\n"
    return process


def test_more_controllers_than_a_simulator_remembers_lose_no_trace(
    owners: Callable[..., list[Owner]], undisturbed: TraceBatch
) -> None:
    (owner,) = owners(1, in_python("none", np.inf))
    with Executor([WorkerConfig(address=owner.address)] * 20, FailurePolicy(retries=0)) as executor:
        for _ in range(2):
            traces = executor.execute(ScriptBatch.empty(SEED, np.arange(NUM_TRACES)), OBSERVED)
            assert_same(traces, undisturbed)


def test_a_killed_controller_leaves_the_simulator_to_the_next(
    owners: Callable[..., list[Owner]], undisturbed: TraceBatch, nothing_left: Path
) -> None:
    (owner,) = owners(1)
    for _ in range(2):
        with controller(nothing_left / "out", owner.address) as process:
            process.kill()
        assert not (nothing_left / "out").exists()
    with controller(nothing_left / "out", owner.address) as process:
        assert process.wait() == 0
    np.testing.assert_array_equal(np.load(nothing_left / "out"), undisturbed.value)


def test_a_controller_that_sleeps_in_mid_run_loses_nothing(
    owners: Callable[..., list[Owner]], undisturbed: TraceBatch, nothing_left: Path
) -> None:
    (owner,) = owners(1)
    with controller(nothing_left / "out", owner.address) as process:
        for _ in range(3):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.02)
        assert process.wait() == 0
    np.testing.assert_array_equal(np.load(nothing_left / "out"), undisturbed.value)


def test_a_killed_controller_leaves_no_process_and_no_folder(nothing_left: Path) -> None:
    with controller(nothing_left / "out", *in_python("none", np.inf, PACE)) as process:
        assert len(list(nothing_left.glob("ppx-*"))) == 2
        process.kill()
    deadline = time.monotonic() + 10
    while list(nothing_left.glob("ppx-*")):
        assert time.monotonic() < deadline, "folders are left"
        time.sleep(0.02)


@pytest.mark.slow
def test_an_observation_of_100_megabytes_is_sent_once(nothing_left: Path) -> None:
    size = 12_500_000
    image = np.zeros(size)
    image[0] = 0.25
    file = nothing_left / "sizes"
    command = (*SERVE, "between", "sizes", str(file), "image", str(size))
    before = peak_bytes()
    with Simulator(command, num_workers=1) as sim:
        traces = [sim.prior(n, seed=SEED, observations=ObservationSet({"image": image})) for n in (1, 6)]
    sizes = np.array(file.read_text().split(), int)
    assert sizes.sum() < 2.1 * image.nbytes  # two sets
    assert len(sizes) > 4
    assert peak_bytes() - before < 6 * image.nbytes
    np.testing.assert_array_equal(traces[0].value, traces[1].value[:1])
    expected = -0.5 * ((0.25 - traces[1].value) / 0.5) ** 2
    np.testing.assert_allclose(np.diff(traces[1].log_likelihood), np.diff(expected), rtol=1e-6)
    assert len(traces[1].observations.data) == 0


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

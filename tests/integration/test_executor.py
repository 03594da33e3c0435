"""The executor against real simulator processes: what comes back, and what happens when they misbehave."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ppx_inference.simulator import Simulator
from ppx_server.address import Address
from ppx_server.errors import (
    ObservationError,
    SimulatorCrashError,
    SimulatorError,
    SimulatorFailedError,
    SimulatorStartError,
    SimulatorTimeoutError,
)
from ppx_server.executor import FailurePolicy
from ppx_server.observations import ObservationSet
from ppx_server.philox import uniforms
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import DrawFlag, Status
from tests.integration.faults import descendants

MODELS = Path(__file__).with_name("models.py")


def command(name: str) -> list[str]:
    return [sys.executable, str(MODELS), name]


@pytest.fixture(scope="module")
def gaussian():
    with Simulator(command("gaussian"), num_workers=2) as sim:
        yield sim


@pytest.fixture(scope="module")
def mixed():
    with Simulator(command("mixed"), num_workers=2, keep_uncontrolled=True) as sim:
        yield sim


def test_prior_traces_have_draws_observations_tags_and_results(gaussian: Simulator) -> None:
    traces = gaussian.prior(64, seed=3)
    (mu,) = gaussian.addresses.find("mu")
    values = traces.value[traces.rows([mu])]
    assert gaussian.model_name == "gaussian"
    assert traces.index.tolist() == list(range(64))
    assert (traces.length == 1).all()
    np.testing.assert_allclose(traces.log_prob, -0.5 * values**2 - 0.5 * np.log(2 * np.pi))
    np.testing.assert_array_equal(traces.value, traces.z)  # of a standard normal
    twice = traces.tags.dense(traces.tags.rows(gaussian.addresses.find("twice")), ())
    np.testing.assert_array_equal(twice, 2 * values)
    np.testing.assert_array_equal(traces.results.dense(np.arange(64), ()), values)
    drawn = traces.observations.dense(traces.observations.rows(gaussian.addresses.find("y")), ())
    assert np.std(drawn - values) == pytest.approx(0.5, rel=0.35)


def test_traces_do_not_depend_on_the_number_of_simulators_or_the_batch(gaussian: Simulator) -> None:
    whole = gaussian.prior(40, seed=9)
    part = gaussian.execute(ScriptBatch.empty(9, [31, 7]), None)
    with Simulator(command("gaussian"), num_workers=1) as single:
        alone = single.prior(40, seed=9)
    np.testing.assert_array_equal(whole.value, alone.value)
    np.testing.assert_array_equal(whole.observations.data, alone.observations.data)
    np.testing.assert_array_equal(part.value, whole.value[[31, 7]])
    assert not np.array_equal(whole.value, gaussian.prior(40, seed=10).value)


def test_given_observations_are_weighed_and_not_stored(gaussian: Simulator) -> None:
    traces = gaussian.prior(10, seed=1, observations={"y": 0.25})
    expected = -0.5 * ((0.25 - traces.value) / 0.5) ** 2 - np.log(0.5 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(traces.log_weight, expected)
    assert len(traces.observations.data) == 0


def test_array_draws_uncontrolled_draws_and_repeated_visits(mixed: Simulator) -> None:
    traces = mixed.prior(20, seed=2)
    assert (traces.length == 3 + 1 + 3).all()
    one = slice(*traces.offsets[4:6])
    assert traces.instance[one].tolist() == [0, 0, 0, 0, 0, 1, 2]
    assert mixed.addresses[traces.address_id[one][0]].shape == (1, 3)
    assert [bool(f & DrawFlag.CONTROLLED) for f in traces.flags[one]] == [True] * 3 + [False] + [True] * 3
    image = traces.observations.dense(traces.observations.rows(mixed.addresses.find("image")), (1, 3))
    seen = traces.tags.dense(traces.tags.rows(mixed.addresses.find("seen")), (1, 3))
    np.testing.assert_array_equal(image, seen)  # what observe returned is what the controller recorded
    np.testing.assert_allclose(image.mean(axis=0)[0], [0, 10, 20], atol=2.0)
    results = traces.results.dense(np.arange(20), (2,))
    np.testing.assert_array_equal(results[:, 0], traces.value[traces.rows(mixed.addresses.find("k"), 2)])


def test_replay_repeats_a_trace_by_value_and_by_coordinate(mixed: Simulator) -> None:
    traces = mixed.prior(12, seed=5)
    for by_z in (False, True):
        again = mixed.execute(ScriptBatch.replay(traces, by_z=by_z), None)
        np.testing.assert_allclose(again.value, traces.value, rtol=1e-12)
        np.testing.assert_allclose(again.observations.data, traces.observations.data, rtol=1e-12)
        assert (again.flags & DrawFlag.FORCED).all()


def test_a_trace_is_replayed_on_a_simulator_that_numbers_addresses_differently(mixed: Simulator) -> None:
    traces = mixed.prior(3, seed=5)
    with Simulator(command("mixed"), num_workers=1) as other:
        other.addresses.intern(Address("elsewhere", "", "Normal", ()))
        again = other.execute(ScriptBatch.replay(traces), None)
        assert not np.array_equal(again.address_id, traces.address_id)
        np.testing.assert_array_equal(again.value, traces.value)
        assert (again.flags & DrawFlag.FORCED).all()


def test_an_observation_value_in_the_code_holds_unless_overridden(mixed: Simulator) -> None:
    image = np.array([[0.0, 10.0, 20.0]])
    coded = mixed.prior(3, seed=1, observations={"image": image})
    given = mixed.prior(3, seed=1, observations={"image": image, "count": 9.0})
    rate = 4.0
    difference = 6 * np.log(rate) - np.log(float(np.prod(np.arange(4, 10))))
    np.testing.assert_allclose(given.log_likelihood - coded.log_likelihood, difference)


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        ({"y": 1.0, "typo": 2.0}, "never observes 'typo'; it observes 'y'"),
        ({"typo": None}, "never observes 'typo'"),
        ({"y": float("inf")}, "'y' holds infinity"),
        ({"y": "high"}, "'y' is of type <U4"),
    ],
)
def test_wrong_observations_are_errors(gaussian: Simulator, observations: dict, message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        gaussian.prior(4, observations=observations)
    assert len(gaussian.prior(4)) == 4


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("name", ["crash", "leave", "hang"])
def test_traces_of_a_simulator_that_dies_now_and_then_are_tried_again(name: str, batches: bool) -> None:
    before = descendants(os.getpid())
    with Simulator(command("steady"), num_workers=1) as steady:
        undisturbed = steady.prior(12, seed=4)
    policy = FailurePolicy(retries=3)  # a trace may be the one that both of them die of
    with Simulator(command(name), num_workers=2, timeout=1.0, batches=batches, policy=policy) as sim:
        traces = sim.prior(12, seed=4)
    assert not traces.failures
    np.testing.assert_array_equal(traces.value, undisturbed.value)
    np.testing.assert_array_equal(traces.observations.data, undisturbed.observations.data)
    assert descendants(os.getpid()) == before


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("always_crashes", SimulatorCrashError, "SIGSEGV.*about to crash"),
        ("always_leaves", SimulatorCrashError, "exit code 3"),
        ("always_hangs", SimulatorTimeoutError, "sent nothing for 0.5 s"),
        ("always_raises", SimulatorFailedError, "the table of cross sections is negative"),
    ],
)
def test_a_simulator_that_computes_nothing_is_an_error(
    name: str, kind: type[SimulatorError], message: str, batches: bool
) -> None:
    before = descendants(os.getpid())
    policy = FailurePolicy(retries=0)
    with (
        Simulator(command(name), num_workers=1, timeout=0.5, policy=policy, batches=batches) as sim,
        pytest.raises(kind) as caught,
    ):
        sim.prior(2, seed=4)
    error = caught.value
    assert re.search(message, str(error), re.DOTALL)
    assert error.seed == 4
    assert error.index in (0, 1)
    assert descendants(os.getpid()) == before


@pytest.mark.parametrize("batches", [True, False])
def test_a_trace_that_fails_is_reported_and_the_others_come_back(batches: bool) -> None:
    with Simulator(command("sometimes_raises"), num_workers=2, batches=batches) as sim:
        traces = sim.prior(200, seed=4)
    u = uniforms(4, range(200), 1)[:, 0]
    failed = np.flatnonzero(u > 0.97)
    assert len(failed)
    np.testing.assert_array_equal(np.flatnonzero(traces.status == Status.FAILED), failed)
    assert sorted(traces.failures) == failed.tolist()
    assert all("the table of cross sections is negative" in reason for reason in traces.failures.values())
    assert (traces.length == 1).all()  # what a failed trace did is there
    assert np.isneginf(traces.log_weight[failed]).all()


def test_a_run_ends_when_too_many_traces_fail() -> None:
    with (
        Simulator(command("sometimes_raises"), num_workers=2, policy=FailurePolicy(most=0.01)) as sim,
        pytest.raises(SimulatorFailedError, match=r"cross sections.*of \d+ traces failed") as caught,
    ):
        sim.prior(2000, seed=4)
    assert caught.value.completed is not None
    failed = (caught.value.completed.status == Status.FAILED).sum()
    assert 10 < failed < len(caught.value.completed) / 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("garbage", "broke off"),
        ("nan", "'here'.*Normal.*mean"),
        ("shapes", r"\(3,\).*\(2,\)"),
    ],
)
def test_senseless_messages_are_errors(name: str, message: str) -> None:
    with (
        Simulator(command(name), num_workers=1) as sim,
        pytest.raises(SimulatorFailedError, match=re.compile(message, re.DOTALL)),
    ):
        sim.prior(2)


@pytest.mark.parametrize(
    ("name", "message"), [("silent", "did not answer"), ("dies", "exit code 1.*no data card found")]
)
def test_a_simulator_that_does_not_start_is_an_error(name: str, message: str) -> None:
    before = descendants(os.getpid())
    with pytest.raises(SimulatorStartError, match=re.compile(message, re.DOTALL)):
        Simulator(command(name), num_workers=2, start_timeout=1.0 if name == "silent" else 60.0)
    assert descendants(os.getpid()) == before


def test_a_missing_program_and_a_dead_address_are_errors() -> None:
    with pytest.raises(SimulatorStartError, match="no executable file"):
        Simulator(["./no_such_simulator"])
    with pytest.raises(SimulatorStartError, match=r"no simulator answered at tcp://127\.0\.0\.1:9"):
        Simulator(address="tcp://127.0.0.1:9", start_timeout=0.3)
    with pytest.raises(SimulatorStartError, match="cannot connect to 'here'"):
        Simulator(address="here")
    with pytest.raises(ValueError, match="either a command"):
        Simulator()


def test_a_running_simulator_is_used_by_address_and_left_running(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/socket"
    process = subprocess.Popen(
        command("gaussian"), env={**os.environ, "PPX_BIND": address}, stderr=subprocess.PIPE
    )
    with process:
        for _ in range(2):
            with Simulator(address=address, start_timeout=10.0) as sim:
                assert len(sim.prior(5)) == 5
        assert process.poll() is None
        process.terminate()
        assert process.wait(5) == 0
        assert process.stderr is not None
        process.stderr.read()


def test_interrupting_a_run_leaves_the_simulator_usable() -> None:
    with Simulator(command("gaussian"), num_workers=2) as sim:
        sim.prior(1)
        previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(KeyboardInterrupt):
                sim.prior(1_000_000)
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert len(sim.prior(5)) == 5


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_simulators_die_with_their_controller(end: str) -> None:
    wrapped = [
        "sh",
        "-c",
        f"{' '.join(command('gaussian'))}; true",
    ]  # the shell does not become the simulator
    code = f"""
import os, subprocess, sys, time
from ppx_inference.simulator import Simulator
sim = Simulator({wrapped!r}, num_workers=2)
pids = [w._process.pid for w in sim._executor._workers]
print(*subprocess.run(["pgrep", "-g", ",".join(map(str, pids))], capture_output=True, text=True).stdout.split())
sys.stdout.flush()
{"time.sleep(60)" if end == "kill" else "sys.exit()"}
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        pids = [int(pid) for pid in controller.stdout.readline().split()]
        assert len(pids) == 4
        if end == "kill":
            controller.kill()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
        assert time.monotonic() < deadline, "orphaned simulators"
        time.sleep(0.05)


def test_a_name_observed_in_two_scopes_is_counted_over_both_or_given_by_address() -> None:
    with Simulator(command("two_detectors"), num_workers=1) as sim:
        by_visit = sim.prior(4, observations={"y": 1.0, ("y", 1): 2.0, ("y", 2): 3.0})
        by_address = sim.prior(4, observations={"a/y": 1.0, "b/y": 2.0, ("a/y", 1): 3.0})
        x = by_visit.value[by_visit.rows(sim.addresses.find("x"))]
        constant = -np.log(2 * np.pi) - 3.0  # and the Exponential at 3
        expected = -0.5 * (1 - x) ** 2 - 0.5 * (2 - x) ** 2 + constant
        np.testing.assert_allclose(by_visit.log_likelihood, expected)
        np.testing.assert_allclose(by_address.log_likelihood, expected)
        w = sim.addresses.find("w")
        assert len(w) == 2  # two families
        assert all((by_visit.rows(w, visit) >= 0).all() for visit in range(3))
        more = {"y": 1.0, ("y", 1): 2.0, ("y", 2): 3.0, ("y", 7): 0.0}
        assert np.isneginf(sim.prior(2, observations=more).log_weight).all()
        with pytest.warns(UserWarning, match=r"\('y', 7\).*not used"):
            partial = sim.prior(4, observations=ObservationSet(more, partial=["y"]))
        np.testing.assert_allclose(partial.log_likelihood, expected)


class FixedGuide:
    """Chooses the same z everywhere and records what it was asked."""

    def __init__(self, z: float = 0.5) -> None:
        self.z = z
        self.asks: list = []

    def begin(self, num_traces, addresses) -> None:
        self.num_traces = num_traces

    def restart(self, slot) -> None:
        raise AssertionError("no simulator crashes here")

    def choose(self, asks, normals):
        from ppx_server.script import Choice

        assert normals.shape == (len(asks), 2)
        self.asks += asks
        return [Choice(float("nan"), self.z, 0.125)] * len(asks)


def test_a_guide_is_asked_for_open_draws_only(mixed: Simulator) -> None:
    guide = FixedGuide()
    traces = mixed.execute(
        ScriptBatch.empty(1, range(6), Otherwise.ASK), {"image": [[0.0, 10.0, 20.0]]}, guide
    )
    controlled = traces.controlled
    assert guide.num_traces == 6
    assert len(guide.asks) == controlled.sum() == 6 * 6
    assert (traces.z[controlled] == 0.5).all()
    np.testing.assert_allclose(traces.log_q[controlled], traces.log_prob[controlled] + 0.125)
    assert ((traces.flags & DrawFlag.GUIDED) != 0).tolist() == controlled.tolist()
    np.testing.assert_allclose(traces.log_weight, traces.log_likelihood - 6 * 0.125)


def test_a_script_that_asks_holds_until_the_trace_departs_from_it(mixed: Simulator) -> None:
    whole = mixed.prior(1, seed=8)
    (k,) = mixed.addresses.find("k")
    keep = [0, 1, 2, 4]  # the array draw and the first visit of k; the uncontrolled draw is not in the script
    script = ScriptBatch(
        seed=8,
        index=np.array([0]),
        offsets=np.array([0, 5]),
        address_id=np.append(whole.address_id[keep], np.int32(k)),
        instance=np.append(whole.instance[keep], np.int32(2)),  # not the visit that comes next
        value=np.append(whole.value[keep], 1.0),
        z=np.full(5, np.nan),
        otherwise=Otherwise.ASK,
    )
    guide = FixedGuide()
    traces = mixed.execute(script, {"image": [[0.0, 10.0, 20.0]]}, guide)
    assert [ask.instance for ask in guide.asks] == [1, 2]
    np.testing.assert_array_equal(traces.value[keep], whole.value[keep])


@pytest.mark.parametrize("batches", [True, False])
def test_rejection_loops_are_recorded(batches: bool) -> None:
    with Simulator(command("rejecting"), num_workers=2) as sim:
        scripts = ScriptBatch.empty(3, range(30), Otherwise.PRIOR if batches else Otherwise.ASK)
        traces = sim.execute(scripts, None, None if batches else FixedGuide(0.25))
        assert sim.addresses[int(traces.loops.address_id[0])].name == "accept"
    assert (np.diff(traces.loops.offsets) == 1).all()
    np.testing.assert_array_equal(traces.loops.begin, 1)
    np.testing.assert_array_equal(traces.loops.end, traces.length - 1)
    if batches:
        assert traces.length.max() > 3
    chosen = traces.select([4, 2])
    np.testing.assert_array_equal(chosen.loops.end, traces.length[[4, 2]] - 1)

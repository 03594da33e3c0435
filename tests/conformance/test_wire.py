"""The check `wire` as such: which parts it makes, what it leaves behind, and when it stops."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppx_inference import Simulator
from ppx_inference.conformance import wire
from ppx_inference.conformance.findings import Level, Subject
from ppx_server.errors import SimulatorStartError

TESTS = Path(__file__).resolve().parents[1]
EXAMPLES = TESTS.parent / "simulators"


def levels(subject: Subject) -> dict[str, Level]:
    return {finding.check: finding.level for finding in wire.checks(subject)}


def test_parts_have_names_and_remedies() -> None:
    names = [part.name for part in wire.PARTS]
    assert len(set(names)) == len(names)
    assert all(part.remedy for part in (wire.HANDSHAKE, *wire.PARTS))
    assert {name for part in wire.PARTS for name in part.after} <= set(names)
    assert wire.PARTS[-1].name == "shutdown"  # nothing can come behind it


def test_a_simulator_that_runs_already_is_left_running(served_defect: Callable[..., Any]) -> None:
    with served_defect("model", "sound") as address:
        found = levels(Subject(address=address))
        assert found.pop("wire/shutdown") is Level.SKIP
        assert found.pop("wire/marks") is Level.SKIP
        assert set(found.values()) == {Level.PASS}
        with Simulator(address=address) as simulator:
            assert len(simulator.prior(3)) == 3


def test_a_program_that_is_not_there_is_no_finding() -> None:
    with pytest.raises(SimulatorStartError, match="no executable file"):
        levels(Subject(command=("no_such_program",)))


def test_where_nobody_answers_nothing_else_is_tried(tmp_path: Path) -> None:
    (finding,) = wire.checks(Subject(address=f"ipc://{tmp_path}/socket", timeout=0.2))
    assert finding.check == "wire/handshake"
    assert finding.level is Level.FAIL
    assert "no answer to Handshake within 0.2 s" in finding.detail
    assert "PPX_BIND" in finding.remedy


def test_a_simulator_that_its_controller_cannot_start_again_is_given_up(
    served_defect: Callable[..., Any],
) -> None:
    with served_defect("client", "dies_of_bad_messages") as address:
        found = levels(Subject(address=address, timeout=5.0))
    assert found["wire/two_controllers"] is Level.FAIL
    assert found["wire/columns"] is Level.SKIP


def test_parts_that_say_nothing_new_are_left_out(served_defect: Callable[..., Any]) -> None:
    with served_defect("model", "hidden_in_the_likelihood") as address:
        found = levels(Subject(address=address))
    assert [check for check, level in found.items() if level is Level.FAIL] == ["wire/independence"]
    with served_defect("hand", "nan_parameter") as address:
        found = levels(Subject(address=address))
    assert [check for check, level in found.items() if level is Level.FAIL] == ["wire/run"]


@pytest.mark.slow
def test_a_simulator_that_a_part_has_killed_is_started_again(defect_command: Callable[..., Any]) -> None:
    found = levels(Subject(command=defect_command("client", "dies_of_bad_messages"), seconds=120.0))
    assert found["wire/garbage"] is Level.FAIL
    assert found["wire/columns"] is Level.PASS
    assert found["wire/scripts"] is Level.PASS


@pytest.mark.slow
def test_a_slow_simulator_is_not_taken_for_a_dead_one(defect_command: Callable[..., Any]) -> None:
    found = levels(Subject(command=defect_command("model", "slow"), seconds=40.0))
    assert {Level.FAIL, Level.WARN}.isdisjoint(found.values())
    assert found["wire/run"] is Level.PASS
    assert found["wire/numbers"] is Level.PASS


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyprob") is None, reason="needs the extra `pyprob`")
def test_a_simulator_of_the_old_stack_gets_warnings_only() -> None:
    command = (sys.executable, str(TESTS / "interop" / "legacy_simulator.py"))
    found = levels(Subject(command=command, seconds=120.0))
    assert Level.FAIL not in found.values()
    assert found["wire/run"] is found["wire/sockets"] is found["wire/float64"] is Level.PASS
    assert found["wire/garbage"] is found["wire/values"] is Level.WARN


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian --marsaglia", "hmm", "branching", "linear_gaussian", "tau_decay"])
def test_the_examples_speak_ppx(name: str) -> None:
    program, *options = name.split()
    command = (sys.executable, str(EXAMPLES / program / f"{program}.py"), *options)
    found = levels(Subject(command=command, seconds=120.0))
    assert {Level.FAIL, Level.WARN}.isdisjoint(found.values())

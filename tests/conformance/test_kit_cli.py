"""`ppx check` as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ppx_inference.cli.application import app
from ppx_inference.conformance.checks import CHECKS

ROOT = Path(__file__).resolve().parents[2]
GAUSSIAN = (sys.executable, str(ROOT / "simulators" / "gaussian" / "gaussian.py"))

Serve = Callable[[str, str], AbstractContextManager[str]]


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


def document(result: Result, exit_code: int = 0) -> dict[str, Any]:
    """The JSON document on stdout, which must hold nothing else."""
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_sound_simulator_passes_every_check(tmp_path: Path) -> None:
    graph = tmp_path / "graph.svg"
    quick = ("--seconds", "10", "-n", "100", "--runs", "300")
    found = document(check(*quick, "--strict", "--json", "--graph", str(graph), "--", *GAUSSIAN))
    assert (found["passed"], found["strict"], found["complete"]) == (True, True, True)
    assert (found["model_name"], found["protocol"], found["num_traces"]) == ("gaussian", "batch", 100)
    assert {c["check"].partition("/")[0] for c in found["checks"]} == {c.name for c in CHECKS}
    assert sum(found["counts"].values()) == len(found["checks"])
    mu = next(row for row in found["addresses"] if row["name"] == "mu")
    assert mu == {
        "address": "mu",
        "name": "mu",
        "kind": "draw",
        "family": "Normal",
        "shape": [],
        "share": 1.0,
        "visits": 1.0,
    }
    assert found["transitions"] == [
        {"from": None, "to": "mu", "count": 100, "probability": 1.0},
        {"from": "mu", "to": None, "count": 100, "probability": 1.0},
    ]
    assert "mu" in "".join(ET.parse(graph).getroot().itertext())


def test_options_after_the_command_belong_to_the_simulator() -> None:
    result = check("--only", "handshake", *GAUSSIAN, "--marsaglia")
    assert result.exit_code == 0, result.output
    assert "'gaussian_marsaglia' answered" in " ".join(result.stdout.split())


def test_a_defect_fails_with_its_remedy(served_defect: Serve) -> None:
    with served_defect("model", "hidden_randomness") as address:
        result = check("--only", "same seed", "--only", "replay", "-n", "4", "--address", address)
    shown = " ".join(result.stdout.replace("│", " ").split())
    assert result.exit_code == 1
    assert "FAIL same seed trace 0 parts at draw 3 of 3, 'x' (Normal): its parameters were" in shown
    assert "let every random number come from PPX" in shown
    assert "skip replay" in shown
    assert "1 fail, 1 skip" in shown


def test_a_warning_fails_if_it_is_strict(served_defect: Serve) -> None:
    arguments = ("--only", "rejection loops", "-n", "64", "--json")
    with served_defect("model", "unmarked_rejection") as address:
        lenient = document(check(*arguments, "--address", address))
        strict = document(check(*arguments, "--strict", "--address", address), exit_code=1)
    assert (lenient["passed"], strict["passed"]) == (True, False)
    assert lenient["counts"] == {"pass": 0, "warn": 1, "fail": 0, "skip": 0}
    assert "ppx.rejection" in strict["checks"][0]["remedy"]


def test_a_failed_trace_comes_with_the_command_that_shows_it(served_defect: Serve) -> None:
    with served_defect("model", "raises_sometimes") as address:
        found = document(check("--only", "traces", "--json", "--address", address), exit_code=1)
        (finding,) = found["checks"]
        command = finding["remedy"].split("see one with: ")[1].split(";")[0].split()
        shown = CliRunner().invoke(app, command[1:])
    assert finding["facts"]["failed"] > 100
    assert shown.exit_code == 1
    assert "the table of cross sections is negative" in shown.output


def test_a_command_that_ends_is_quoted() -> None:
    result = check("--", "bash", "-c", "echo no data card found; exit 3")
    shown = " ".join(result.stdout.replace("│", " ").split())
    assert result.exit_code == 1
    assert "FAIL handshake" in shown
    assert "exit code 3" in shown
    assert "no data card found" in shown


def test_the_checks_are_listed_without_a_simulator() -> None:
    result = check("--list", "--skip", "wire")
    assert result.exit_code == 0
    assert all(c.name in result.stdout for c in CHECKS if c.name != "wire")
    assert "wire" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "speeed", "--", "./sim"), "there is no check 'speeed'"),
        (("--address", "ipc://a", "--address", "ipc://b"), "give one --address"),
        ((), "give the command"),
    ],
)
def test_mistakes_are_explained(arguments: tuple[str, ...], message: str) -> None:
    result = check(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_an_interruption_shows_what_is_known(tmp_path: Path) -> None:
    model, ran = tmp_path / "model.py", tmp_path / "ran"
    model.write_text(
        "import pathlib, time\nimport ppx_client as ppx\n"
        "def forward():\n"
        "    ppx.observe(ppx.Normal(ppx.sample(ppx.Normal(0, 1), name='x'), 1), name='y')\n"
        f"    pathlib.Path({str(ran)!r}).touch()\n"
        "    time.sleep(0.2)\n"
        "ppx.serve(forward, name='slow')\n"
    )
    arguments = ["check", "--skip", "wire", "--json", "--seconds", "100", "--", sys.executable, str(model)]
    command = [sys.executable, "-m", "ppx_inference.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not ran.exists():  # it is at its traces for 15 s
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    found = json.loads(out)
    assert process.returncode == 130
    assert "1 findings are shown" in err
    assert (found["complete"], [c["check"] for c in found["checks"]]) == (False, ["handshake"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "simulator",
    [
        ("gaussian/gaussian.py",),
        ("gaussian/gaussian.py", "--marsaglia"),
        ("hmm/hmm.py",),
        ("branching/branching.py",),
        ("tau_decay/tau_decay.py",),
    ],
    ids=lambda words: Path(words[-1]).stem,
)
def test_no_false_alarm(simulator: tuple[str, ...]) -> None:
    command = [sys.executable, str(ROOT / "simulators" / simulator[0]), *simulator[1:]]
    found = document(check("--json", "--strict", "--", *command))
    assert found["counts"]["fail"] == found["counts"]["warn"] == 0

"""The demo runs from end to end and leaves what it promises."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppx_inference import Posterior

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"
FIGURES = ("momentum.png", "energies.png", "channel.png", "calorimeter.png", "training.png")


def command(output: Path, *options: str) -> list[str]:
    return [sys.executable, str(DEMO), "--quick", "--output", str(output), *options]


@pytest.mark.timeout(300)
def test_quick_demo(tmp_path: Path) -> None:
    run = subprocess.run(command(tmp_path), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    folder = tmp_path / "event-149"
    for word in ("truth", "IC", "RMH", "ESS", "k-hat", "log evidence", "traces/s", "px [GeV]", "P("):
        assert word in run.stdout
    for name in FIGURES:
        assert (folder / name).stat().st_size > 10_000
    report = json.loads((folder / "report.json").read_text())
    truth = json.loads((folder / "truth.json").read_text())
    assert -3 < truth["px"] < 3
    assert report["verdict"] in run.stdout
    assert report["verdict"] in (folder / "report.txt").read_text()
    assert np.load(folder / "event.npy").shape == (8, 11, 11)
    for engine in ("ic", "rmh"):
        posterior = Posterior.open(folder / engine)
        assert posterior["channel"].values.max() < 39
    assert (tmp_path / "checkpoint" / "proposal.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_another_event_uses_the_network_and_leaves_the_results_of_the_first(tmp_path: Path) -> None:
    subprocess.run(command(tmp_path), capture_output=True, check=True)
    checkpoint, momentum = tmp_path / "checkpoint" / "proposal.json", tmp_path / "event-149" / "momentum.png"
    kept = {path: path.read_bytes() for path in (checkpoint, momentum)}
    run = subprocess.run(command(tmp_path, "--event", "7"), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "using the network in" in run.stdout
    assert "training a proposal" not in run.stdout
    assert {path: path.read_bytes() for path in kept} == kept
    truths = [json.loads((tmp_path / f"event-{n}" / "truth.json").read_text()) for n in (149, 7)]
    assert truths[0] != truths[1]
    names = [{p.name for p in (tmp_path / f"event-{n}").iterdir()} for n in (149, 7)]
    assert names[0] == names[1]


def test_wrong_options_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for options, words in (
        (("--output", str(tmp_path / "file")), "name another --output"),
        (("--event", "-1"), "-1 is no whole number from 0"),
    ):
        run = subprocess.run(command(tmp_path, *options), capture_output=True, text=True, check=False)
        assert run.returncode != 0
        assert "Traceback" not in run.stderr
        assert words in " ".join(run.stderr.split())


@pytest.mark.timeout(300)
def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "--python", "--train-seconds", "100"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("  train "):  # it has learnt from a minibatch
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "interrupted" in out
    assert "Traceback" not in err
    assert (tmp_path / "checkpoint" / "proposal.json").exists()


def test_no_simulator_at_the_address(tmp_path: Path) -> None:
    run = subprocess.run(
        command(tmp_path, "--address", "tcp://127.0.0.1:9"), capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "tcp://127.0.0.1:9" in run.stderr
    assert "Traceback" not in run.stderr

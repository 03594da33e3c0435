"""The demo runs from end to end and leaves what it promises."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
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
    for word in ("truth", "IC", "RMH", "ESS", "k-hat", "log evidence", "traces/s", "px [GeV]", "P("):
        assert word in run.stdout
    for name in FIGURES:
        assert (tmp_path / name).stat().st_size > 10_000
    report = json.loads((tmp_path / "report.json").read_text())
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert -3 < truth["px"] < 3
    assert report["verdict"] in run.stdout
    assert np.load(tmp_path / "event.npy").shape == (8, 11, 11)
    for engine in ("ic", "rmh"):
        posterior = Posterior.open(tmp_path / engine)
        assert posterior["channel"].values.max() < 39
    assert (tmp_path / "checkpoint" / "proposal.json").exists()


@pytest.mark.timeout(300)
def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "--python", "--train-seconds", "100"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "truth.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    time.sleep(6.0)  # some steps of training
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

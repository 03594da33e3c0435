"""A simulator written on pyprob's generated code alone passes the PPX 1.0 part of the conformance kit."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SIMULATOR = Path(__file__).with_name("pyprob_wire_simulator.py")
NEED_A_CAPABILITY = {"wire/batch", "wire/shutdown", "wire/marks", "both ways", "log_prob"}
NEED_MORE_TRACES = {"addresses", "leaks"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyprob") is None, reason="needs the extra `pyprob`")
def test_a_simulator_on_generated_code_passes() -> None:
    little = ["--num-traces", "40", "--runs", "50", "--seconds", "100"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ppx_inference.cli",
            "check",
            "--json",
            *little,
            "--",
            sys.executable,
            str(SIMULATOR),
        ],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    levels: dict[str, set[str]] = {}
    report = json.loads(done.stdout)
    for finding in report["checks"]:
        levels.setdefault(finding["level"], set()).add(finding["check"])
    assert report["protocol"] == "1.0"
    assert "fail" not in levels
    assert levels["warn"] <= {"rejection loops"}  # PPX 1.0 has no mark for the one it has
    assert levels["skip"] <= NEED_A_CAPABILITY | NEED_MORE_TRACES
    assert {"wire/garbage", "wire/out_of_turn", "same seed", "replay", "support"} <= levels["pass"]

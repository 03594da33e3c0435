"""The benchmarks of the adapters, as they are called; what they measure is not looked at."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from ppx_client.cpp_build import toolchain_missing

ROOT = Path(__file__).resolve().parents[1]


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "adapters", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def check(name: str, num_rows: int, folder: Path) -> None:
    """Measures a program's rows once; without its compiler, it must say that."""
    file = folder / "figures.json"
    outcome = benchmark("--quick", "--only", name, "--json", str(file))
    assert outcome.returncode == 0, outcome.stderr
    if "left out, as this machine has no" in outcome.stdout:
        pytest.skip(outcome.stdout.strip())
    figures = json.loads(file.read_text())
    assert [f["program"] for f in figures] == [name] * num_rows
    assert all(0.0 <= f[key] < math.inf for f in figures for key in ("bare", "alone", "batch"))
    assert all(0.0 < f["batch"] < math.inf for f in figures)
    assert all(f["row"] in outcome.stdout for f in figures)


@pytest.mark.skipif(bool(toolchain_missing()), reason="no C++ toolchain")
def test_adapters_of_c(tmp_path: Path) -> None:
    check("c", 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_rows"), [("python", 6), ("pyprob", 1), ("cpp", 8), ("gsl", 3), ("fortran", 2), ("r", 2)]
)
def test_adapters(name: str, num_rows: int, tmp_path: Path) -> None:
    check(name, num_rows, tmp_path)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    outcome = benchmark("--quick", "--only", "gsl", "r")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("left out, as this machine has no") == 2
    assert outcome.stdout.count("no-such-compiler") == 2


def test_unknown_names() -> None:
    outcome = benchmark("--only", "cobol")
    assert outcome.returncode == 2
    assert "adapters does not measure cobol; choose from python" in outcome.stderr

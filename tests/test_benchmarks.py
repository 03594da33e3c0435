"""The benchmarks of the adapters and of the optimizers, as they are called; what they measure is not looked at."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.optimizers.reproduction import same
from ppx_client.cpp_build import toolchain_missing

ROOT = Path(__file__).resolve().parents[1]


def benchmark(*arguments: str, what: str = "adapters") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", what, *arguments]
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


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """What looks like MNIST, but is small and easy."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 256, size=(10, 28, 28))
    labels = rng.integers(0, 10, size=300).astype(np.uint8)
    pixels = np.clip(classes[labels] + rng.normal(0.0, 30.0, size=(300, 28, 28)), 0, 255).astype(np.uint8)
    path = tmp_path / "mnist.npz"
    np.savez(path, x_train=pixels[:256], y_train=labels[:256], x_test=pixels[256:], y_test=labels[256:])
    return path


def optimizers(*arguments: str) -> subprocess.CompletedProcess[str]:
    return benchmark("--quick", *arguments, what="optimizers")


def test_optimizers_learn_and_go_on(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, figures = tmp_path / "runs.json", tmp_path / "figures"
    arguments = ("--only", "mnist", "--mnist", str(images), "--json", str(file))
    outcome = optimizers(*arguments, "--figures", str(figures))
    assert outcome.returncode == 0, outcome.stderr
    assert "SGDN-HD" in outcome.stdout
    assert (figures / "mnist.png").stat().st_size > 0
    runs = json.loads(file.read_text())["runs"]
    assert len(runs) == 12
    assert all(run["train"][0] < 4.0 for run in runs.values())
    for run in runs.values():
        run["train"] = [123.0]
    file.write_text(json.dumps({"runs": runs}))
    main(["optimizers", "--quick", *arguments])
    assert capsys.readouterr().out.count("123.0") == 12  # nothing was done again
    assert json.loads(file.read_text())["runs"] == runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "num_runs"), [("towers", 8), ("sensitivity", 72), ("tau", 14), ("overhead", 1)]
)
def test_optimizers(experiment: str, num_runs: int, images: Path, tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    outcome = optimizers("--only", experiment, "--mnist", str(images), "--json", str(file))
    assert outcome.returncode == 0, outcome.stderr
    assert len(json.loads(file.read_text())["runs"]) == num_runs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "mnist", "tau"), "images of MNIST are needed for mnist: say where they are"),
        (("--only", "mnist", "--mnist", "pickled.npz"), "must be an .npz file of the arrays"),
        (("--only", "mnist", "--mnist", "nothing.npz"), "cannot be read: No such file"),
        (("--only", "overhead", "--json", "other.json"), "does not hold runs of this benchmark"),
        (("--only", "overhead", "--seeds", "0"), "must be at least 1"),
        (("--only", "cifar"), "optimizers does not measure cifar"),
    ],
)
def test_optimizers_refuse(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("pickled.npz", **dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.array([{}])))
    Path("other.json").write_text("[]")
    with pytest.raises(SystemExit) as raised:
        main(["optimizers", "--quick", *arguments])
    assert said in f"{raised.value} {capsys.readouterr().err}"
    assert Path("other.json").read_text() == "[]"


def test_a_loss_is_the_same_only_within_noise() -> None:
    losses = np.random.default_rng(0).normal(0.4, 0.01, size=10)
    assert same(losses, 0.41)[1]
    assert not same(losses, 0.46)[1]

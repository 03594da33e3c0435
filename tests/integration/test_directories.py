"""Each process that the controller starts has a working directory of its own."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ppx_client.cpp_build import compile_simulator, toolchain_missing
from ppx_inference import Simulator, importance_sampling
from ppx_server import folder
from ppx_server.command import Command
from ppx_server.errors import SimulatorError, SimulatorStartError
from ppx_server.executor import FailurePolicy
from ppx_server.process import SimulatorProcess
from ppx_server.trace import Status, TraceBatch
from tests.integration.conftest import BUILD
from tests.integration.faults import HERE

ALL_RUN = FailurePolicy(retries=0, most=1.0)


def command(kind: str) -> list[str]:
    return [sys.executable, str(HERE / "directory_models.py"), kind]


def num_foreign(traces: TraceBatch) -> int:
    """How many traces computed with the number of another one."""
    mu = traces.value[traces.rows(traces.addresses.find("mu"))]
    return int((traces.tags.dense(traces.tags.rows(traces.addresses.find("x")), ()) != mu).sum())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def none_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kept: list[Path] = []
    monkeypatch.setattr(folder, "_kept", kept)
    yield
    for path in kept:
        shutil.rmtree(path)


def kept_folder(text: str) -> Path:
    """The folder that a message names."""
    (found,) = re.findall(r"working directory is kept in (\S+ppx-kept-\w+)", text)
    return Path(found)


@pytest.fixture(
    scope="module",
    params=["python", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("tmp", "c++"))],
)
def scratch(request: pytest.FixtureRequest) -> list[str]:
    """The command of a simulator with a file of fixed name."""
    if request.param != "c++":
        return command("scratch" if request.param == "python" else "scratch_tmp")
    if missing := toolchain_missing():
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    return [str(compile_simulator(HERE / "scratch.cpp", BUILD / "scratch", flags=["-O0"]))]


def test_a_scratch_file_carries_nothing_from_one_simulator_to_another(
    scratch: list[str], here: Path, nothing_left: Path
) -> None:
    with Simulator(scratch, num_workers=2) as sim:
        found = importance_sampling(sim, {"y": 2.0}, num_traces=900, seed=2)
    with Simulator(scratch, num_workers=2, batches=False) as sim:
        assert num_foreign(sim.prior(100)) == 0
    assert num_foreign(found.traces) == 0
    # Exact: N(1.6, 0.2).
    assert abs(found["mu"].mean() - 1.6) < 4 * np.sqrt(0.2 / found.ess)
    assert not any(here.iterdir())
    assert not any(nothing_left.iterdir())


def test_a_shared_directory_would_be_noticed(here: Path) -> None:
    """The negative control: the same simulator where all its processes work in one folder."""
    shared = ["/bin/sh", "-c", f'cd {here} && exec "$@"', "sh", *command("scratch")]
    with Simulator(shared, num_workers=2, policy=ALL_RUN) as sim:
        traces = sim.prior(1000, seed=2)
    assert num_foreign(traces.select(traces.status == Status.OK)) > 0 or (traces.status != Status.OK).any()


def test_relative_programs_modules_and_files_are_found(here: Path) -> None:
    shutil.copy(HERE / "directory_models.py", here / "model.py")
    (here / "sim").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (here / "sim").chmod(0o755)
    for words in (["./sim", "model.py", "none"], [sys.executable, "-m", "model", "none"]):
        Simulator(words, num_workers=1).close()


@pytest.mark.parametrize(
    ("kind", "error"), [("reads", SimulatorError), ("reads_at_start", SimulatorStartError)]
)
def test_who_reads_by_a_relative_path_is_told_of_cwd(
    kind: str, error: type[SimulatorError], here: Path
) -> None:
    (here / "sigma.dat").write_text("0.5")
    with (
        pytest.raises(error, match=r"cwd='.*'\), on the command line --cwd \."),
        Simulator(command(kind), num_workers=1) as sim,
    ):
        sim.prior(20)
    with Simulator(command(kind), num_workers=1, cwd=".") as sim:
        assert (sim.prior(20).status == Status.OK).all()


def test_a_scratch_file_that_is_there_already_is_not_shared(here: Path) -> None:
    (here / "param.dat").write_text("17")
    with Simulator(command("scratch"), num_workers=2, cwd=here) as sim:
        assert num_foreign(sim.prior(300, seed=1)) == 0
    assert [p.name for p in here.iterdir()] == ["param.dat"]
    assert (here / "param.dat").read_text() == "17"


@pytest.mark.parametrize(("kind", "batches"), [("crash", True), ("crash", False), ("hang", True)])
def test_the_directory_of_a_process_that_failed_is_kept(kind: str, batches: bool, here: Path) -> None:
    seconds = 60.0 if kind == "crash" else 0.3
    with Simulator(command(kind), num_workers=1, policy=ALL_RUN, batches=batches, timeout=seconds) as sim:
        traces = sim.prior(6, seed=2)
    for reason in traces.failures.values():
        assert float((kept_folder(reason) / "param.dat").read_text()) > 1.0
    assert traces.failures


def test_the_directory_of_one_that_does_not_start_is_kept(here: Path) -> None:
    with pytest.raises(SimulatorStartError, match="no licence") as caught:
        Simulator(command("dies"), num_workers=1)
    assert (kept_folder(str(caught.value)) / "log").read_text() == "the table is negative"


def test_the_process_knows_where_it_works(here: Path, nothing_left: Path) -> None:
    process = SimulatorProcess(Command.of(["sh", "-c", "echo $PWD; pwd; echo $TMPDIR; test -w $TMPDIR"]))
    assert process.wait(20) == 0
    pwd, work, temporary = process.quote_output().splitlines()[1:]
    assert pwd.strip() == work.strip() == os.path.realpath(work.strip()) or sys.platform == "darwin"
    assert Path(work.strip()).parent == Path(temporary.strip()).parent
    assert Path(work.strip()).is_relative_to(nothing_left)
    process.stop()
    assert not any(nothing_left.iterdir())


def test_the_line_that_says_where_it_serves_is_not_quoted(here: Path) -> None:
    process = SimulatorProcess(Command.of(command("none")))
    with Simulator(address=process.address) as sim:
        sim.prior(1)
    assert process.quote_output() == ""
    process.stop()


def test_long_tmpdir(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = here / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with Simulator(command("scratch_tmp"), num_workers=1) as sim:
        assert num_foreign(sim.prior(50)) == 0
    assert not any(long.iterdir())

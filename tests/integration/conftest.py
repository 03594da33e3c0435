"""Fixtures of the tests of faults."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ppx_client.cpp_build import compile_simulator, toolchain_missing
from tests.integration.faults import HERE, descendants

BUILD = HERE.parents[1] / "build" / "tests"


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files during the test; after it, no process and no folder may be left."""
    before = descendants(os.getpid())
    folder = Path(tempfile.mkdtemp(prefix="t"))  # short: paths of sockets are limited
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    left = sorted(path.name for path in folder.glob("ppx-*"))
    shutil.rmtree(folder)
    assert descendants(os.getpid()) == before
    assert left == []


@pytest.fixture(scope="session")
def in_cpp() -> Callable[..., tuple[str, ...]]:
    """The command of the C++ simulator that goes wrong: `in_cpp(fault, threshold)`."""
    missing = toolchain_missing()
    if missing:
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    program = compile_simulator(HERE / "fault_simulator.cpp", BUILD / "fault_simulator", flags=["-O0"])
    return lambda fault, threshold: (str(program), fault, str(threshold))

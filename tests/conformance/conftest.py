"""Simulators that the conformance kit judges: many in one process, or each by its command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

from ppx_client.cpp_build import compile_simulator, toolchain_missing

DEFECTS = Path(__file__).resolve().parent / "defects"
BUILD = Path(__file__).resolve().parents[2] / "build" / "tests"

Serve = Callable[[str, str], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def defect_command() -> Callable[[str, str], tuple[str, ...]]:
    """The command that serves a simulator of the folder `defects`, by kind and name."""

    def command(kind: str, name: str) -> tuple[str, ...]:
        if kind != "cpp":
            return sys.executable, str(DEFECTS), kind, name
        missing = toolchain_missing()
        if missing:
            pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
        # Compiled once: only if the source or a header has changed since.
        return str(
            compile_simulator(DEFECTS / "defects.cpp", BUILD / "defects", flags=["-O0", "-pthread"])
        ), name

    return command


@pytest.fixture(scope="session")
def served_defect() -> Iterator[Serve]:
    """Serves a simulator of the folder `defects` at an address, in a fork of a process that has loaded everything."""
    numbers = count()
    with (
        tempfile.TemporaryDirectory(prefix="t") as folder,
        subprocess.Popen(
            [sys.executable, str(DEFECTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        @contextmanager
        def serve(kind: str, name: str) -> Iterator[str]:
            address = f"ipc://{folder}/{next(numbers)}"
            print(kind, name, address, file=stdin, flush=True)
            child = int(stdout.readline())
            try:
                yield address
            finally:
                with suppress(ProcessLookupError):  # it has died of its defect
                    os.kill(child, signal.SIGKILL)

        yield serve
        stdin.close()

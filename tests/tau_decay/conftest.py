"""The tau decay simulators as processes: one C++, one Python, and what they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppx_client.cpp_build import compile_simulator, toolchain_missing

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "simulators" / "tau_decay"
sys.path.insert(0, str(FOLDER))

Event = dict[str, Any]


@pytest.fixture(scope="session")
def cpp_command() -> list[str]:
    """Starts the C++ program."""
    missing = toolchain_missing()
    if missing:
        pytest.skip(f"no C++ simulator without {', '.join(missing)}")
    return [str(compile_simulator(FOLDER / "tau_decay.cpp", REPOSITORY / "build" / "tests" / "tau_decay"))]


@pytest.fixture(scope="session")
def python_command() -> list[str]:
    """Starts the Python program."""
    return [sys.executable, str(FOLDER / "tau_decay.py")]


@pytest.fixture(scope="session", params=["cpp", "python"])
def language(request: pytest.FixtureRequest) -> str:
    """Which of the twins."""
    return str(request.param)


@pytest.fixture(scope="session")
def command(language: str, request: pytest.FixtureRequest) -> list[str]:
    """Starts the program in this language."""
    started: list[str] = request.getfixturevalue(f"{language}_command")
    return started


def _run_events(
    command: list[str], num_events: int, seed: int, *options: str, environment: dict[str, str] | None = None
) -> list[Event]:
    arguments = ["--local", str(num_events), "--json", "--seed", str(seed), *options]
    # Options of the simulator that are set where the tests run are not for the tests.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TAU_DECAY_", "PPX_"))}
    outcome = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=inherited | (environment or {}),
    )
    return [json.loads(line) for line in outcome.stdout.splitlines()]


@pytest.fixture(scope="session")
def run_events() -> Callable[..., list[Event]]:
    """Runs a program for a number of events drawn without a controller, with a seed and options."""
    return _run_events


@pytest.fixture(scope="session")
def many_events(command: list[str], language: str) -> list[Event]:
    """Many events in a calorimeter of one voxel, for statistics of the decay."""
    return _run_events(command, {"cpp": 20_000, "python": 5_000}[language], 1, "--grid", "1x1x1")


@pytest.fixture(scope="session")
def events(command: list[str]) -> list[Event]:
    """Events in the default calorimeter."""
    return _run_events(command, 150, 2)

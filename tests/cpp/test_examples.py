"""The example simulators in C++ are the same models as those in Python: same draws, addresses, tags and results."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ppx_client.cpp_build import compile_simulator, toolchain_missing

ROOT = Path(__file__).resolve().parents[2]
SIMULATORS = ROOT / "simulators"
# What each draw of a trace gets, one row per trace; the last value is repeated.
ANSWERS = {
    "gaussian/gaussian": [[0.5], [-3.25]],
    "gaussian/gaussian_marsaglia": [[0.9, 0.9, 0.25, -0.5], [-0.5, 0.5]],
    "hmm/hmm": [[0.0], [1.0], [0, 1, 2, 2, 1, 0]],
    "branching/branching": [[5.0], [3.0, 2.0], [0.0, 0.0], [4.0, 1.0]],
}


def record(tools: Any, command: list[str], answers: list[list[float]]) -> list[Any]:
    """Everything that a simulator says in the traces with these answers."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/socket"
        process = subprocess.Popen(command, env={**os.environ, "PPX_BIND": address}, stderr=subprocess.PIPE)
        said: list[Any] = []
        try:
            controller = tools.controller(address)
            said.append(controller.handshake()[1].ModelName())
            for row in answers:
                left = list(row)
                for kind, table in controller.trace(
                    lambda _, left=left: (left.pop(0) if left[1:] else left[0],)
                ):
                    said.append((kind, *describe(tools, kind, table)))
        finally:
            process.kill()
            process.communicate()
        return said


def describe(tools: Any, kind: str, table: Any) -> tuple[Any, ...]:
    """A message's content, numbers rounded to 12 digits."""
    if kind == "RunResult":
        return rounded(tools.tensor_of(table.Result()))
    if kind == "Tag":
        return table.Address(), table.Name(), rounded(tools.tensor_of(table.Value()))
    family, params = tools.distribution_of(table)
    return table.Address(), table.Name(), family, {name: rounded(value) for name, value in params.items()}


def rounded(tensor: tuple[list[float], list[int]]) -> tuple[Any, ...]:
    data, shape = tensor
    return [float(f"{x:.12g}") for x in data], shape


@pytest.mark.parametrize("name", ANSWERS)
def test_both_languages_say_the_same(name: str, tools: Any) -> None:
    missing = toolchain_missing()
    if missing:
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    program = compile_simulator(SIMULATORS / f"{name}.cpp", ROOT / "build" / "simulators" / Path(name).name)
    script, _, option = name.partition("_")
    python = [sys.executable, str(SIMULATORS / f"{script}.py"), *([f"--{option}"] if option else [])]
    ours = record(tools, [str(program)], ANSWERS[name])
    assert ours == record(tools, python, ANSWERS[name])
    assert len(ours) > 2 * len(ANSWERS[name])

"""The example simulators in C++ are the same models as those in Python: same draws, addresses, tags and results."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
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


def commands(name: str) -> tuple[list[str], list[str]]:
    """What starts the model in C++ and in Python."""
    missing = toolchain_missing()
    if missing:
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    program = compile_simulator(SIMULATORS / f"{name}.cpp", ROOT / "build" / "simulators" / Path(name).name)
    script, _, option = name.partition("_")
    python = [sys.executable, str(SIMULATORS / f"{script}.py"), *([f"--{option}"] if option else [])]
    return [str(program)], python


@pytest.mark.parametrize("name", ANSWERS)
def test_both_languages_say_the_same(name: str, tools: Any) -> None:
    cpp, python = commands(name)
    ours = record(tools, cpp, ANSWERS[name])
    assert ours == record(tools, python, ANSWERS[name])
    assert len(ours) > 2 * len(ANSWERS[name])


def play(connected: Any, command: list[str]) -> list[Any]:
    """What a simulator reports of a batch, every number with its meaning."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/socket"
        process = subprocess.Popen(command, env={**os.environ, "PPX_BIND": address}, stderr=subprocess.PIPE)
        try:
            with connected(address) as controller:
                result = controller.play(range(50), seed=4)
                known = controller.known
        finally:
            process.kill()
            process.communicate()
    tables = [result.observations, result.tags, result.results]
    said: list[Any] = [result.status, result.offsets, result.instance, result.flags]
    said += [result.value, result.z, result.log_prob, [known[number] for number in result.address]]
    for table in tables:
        said += [*table[:1], *table[2:], [known[number] for number in table.address]]
    return [*said, *result.loops[:1], *result.loops[2:], [known[number] for number in result.loops.address]]


@pytest.mark.parametrize("name", ANSWERS)
def test_both_languages_play_the_same(name: str, connected: Any) -> None:
    ours, theirs = (play(connected, command) for command in commands(name))
    assert len(ours) == len(theirs) == 30
    for ours_column, theirs_column in zip(ours, theirs, strict=True):
        if isinstance(ours_column, list):
            assert ours_column == theirs_column
        else:
            np.testing.assert_allclose(ours_column, theirs_column, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "gaussian_marsaglia"])
def test_the_gaussians_run_without_ppx(name: str) -> None:
    program = commands(f"gaussian/{name}")[0][0]
    said = subprocess.run([program, "--bare", "1000"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"1000 traces in .* s: \d+ traces/s, .* ns each \(means .*\)\n", said)

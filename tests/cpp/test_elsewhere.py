"""Statements on other threads and in forked processes fail the trace and say so, in both ways of driving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ppx_client.cpp_build import compile_simulator, toolchain_missing
from ppx_inference import Simulator
from ppx_server.executor import FailurePolicy
from ppx_server.trace import Status, TraceBatch

PROGRAMS = Path(__file__).resolve().parent / "programs"
BUILD = Path(__file__).resolve().parents[2] / "build" / "tests"
FORKED = "was made in a process that the model forked"
ON_A_THREAD = "was made on a thread that does not run serve()"


@pytest.fixture(scope="module")
def program() -> Path:
    if missing := toolchain_missing():
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    flags = ["-O0", "-fopenmp", "-pthread", "-Wpedantic", "-Werror"]
    return compile_simulator(PROGRAMS / "elsewhere.cpp", BUILD / "elsewhere", flags=flags)


def run(program: Path, model: str, batches: bool) -> TraceBatch:
    policy = FailurePolicy(most=1.0)
    with Simulator([str(program), model], num_workers=1, batches=batches, policy=policy, timeout=20) as sim:
        return sim.prior(3, seed=1)


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        ("forks", "x", FORKED),
        ("forks_and_swallows", "x", FORKED),
        ("forks_in_a_loop", "x", FORKED),
        ("forks_and_observes", "z", FORKED),
        ("forks_and_tags", "t", FORKED),
        ("thread_forks", "x", FORKED),
        ("threads", "part", ON_A_THREAD),
        ("async", "later", ON_A_THREAD),
        ("parallel", "loop", ON_A_THREAD),
        ("observes_on_a_thread", "z", ON_A_THREAD),
        ("tags_on_a_thread", "t", ON_A_THREAD),
    ],
)
def test_a_statement_elsewhere_fails_the_trace(
    program: Path, model: str, name: str, reason: str, batches: bool
) -> None:
    traces = run(program, model, batches)
    assert (traces.status == Status.FAILED).all()
    assert all(f"statement '{name}' {reason}" in text for text in traces.failures.values()), traces.failures


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("model", ["forks_only", "threads_only", "comes_back"])
def test_processes_and_threads_that_make_no_statement_are_no_matter(
    program: Path, model: str, batches: bool
) -> None:
    traces = run(program, model, batches)
    assert (traces.status == Status.OK).all(), traces.failures
    if model == "comes_back":
        np.testing.assert_array_equal(traces.tags.data, [1.0, 1.0, 1.0])

"""Simulators that die, hang, take all memory or raise in some traces: the others come back as if nothing had been."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import numpy as np
import pytest

from ppx_inference.simulator import Simulator
from ppx_server.trace import TraceBatch
from tests.integration.faults import assert_same, in_python

Commands = dict[str, Callable[[str, float], tuple[str, ...]]]

pytestmark = pytest.mark.usefixtures("nothing_left")

NUM_TRACES, SEED = 240, 4
OBSERVED = {"y": 1.0}
WORDS = {
    "segfault": "SIGSEGV",
    "abort": "SIGABRT",
    "exit": "exit code 0",
    "system_exit": "SystemExit",
    "hang": "sent nothing for 1 s",
    "balloon": "MemoryError|bad_alloc",
    "malloc": "SIGSEGV",
    "raise": "cross sections is negative",
    "nan": "mean.*nan",
}
SLOW_FAULTS = {"hang", "balloon", "malloc"}
MEMORY = {"python": 1 << 30, "cpp": 1 << 29}
"""Bytes of address space; a simulator takes a part of it for its threads and libraries."""


@pytest.fixture(scope="module")
def commands(request: pytest.FixtureRequest) -> Commands:
    """By language, the command of a simulator with a fault above a threshold."""
    return {"python": in_python, "cpp": request.getfixturevalue("in_cpp")}


@pytest.fixture(scope="module")
def undisturbed(commands: Commands) -> Callable[..., TraceBatch]:
    """The traces of a simulator without faults: `undisturbed(language, batches, num_traces)`."""

    @functools.cache
    def run(language: str, batches: bool, num_traces: int) -> TraceBatch:
        with Simulator(commands[language]("none", np.inf), num_workers=1, batches=batches) as sim:
            return sim.prior(num_traces, seed=SEED, observations=OBSERVED)

    return run


def largest(traces: TraceBatch, count: int) -> tuple[list[int], float]:
    """The traces whose first draws are the largest, and a threshold that only these exceed."""
    first = traces.value[traces.offsets[:-1]]
    order = np.argsort(first)
    threshold = float(first[order[-count - 1 : -count + 1 or None]].mean())
    return sorted(traces.index[order[-count:]].tolist()), threshold


CASES = [
    *(("python", fault) for fault in ("segfault", "system_exit", "balloon", "nan")),
    pytest.param("python", "hang", marks=pytest.mark.slow),
    *(("cpp", fault) for fault in ("segfault", "abort", "exit", "hang", "balloon", "malloc", "raise")),
]


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize(("language", "fault"), CASES)
def test_all_traces_come_back_but_those_that_kill_or_fail(
    language: str,
    fault: str,
    batches: bool,
    undisturbed: Callable[..., TraceBatch],
    commands: Commands,
) -> None:
    expected = undisturbed(language, batches, NUM_TRACES)
    failed, threshold = largest(expected, 1 if fault in SLOW_FAULTS else 3)
    with Simulator(
        commands[language](fault, threshold),
        num_workers=2,
        timeout=1.0 if fault == "hang" else 30.0,
        memory_limit=MEMORY[language],
        batches=batches,
    ) as sim:
        traces = sim.prior(NUM_TRACES, seed=SEED, observations=OBSERVED)
    assert_same(traces, expected, failed)
    for reason in traces.failures.values():
        assert re.search(WORDS[fault], reason, re.DOTALL), reason


def test_killers_are_found_in_batches_of_thousands(
    undisturbed: Callable[..., TraceBatch], commands: Commands
) -> None:
    expected = undisturbed("cpp", True, 100_000)
    failed, threshold = largest(expected, 12)
    with Simulator(commands["cpp"]("segfault", threshold), num_workers=2) as sim:
        traces = sim.prior(100_000, seed=SEED, observations=OBSERVED)
    assert_same(traces, expected, failed)


@pytest.mark.parametrize("batches", [True, False])
def test_one_trace_in_a_thousand_raises(
    batches: bool,
    undisturbed: Callable[..., TraceBatch],
    commands: Commands,
) -> None:
    expected = undisturbed("cpp", batches, 4000)
    failed, threshold = largest(expected, 4)
    with Simulator(commands["cpp"]("raise", threshold), num_workers=2, batches=batches) as sim:
        traces = sim.prior(4000, seed=SEED, observations=OBSERVED)
    assert_same(traces, expected, failed)

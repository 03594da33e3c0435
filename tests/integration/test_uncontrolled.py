"""What is left to the prior leaves no rows, and changes nothing else, whoever makes traces and in whichever way."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ppx_client.cpp_build import compile_simulator, toolchain_missing
from ppx_server.command import Command
from ppx_server.executor import Executor
from ppx_server.philox import Stream, normals
from ppx_server.protocol import CAPABILITIES
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import DrawFlag, Status, TraceBatch
from ppx_server.uncontrolled import Uncontrolled, without_uncontrolled
from ppx_server.worker import WorkerConfig
from tests.integration.guides import PriorGuide

HERE = Path(__file__).parent
PYTHON = (sys.executable, str(HERE / "noisy_model.py"))
PATTERNS = ("walk/*", "noise[[]?]")
LEFT = {"g", "twice", "n", "a", "before", "after", "step", "noise[0]"}
SEED, NUM_TRACES = 5, 40
DRAW_BY_DRAW = tuple(c for c in CAPABILITIES if c != "batch")
NOT_KNOWN = tuple(c for c in CAPABILITIES if c != "uncontrolled")
Open = Callable[..., Executor]


@pytest.fixture(scope="module")
def cpp() -> tuple[str, ...]:
    missing = toolchain_missing()
    if missing:
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    build = HERE.parents[1] / "build" / "tests" / "noisy_model"
    return (str(compile_simulator(HERE / "noisy_model.cpp", build, flags=["-O0", "-Werror"])),)


@pytest.fixture(scope="module")
def open_simulator(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Simulators by what is left to the prior; each is started once."""
    opened: dict[tuple[object, ...], Executor] = {}

    def start(language: str, left: Uncontrolled, capabilities: tuple[str, ...] = CAPABILITIES) -> Executor:
        key = language, left, capabilities
        if key not in opened:
            command = PYTHON if language == "python" else request.getfixturevalue("cpp")
            config = WorkerConfig(command=Command.of(command), uncontrolled=left, capabilities=capabilities)
            opened[key] = Executor([config])
        return opened[key]

    yield start
    for executor in opened.values():
        executor.close()


def names(traces: TraceBatch, rows: np.ndarray) -> set[str]:
    return {traces.addresses[i].name for i in np.unique(traces.address_id[rows]).tolist()}


def expected(traces: TraceBatch) -> TraceBatch:
    """The rows of whole traces that remain if nothing but what the patterns and the model leave is left out."""
    left = np.array([a.name in ("step", "noise[0]") for a in traces.addresses])[traces.address_id]
    flags = np.where(left, traces.flags & ~np.uint8(DrawFlag.CONTROLLED), traces.flags).astype(np.uint8)
    return without_uncontrolled(replace(traces, flags=flags))


def check_same(found: TraceBatch, due: TraceBatch) -> None:
    ids = due.addresses.translate(found.address_id, found.addresses)
    np.testing.assert_array_equal(ids, due.address_id)
    for column in ("index", "status", "offsets", "instance", "flags", "ordinals"):
        np.testing.assert_array_equal(getattr(found, column), getattr(due, column), err_msg=column)
    for column in ("value", "z", "log_prob", "log_weight"):
        np.testing.assert_allclose(getattr(found, column), getattr(due, column), rtol=1e-9, err_msg=column)
    for column in ("offsets", "begin", "end"):
        np.testing.assert_array_equal(getattr(found.loops, column), getattr(due.loops, column))
    for table in ("observations", "tags", "results"):
        np.testing.assert_allclose(getattr(found, table).data, getattr(due, table).data, rtol=1e-9)
        np.testing.assert_allclose(getattr(found, table).log_prob, getattr(due, table).log_prob, rtol=1e-9)


@pytest.fixture(scope="module")
def whole(open_simulator: Open) -> TraceBatch:
    """Traces with all their draws."""
    scripts = ScriptBatch.empty(SEED, np.arange(NUM_TRACES))
    traces = open_simulator("python", Uncontrolled()).execute(scripts, None)
    assert traces.ordinal is None
    assert names(traces, np.flatnonzero(~traces.controlled)) == LEFT - {"step", "noise[0]"}
    assert names(traces, np.flatnonzero(traces.controlled)) == {"x", "u", "twice", "step", "noise[0]", "k"}
    return traces


WAYS = [
    ("python", CAPABILITIES),
    ("python", DRAW_BY_DRAW),
    ("python", NOT_KNOWN),
    ("cpp", CAPABILITIES),
    ("cpp", DRAW_BY_DRAW),
]


@pytest.mark.parametrize(("language", "capabilities"), WAYS)
def test_what_is_left_out_changes_nothing_else(
    open_simulator: Open, whole: TraceBatch, language: str, capabilities: tuple[str, ...]
) -> None:
    left = open_simulator(language, Uncontrolled(PATTERNS, omitted=True), capabilities)
    due = expected(whole)
    assert len(due.value) < 0.2 * len(whole.value)
    found = left.execute(ScriptBatch.empty(SEED, np.arange(NUM_TRACES)), None)
    check_same(found, due)
    # The number of a draw is that of its ordinal, not of its row.
    row = int(np.flatnonzero(found.ordinals != np.arange(len(found.value)) - found.offsets[0])[0])
    numbers = normals(SEED, found.index[:1], 60)[0]
    assert found.z[row] == pytest.approx(numbers[found.ordinals[row]])
    # Scripts for controlled draws, and for some that are not: what is forced has a row.
    for source in (due, whole):
        script = ScriptBatch.replay(source, by_z=True)
        again = left.execute(script, None)
        np.testing.assert_allclose(again.tags.data, whole.tags.data, rtol=1e-9)
        assert len(again.value) == len(source.value)
    conditioned = left.execute(ScriptBatch.replay(due), {"y": 1.0})
    assert np.isfinite(conditioned.log_weight).all()


@pytest.mark.parametrize(("language", "capabilities"), WAYS)
def test_patterns_alone_only_take_the_control(
    open_simulator: Open, whole: TraceBatch, language: str, capabilities: tuple[str, ...]
) -> None:
    left = open_simulator(language, Uncontrolled(PATTERNS), capabilities)
    traces = left.execute(ScriptBatch.empty(SEED, np.arange(NUM_TRACES)), None)
    assert traces.ordinal is None
    np.testing.assert_allclose(traces.value, whole.value, rtol=1e-9)
    assert names(traces, np.flatnonzero(traces.controlled)) == {"x", "u", "twice", "k"}


@pytest.mark.parametrize("omitted", [True, False])
def test_guides_are_asked_for_nothing_that_is_left(open_simulator: Open, omitted: bool) -> None:
    scripts = ScriptBatch.empty(SEED, np.arange(12), Otherwise.ASK)
    left = Uncontrolled(PATTERNS, omitted=omitted)
    by_draws, *others = (
        open_simulator(language, left, capabilities).execute(scripts, {"y": 1.0}, PriorGuide())
        for language, capabilities in [WAYS[1], WAYS[0], WAYS[2], WAYS[3]]
    )
    assert (by_draws.status == Status.OK).all()
    assert names(by_draws, np.flatnonzero(by_draws.flags & DrawFlag.GUIDED)) == {"x", "u", "twice", "k"}
    for traces in others:
        check_same(traces, by_draws)
    if omitted:  # noise has numbers of its own: those of guided draws must not be among them
        noise = normals(SEED, by_draws.index, 80, stream=Stream.DRAWS)
        assert not np.isin(by_draws.z, noise).any()


def test_a_pattern_that_matches_no_draw_is_reported(open_simulator: Open) -> None:
    # "y" is observed, and "STEP" is written otherwise: neither is a draw.
    left = Uncontrolled(("walk/*", "y", "STEP"), omitted=True)
    config = WorkerConfig(command=Command.of(PYTHON), uncontrolled=left)
    with Executor([config]) as executor:
        executor.execute(ScriptBatch.empty(SEED, np.arange(8)), None)
        with pytest.warns(UserWarning, match="no draw matches the pattern 'y' or 'STEP'"):
            executor.execute(ScriptBatch.empty(SEED, np.arange(64)), None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            executor.execute(ScriptBatch.empty(SEED, np.arange(64)), None)  # once


def test_a_short_run_reports_it_at_its_end() -> None:
    executor = Executor([WorkerConfig(command=Command.of(PYTHON), uncontrolled=Uncontrolled(("nothing",)))])
    executor.execute(ScriptBatch.empty(SEED, np.arange(2)), None)
    with pytest.warns(UserWarning, match="'nothing'"):
        executor.close()

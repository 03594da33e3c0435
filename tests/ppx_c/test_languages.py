"""The same model in C, Fortran and R makes the same traces as in Python, and finds the exact posterior."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppx_inference import Simulator, TrustWarning, importance_sampling
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import Status, TraceBatch
from tests.ppx_c.conftest import PROGRAMS, compile_program, require
from tests.ppx_c.guides import ArrayGuide

SIMULATORS = Path(__file__).resolve().parents[2] / "simulators"
NUM_TRACES = 40
OBSERVATIONS = {"y": 0.3, "count": 5.0, "index": 1.0, "image": [1.0, 2.0, 3.0], "repeated": [0.1, 0.2]}


def check_equal(ours: TraceBatch, theirs: TraceBatch) -> None:
    """All columns agree; the numbering of addresses may differ."""
    assert (ours.status == Status.OK).all(), ours.failures
    for column in ("status", "offsets", "instance", "flags"):
        np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column), err_msg=column)
    ids = ours.addresses.translate(theirs.address_id, theirs.addresses)
    np.testing.assert_array_equal(ours.address_id, ids)
    for column in ("value", "z", "log_prob", "log_weight"):
        np.testing.assert_allclose(getattr(ours, column), getattr(theirs, column), rtol=1e-9, err_msg=column)
    for name in ("observations", "tags", "results"):
        a, b = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_array_equal(a.address_id, ours.addresses.translate(b.address_id, theirs.addresses))
        np.testing.assert_allclose(a.data, b.data, rtol=1e-9)
        np.testing.assert_allclose(a.log_prob, b.log_prob, rtol=1e-9)
    np.testing.assert_array_equal(ours.loops.begin, theirs.loops.begin)
    np.testing.assert_array_equal(ours.loops.end, theirs.loops.end)


@pytest.fixture(scope="module")
def reference(in_python: list[str]) -> list[TraceBatch]:
    with Simulator(in_python, num_workers=1) as sim:
        return [
            *(sim.prior(NUM_TRACES, seed=3, observations=given) for given in (None, OBSERVATIONS)),
            guided(sim),
        ]


def guided(sim: Simulator) -> TraceBatch:
    """Traces that end early once for each of their draws, and are executed again."""
    return sim.execute(ScriptBatch.empty(3, np.arange(NUM_TRACES), Otherwise.ASK), OBSERVATIONS, ArrayGuide())


def test_equal_seeds_make_equal_traces(everything: list[str], reference: list[TraceBatch]) -> None:
    with Simulator(everything, num_workers=1) as sim:
        assert sim.takes_batches
        for given, expected in zip((None, OBSERVATIONS), reference[:2], strict=True):
            check_equal(sim.prior(NUM_TRACES, seed=3, observations=given), expected)
        check_equal(guided(sim), reference[2])


def test_draw_by_draw_it_is_the_same(everything: list[str], reference: list[TraceBatch]) -> None:
    with Simulator(everything, num_workers=1, batches=False) as sim:
        traces = sim.prior(10, seed=3, observations=OBSERVATIONS)
    expected = reference[1].value[: reference[1].offsets[10]]
    np.testing.assert_allclose(traces.value, expected, rtol=1e-9)
    np.testing.assert_allclose(traces.log_weight, reference[1].log_weight[:10], rtol=1e-9)


@pytest.fixture(params=["c", "fortran", "r"])
def gaussian(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The example of each language; that of C is the one in its README."""
    if request.param == "c":
        return list(request.getfixturevalue("in_c")("gaussian"))
    build: Callable[[Path], list[str]] = request.getfixturevalue(f"in_{request.param}")
    if request.param == "fortran":
        return build(SIMULATORS / "fortran" / "gaussian.f90")
    for name in ("gaussian.R", "ppx.R"):
        shutil.copy(SIMULATORS / "r" / name, tmp_path)
    return [*build(tmp_path / "gaussian.R")]


def z_score(command: list[str], y0: float, y1: float) -> float:
    """How many standard errors the posterior mean is away from that for y0 = 1, y1 = 2."""
    variance = 1 / (1 / 5 + 2 / 2)
    mean = variance * (1 / 5 + (1.0 + 2.0) / 2)
    with Simulator(command, num_workers=1) as sim, warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        posterior: Any = importance_sampling(sim, {"y0": y0, "y1": y1}, num_traces=2000, seed=5)
    return abs(float(posterior["mu"].mean()) - mean) / math.sqrt(variance / posterior.ess)


def test_the_example_finds_the_exact_posterior(gaussian: list[str]) -> None:
    assert z_score(gaussian, 1.0, 2.0) < 4.0


def test_a_gsl_program_is_controlled_by_its_generator() -> None:
    require("gcc", "gsl-config")
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-lgsl", "-lgslcblas", "-lm"]
    program = compile_program(["gcc", "-O1"], [PROGRAMS / "gsl.c"], "gsl", *flags)
    assert z_score([str(program)], 1.0, 2.0) < 4.0
    assert z_score([str(program)], 1.0, 3.0) > 4.0
    with Simulator([str(program)], num_workers=1) as sim:
        traces = sim.prior(NUM_TRACES, seed=3)
        assert {sim.addresses[i].address for i in traces.address_id} == {"gsl_rng"}
        again = sim.execute(ScriptBatch.replay(traces), None)
    np.testing.assert_array_equal(again.value, traces.value)
    np.testing.assert_array_equal(again.tags.data, traces.tags.data)


def test_the_check_of_the_posterior_notices_other_data(in_c: Callable[[str], list[str]]) -> None:
    assert z_score(in_c("gaussian"), 1.0, 3.0) > 4.0

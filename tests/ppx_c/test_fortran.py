"""What Fortran has of its own: kinds, shapes, names with blanks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ppx_inference import Simulator
from ppx_server.executor import FailurePolicy
from ppx_server.philox import uniforms
from ppx_server.trace import Status

PROGRAMS = Path(__file__).parent / "programs"


def test_random_numbers_of_every_kind_and_shape(in_fortran: Callable[[Path], list[str]]) -> None:
    outcome = subprocess.run(
        in_fortran(PROGRAMS / "numbers.f90"), capture_output=True, text=True, check=True, timeout=20
    )
    double, single = (np.array(line.split(), float) for line in outcome.stdout.splitlines())
    expected = uniforms(7, [0], 20)[0]
    np.testing.assert_allclose(double, expected[:12], rtol=1e-15)
    np.testing.assert_allclose(single, expected[12:], rtol=1e-6)
    assert (single < 1).all()
    assert outcome.stderr.splitlines() == [
        "ppx: observation 'y': `value` has not n elements",
        "ppx: draw 'negative': Normal: stddev = -1, but it must be finite and > 0; correct it in the model",
        "ppx: a parameter of an array statement has neither one element nor one for each",
        "ppx: draw 'few': Normal: mean[0] = nan, but it must be finite; correct it in the model",
    ]


@pytest.mark.parametrize("batches", [True, False])
def test_a_draw_in_a_forked_process_fails_the_trace(
    in_fortran: Callable[[Path], list[str]], batches: bool
) -> None:
    policy = FailurePolicy(most=1.0)
    command = in_fortran(PROGRAMS / "forks.f90")
    with Simulator(command, num_workers=1, batches=batches, policy=policy) as sim:
        traces = sim.prior(3)
    assert (traces.status == Status.FAILED).all()
    reason = "statement 'x' was made in a process that the model forked"
    assert all(reason in text for text in traces.failures.values()), traces.failures

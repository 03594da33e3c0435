"""What Fortran has of its own: kinds, shapes, names with blanks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ppx_server.philox import uniforms

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

"""The programs of this folder: how each is made and started, its rows, and what it needs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.models import ROOT, SIMULATORS
from ppx_client.c_build import c_flags
from ppx_client.cpp_build import compile_simulator, compiler, toolchain_missing

_HERE = Path(__file__).resolve().parent
_BUILD = ROOT / "build" / "benchmarks"


class Program(NamedTuple):
    """A program that makes traces of rows, or serves them.

    Attributes:
        title: Of its table.
        rows: What it knows.
        missing: Names what this machine lacks to make and run it.
        build: Makes it; returns what starts it.
        draws_per_trace: Draws in a trace; 1 counts traces.
    """

    title: str
    rows: tuple[str, ...]
    missing: Callable[[], list[str]]
    build: Callable[[], list[str]]
    draws_per_trace: int = 1000


def _programs_missing(*names: str) -> list[str]:
    return [name for name in names if shutil.which(name) is None] + toolchain_missing()


def _gsl_missing() -> list[str]:
    missing = toolchain_missing()
    if missing:
        return missing
    source = "#include <gsl/gsl_randist.h>\n"
    command = [*compiler(), "-x", "c++", "-fsyntax-only", "-"]
    outcome = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    return ["gsl/gsl_randist.h (libgsl-dev)"] if outcome.returncode else []


def _pyprob_missing() -> list[str]:
    return [] if importlib.util.find_spec("pyprob") else ["pyprob (pip install 'ppx[pyprob]')"]


def _python(module: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", f"benchmarks.adapters.{module}"]


def _cpp(source: str, *flags: str) -> list[str]:
    return [str(compile_simulator(_HERE / source, _BUILD / Path(source).stem, flags=flags))]


def _compile(command: Sequence[str], sources: Sequence[Path], name: str) -> list[str]:
    """Compiles with the C library."""
    _BUILD.mkdir(parents=True, exist_ok=True)
    program = _BUILD / name
    subprocess.run(
        [*command, "-O2", *map(str, sources), *c_flags(), "-o", str(program)], cwd=_BUILD, check=True
    )
    return [str(program)]


def _fortran() -> list[str]:
    return _compile(["gfortran"], [SIMULATORS / "fortran" / "ppx.f90", _HERE / "draws.f90"], "draws_f")


def _r() -> list[str]:
    folder = SIMULATORS / "r"
    found = subprocess.run(["R", "CMD", "config", "--cppflags"], capture_output=True, text=True, check=True)
    command = ["gcc", "-shared", "-fPIC", *found.stdout.split()]
    (library,) = _compile(command, [folder / "ppx_r.c"], "ppx_r.so")
    environment = [f"PPX_R_LIBRARY={library}", f"PPX_R_SOURCE={folder / 'ppx.R'}"]
    return ["env", *environment, "Rscript", str(_HERE / "draws.R")]


PROGRAMS = {
    "python": Program(
        "Python, numpy.random and random",
        (
            "rng.normal(0, 1)",
            "rng.integers(6)",
            "rng.poisson(4)",
            "rng.normal(size=1000), per number",
            "random.gauss(0, 1), patched",
            "np.random.normal(0, 1), patched",
        ),
        list,
        lambda: _python("draws"),
    ),
    "pyprob": Program(
        "pyprob model",
        ("gaussian, 1 draw, 2 observations",),
        _pyprob_missing,
        lambda: _python("pyprob_model"),
        draws_per_trace=1,
    ),
    "cpp": Program(
        "C++, <random> and <stdlib.h>",
        (
            "normal_distribution",
            "uniform_real_distribution",
            "uniform_int_distribution(1, 6)",
            "poisson_distribution(4)",
            "gamma_distribution(2.5, 2)",
            "student_t_distribution(3)",
            "std::normal_distribution, random_bit_generator_64",
            "rand()",
        ),
        toolchain_missing,
        lambda: _cpp("draws.cpp"),
    ),
    "gsl": Program(
        "GSL",
        (
            "gsl_ran_gaussian, gsl_rng_ppx",
            "gsl_ran_gaussian, gsl_randist.hpp",
            "gsl_ran_poisson(4), gsl_randist.hpp",
        ),
        _gsl_missing,
        lambda: _cpp("gsl.cpp", "-lgsl", "-lgslcblas"),
    ),
    "c": Program(
        "C",
        ("drand48() -> ppx_uniform()", 'Box-Muller -> ppx_normal(0, 1, "x")'),
        lambda: _programs_missing("gcc"),
        lambda: _compile(["gcc"], [_HERE / "draws.c"], "draws_c"),
    ),
    "fortran": Program(
        "Fortran",
        ("random_number -> ppx_random_number", 'Box-Muller -> ppx_normal(0, 1, "x")'),
        lambda: _programs_missing("gfortran"),
        _fortran,
    ),
    "r": Program(
        "R",
        ("rnorm(1, 0, 1) in with_ppx", 'rnorm(1, 0, 1) -> ppx_normal(0, 1, "x")'),
        lambda: _programs_missing("gcc", "R", "Rscript"),
        _r,
    ),
}
"""By the names that `--only` takes."""

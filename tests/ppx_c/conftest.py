"""Simulators in C, Fortran and R, compiled once per session, and the model in Python that they all implement."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ppx_client.c_build import c_flags
from ppx_client.cpp_build import toolchain_missing

ROOT = Path(__file__).resolve().parents[2]
SIMULATORS = ROOT / "simulators"
PROGRAMS = Path(__file__).resolve().parent / "programs"
BUILD = ROOT / "build" / "tests" / "ppx_c"

Command = list[str]


def require(*programs: str) -> None:
    missing = [name for name in programs if shutil.which(name) is None] + toolchain_missing()
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")


def compile_program(compiler: list[str], sources: list[Path], name: str, *flags: str) -> Path:
    """Compiles for this session, as its own file: sessions may run side by side."""
    BUILD.mkdir(parents=True, exist_ok=True)
    made, program = BUILD / f".{name}-{os.getpid()}", BUILD / name
    command = [*compiler, *map(str, sources), *flags, *c_flags(), "-o", str(made)]
    outcome = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    made.replace(program)
    return program


@pytest.fixture(scope="session")
def in_c() -> Callable[[str], Command]:
    """The command of a C program of this folder."""
    require("gcc")
    made: dict[str, Path] = {}

    def build(name: str) -> Command:
        if name not in made:
            flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"]
            made[name] = compile_program(["gcc", "-O1"], [PROGRAMS / f"{name}.c"], name, *flags)
        return [str(made[name])]

    return build


@pytest.fixture(scope="session")
def in_fortran() -> Callable[[Path], Command]:
    """The command of a Fortran program."""
    require("gfortran")

    def build(source: Path) -> Command:
        # As -Ofast does, with arrays of a size known at run time on the stack.
        flags = ["-std=f2008", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fstack-arrays", f"-J{BUILD}"]
        module = SIMULATORS / "fortran" / "ppx.f90"
        program = compile_program(["gfortran", "-O1"], [module, source], f"{source.stem}_f", *flags)
        return [str(program)]

    return build


@pytest.fixture(scope="session")
def in_r() -> Callable[[Path], Command]:
    """The command of an R script."""
    require("gcc", "Rscript", "R")
    outcome = subprocess.run(["R", "CMD", "config", "--cppflags"], capture_output=True, text=True, check=True)
    glue = compile_program(
        ["gcc", "-O1", "-shared", "-fPIC", "-Wall", "-Werror"],
        [SIMULATORS / "r" / "ppx_r.c"],
        "ppx_r.so",
        *outcome.stdout.split(),
    )
    environment = [f"PPX_R_LIBRARY={glue}", f"PPX_R_SOURCE={SIMULATORS / 'r' / 'ppx.R'}"]
    return lambda source: ["env", *environment, "Rscript", str(source)]


@pytest.fixture(scope="session", params=["c", "fortran", "r"])
def everything(request: pytest.FixtureRequest) -> Command:
    """The command of the model that has every statement, in each language."""
    if request.param == "c":
        return list(request.getfixturevalue("in_c")("everything"))
    source = PROGRAMS / {"fortran": "everything.f90", "r": "everything.R"}[request.param]
    return list(request.getfixturevalue(f"in_{request.param}")(source))


@pytest.fixture(scope="session")
def in_python() -> Command:
    """The command of the same model in Python."""
    return [sys.executable, str(PROGRAMS / "everything.py")]

"""The files that a simulator in Fortran, R or JavaScript takes with it, wherever the package is installed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from ppx_client.c_build import c_flags, compile_once
from ppx_client.cpp_build import CppBuildError

_PACKAGE = Path(__file__).resolve().parent


def fortran_module() -> Path:
    """The path of `ppx.f90`.

    Raises:
        CppBuildError: The installation has none.
    """
    return _file("fortran", "ppx.f90")


def r_files() -> list[Path]:
    """The paths of `ppx.R` and of the library that it loads, which is compiled if it is not there yet.

    Raises:
        CppBuildError: A file, a tool or R is missing, or the compiler reported errors.
    """
    source = _file("r", "ppx_r.c")
    if shutil.which("R") is None:
        raise CppBuildError("there is no R on PATH; on Debian or Ubuntu: apt-get install r-base-core")
    outcome = subprocess.run(
        ["R", "CMD", "config", "--cppflags"], capture_output=True, text=True, check=False
    )
    if outcome.returncode:
        raise CppBuildError(f"`R CMD config --cppflags` failed: {outcome.stderr.strip()}")
    command = ["gcc", "-O2", "-shared", "-fPIC", str(source), *shlex.split(outcome.stdout), *c_flags()]
    library = compile_once("r", "ppx_r.so", [source], lambda made: [[*command, "-o", str(made)]])
    return [_file("r", "ppx.R"), library]


def javascript_files() -> list[Path]:
    """The paths of `ppx.mjs`, and of the files by which npm installs what it needs.

    Raises:
        CppBuildError: The installation has none.
    """
    return [_file("javascript", name) for name in ("ppx.mjs", "package.json", "package-lock.json")]


def _file(language: str, name: str) -> Path:
    """A file in the folder of a language: of the installed package, or of a checkout."""
    for folder in (_PACKAGE / language, _PACKAGE.parents[1] / language):
        if (folder / name).is_file():
            return folder / name
    raise CppBuildError(f"no {name}; install the package ppx again, or run from a complete checkout")

"""`ppx fortran-module`, `ppx r-files`, `ppx javascript-files`: where the files are that a simulator takes with it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from ppx_inference.cli.console import FAILED, fail, reported


@reported
def fortran_module() -> None:
    """Prints the path of the Fortran module, which is compiled with the program.

    Example:

      gfortran -O2 $(ppx fortran-module) simulator.f90 $(ppx c-flags) -o simulator
    """
    from ppx_client import language_files

    _show(lambda: [language_files.fortran_module()])


@reported
def r_files() -> None:
    """Prints the paths of ppx.R and ppx_r.so, to be copied beside an R script.

    The first time, the library is compiled, which takes 15 s, R and a C++ compiler.

    Example:

      cp $(ppx r-files) .
    """
    from ppx_client import language_files

    _show(language_files.r_files)


@reported
def javascript_files() -> None:
    """Prints the paths of ppx.mjs and of the files by which npm installs what it needs.

    Example:

      cp $(ppx javascript-files) . && npm ci --ignore-scripts
    """
    from ppx_client import language_files

    _show(language_files.javascript_files)


def _show(find: Callable[[], Sequence[Path]]) -> None:
    from ppx_client import cpp_build

    try:
        print(shlex.join(map(str, find())))
    except cpp_build.CppBuildError as error:
        fail(str(error))
        raise typer.Exit(FAILED) from None

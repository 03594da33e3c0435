"""`ppx c-flags`: what a compiler of C or Fortran needs to know."""

from __future__ import annotations

import shlex

import typer

from ppx_inference.cli.console import FAILED, fail, reported


@reported
def c_flags() -> None:
    """Prints what a C or Fortran compiler needs to build a simulator, in any folder.

    The first time, the library that it names is compiled, which takes 15 s and a C++ compiler.

    Example:

      gcc -O2 simulator.c $(ppx c-flags) -o simulator
    """
    from ppx_client import c_build, cpp_build

    try:
        print(shlex.join(c_build.c_flags()))
    except cpp_build.CppBuildError as error:
        fail(str(error))
        raise typer.Exit(FAILED) from None

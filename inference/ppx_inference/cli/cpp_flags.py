"""`ppx cpp-flags`: what a compiler needs to know."""

from __future__ import annotations

import shlex

import typer

from ppx_inference.cli.console import FAILED, fail, reported


@reported
def cpp_flags() -> None:
    """Prints what a C++17 compiler needs to build a simulator, in any folder.

    Example:

      g++ -std=c++17 -O2 simulator.cpp $(ppx cpp-flags) -o simulator
    """
    from ppx_client import cpp_build

    try:
        print(shlex.join(cpp_build.cpp_flags()))
    except cpp_build.CppBuildError as error:
        fail(str(error))
        raise typer.Exit(FAILED) from None

"""The library behind `ppx.h`, for simulators in C, Fortran and R: compiled once, kept in a cache folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from ppx_client.cpp_build import CppBuildError, compiler, cpp_flags, include_folder

_PACKAGE = Path(__file__).resolve().parent


def source_folder() -> Path:
    """The folder that holds `ppx.h` and the sources of the library.

    Raises:
        CppBuildError: The installation has none.
    """
    for folder in (_PACKAGE / "c", _PACKAGE.parents[1] / "c"):
        if (folder / "ppx.h").is_file():
            return folder
    raise CppBuildError("no ppx.h; install the package ppx again, or run from a complete checkout")


def c_flags() -> list[str]:
    """What to give to a C or Fortran compiler, behind the source files, to compile and link a simulator.

    Returns:
        The folder of `ppx.h`, and libraries; the library is compiled if it is not there yet (15 s).

    Raises:
        CppBuildError: A tool or a header is missing, or the compiler reported errors.
    """
    return [f"-I{source_folder()}", str(_library()), "-lzmq", "-lstdc++", "-lm", "-lpthread"]


def compile_once(
    kind: str, name: str, sources: list[Path], commands: Callable[[Path], list[list[str]]]
) -> Path:
    """A file in the cache folder, made if it is not there yet.

    Args:
        kind: What the name of its folder begins with.
        name: Its name.
        sources: Files that it is made of.
        commands: What makes it at a path; the file is made again if the commands, the sources or the compiler change.

    Raises:
        CppBuildError: A command failed.
    """
    key = hashlib.sha256("\0".join([*map(str, commands(Path(name))), _version()]).encode())
    for path in sources:
        key.update(path.read_bytes())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made = caches / "ppx" / f"{kind}-{key.hexdigest()[:16]}" / name
    if made.is_file():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own and moved at the end: two processes may compile it at once.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=made.parent) as scratch:
        for command in commands(Path(scratch, name)):
            _run(command)
        Path(scratch, name).replace(made)
    return made


def _library() -> Path:
    """The path of `libppx.a`, made of position-independent code, so that it may go into shared libraries, too."""
    flags = cpp_flags()
    compile_it = [*compiler(), "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden"]
    compile_it += ["-c", str(source_folder() / "ppx.cpp"), *flags[:-1]]
    sources = [
        path
        for folder in (source_folder(), include_folder())
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".h", ".hpp", ".cpp"))
    ]

    def commands(archive: Path) -> list[list[str]]:
        made = str(archive.with_name("ppx.o"))
        return [[*compile_it, "-o", made], ["ar", "rcs", str(archive), made]]

    return compile_once("c", "libppx.a", sources, commands)


def _version() -> str:
    return subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True).stdout


def _run(command: list[str]) -> None:
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        raise CppBuildError(
            f"{command[0]} failed (exit code {outcome.returncode}):\n{outcome.stderr.strip()}"
        )

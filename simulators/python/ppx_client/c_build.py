"""The library behind `ppx.h`, for simulators in C, Fortran and R: compiled once, kept in a cache folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
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


def _library() -> Path:
    """The path of `libppx.a`, made of position-independent code, so that it may go into shared libraries, too."""
    flags = cpp_flags()
    command = [*compiler(), "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden"]
    key = hashlib.sha256("\0".join([*command, *flags, _version()]).encode())
    for folder in (source_folder(), include_folder()):
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".h", ".hpp", ".cpp")):
            key.update(path.read_bytes())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    library = caches / "ppx" / f"c-{key.hexdigest()[:16]}" / "libppx.a"
    if library.is_file():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own and moved at the end: two processes may compile it at once.
    with tempfile.TemporaryDirectory(prefix=".libppx-", dir=library.parent) as scratch:
        made, archive = Path(scratch, "ppx.o"), Path(scratch, "libppx.a")
        _run([*command, "-c", str(source_folder() / "ppx.cpp"), *flags[:-1], "-o", str(made)])
        _run(["ar", "rcs", str(archive), str(made)])
        archive.replace(library)
    return library


def _version() -> str:
    return subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True).stdout


def _run(command: list[str]) -> None:
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        raise CppBuildError(
            f"{command[0]} failed (exit code {outcome.returncode}):\n{outcome.stderr.strip()}"
        )

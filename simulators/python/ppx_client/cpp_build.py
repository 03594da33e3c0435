"""Compiling C++ simulators: the flags a compiler needs, and a build step for tests and demos.

The client is a header, `ppx_client.hpp`. It includes `ppx_generated.h`, which the FlatBuffers compiler makes from the
schema; generated code must match the installed FlatBuffers headers, so it is made here, on the user's machine, once per
schema and FlatBuffers version, in a cache folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from ppx_client.errors import PPXError

APT_PACKAGES = (
    "g++",
    "libzmq3-dev",
    "cppzmq-dev",
    "libflatbuffers-dev",
    "flatbuffers-compiler",
    "libboost-dev",
)
"""Debian and Ubuntu packages that compiling a simulator needs."""

_PACKAGE = Path(__file__).resolve().parent
_HEADERS = {
    "zmq.h": "libzmq3-dev",
    "zmq.hpp": "cppzmq-dev",
    "flatbuffers/flatbuffers.h": "libflatbuffers-dev",
    "boost/math/distributions/beta.hpp": "libboost-dev",
}


class CppBuildError(PPXError):
    """A C++ simulator cannot be compiled: a tool or header is missing, or the compiler reported errors."""


def include_folder() -> Path:
    """The folder that holds `ppx_client.hpp`.

    Raises:
        CppBuildError: The installation has none.
    """
    installed = _PACKAGE / "cpp" / "include"
    source = _PACKAGE.parents[1] / "cpp" / "include"
    return _first_that_holds("ppx_client.hpp", (installed, source))


def schema_file() -> Path:
    """The FlatBuffers schema of PPX.

    Raises:
        CppBuildError: The installation has none.
    """
    installed = _PACKAGE / "cpp" / "schema"
    source = _PACKAGE.parents[2] / "ppx_server" / "protocol" / "schema"
    return _first_that_holds("ppx.fbs", (installed, source)) / "ppx.fbs"


def cpp_flags() -> list[str]:
    """What to give to a C++17 compiler, behind the source files, to compile and link a simulator.

    Returns:
        Include folders and libraries; the generated header is made if it is not there yet.

    Raises:
        CppBuildError: A tool or a header is missing; the message names the packages to install.
    """
    missing = toolchain_missing()
    if missing:
        raise CppBuildError(
            f"compiling a C++ simulator needs {', '.join(missing)}, not found on this machine; "
            f"on Debian or Ubuntu: apt-get install {' '.join(APT_PACKAGES)}"
        )
    # -isystem: the user's warning flags are not for the generated code.
    return [f"-I{include_folder()}", f"-isystem{_generated_folder()}", "-lzmq"]


def toolchain_missing() -> list[str]:
    """What this machine lacks to compile a C++ simulator; empty if nothing.

    Returns:
        Names of programs and headers, each header with its Debian package.
    """
    missing = [program for program in (compiler()[0], "flatc") if shutil.which(program) is None]
    if compiler()[0] in missing:
        return missing
    return missing + [
        f"{header} ({package})" for header, package in _HEADERS.items() if not _has_header(header)
    ]


def compiler() -> list[str]:
    """The C++ compiler's command: the environment variable CXX, or g++."""
    return shlex.split(os.environ.get("CXX", "")) or ["g++"]


def compile_simulator(source: Path, output: Path, *, flags: Sequence[str] = ()) -> Path:
    """Compiles one C++ file against the client, unless the program is there and newer than all it was made from.

    Args:
        source: The C++ file.
        output: The program to make; its folder is made, too.
        flags: More compiler flags, e.g. `-DPPX_SOURCE_ROOT="..."`, or further source files. Other flags than at the
            last time compile again.

    Returns:
        `output`, absolute.

    Raises:
        CppBuildError: Something is missing, or the compiler reported errors, which the message quotes.
    """
    source, output = source.resolve(), output.resolve()
    if not source.is_file():
        raise CppBuildError(f"there is no C++ source {source}; check the path")
    command = [*compiler(), "-std=c++17", "-O2", "-Wall", "-Wextra", str(source), *flags, *cpp_flags()]
    stamp = output.with_name(output.name + ".d")
    sources = [source, *(Path(flag) for flag in flags if Path(flag).is_file())]
    if _is_current(output, stamp, command, sources):
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own and moved at the end: two processes may compile the same simulator at once.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as folder:
        program, depends = Path(folder, "program"), Path(folder, "depends")
        outcome = subprocess.run(
            [*command, "-MMD", "-MF", str(depends), "-o", str(program)],
            capture_output=True,
            text=True,
            check=False,
        )
        if outcome.returncode:
            raise CppBuildError(
                f"compiling {source} failed (exit code {outcome.returncode}):\n{outcome.stderr.strip()}"
            )
        depends.write_text(_first_line(command) + depends.read_text())
        depends.replace(stamp)
        program.replace(output)
    return output


def _first_line(command: Sequence[str]) -> str:
    return f"# {shlex.join(command)}\n"


def _is_current(output: Path, stamp: Path, command: Sequence[str], sources: Sequence[Path]) -> bool:
    """Whether the program was made by this command and no file that went into it has changed since."""
    if not output.is_file() or not stamp.is_file():
        return False
    first, _, rule = stamp.read_text().partition("\n")
    if first + "\n" != _first_line(command):
        return False
    _, _, prerequisites = rule.replace("\\\n", " ").partition(": ")
    headers = [Path(name.replace("\\ ", " ")) for name in re.split(r"(?<!\\)\s+", prerequisites.strip())]
    made = output.stat().st_mtime_ns
    return all(file.is_file() and file.stat().st_mtime_ns <= made for file in (*sources, *headers))


def _first_that_holds(name: str, folders: Iterable[Path]) -> Path:
    folders = tuple(folders)
    for folder in folders:
        if (folder / name).is_file():
            return folder
    raise CppBuildError(
        f"no {name} in {' or '.join(map(str, folders))}; install the package ppx again, or run from a complete checkout"
    )


def _has_header(header: str) -> bool:
    source = f"#if !__has_include(<{header}>)\n#error missing\n#endif\n"
    command = [*compiler(), "-x", "c++", "-std=c++17", "-E", "-o", os.devnull, "-"]
    return subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0


def _generated_folder() -> Path:
    """The folder that holds `ppx_generated.h` for this schema and this version of flatc."""
    schema = schema_file()
    version = subprocess.run(["flatc", "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256(schema.read_bytes() + version.encode()).hexdigest()[:16]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "ppx" / f"flatbuffers-{key}"
    if (folder / "ppx_generated.h").is_file():
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".flatc-", dir=folder) as scratch:
            subprocess.run(
                ["flatc", "--cpp", "-o", scratch, str(schema)], capture_output=True, text=True, check=True
            )
            Path(scratch, "ppx_generated.h").replace(folder / "ppx_generated.h")
    except subprocess.CalledProcessError as error:
        raise CppBuildError(
            f"flatc cannot compile {schema}: {(error.stderr or error.stdout).strip()}; "
            f"this is {version.strip()}, tested is 2.0.8"
        ) from None
    except OSError as error:
        raise CppBuildError(
            f"cannot write {folder}: {error.strerror}; set XDG_CACHE_HOME to a folder that can be written"
        ) from None
    return folder

"""What the C library shows to a linker, and how else than by `ppx c-flags` it is built."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ppx_client import c_build
from ppx_client.c_build import c_flags
from ppx_client.cpp_build import CppBuildError

ROOT = Path(__file__).resolve().parents[2]
C = ROOT / "simulators" / "c"
Build = Callable[[str], list[str]]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    outcome = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


def symbols(library: Path) -> set[str]:
    return {line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()}


def functions() -> set[str]:
    """The functions that the header declares."""
    return set(
        re.findall(r"\b(ppx_\w+)\(", "".join(re.findall(r"^PPX_API [^;]*;", (C / "ppx.h").read_text(), re.M)))
    )


@pytest.fixture(scope="module")
def archive(in_c: Build) -> Path:
    return Path(c_flags()[1])


def test_a_shared_library_shows_the_functions_of_the_header_only(archive: Path, tmp_path: Path) -> None:
    whole = ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive"]
    script = f"-Wl,--version-script={C / 'ppx.map'}"
    run("g++", "-shared", *whole, script, "-lzmq", "-o", tmp_path / "libppx.so")
    assert symbols(tmp_path / "libppx.so") == functions()
    assert len(functions()) > 40


def test_the_header_is_one_for_cpp_too(archive: Path, tmp_path: Path) -> None:
    source = tmp_path / "draw.cpp"
    source.write_text(
        "#include <ppx.h>\n#include <cstdio>\n"
        'int main() { ppx_seed(7); std::printf("%.9f %s\\n", ppx_normal(0.0, 1.0, nullptr), ppx_version()); }\n'
    )
    run("g++", "-Wall", "-Wextra", "-Wpedantic", "-Werror", source, *c_flags(), "-o", tmp_path / "draw")
    value, version = run(tmp_path / "draw").split()
    assert (float(value), version) == (pytest.approx(normal(7), abs=1e-9), "0.1.0")


def test_places_are_relative_to_the_source_root(archive: Path, tmp_path: Path) -> None:
    source = tmp_path / "part" / "v1.2" / "site.c"
    source.parent.mkdir(parents=True)
    source.write_text("#include <ppx.h>\nint main(void) {\n    ppx_normal(0.0, -1.0, NULL);\n}\n")
    for flags, expected in (([f'-DPPX_SOURCE_ROOT="{tmp_path}"'], "part/v1_2/site_c"), ([], "site_c")):
        run("gcc", *flags, source, *c_flags(), "-o", tmp_path / "site")
        outcome = subprocess.run([tmp_path / "site"], capture_output=True, text=True, check=True)
        assert outcome.stderr.startswith(f"ppx: draw '{expected}:3:main': Normal: stddev = -1")


def normal(seed: int) -> float:
    from ppx_server.philox import normals

    return float(normals(seed, 0, 1)[0, 0])


def test_without_sources_or_with_a_compiler_that_fails_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ppx.h").touch()
    (tmp_path / "ppx.cpp").write_text("#error no such thing\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with monkeypatch.context() as patched:
        patched.setattr(c_build, "source_folder", lambda: tmp_path)
        with pytest.raises(CppBuildError, match="no such thing"):
            c_flags()
    assert not list(tmp_path.rglob("libppx.a"))
    monkeypatch.setattr(c_build, "_PACKAGE", tmp_path / "a" / "b")
    with pytest.raises(CppBuildError, match=r"no ppx\.h; install the package"):
        c_build.source_folder()


@pytest.mark.slow
def test_cmake_builds_both_libraries(in_c: Build, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    run("cmake", "-S", C, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={ROOT / 'simulators' / 'cpp'}")
    run("cmake", "--build", tmp_path / "build")
    run("cmake", "--install", tmp_path / "build", "--prefix", tmp_path / "installed")
    include, libraries = tmp_path / "installed" / "include", tmp_path / "installed" / "lib"
    assert symbols(libraries / "libppx.so") == functions()
    source = Path(__file__).parent / "programs" / "gaussian.c"
    for library in ([libraries / "libppx.so"], [libraries / "libppx.a", "-lzmq", "-lstdc++", "-lm"]):
        run("gcc", source, f"-I{include}", *library, "-o", tmp_path / "gaussian")

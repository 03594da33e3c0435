"""Compiling C++ simulators: by hand with the flags, by compile_simulator, and by CMake."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ppx_client import cpp_build
from ppx_client.cpp_build import CppBuildError, compile_simulator, cpp_flags

ROOT = Path(__file__).resolve().parents[2]
CPP = ROOT / "simulators" / "cpp"

ADDRESS_PROGRAM = """
#define PPX_SOURCE_ROOT "{root}"
#include <ppx_client/address.hpp>
#include <cstdio>
static std::string where(ppx_client::CallSite site = ppx_client::CallSite::current()) {{
    return std::string(ppx_client::detail::AddressPath().address("", site));
}}
int main() {{ std::puts(where().c_str()); }}
"""


@pytest.fixture(autouse=True)
def toolchain() -> None:
    missing = cpp_build.toolchain_missing()
    if missing:
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    outcome = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


def test_the_flags_compile_a_simulator_in_any_folder(tmp_path: Path) -> None:
    (tmp_path / "sim.cpp").write_text(
        "#include <ppx_client.hpp>\n#include <cstdio>\n"
        'int main() { std::printf("%d\\n", int(ppx_client::sample(ppx_client::Bernoulli{1.0}, "b"))); }\n'
    )
    run("g++", "-std=c++17", "sim.cpp", *cpp_flags(), "-o", "sim", cwd=tmp_path)
    assert run(tmp_path / "sim") == "1\n"


def test_call_sites_are_relative_to_the_source_root(tmp_path: Path) -> None:
    for root, expected in (
        (tmp_path, "part/v1_2/site_cpp:8:main\n"),
        (tmp_path / "other", "site_cpp:8:main\n"),
    ):
        source = tmp_path / "part" / "v1.2" / "site.cpp"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(ADDRESS_PROGRAM.format(root=root))
        assert run(compile_simulator(source, tmp_path / "site", flags=["-O0"])) == expected


def test_a_program_is_compiled_again_only_if_it_must_be(tmp_path: Path) -> None:
    source, header, program = tmp_path / "a b.cpp", tmp_path / "value.hpp", tmp_path / "out" / "program"
    source.write_text('#include "value.hpp"\n#include <cstdio>\nint main() { std::printf("%d", VALUE); }\n')
    header.write_text("#define VALUE 1\n")
    made = compile_simulator(source, program).stat().st_mtime_ns
    assert compile_simulator(source, program).stat().st_mtime_ns == made
    header.write_text("#define VALUE 2\n")
    assert run(compile_simulator(source, program)) == "2"
    assert sorted(path.name for path in program.parent.iterdir()) == ["program", "program.d"]


def test_a_compiler_error_is_quoted_and_leaves_no_program(tmp_path: Path) -> None:
    (tmp_path / "bad.cpp").write_text("int main() { return undeclared; }\n")
    with pytest.raises(CppBuildError, match="undeclared"):
        compile_simulator(tmp_path / "bad.cpp", tmp_path / "bad")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.cpp"]


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "g++").symlink_to(str(shutil.which("g++")))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(cpp_build._HEADERS, "no/such.hpp", "no-such-dev")
    with pytest.raises(
        CppBuildError, match=r"flatc.*no/such.hpp \(no-such-dev\).*apt-get install.*flatbuffers-compiler"
    ):
        cpp_flags()
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    assert cpp_build.toolchain_missing() == ["no-such-compiler", "flatc"]


def test_the_generated_header_is_cached_by_schema_and_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (folder,) = (Path(flag.removeprefix("-isystem")) for flag in cpp_flags() if flag.startswith("-isystem"))
    assert folder.is_relative_to(tmp_path)
    header = folder / "ppx_generated.h"
    made = header.stat().st_mtime_ns
    cpp_flags()
    assert header.stat().st_mtime_ns == made


@pytest.mark.parametrize("installed", [False, True])
def test_cmake_finds_the_package(installed: bool, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    prefix: Any = CPP
    if installed:
        prefix = tmp_path / "prefix"
        run("cmake", "-S", CPP, "-B", tmp_path / "package", f"-DCMAKE_INSTALL_PREFIX={prefix}")
        run("cmake", "--install", tmp_path / "package")
    source = tmp_path / "source"
    source.mkdir()
    (source / "sim.cpp").write_text(
        '#include <ppx_client.hpp>\nint main() { return int(ppx_client::sample(ppx_client::Bernoulli{0.0}, "b")); }\n'
    )
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(user CXX)\nfind_package(ppx_client REQUIRED)\n"
        "add_executable(sim sim.cpp)\ntarget_link_libraries(sim PRIVATE ppx_client::ppx_client)\n"
    )
    run("cmake", "-S", source, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path / "build")
    assert run(tmp_path / "build" / "sim") == ""
    assert os.access(tmp_path / "build" / "sim", os.X_OK)

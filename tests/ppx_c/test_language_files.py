"""`ppx fortran-module`, `ppx r-files`, `ppx javascript-files`: what they name is there, in a checkout and installed."""

from __future__ import annotations

import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ppx_client import language_files
from ppx_client.cpp_build import CppBuildError
from ppx_inference.cli.application import app

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "program one\n    use ppx\n    print *, ppx_normal(0.0_ppx_real, 1.0_ppx_real, 'x')\nend program\n"


def named(command: str) -> list[Path]:
    """The paths that a command prints."""
    result = CliRunner().invoke(app, [command])
    assert result.exit_code == 0, result.output
    return [Path(word) for word in shlex.split(result.stdout)]


@pytest.mark.usefixtures("in_fortran")
def test_the_fortran_module_is_compiled_from_where_it_is(tmp_path: Path) -> None:
    (module,) = named("fortran-module")
    (tmp_path / "one.f90").write_text(PROGRAM)
    command = ["gfortran", str(module), "one.f90", *map(str, named_flags()), "-o", "one"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert float(subprocess.run([tmp_path / "one"], capture_output=True, text=True, check=True).stdout)


def named_flags() -> list[str]:
    from ppx_client.c_build import c_flags

    return c_flags()


def test_the_files_of_r_work_beside_each_other(in_r: Callable[[Path], list[str]], tmp_path: Path) -> None:
    for path in named("r-files"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "one.R").write_text('source("ppx.R"); cat(ppx_normal(0, 1, "x"))')
    outcome = subprocess.run(["Rscript", "one.R"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(outcome.stdout)


def test_the_files_of_javascript_are_those_that_npm_needs() -> None:
    assert [path.name for path in named("javascript-files")] == [
        "ppx.mjs", "package.json", "package-lock.json"
    ]  # fmt: skip


def test_an_installed_package_has_them_too() -> None:
    """The folders where they are looked for first are those that the build puts them into."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    included = {ROOT / source: Path(target) for source, target in build["force-include"].items()}
    files = [
        language_files.fortran_module(),
        ROOT / "simulators" / "r" / "ppx.R",
        *language_files.javascript_files(),
    ]
    for path in files:
        target = included.get(path) or included[path.parent] / path.name
        assert target == Path("ppx_client", path.parent.name, path.name)


def test_an_installation_without_them_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(language_files, "_PACKAGE", tmp_path / "a" / "b")
    with pytest.raises(CppBuildError, match=r"no ppx\.f90; install the package ppx again"):
        language_files.fortran_module()
    result = CliRunner().invoke(app, ["javascript-files"])
    assert result.exit_code == 1
    assert "no ppx.mjs" in result.output

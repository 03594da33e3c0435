"""What a command becomes in a working directory of its own: what is still found, and what to do where it is not."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from ppx_server.command import Command
from ppx_server.errors import ArgumentError, SimulatorStartError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a program in two languages and a file of data."""
    for name in ("gaussian.py", "gaussian.cpp", "cards.dat", "3", "data with spaces.csv"):
        (tmp_path / name).write_text("")
    (tmp_path / "gaussian").write_text("#!/bin/sh\n")
    (tmp_path / "gaussian").chmod(0o755)
    (tmp_path / "build").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_program_and_files_are_found_in_another_folder(here: Path, tmp_path_factory, monkeypatch) -> None:
    words = [
        "./gaussian",
        "cards.dat",
        "--in=cards.dat",
        "in=cards.dat",
        "gaussian.py:Model",
        "--seed",
        "3",
        "build",
    ]
    words += ["nothing.dat", "gaussian", "/etc/passwd", "{address}", "x" * 5000, "data with spaces.csv"]
    command = Command.of(words)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))  # as where a simulator is started again later
    assert command.arguments("ipc:///x") == [
        *(f"{here}/gaussian", f"{here}/cards.dat", f"--in={here}/cards.dat", f"in={here}/cards.dat"),
        *(f"{here}/gaussian.py:Model", "--seed", "3", "build"),
        *("nothing.dat", "gaussian", "/etc/passwd", "ipc:///x", "x" * 5000, f"{here}/data with spaces.csv"),
    ]
    assert str(command).startswith("./gaussian cards.dat")


@pytest.mark.parametrize(
    ("words", "imports"),
    [
        (["-m", "gaussian"], True),
        (["-um", "gaussian"], True),
        (["-X", "utf8", "-W", "error", "-c", "import gaussian"], True),
        (["gaussian.py", "-m", "gaussian"], False),
        (["-Xutf8", "-Wmodule", "gaussian.py"], False),
    ],
)
def test_python_imports_from_where_it_was_started(
    words: list[str], imports: bool, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"build{os.pathsep}/usr/share")
    for prefix in ([], ["env", "A=1"]):
        command = Command.of([*prefix, "python3", *words])
        relocated = f"{here}/build{os.pathsep}/usr/share"
        assert command.environment()["PYTHONPATH"] == (
            f"{here}{os.pathsep}{relocated}" if imports else relocated
        )
        if imports:  # a module is no file, though there is one of its name
            assert command.arguments("")[-1] == words[-1]


def test_a_command_may_be_words_a_path_or_a_text(here: Path) -> None:
    assert Command.of("./gaussian 'a b' 1").words == ("./gaussian", "a b", "1")
    assert Command.of("data with spaces.csv").words == ("data with spaces.csv",)
    assert Command.of(Path("./gaussian")).arguments("") == [f"{here}/gaussian"]
    assert Command.of([Path("gaussian"), Path("cards.dat"), 2, 0.5]).arguments("") == [
        *(f"{here}/gaussian", f"{here}/cards.dat", "2", "0.5"),
    ]
    assert Command.of(here / "gaussian", cwd="build").cwd == here / "build"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            pytest.fixture,
            r"not the function fixture: end a file, say model.py, with ppx_client.serve\(forward",
        ),
        (dict, "not the class dict"),
        (5, "not 5"),
        ([sys.executable, None], "a word of the command must be text or a path, not None"),
        ("", "the command is empty"),
        ([], "the command is empty"),
        ("a 'b", "cannot be split into words: No closing quotation"),
    ],
)
def test_what_is_no_command_is_refused(command: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Command.of(command)  # type: ignore[arg-type]


@pytest.mark.parametrize("cwd", ["nowhere", "cards.dat"])
def test_a_folder_that_is_none_is_refused(cwd: str, here: Path) -> None:
    with pytest.raises(ArgumentError, match=f"cwd is '{cwd}', which is no folder"):
        Command.of("./gaussian", cwd=cwd)


@pytest.mark.parametrize(
    ("program", "remedy"),
    [
        ("gaussian", "a program in the current directory is started as ./gaussian"),
        ("gaussian.py", "started by its interpreter: python gaussian.py"),
        ("./gaussian.py", "started by its interpreter: python ./gaussian.py"),
        ("gaussian.cpp", "compile it"),
        ("./cards.dat", r"chmod \+x ./cards.dat"),
        ("./build", "it is a folder"),
        ("./gaussian --fast", "give a list, or one string"),
        ("./missing", "build it, or give its full path"),
    ],
)
def test_a_program_that_is_none_comes_with_a_remedy(program: str, remedy: str, here: Path) -> None:
    with pytest.raises(SimulatorStartError, match=f"no executable file '{program}' .*; .*{remedy}"):
        Command.of([program]).arguments("")


def test_a_program_in_cwd_is_named(here: Path) -> None:
    (here / "build" / "sim").write_text("")
    with pytest.raises(SimulatorStartError, match=r"there is one in .*/build, but"):
        Command.of(["./sim"], cwd="build").arguments("")


def test_a_script_without_interpreter_is_explained() -> None:
    reason = OSError(errno.ENOEXEC, "Exec format error")
    assert "interpreter: Rscript ./model.R" in Command(("./model.R",)).explain(reason)
    assert "script without #!" in Command(("./model",)).explain(reason)


@pytest.mark.parametrize(
    "said",
    [
        "FileNotFoundError: [Errno 2] No such file or directory: 'data.csv'",
        "Fortran runtime error: Cannot open file 'cards.dat': No such file or directory",
        'Error in file(con, "r") : cannot open the connection',
        "ModuleNotFoundError: No module named 'tables'",
        "terminate called: could not read cross sections",
    ],
)
def test_who_misses_a_file_is_told_of_cwd(said: str, here: Path) -> None:
    advice = Command.of("./gaussian").advice(said)
    assert f"cwd='{here}'), on the command line --cwd ." in advice
    assert Command.of("./gaussian", cwd=".").advice(said) == ""
    assert Command.of("./gaussian").advice(said + advice) == ""
    assert Command.of("./gaussian").advice("ZeroDivisionError: division by zero") == ""

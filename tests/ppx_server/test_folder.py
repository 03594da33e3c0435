"""Folders of simulator processes: what is found in them, what is kept, what is left."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from ppx_server import folder
from ppx_server.errors import SimulatorStartError
from ppx_server.folder import COPIED_BYTES, ProcessFolder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    monkeypatch.setattr(folder, "_kept", [])
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with small, large, hidden and odd things in it."""
    path = tmp_path / "source"
    (path / "tables" / "deep").mkdir(parents=True)
    (path / ".git").mkdir()
    (path / ".git" / "config").write_text("hidden")
    (path / ".Rprofile").write_text("options()")
    (path / "cards.dat").write_text("1 2 3")
    (path / "tables" / "deep" / "sigma.dat").write_text("4 5 6")
    (path / "large.bin").write_bytes(bytes(COPIED_BYTES + 1))
    (path / "nothing").symlink_to("nowhere")
    (path / "tables" / "up").symlink_to("..")
    (path / "linked.dat").symlink_to("cards.dat")
    os.mkfifo(path / "pipe")
    return path


def test_an_empty_folder_is_removed_with_what_was_written(temporary: Path) -> None:
    one, other = ProcessFolder(), ProcessFolder()
    assert one.work != other.work
    assert not any(one.work.iterdir())
    (one.work / "locked").mkdir()
    (one.work / "locked" / "file").write_text("x")
    (one.work / "locked").chmod(0o500)
    for one_of_them in (one, other, other):
        one_of_them.remove()
    assert not any(temporary.iterdir())


def test_files_are_found_and_writes_kept_apart(source: Path, temporary: Path) -> None:
    one, other = ProcessFolder(source), ProcessFolder(source)
    found = sorted(str(p.relative_to(one.work)) for p in one.work.rglob("*"))
    assert found == [
        *(".Rprofile", "cards.dat", "large.bin", "linked.dat"),
        *("tables", "tables/deep", "tables/deep/sigma.dat"),
    ]
    assert (one.work / "large.bin").stat().st_size == COPIED_BYTES + 1
    for name in ("cards.dat", "linked.dat", "tables/deep/sigma.dat"):
        (one.work / name).write_text("changed")
    assert (other.work / "cards.dat").read_text() == (source / "cards.dat").read_text() == "1 2 3"
    assert (other.work / "tables/deep/sigma.dat").read_text() == "4 5 6"
    one.remove()
    other.remove()
    assert (source / "large.bin").stat().st_size == COPIED_BYTES + 1
    assert not any(temporary.iterdir())


def test_a_changed_original_of_a_linked_file_is_a_warning(source: Path) -> None:
    process = ProcessFolder(source)
    (process.work / "large.bin").write_bytes(b"overwritten")
    with pytest.warns(UserWarning, match=r"large.bin was changed while the simulator ran"):
        process.remove()


@pytest.mark.parametrize("limit", ["MOST_ENTRIES", "MOST_COPIED_BYTES"])
def test_too_much_is_refused_and_leaves_nothing(
    limit: str, source: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, limit, 3)
    with pytest.raises(SimulatorStartError, match=r"holds more than .* give a folder with only what"):
        ProcessFolder(source)
    assert not any(temporary.iterdir())


def test_a_folder_that_holds_the_folders_of_processes_is_copied_once(temporary: Path) -> None:
    (temporary / "data").write_text("x")
    process = ProcessFolder(temporary)
    assert [p.name for p in process.work.iterdir()] == ["data"]
    process.remove()


def test_what_a_failed_process_wrote_is_kept(source: Path, temporary: Path) -> None:
    untouched, empty, used = ProcessFolder(source), ProcessFolder(), ProcessFolder(source)
    (used.work / "tables" / "log").write_text("why")
    assert untouched.keep() == empty.keep() == ""
    words = used.keep()
    assert words == used.keep()
    for process in (untouched, empty, used):
        process.remove()
    (kept,) = temporary.iterdir()
    assert words == f"its working directory is kept in {kept}"
    assert (kept / "tables" / "log").read_text() == "why"


def test_few_folders_are_kept(temporary: Path) -> None:
    words = []
    for _ in range(7):
        process = ProcessFolder()
        (process.work / "log").write_text("why")
        words.append(process.keep())
        process.remove()
    assert [bool(w) for w in words] == [True] * 4 + [False] * 3
    assert len(list(temporary.iterdir())) == 4


@pytest.mark.parametrize("runtime", ["", "/nowhere"])
def test_a_long_path_has_its_socket_elsewhere(
    runtime: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    long = temporary / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    process = ProcessFolder()
    socket = Path(process.address.removeprefix("ipc://"))
    assert process.work.is_relative_to(long)
    assert len(process.folders) == 2
    assert socket.parent.is_dir()
    assert len(str(socket)) < 104
    process.remove()
    assert not socket.parent.exists()
    assert not any(long.iterdir())


def test_no_place_for_a_socket_is_an_error_that_names_tmpdir(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "_LONGEST_SOCKET", 10)
    with pytest.raises(SimulatorStartError, match=r"too long a path for a socket .* TMPDIR"):
        ProcessFolder()
    assert not any(temporary.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "nowhere"))
    with pytest.raises(SimulatorStartError, match=r"cannot make a working directory .* TMPDIR"):
        ProcessFolder()


def test_a_forked_process_removes_nothing() -> None:
    process = ProcessFolder()
    child = os.fork()
    if child == 0:
        process.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert process.work.is_dir()
    process.remove()

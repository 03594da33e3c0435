"""The folder of one simulator process: its working directory, its temporary files and its socket.

Simulators run side by side. A file of fixed name that one writes and another reads would carry numbers from trace to
trace, so no two of them share a directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ppx_server.errors import SimulatorStartError

_LONGEST_SOCKET = 103
"""Bytes that the path of a Unix socket may have (`sun_path` has 104 on macOS, 108 on Linux, one for the final zero)."""
_SOCKET_NAME = "socket"
_RANDOM_NAME = len("ppx-12345678")
COPIED_BYTES = 1 << 20
"""Files of up to this size are copied into the working directory, larger ones are linked."""
MOST_COPIED_BYTES, MOST_ENTRIES = 256 << 20, 10_000
"""Limits of what is copied for each process, and of the files and folders there may be."""
_MOST_KEPT = 4
"""Folders of failed processes that are kept at a time; further ones are removed."""

_kept: list[Path] = []


class _State(NamedTuple):
    """What tells whether a file was written to."""

    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> _State:
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


class ProcessFolder:
    """Where one simulator process works.

    Args:
        cwd: Folder whose files it finds in its working directory, or None for an empty one.

    Attributes:
        work: The working directory.
        temporary: The folder for temporary files (`TMPDIR`).
        address: Endpoint of a socket in a folder of the process.
        folders: All folders that `remove` removes.

    Raises:
        SimulatorStartError: No folder can be made, or `cwd` holds too much.
    """

    def __init__(self, cwd: Path | None = None) -> None:
        self._owner = os.getpid()
        self._kept_at: Path | None = None
        self._originals: dict[Path, _State] = {}
        self._staged: dict[Path, _State] = {}
        self.folders: list[Path] = []
        try:
            base = self._make(tempfile.gettempdir())
            self.work, self.temporary = base / "work", base / "tmp"
            self.work.mkdir()
            self.temporary.mkdir()
            self.address = f"ipc://{self._socket_folder(base) / _SOCKET_NAME}"
            if cwd is not None:
                self._stage(cwd)
        except OSError as error:
            self.remove()
            raise SimulatorStartError(
                f"cannot make a working directory for the simulator: {error}; the environment variable TMPDIR names a "
                "folder with room for it"
            ) from error
        except BaseException:
            self.remove()
            raise

    def keep(self) -> str:
        """Keeps the working directory beyond `remove`, for whoever wants to know why the process failed.

        Returns:
            Words for an error message; empty where there is nothing in it to look at, or enough folders are kept.
        """
        if self._kept_at is None:
            _kept[:] = [path for path in _kept if path.exists()]
            if len(_kept) >= _MOST_KEPT or not self._written():
                return ""
            with contextlib.suppress(OSError):
                self._kept_at = Path(tempfile.mkdtemp(prefix="ppx-kept-"))
                _kept.append(self._kept_at)
        return f"its working directory is kept in {self._kept_at}" if self._kept_at is not None else ""

    def remove(self) -> None:
        """Removes the folders, safe to call twice; in a forked process it does nothing."""
        if os.getpid() != self._owner or not self.folders:
            return
        if self._kept_at is not None:
            with contextlib.suppress(OSError):
                self.work.rename(self._kept_at)
        folders, self.folders = self.folders, []
        for folder in folders:
            _remove(folder)
        self._warn_of_changes()

    def _make(self, parent: str) -> Path:
        self.folders.append(Path(tempfile.mkdtemp(prefix="ppx-", dir=parent)))
        return self.folders[-1]

    def _socket_folder(self, base: Path) -> Path:
        """The folder of the socket: elsewhere where the path would be too long."""
        if _fits(base):
            return base
        parents = [os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"]
        for parent in filter(None, parents):
            if _fits(Path(parent) / ("x" * _RANDOM_NAME)):
                with contextlib.suppress(OSError):
                    return self._make(parent)
        raise SimulatorStartError(
            f"the folder for temporary files, {tempfile.gettempdir()!r}, has too long a path for a socket in it, and "
            "neither /tmp nor XDG_RUNTIME_DIR will do; let the environment variable TMPDIR name a folder of less than "
            f"{_LONGEST_SOCKET - _RANDOM_NAME - len(_SOCKET_NAME) - 2} bytes"
        )

    # What the process finds

    def _stage(self, source: Path) -> None:
        """Makes the folders of `source` anew, copies small files and links large ones."""
        num_entries, copied = 0, 0
        for path, relative in _contents(source, self.folders):
            num_entries += 1
            target = self.work / relative
            if path.is_dir():
                target.mkdir()
                continue
            size = path.stat().st_size
            if size > COPIED_BYTES:
                target.symlink_to(path.resolve())
                self._originals[path] = _State.of(path)
            else:
                copied += size
                shutil.copy2(path, target)
                self._staged[target] = _State.of(target)
            if num_entries > MOST_ENTRIES or copied > MOST_COPIED_BYTES:
                raise SimulatorStartError(
                    f"the folder {str(source)!r} given as cwd holds more than {MOST_ENTRIES:,} files or "
                    f"{MOST_COPIED_BYTES >> 20} MiB to copy for each process; give a folder with only what the "
                    "simulator reads by relative paths"
                )

    def _written(self) -> bool:
        """Whether there is a file that the process has made or changed."""
        for path in self.work.rglob("*"):
            with contextlib.suppress(OSError):  # removed meanwhile
                if not path.is_symlink() and path.is_file() and self._staged.get(path) != _State.of(path):
                    return True
        return False

    def _warn_of_changes(self) -> None:
        """Warns of originals of linked files that were written to: what one process writes there, the others read."""
        originals, self._originals = self._originals, {}
        for path, before in originals.items():
            try:
                changed = _State.of(path) != before
            except OSError:
                changed = True
            if changed:
                warnings.warn(
                    f"{path} was changed while the simulator ran; files of more than {COPIED_BYTES >> 20} MiB in its "
                    "cwd are shared by all its processes. If it was the simulator, results may be wrong: let it write "
                    "to another file",
                    stacklevel=2,
                )


def _contents(source: Path, without: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Files and folders with their paths relative to `source`, a folder before what it holds; no hidden folders.

    A link to a folder counts as a folder, but once only: links may go in circles.
    """
    seen = {(found.st_dev, found.st_ino) for found in map(os.stat, without)}
    pending = [Path()]
    while pending:
        relative = pending.pop()
        folder = source / relative
        found = folder.stat()
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        if relative.parts:
            yield folder, relative
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            with contextlib.suppress(OSError):  # a link to nothing, or removed meanwhile
                if entry.is_dir():
                    if not entry.name.startswith(".") and os.access(entry.path, os.R_OK | os.X_OK):
                        pending.append(relative / entry.name)
                elif stat.S_ISREG(entry.stat().st_mode) and os.access(entry.path, os.R_OK):
                    yield Path(entry.path), relative / entry.name


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / _SOCKET_NAME)) <= _LONGEST_SOCKET


def _remove(folder: Path) -> None:
    """Removes a folder, also where a program has taken away the rights to do so."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for inner, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):
                os.chmod(inner, stat.S_IRWXU)
        shutil.rmtree(folder, ignore_errors=True)

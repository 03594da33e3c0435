"""The command that starts a simulator, as it was given, and what it becomes in a working directory of its own."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppx_server.errors import ArgumentError, SimulatorStartError

PLACEHOLDER = "{address}"
_SEARCH_PATHS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "R_LIBS", "NODE_PATH", "CLASSPATH", "PERL5LIB")
"""Environment variables that list folders; relative ones would be looked for in another directory."""
_ADVICE = "it runs in an empty folder of its own"
_PYTHON = re.compile(r"(python|pypy)[\d.]*t?")
_WITH_ARGUMENT = ("-W", "-X", "--check-hash-based-pycs")
_MISSING_FILE = re.compile(
    r"no such file|no such dir|not found|does not exist|doesn't exist|no module named|filenotfound|enoent|"
    r"(cannot|can't|can not|could not|couldn't|unable to|failed to|error) (open|find|read|load|locate)",
    re.IGNORECASE,
)
_INTERPRETERS = {
    ".py": "python", ".r": "Rscript", ".jl": "julia", ".js": "node", ".mjs": "node", ".sh": "sh", ".pl": "perl"
}  # fmt: skip
_SOURCES = (".c", ".cc", ".cpp", ".cxx", ".f", ".f90", ".f03", ".f08", ".rs", ".go")

Words = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A command as users give it: one string, split as a shell would, the path of a program, or a list of words."""


@dataclass(frozen=True)
class Command:
    """Program and arguments, and where they were given.

    Each process runs in a directory of its own, so words that name existing files are made absolute.

    Attributes:
        words: Program and arguments as given; `{address}` stands for the endpoint to serve at.
        cwd: Absolute folder whose files the program finds in its working directory, or None for an empty one.
        origin: Folder to which relative paths in `words` and in the environment refer.
    """

    words: tuple[str, ...]
    cwd: Path | None = None
    origin: Path = field(default_factory=Path.cwd)

    @classmethod
    def of(cls, command: Words, cwd: str | os.PathLike[str] | None = None) -> Command:
        """A command as users give it.

        Args:
            command: Words, a path, or a string.
            cwd: Folder that holds what the program reads by relative paths.

        Raises:
            ArgumentError: It is no command, such as a function, or `cwd` is no folder.
        """
        origin = Path.cwd()
        folder = None if cwd is None else origin / _text(cwd, "cwd")
        if folder is not None and not folder.is_dir():
            raise ArgumentError(
                f"cwd is {os.fspath(cwd or '')!r}, which is no folder (in {origin}); give the folder that holds the "
                "files which the simulator reads by relative paths"
            )
        words = _words(command)
        if not words or not words[0]:
            raise ArgumentError(
                "the command is empty; give the program that starts the simulator, and its arguments"
            )
        return cls(words, folder, origin)

    def __str__(self) -> str:
        return " ".join(self.words)

    def arguments(self, address: str) -> list[str]:
        """What to execute, in whichever folder.

        Args:
            address: Endpoint to serve at.

        Raises:
            SimulatorStartError: There is no such program.
        """
        program, *rest = self.words
        found = shutil.which(self._absolute(program) if os.sep in program else program, path=self._path())
        if found is None:
            raise SimulatorStartError(self._no_program())
        first = self._absolute(program) if os.sep in program else program
        text = self._python_text()
        words = [word if word is text else self._relocated(word) for word in rest]
        return [word.replace(PLACEHOLDER, address) for word in (first, *words)]

    def environment(self) -> dict[str, str]:
        """The environment of this process, with search paths that mean the same in another folder."""
        found = dict(os.environ)
        for name in _SEARCH_PATHS:
            if found.get(name):
                found[name] = os.pathsep.join(map(self._absolute, found[name].split(os.pathsep)))
        if self._python_text() is not None:  # it imports from the current directory
            found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(self.origin), found.get("PYTHONPATH"))))
        return found

    def explain(self, error: OSError) -> str:
        """Why a program that is there could not be started, in words."""
        text = f"cannot start the simulator {self.words[0]!r}: {error.strerror or error}"
        if error.errno == errno.ENOEXEC:
            text += "; " + (
                _interpreted(self.words[0]) or "is it a script without #! and its interpreter at the top?"
            )
        elif error.errno in (errno.EAGAIN, errno.EMFILE, errno.ENFILE):
            text += "; start fewer simulators (num_workers), or raise the limit (ulimit -u, ulimit -n)"
        return text

    def advice(self, text: str) -> str:
        """What to do about the working directory, where a program seems to have missed a file; or nothing."""
        if self.cwd is not None or _ADVICE in text or not _MISSING_FILE.search(text):
            return ""
        return (
            f"; {_ADVICE}: if it reads files by relative paths, give the folder that holds "
            f"them, as in Simulator(..., cwd={str(self.origin)!r}), on the command line --cwd ."
        )

    def _absolute(self, path: str) -> str:
        return os.path.abspath(self.origin / path)

    def _path(self) -> str:
        entries = os.environ.get("PATH", os.defpath).split(os.pathsep)
        return os.pathsep.join(map(self._absolute, entries))

    def _relocated(self, word: str) -> str:
        """A word, or what stands in it behind `=` or before `:`, made absolute if it names a file."""
        option, equals, value = word.partition("=")
        head, colon, tail = word.rpartition(":")
        if not word.startswith("-") and self._is_file(word):
            return self._absolute(word)
        if equals and self._is_file(value):
            return f"{option}={self._absolute(value)}"
        if colon and not word.startswith("-") and self._is_file(head):  # model.py:Model
            return f"{self._absolute(head)}:{tail}"
        return word

    def _is_file(self, word: str) -> bool:
        path = self.origin / word
        if not word or word.replace(".", "").isdigit() or not _is_file(path):
            return False
        # A number, or the name of a program that is no way to start it, is taken for an option of that name.
        return os.sep in word or "." in word or not os.access(path, os.X_OK)

    def _python_text(self) -> str | None:
        """The module or program text that is given to Python by -m or -c; None if it is not started that way."""
        for position, word in enumerate(self.words):
            if not _PYTHON.fullmatch(os.path.basename(word)):
                continue
            options = iter(self.words[position + 1 :])
            for option in options:
                if not option.startswith("-"):
                    break
                if option in _WITH_ARGUMENT:
                    next(options, None)
                elif not option.startswith(_WITH_ARGUMENT) and set(option[1:]) & {"m", "c"}:
                    return next(options, "") if option.endswith(("m", "c")) else option
        return None

    def _no_program(self) -> str:
        program = self.words[0]
        text = f"cannot start the simulator: no executable file {program!r} (in {self.origin} or on PATH); "
        return text + (self._way_to_run(program) or "build it, or give its full path")

    def _way_to_run(self, program: str) -> str:
        """How to run a file that is there, but is no program by that name; or nothing."""
        path = self.origin / program
        suffix = path.suffix.lower()
        if not path.exists():
            if self.cwd is not None and (self.cwd / program).is_file():
                return f"there is one in {self.cwd}, but the program is looked for where you are: give its full path"
            if (
                " " in program
                and (first := program.split()[0])
                and (shutil.which(first) or self._is_file(first))
            ):
                return "program and arguments are words of their own: give a list, or one string"
            return ""
        if path.is_dir():
            return "it is a folder: give the program in it"
        if suffix in _INTERPRETERS:
            return _interpreted(program)
        if suffix in _SOURCES:
            return "it is source code: compile it, and start the program"
        if not os.access(path, os.X_OK):
            return f"the file is there, but must not be executed: chmod +x {shlex.quote(program)}"
        return f"a program in the current directory is started as ./{program}"


def _interpreted(program: str) -> str:
    suffix = Path(program).suffix.lower()
    if suffix not in _INTERPRETERS:
        return ""
    return f"a {suffix} file is started by its interpreter: {_INTERPRETERS[suffix]} {shlex.quote(program)}"


def _words(command: Any) -> tuple[str, ...]:
    if isinstance(command, str):
        if _is_file(Path(command)):  # its name may hold spaces
            return (command,)
        try:
            return tuple(shlex.split(command))
        except ValueError as error:
            raise ArgumentError(
                f"the command {command!r} cannot be split into words: {error}; give a list of words"
            ) from error
    if isinstance(command, os.PathLike):
        text = _text(command, "the command")
        return (text if os.sep in text else os.path.join(os.curdir, text),)  # Path("./sim") is "sim"
    if not isinstance(command, Sequence) or isinstance(command, bytes):
        raise ArgumentError(_no_command(command))
    first, *rest = command if len(command) else ("",)
    words = (str(w) if isinstance(w, int | float) else _text(w, "a word of the command") for w in rest)
    return (*(_words(first) if isinstance(first, os.PathLike) else (_text(first, "the program"),)), *words)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or with characters that no name has
        return False


def _text(value: Any, what: str) -> str:
    try:
        return os.fsdecode(value)
    except TypeError:
        raise ArgumentError(f"{what} must be text or a path, not {value!r}") from None


def _no_command(command: object) -> str:
    name = getattr(command, "__qualname__", "")
    what = f"the {'class' if isinstance(command, type) else 'function'} {name}" if name else repr(command)
    return (
        f"a simulator is a program that runs in a process of its own, not {what}: end a file, say model.py, with "
        "ppx_client.serve(forward, name='model'), and start it by Simulator(['python', 'model.py'])"
    )

"""JavaScript simulators as processes, and controllers that share no code with them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "simulators" / "javascript"
CACHE = ROOT / "build" / "javascript"


def _independent_controllers() -> ModuleType:
    """The controllers of `tests/ppx_client`: pyprob's generated reader, and FlatBuffers' own builder."""
    name = "independent_controllers"
    if name not in sys.modules:
        path = ROOT / "tests" / "ppx_client" / "conftest.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def _install() -> Path:
    """The folder with the npm packages, which are installed there once for each lock file."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} missing: install Node.js >= 18")
    lock = (SOURCE / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as fresh:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCE / name, fresh)
            command = ["npm", "ci", "--ignore-scripts"]  # the packages bring their binaries along
            try:
                done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, timeout=100)
            except subprocess.TimeoutExpired:
                pytest.skip("npm ci takes too long: no registry in reach?")
            if done.returncode != 0:
                pytest.skip(f"npm ci fails: {done.stderr.strip()[-500:]}")
            if not folder.exists():  # else another test process was faster
                shutil.copytree(fresh, folder, symlinks=True)
    return folder


@pytest.fixture(scope="session")
def node_folder() -> Iterator[Path]:
    """A folder for programs, with `ppx.mjs` and `gaussian.mjs`; its parent has the npm packages."""
    with tempfile.TemporaryDirectory(dir=_install()) as folder:
        for program in SOURCE.glob("*.mjs"):
            shutil.copy(program, folder)
        yield Path(folder)


class Node:
    """A simulator process and its controllers."""

    def __init__(self, program: Path, arguments: Sequence[str], endpoint: str) -> None:
        self.endpoint = endpoint
        self.process = subprocess.Popen(
            ["node", str(program), *arguments],
            env={**os.environ, "PPX_BIND": endpoint},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._controllers: list[Any] = []

    def connect(self, *capabilities: str) -> Any:
        """A new controller that has shaken hands."""
        controller = self.stranger()
        assert controller.handshake(*capabilities).body == "HandshakeResult"
        return controller

    def stranger(self) -> Any:
        """A new controller that has not."""
        self._controllers.append(_independent_controllers().Controller(self.endpoint))
        return self._controllers[-1]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Sends a signal; the exit code and what was written to stderr."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str]:
        """Waits for the end; the exit code and what was written to stderr."""
        _, output = self.process.communicate(timeout=10)
        return self.process.returncode, output

    def close(self) -> None:
        """Leaves nothing behind."""
        for controller in self._controllers:
            controller.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def serve(node_folder: Path) -> Iterator[Callable[..., Node]]:
    """Starts simulators, from the body of their `forward` or from a path."""
    nodes: list[Node] = []
    # Endpoints have at most 107 characters, so the folder's name is short.
    with tempfile.TemporaryDirectory(prefix="ppx-") as sockets:

        def start(model: str | Path, *arguments: str, endpoint: str | None = None) -> Node:
            if isinstance(model, str):
                body = textwrap.indent(textwrap.dedent(model).strip(), "  ")
                program = node_folder / "model.mjs"
                header = 'import * as ppx from "./ppx.mjs";\nawait ppx.serve(async function forward() {\n'
                program.write_text(f'{header}{body}\n}}, {{ name: "model" }});\n')
            else:
                program = model
            bind = f"ipc://{sockets}/{len(nodes)}" if endpoint is None else endpoint
            nodes.append(Node(program, arguments, bind))
            return nodes[-1]

        yield start
        for node in nodes:
            node.close()


@pytest.fixture
def write() -> Callable[..., bytes]:
    """Writes a message of a controller by FlatBuffers' builder."""
    return _independent_controllers().write  # type: ignore[no-any-return]

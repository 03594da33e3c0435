"""The dependency direction of the packages, checked on their source and on what imports really load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "ppx_server": ROOT / "ppx_server",
    "ppx_inference": ROOT / "inference" / "ppx_inference",
    "ppx_proposals": ROOT / "proposals" / "ppx_proposals",
    "ppx_client": ROOT / "simulators" / "python" / "ppx_client",
}
# Who may import whom; an entry for a module overrides that of its package.
ALLOWED = {
    "ppx_server": set(),
    "ppx_proposals": {"ppx_server"},
    "ppx_inference": {"ppx_server"},
    "ppx_inference.compilation": {"ppx_server", "ppx_proposals"},
    "ppx_inference.cli": {"ppx_server", "ppx_client"},
    "ppx_client": set(),
}
# Third-party packages that only these places may import.
RESERVED = {
    "torch": ("ppx_proposals", "ppx_client.pyprob"),
    "zmq": (
        *(f"ppx_server.{module}" for module in ("transport", "worker", "batches", "stepwise", "executor")),
        "ppx_inference.conformance.wire_",
        "ppx_client",
    ),
}


def modules() -> list[tuple[str, Path]]:
    found = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found.append((".".join(p for p in parts if p != "__init__"), path))
    return found


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def allowed_for(module: str) -> set[str]:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (prefix := ".".join(parts[:length])) in ALLOWED:
            return ALLOWED[prefix]
    raise AssertionError(f"no rule for {module}")


@pytest.mark.parametrize(
    ("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_follow_the_dependency_direction(module: str, path: Path) -> None:
    ours = (imported(path) & PACKAGES.keys()) - {module.split(".")[0]}
    assert ours <= allowed_for(module)


@pytest.mark.parametrize(("library", "places"), RESERVED.items(), ids=RESERVED)
def test_reserved_libraries_stay_in_their_places(library: str, places: tuple[str, ...]) -> None:
    users = {module for module, path in modules() if library in imported(path)}
    assert users, f"nothing imports {library}: the rule is out of date"
    assert {u for u in users if not u.startswith(places)} == set()


@pytest.mark.parametrize(
    "package", ["ppx_inference", "ppx_server.executor", "ppx_inference.cli", "ppx_client"]
)
def test_importing_the_core_does_not_import_torch(package: str) -> None:
    heavy = "{'torch', 'matplotlib', 'pandas', 'pyprob'}"
    code = f"import sys, {package}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_optimizers_need_nothing_else_of_the_project() -> None:
    code = "import sys, ppx_proposals.optim; print(sorted(m for m in sys.modules if m.startswith(('ppx_', 'zmq'))))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(result.stdout))
    assert {m for m in loaded if not m.startswith("ppx_proposals.optim")} == {"ppx_proposals"}


def test_no_package_reads_pickles() -> None:
    offenders = [
        module
        for module, path in modules()
        if "pickle" in imported(path)
        or "allow_pickle=True" in path.read_text()
        or "weights_only=False" in path.read_text()
    ]
    assert offenders == []

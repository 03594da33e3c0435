"""Addresses of draws without a name: stable across processes, folders and ways to start; distinct on one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MODEL = """\
import ppx_client as ppx
from ppx_client.call_sites import call_site
import sys

seen = []
def record(*arguments, **keywords):
    seen.append(call_site(sys._getframe(1)))
    return 0.0

class Detector:
    def hit(self):
        return record() + record()

def forward():
    record()
    [record() for _ in range(3)]
    (lambda: record())()
    Detector().hit()
    record(record(),
           record())
"""
EXPECTED = [
    "15:5:forward",
    "16:6:forward::<locals>::<listcomp>" if sys.version_info < (3, 12) else "16:6:forward",
    "17:14:forward::<locals>::<lambda>",
    "12:16:Detector::hit",
    "12:27:Detector::hit",
    "19:12:forward",
    "20:12:forward",
    "19:5:forward",
]


def addresses(folder: Path, *command: str, cwd: Path | None = None) -> list[str]:
    output = subprocess.run(
        [sys.executable, *command],
        cwd=cwd or folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return list(dict.fromkeys(output))


def test_call_sites_do_not_depend_on_how_and_where_the_model_runs(tmp_path: Path) -> None:
    main = "if __name__ == '__main__':\n    forward()\n    forward()\n    print(*seen)\n"
    for place in ("here", "elsewhere/deeper"):
        package = tmp_path / place / "decay" / "detail"
        package.mkdir(parents=True)
        (package / "model.py").write_text(MODEL + main)
        (package.parent / "__init__.py").touch()
        (package / "__init__.py").touch()
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere" / "deeper"
    script = Path("decay", "detail", "model.py")
    found = [
        addresses(here, str(script)),
        addresses(here, str(here / script), cwd=tmp_path),
        addresses(elsewhere, str(elsewhere / script), cwd=tmp_path),
        addresses(elsewhere, "-m", "decay.detail.model"),
        addresses(here, "-c", "from decay.detail.model import *; forward(); print(*seen)"),
    ]
    assert found[0] == [f"decay/detail/model:{site}" for site in EXPECTED]
    assert all(other == found[0] for other in found[1:])


def test_a_script_in_no_package_is_its_own_root(tmp_path: Path) -> None:
    script = tmp_path / "my.model.py"
    script.write_text(MODEL + "forward()\nprint(*seen)\n")
    assert addresses(tmp_path, "my.model.py") == [f"my_model:{site}" for site in EXPECTED]


def test_folders_without_init_count_by_the_module_name(tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "model.py").write_text(MODEL)
    found = addresses(tmp_path, "-c", "import space.model as m; m.forward(); print(*m.seen)")
    assert found == [f"space/model:{site}" for site in EXPECTED]


def test_without_columns_draws_on_one_line_still_differ(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL + "forward()\nprint(*seen)\n")
    found = addresses(tmp_path, "-X", "no_debug_ranges", "model.py")
    assert len(found) == len(EXPECTED)

"""Runs the documentation: every fenced block of Python and shell in every Markdown file, on the files that it shows.

Each file is a story, told in an empty folder from top to bottom. A comment on the line before a block says what it is:

    <!-- file: NAME -->         the block is written to NAME
    <!-- elsewhere: WHERE -->   the block is run by something else, which is named
    (nothing)                   shell is run by bash; Python is run together with the Python blocks before it

The folder links to the repository's `simulators` and `examples`, and the installed programs are on PATH.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ppx_client.cpp_build import toolchain_missing

ROOT = Path(__file__).resolve().parents[1]
TOLD = ("python", "cpp", "sh", "console")
FENCE = re.compile(
    r"(?:<!-- (?P<role>file|elsewhere): (?P<what>.+?) -->\n+)?^```(?P<language>\w*)\n(?P<body>.*?)^```$",
    re.M | re.S,
)


class Block(NamedTuple):
    language: str
    body: str
    role: str
    what: str
    line: int


def documents() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listing.stdout.split()]


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(m["language"], m["body"], m["role"] or "", m["what"] or "", text.count("\n", 0, m.start()) + 1)
        for m in FENCE.finditer(text)
    ]


def programs_missing(story: list[Block]) -> list[str]:
    """What the shell blocks of a story need and this machine lacks."""
    words = {
        word
        for b in story
        if b.language == "sh" and b.role != "elsewhere"
        for word in re.split(r"[\s()]", b.body)
    }
    programs = {name: name for name in ("gcc", "gfortran", "Rscript", "flatc")} | {"-lgsl": "gsl-config"}
    missing = [
        program for word, program in programs.items() if word in words and shutil.which(program) is None
    ]
    return missing + (toolchain_missing() if words & {"g++", "cmake", "c-flags", "r-files"} else [])


def run(command: list[str], block: Block, folder: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MPLBACKEND": "Agg",
        "PPX_CHECK_SECONDS": "3",
    }
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, f"the block at line {block.line} failed:\n{result.stdout}{result.stderr}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_blocks_of_a_document_run(document: Path, tmp_path: Path) -> None:
    story = blocks(document)
    if missing := programs_missing(story):
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    for name in ("simulators", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    python = ""
    for block in story:
        if block.role == "elsewhere" or (block.role != "file" and block.language not in TOLD):
            continue
        if block.role == "file":
            (tmp_path / block.what).write_text(block.body, encoding="utf-8")
        elif block.language == "python":
            python += block.body
            run([sys.executable, "-c", python], block, tmp_path)
        elif block.language == "cpp":
            pytest.fail(f"the C++ block at line {block.line} is neither a file nor run elsewhere")
        else:
            run(["bash", "-euo", "pipefail", "-c", block.body], block, tmp_path)


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_hold(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [t for t in targets if not (document.parent / t).exists()] == []


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_to_be_filled_in(document: Path) -> None:
    assert re.findall(r"^[A-Z]+_TABLE$|\bTODO\b|\bTBD\b", document.read_text(encoding="utf-8"), re.M) == []


def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    document = tmp_path / "wrong.md"
    document.write_text("```sh\nfalse\n```\n")
    with pytest.raises(AssertionError, match="line 1"):
        run(["bash", "-euc", blocks(document)[0].body], blocks(document)[0], tmp_path)

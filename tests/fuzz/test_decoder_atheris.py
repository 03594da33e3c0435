"""A million inputs to the decoder, guided by coverage."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("fuzz_decoder.py")
RUNS = 1_000_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs the extra `fuzz`")
def test_a_million_inputs(tmp_path: Path) -> None:
    command = [sys.executable, FUZZER, f"-runs={RUNS}", "-seed=1", "-max_len=4096", tmp_path / "corpus"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-5000:]
    assert f"Done {RUNS} runs" in result.stderr

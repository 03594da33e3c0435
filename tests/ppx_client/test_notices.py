"""What a model is told on stderr: seeds that make its noise the same in every trace, once per place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ppx_inference import Simulator

MODEL = """
import random
import numpy as np
import ppx_client as ppx

class Agents:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)  # 8
        self.state = self.rng.bit_generator.state
        self.random = random.Random(int(self.rng.integers(2**31)))
        self.rng.bit_generator.state = self.state  # 11

def alone(seed):
    random.seed(5)  # 14
    np.random.seed(5)  # 15
    fixed = np.random.default_rng(42).normal()  # 16
    return fixed + np.random.default_rng(seed).normal()

@ppx.patched
def controlled(seed):
    random.seed(5)
    first = random.Random(42).gauss(0.0, 1.0)  # 22
    second = np.random.RandomState(42).normal()  # 23
    Agents(42)
    return first + second + random.Random(seed).gauss(0.0, 1.0) + random.Random(None).random()

@ppx.patched(default_rng=False)
def partly():
    return np.random.default_rng(7).normal()  # 29

def forward():
    seed = ppx.sample(ppx.Poisson(1e9), name="seed")
    ppx.tag(alone(seed) + controlled(seed) + partly(), name="x")

ppx.serve(forward, "seeds")
"""


def test_fixed_seeds_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "seeds.py").write_text(MODEL)
    address = f"ipc://{tmp_path}/socket"
    with (tmp_path / "stderr").open("w") as stderr:
        command = [sys.executable, str(tmp_path / "seeds.py")]
        process = subprocess.Popen(command, stderr=stderr, env=os.environ | {"PPX_BIND": address})
        try:
            with Simulator(address=address) as simulator:
                assert simulator.prior(2, seed=1).failures == {}
                before = told(tmp_path / "stderr")
                traces = simulator.prior(12, seed=1)
        finally:
            process.terminate()
            process.wait(20)
    assert traces.failures == {}
    # Two traces may have a seed in common.
    assert {line for line, text in before if "seed of" in text} == set()
    found = dict(told(tmp_path / "stderr"))
    assert len(found) == len(told(tmp_path / "stderr"))
    frozen = {
        line for line, text in found.items() if "is the same in every trace, and so are the numbers" in text
    }
    ignored = {line for line, text in found.items() if "is ignored: the controller draws the numbers" in text}
    back = {line for line, text in found.items() if "is set back, but the controller draws" in text}
    assert frozen == {14, 15, 16, 29}
    assert ignored == {8, 22, 23}
    assert back == {11}
    assert found.keys() == frozen | ignored | back


def told(file: Path) -> list[tuple[int, str]]:
    """Lines of the model and what is said of them."""
    lines = [line for line in file.read_text().splitlines() if "ppx: " in line]
    return [(int(line.split("seeds:")[1].split(":")[0]) if "seeds:" in line else 11, line) for line in lines]

"""Programs with threads and generators of their own have the exact posterior, unchanged under `patched`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ppx_inference import Simulator, importance_sampling

PROGRAMS = """
import random, sys, threading
import numpy as np
import ppx_client as ppx

class Model:
    "As the usual base class of agent-based models: one generator made from the other, and a state to go back to."

    def __init__(self, seed=None):
        self.rng = np.random.default_rng(seed)
        self.initial_state = self.rng.bit_generator.state
        self.random = random.Random(int(self.rng.integers(2**31 - 1)))

    def step(self):
        return self.random.gauss(0.0, 1.0) + self.rng.normal()

def agents():
    mu = random.gauss(0.0, 1.0)
    return mu + Model().step()

def limited(function, seconds):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join(seconds)
    return found[0]

def thread():
    mu = random.gauss(0.0, 1.0)
    return limited(lambda: random.gauss(mu, 1.0) + np.random.normal(), 10.0)

@ppx.patched
def forward():
    ppx.observe(ppx.Normal(globals()[sys.argv[1]](), 0.5), name="y")

if __name__ == "__main__":
    ppx.serve(forward, sys.argv[1])
"""
# mu and two numbers of variance 1, and noise of variance 1/4: E[mu | y] = y / 3.25, Var = 2.25 / 3.25.
EXACT, SD = 2.0 / 3.25, (2.25 / 3.25) ** 0.5


@pytest.mark.parametrize(("program", "draws"), [("agents", 4), ("thread", 3)])
def test_the_posterior_is_exact(program: str, draws: int, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAMS)
    with Simulator([sys.executable, str(tmp_path / "program.py"), program], num_workers=1) as simulator:
        posterior = importance_sampling(simulator, {"y": 2.0}, num_traces=1500, seed=1)
    assert set(posterior.traces.length.tolist()) == {draws}
    tolerance = 4.0 * SD / np.sqrt(posterior.ess)
    assert abs(posterior["mu"].mean() - EXACT) < tolerance
    # Were one of the numbers not controlled, it would still be noise; were it not there, the mean would be another.
    assert abs(posterior["mu"].mean() - 2.0 / 2.25) > tolerance

"""PyPI pyprob, a PPX 1.0 controller, finds the exact posterior of our C++ Marsaglia Gaussian.

pyprob runs in a process of its own: it ends the ZeroMQ context that the whole process shares when it disconnects.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ppx_client.cpp_build import compile_simulator, toolchain_missing

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pyprob") is None, reason="needs the extra `pyprob`")

ROOT = Path(__file__).resolve().parents[2]
# Conjugate formulas, for mu ~ N(1, sd sqrt 5) and observations N(mu, sd sqrt 2) = 8, 9.
EXACT_MEAN, EXACT_STDDEV = 7.25, 0.91287
LIKELIHOOD_MEAN = 8.5
"""Where the posterior would be without the prior."""

CONTROLLER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import pyprob, torch
torch.set_num_threads(1)
pyprob.seed(1)
model = pyprob.RemoteModel(sys.argv[1])
posterior = model.posterior_results(
    3000, inference_engine=pyprob.InferenceEngine.IMPORTANCE_SAMPLING, observe={"y0": 8.0, "y1": 9.0})
prior = model.prior_results(300)
found = {"ess": float(posterior.effective_sample_size), "mean": float(posterior.mean),
         "stddev": float(posterior.stddev), "prior": float(prior.mean)}
print("FOUND", json.dumps(found))
"""


@pytest.fixture
def found() -> Any:
    """What pyprob finds for the simulator in another process."""
    missing = toolchain_missing()
    if missing:
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    program = compile_simulator(
        ROOT / "simulators" / "gaussian" / "gaussian_marsaglia.cpp",
        ROOT / "build" / "simulators" / "gaussian_marsaglia",
    )
    with tempfile.TemporaryDirectory(prefix="ppx-") as folder:
        address = f"ipc://{folder}/socket"
        simulator = subprocess.Popen(
            [program], env={**os.environ, "PPX_BIND": address}, stderr=subprocess.DEVNULL
        )
        try:
            controller = subprocess.run(
                [sys.executable, "-c", CONTROLLER, address],
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            assert controller.returncode == 0, controller.stderr
            simulator.terminate()
            assert simulator.wait(10) == 0
        finally:
            simulator.kill()
            simulator.wait()
    return json.loads(controller.stdout.rsplit("FOUND ", 1)[1].splitlines()[0])


def test_importance_sampling_finds_the_exact_posterior(found: dict[str, Any]) -> None:
    assert found["ess"] > 15
    tolerance = 4.0 * EXACT_STDDEV / math.sqrt(found["ess"])
    assert abs(found["mean"] - EXACT_MEAN) < tolerance
    assert abs(found["stddev"] - EXACT_STDDEV) < tolerance
    # Negative controls: the same test refuses the prior's mean and that of a posterior without the prior.
    assert abs(found["prior"] - EXACT_MEAN) > tolerance
    assert abs(found["mean"] - LIKELIHOOD_MEAN) > tolerance

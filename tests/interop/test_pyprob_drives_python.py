"""PyPI pyprob, unchanged, drives a simulator written with `ppx_client`.

pyprob runs in a process of its own: it ends the ZeroMQ context that the whole process shares when it disconnects.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pyprob") is None, reason="needs the extra `pyprob`")

GAUSSIAN = Path(__file__).parents[2] / "simulators" / "gaussian" / "gaussian.py"
FAR, NEAR = "8.0 9.0", "2.0 3.0"

CONTROLLER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import pyprob, torch
torch.set_num_threads(1)
pyprob.seed(1)
model = pyprob.RemoteModel(sys.argv[1])

def summary(values):
    return {"mean": float(values.mean), "stddev": float(values.stddev), "ess": float(values.effective_sample_size)}

found = {"prior": summary(model.prior_results(500))}
for y, num_traces in json.loads(sys.argv[2]).items():
    y0, y1 = map(float, y.split())
    found[y] = summary(model.posterior_results(
        num_traces, inference_engine=pyprob.InferenceEngine.IMPORTANCE_SAMPLING, observe={"y0": y0, "y1": y1}))
trace = next(iter(model.prior(1).values))
found["variables"] = [[v.name, v.address_base, v.tagged] for v in trace.variables]
print("FOUND", json.dumps(found))
"""


class Moments(NamedTuple):
    """Mean and standard deviation of a normal distribution."""

    mean: float
    stddev: float


PRIOR = Moments(1.0, 5.0**0.5)


def posterior(*measurements: float) -> Moments:
    """Conjugate normal: precisions add, means are weighted by them."""
    precision = 1 / 5 + len(measurements) / 2
    return Moments((PRIOR.mean / 5 + sum(measurements) / 2) / precision, precision**-0.5)


def agrees(found: dict[str, float], exact: Moments) -> bool:
    """Whether estimated moments are within four standard errors of the exact ones (normal population)."""
    error = 4 * exact.stddev / found["ess"] ** 0.5
    return abs(found["mean"] - exact.mean) < error and abs(found["stddev"] - exact.stddev) < error / 2**0.5


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Any]]:
    """What pyprob finds for the Marsaglia Gaussian in another process."""
    folder = tempfile.mkdtemp(prefix="ppx-")
    endpoint = f"ipc://{folder}/socket"
    simulator = subprocess.Popen(
        [sys.executable, str(GAUSSIAN), "--marsaglia"],
        env={**os.environ, "PPX_BIND": endpoint},
        stderr=subprocess.DEVNULL,
    )
    try:
        traces = json.dumps({FAR: 1200, NEAR: 600})
        controller = subprocess.run(
            [sys.executable, "-c", CONTROLLER, endpoint, traces], capture_output=True, text=True, timeout=100
        )
        assert controller.returncode == 0, controller.stderr
        yield json.loads(controller.stdout.rsplit("FOUND ", 1)[1].splitlines()[0])
        simulator.terminate()
        assert simulator.wait(10) == 0
    finally:
        if simulator.poll() is None:
            simulator.kill()
            simulator.wait()
        shutil.rmtree(folder)


def test_prior(found: dict[str, Any]) -> None:
    assert agrees(found["prior"], PRIOR)
    assert not agrees(found["prior"], Moments(PRIOR.mean, 1.2 * PRIOR.stddev))


@pytest.mark.parametrize("y", [FAR, NEAR])
def test_posterior(found: dict[str, Any], y: str) -> None:
    assert agrees(found[y], posterior(*map(float, y.split())))
    assert not agrees(found[y], PRIOR)


def test_the_comparison_notices_a_lost_measurement(found: dict[str, Any]) -> None:
    assert found[NEAR]["ess"] > 100
    assert not agrees(found[NEAR], posterior(2.0))
    assert not agrees(found[NEAR], posterior(3.0))


def test_names_and_addresses_arrive(found: dict[str, Any]) -> None:
    variables = found["variables"]
    assert variables[:2] == [["x", "x__Uniform", False], ["y", "y__Uniform", False]]
    assert [name for name, _, _ in variables[-3:]] == ["mu", "y0", "y1"]
    assert [tagged for _, _, tagged in variables[-3:]] == [True, False, False]

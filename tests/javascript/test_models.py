"""JavaScript models under our controller, without a controller, and as the README tells it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from ppx_inference import Simulator, importance_sampling
from ppx_server.executor import FailurePolicy
from ppx_server.trace import Status

README = Path(__file__).parents[2] / "simulators" / "javascript" / "README.md"
PRIOR_MEAN, PRIOR_VARIANCE, VARIANCE = 1.0, 5.0, 2.0


class Exact(NamedTuple):
    """A normal posterior."""

    mean: float
    sd: float


def posterior(*measurements: float) -> Exact:
    precision = 1 / PRIOR_VARIANCE + len(measurements) / VARIANCE
    mean = (PRIOR_MEAN / PRIOR_VARIANCE + sum(measurements) / VARIANCE) / precision
    return Exact(mean, precision**-0.5)


def agrees(marginal: Any, exact: Exact) -> bool:
    return bool(abs(float(marginal.mean()) - exact.mean) < 4 * exact.sd / np.sqrt(marginal.ess))


@pytest.mark.parametrize("arguments", [(), ("--marsaglia",)], ids=["plain", "marsaglia"])
def test_importance_sampling_finds_the_posterior(node_folder: Path, arguments: tuple[str, ...]) -> None:
    with Simulator(["node", str(node_folder / "gaussian.mjs"), *arguments]) as simulator:
        found = importance_sampling(simulator, {"y0": 2.0, "y1": 3.0}, num_traces=800, seed=1)
    assert found.ess > 150
    assert agrees(found["mean"], posterior(2.0, 3.0))
    joint = stats.multivariate_normal([PRIOR_MEAN] * 2, PRIOR_VARIANCE + VARIANCE * np.eye(2))
    assert abs(found.log_evidence - joint.logpdf([2.0, 3.0])) < 4 / np.sqrt(found.ess)
    # The comparison would notice a measurement that is lost.
    assert not agrees(found["mean"], posterior(2.0))
    assert not agrees(found["mean"], posterior())


PYPROB = """
import json, sys, warnings
warnings.simplefilter("ignore")
import pyprob
pyprob.seed(1)
model = pyprob.RemoteModel(sys.argv[1])
found = model.posterior_results(
    600, inference_engine=pyprob.InferenceEngine.IMPORTANCE_SAMPLING, observe={"y0": 2.0, "y1": 3.0})
print("FOUND", json.dumps([float(found.mean), float(found.effective_sample_size)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyprob") is None, reason="needs the extra `pyprob`")
def test_pyprob_finds_the_posterior(serve: Callable[..., Any], node_folder: Path) -> None:
    simulator = serve(node_folder / "gaussian.mjs", "--marsaglia")
    command = [sys.executable, "-c", PYPROB, simulator.endpoint]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    mean, ess = json.loads(done.stdout.rsplit("FOUND ", 1)[1].splitlines()[0])
    error = 4 / np.sqrt(ess)
    assert abs(mean - posterior(2.0, 3.0).mean) < error * posterior(2.0, 3.0).sd
    assert abs(mean - posterior(2.0).mean) > error * posterior(2.0).sd
    assert simulator.stop()[0] == 0


FAMILIES = {
    "Normal(1, 2)": stats.norm(1, 2),
    "Uniform(-1, 3)": stats.uniform(-1, 4),
    "Beta(0.5, 2)": stats.beta(0.5, 2),
    "Exponential(0.25)": stats.expon(scale=4),
    "Gamma(0.4, 2)": stats.gamma(0.4, scale=0.5),
    "Gamma(2.5, 0.5)": stats.gamma(2.5, scale=2),
    "LogNormal(0.5, 1.5)": stats.lognorm(1.5, scale=np.exp(0.5)),
    "Weibull(2, 1.5)": stats.weibull_min(1.5, scale=2),
    "Categorical([0.5, 1, 0, 2.5])": stats.rv_discrete(values=([0, 1, 3], [0.125, 0.25, 0.625])),
    "Poisson(4)": stats.poisson(4),
    "Bernoulli(0.3)": stats.bernoulli(0.3),
    "Binomial(20, 0.35)": stats.binom(20, 0.35),
}
DRAWS = 4000
PROGRAM = """
import * as ppx from "./ppx.mjs";
let state = 1;
Math.random = () => { // mulberry32, so that the test is the same every time
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};
const drawn = {};
for (const family of process.argv.slice(2)) {
  const distribution = new Function("ppx", `return ppx.${family}`)(ppx);
  drawn[family] = [];
  for (let i = 0; i < DRAWS; i++) drawn[family].push(await ppx.sample(distribution, "x"));
}
drawn.array = await ppx.sample(ppx.Normal([0, 100], 1), "x");
drawn.observed = [await ppx.observe(ppx.Normal(0, 1), "y", 5), await ppx.observe(ppx.Normal(100, 1), "y")];
await ppx.tag(1, "t");
console.log(JSON.stringify(drawn));
"""


@pytest.fixture(scope="module")
def drawn(node_folder: Path) -> dict[str, list[float]]:
    """What a program without a controller draws."""
    program = node_folder / "draws.mjs"
    program.write_text(PROGRAM.replace("DRAWS", str(DRAWS)))
    done = subprocess.run(
        ["node", str(program), *FAMILIES], capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def p_value(values: list[float], exact: Any) -> float:
    """Kolmogorov and Smirnov's, for discrete families that of a chi-square test."""
    if not all(float(value).is_integer() for value in values):
        return float(stats.kstest(values, exact.cdf).pvalue)
    counts = np.bincount(np.array(values, int), minlength=30)
    expected = exact.pmf(np.arange(len(counts))) * len(values)
    assert not counts[expected == 0.0].any()
    common = expected > 5  # the others together
    pairs = [*zip(counts[common], expected[common], strict=True)]
    rest = len(values) - expected[common].sum()
    if rest > 1e-6:
        pairs.append((counts[~common].sum(), rest))
    return float(stats.chisquare(*zip(*pairs, strict=True)).pvalue)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_without_a_controller(drawn: dict[str, list[float]], family: str) -> None:
    values = drawn[family]
    assert p_value(values, FAMILIES[family]) > 1e-3
    if family == "Poisson(4)":
        assert p_value(values, stats.poisson(4.4)) < 1e-6  # a wrong one is noticed
    if family == "Gamma(0.4, 2)":
        assert p_value(values, stats.gamma(0.45, scale=0.5)) < 1e-6


def test_arrays_and_observations_without_a_controller(drawn: dict[str, list[float]]) -> None:
    assert [round(x / 100) for x in drawn["array"]] == [0, 1]
    given, free = drawn["observed"]
    assert given == 5
    assert abs(free - 100) < 10


@pytest.mark.slow
def test_the_readme_runs(node_folder: Path) -> None:
    blocks = re.findall(
        r"(?:<!-- (\w+): (.+?) -->\n+)?^```(\w+)\n(.*?)^```$", README.read_text(), re.M | re.S
    )
    commands = []
    for role, what, language, body in blocks:
        if role == "file":
            (node_folder / what).write_text(body)
        elif language == "sh":
            commands.append(body)
    install, *others = commands
    assert "npm ci" in install  # as conftest.py does
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in others:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=node_folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, f"{command}{done.stdout}{done.stderr}"
    assert others


ELSEWHERE = """
import { EventEmitter } from "node:events";
import { Worker } from "node:worker_threads";
import * as ppx from "./ppx.mjs";

const bus = new EventEmitter();
const outside = setInterval(() => bus.emit("tick"), 1); // runs outside of every trace
outside.unref();

const models = {
  async callback() {
    await ppx.sample(ppx.Normal(0, 1), "mu");
    const x = await new Promise((resolve, reject) => bus.once("tick", () => {
      try { resolve(ppx.sample(ppx.Normal(0, 1), "x")); } catch (error) { resolve(0); }
    }));
    return x;
  },
  async worker() {
    const mu = await ppx.sample(ppx.Normal(0, 1), "mu");
    const code = `import(${JSON.stringify(new URL("./ppx.mjs", import.meta.url).href)}).then((ppx) =>
      ppx.sample(ppx.Normal(0, 1), "x"))`;
    await new Promise((resolve, reject) => {
      const worker = new Worker(code, { eval: true });
      worker.on("error", reject);
      worker.on("exit", resolve);
    });
    return mu;
  },
};
await ppx.serve(models[process.argv[2]], { name: "elsewhere" });
"""


@pytest.mark.parametrize(
    ("model", "where"),
    [
        ("callback", "in a callback that does not belong to the running trace"),
        ("worker", "on a worker thread"),
    ],
)
def test_a_statement_beside_the_running_trace_fails_it(node_folder: Path, model: str, where: str) -> None:
    program = node_folder / "elsewhere.mjs"
    program.write_text(ELSEWHERE)
    with Simulator(["node", str(program), model], num_workers=1, policy=FailurePolicy(most=1.0)) as simulator:
        traces = simulator.prior(2)
    assert (traces.status == Status.FAILED).all()
    assert all(f"x: this statement was made {where}" in text for text in traces.failures.values()), (
        traces.failures
    )

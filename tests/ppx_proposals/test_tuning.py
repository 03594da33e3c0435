"""Tuning: simulators are tuned to the maximum of their likelihood, training to a better learning rate."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from ppx_inference import Simulator
from ppx_proposals import NetworkConfig, TrainingConfig
from ppx_proposals.batching import encode, pack_minibatches
from ppx_proposals.network import ProposalNetwork
from ppx_proposals.observations import ObservationLayout
from ppx_proposals.optim import AdamHD
from ppx_proposals.optim.evolution import PES, NonFiniteLossError
from ppx_proposals.tuning import SimulatorTuning, TrainingTuning, mean_loss, negative_log_evidence
from ppx_proposals.vocabulary import Vocabulary
from ppx_server.errors import AddressError, ObservationError, SimulatorError
from ppx_server.executor import FailurePolicy
from ppx_server.script import ScriptBatch
from ppx_server.trace import TraceBatch

ROOT = Path(__file__).parents[2]
GAUSSIAN = ROOT / "simulators" / "gaussian" / "gaussian.py"
LINEAR = ROOT / "simulators" / "linear_gaussian" / "linear_gaussian.py"
RICKER = ROOT / "simulators" / "ricker" / "serve_ricker.py"
OBSERVED = {"y0": 8.0, "y1": 9.0}

FRAGILE = """
import ppx_client as ppx

def model():
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    e = ppx.sample(ppx.Normal(0.0, 1.0), name="e")
    hidden = ppx.sample(ppx.Normal(0.0, 1.0), name="hidden", control=False)
    if e > 1.2:
        raise ValueError("it got stuck")
    return mu

ppx.serve(model, name="fragile")
"""


@pytest.fixture(scope="module")
def gaussian_process() -> Iterator[Simulator]:
    with Simulator([sys.executable, str(GAUSSIAN)], num_workers=1) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    path = tmp_path_factory.mktemp("fragile") / "fragile.py"
    path.write_text(FRAGILE, encoding="utf-8")
    with Simulator([sys.executable, str(path)], num_workers=1, policy=FailurePolicy(most=1.0)) as simulator:
        yield simulator


def coordinate(value: float = 0.0) -> nn.Parameter:
    return nn.Parameter(torch.full((1,), value, dtype=torch.float64))


def pes_of(z: nn.Parameter, unroll: Any, start: Any, **own: Any) -> PES:
    settings = {"num_unrolls": 1, "num_pairs": 8, "sigma": 0.1, "generator": torch.Generator().manual_seed(3)}
    return PES([z], unroll, start, **{**settings, **own})


def minimised(pes: PES, z: nn.Parameter) -> Tensor:
    """The mean of the last 20 of 40 steps, which has less noise than the last."""
    optimizer = torch.optim.SGD([z], lr=0.05)
    seen = []
    for _ in range(40):
        optimizer.zero_grad()
        pes.backward()
        optimizer.step()
        seen.append(z.detach().clone())
    return torch.stack(seen[20:]).mean(dim=0)


def squared_distance(traces: TraceBatch) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(y0 - 5)^2 of observations that the simulator drew; its mean is (mu - 5)^2 + 2."""
    rows = traces.observations.rows(traces.addresses.find("y0"))
    return (traces.observations.dense(rows, ()) - 5.0) ** 2


def test_gradient_is_that_of_the_likelihood(gaussian_process: Simulator) -> None:
    """-log p(y | mu) = sum (y - mu)^2 / 4 + const, mu = 1 + sqrt(5) z."""
    z = coordinate(0.3)
    mu = 1.0 + math.sqrt(5.0) * 0.3
    tuning = SimulatorTuning(gaussian_process, ["mu"], negative_log_evidence, observations=OBSERVED)
    found = pes_of(z, tuning.unroll, tuning.start, num_pairs=2000).backward()
    exact = {y: -math.sqrt(5.0) * (y[0] + y[1] - 2 * mu) / 2 for y in ((8.0, 9.0), (8.0, 6.0))}
    error = 4 * float(found.standard_error)
    assert abs(float(found.gradient) - exact[8.0, 9.0]) < error < 0.2 * abs(exact[8.0, 9.0])
    assert abs(float(found.gradient) - exact[8.0, 6.0]) > error  # negative control: other data
    assert torch.equal(z.grad, found.gradient)


def test_maximum_likelihood_is_found(gaussian_process: Simulator) -> None:
    z = coordinate()
    tuning = SimulatorTuning(gaussian_process, [("mu", 0)], negative_log_evidence, observations=OBSERVED)
    best = minimised(pes_of(z, tuning.unroll, tuning.start), z)
    assert tuning.values(best)[0] == pytest.approx(8.5, abs=0.05)


def test_discrepancy_of_simulated_data_is_minimised(gaussian_process: Simulator) -> None:
    """With the same random numbers in both members most of the noise of the data cancels."""
    z = coordinate()
    tuning = SimulatorTuning(gaussian_process, ["mu"], mean_loss(squared_distance), num_traces=20)

    def independent(params: Tensor, state: Any, seeds: Tensor) -> tuple[Any, Tensor]:
        return tuning.unroll(params, state, seeds + 1000 * torch.arange(len(seeds)))

    errors = [
        float(pes_of(coordinate(1.789), u, tuning.start, num_pairs=50, sigma=0.02).backward().standard_error)
        for u in (tuning.unroll, independent)
    ]
    assert 3 * errors[0] < errors[1]
    best = minimised(pes_of(z, tuning.unroll, tuning.start), z)
    # One step's gradient, 10 (z - z*), has noise from the observations of sqrt(5) 2 sqrt(2) / sqrt(160) = 0.5: z, of
    # 20 such steps, is known to 0.5 / 10 / sqrt(20) = 0.011, and mu to 0.025.
    assert tuning.values(best)[0] == pytest.approx(5.0, abs=4 * 0.025)


def test_evidence_leaves_failed_traces_without_weight(fragile: Simulator) -> None:
    traces = fragile.prior(400, seed=5)
    share = float(np.mean(traces.status == 0))
    assert 0.7 < share < 0.97
    assert negative_log_evidence(traces, 1) == pytest.approx([-math.log(share)])
    none = traces.select(np.repeat(np.flatnonzero(traces.status)[:1], 4))
    assert np.isposinf(negative_log_evidence(none, 2)).all()


def test_failed_traces_are_an_error_or_have_a_price(fragile: Simulator) -> None:
    def result(traces: TraceBatch) -> Any:
        losses = np.full(len(traces), 1e9)  # of failed traces, which must not count
        ok = traces.status == 0
        losses[ok] = traces.value[traces.rows(traces.addresses.find("mu"))[ok]]
        return losses

    z = coordinate()
    strict, priced, lost = (
        SimulatorTuning(fragile, ["mu"], mean_loss(result, failed), num_traces=2, seed=1)
        for failed in (None, 7.0, math.nan)
    )
    with pytest.raises(SimulatorError, match="it got stuck") as caught:
        pes_of(z, strict.unroll, strict.start, num_pairs=30).backward()
    again = fragile.execute(ScriptBatch.empty(1, [caught.value.index]), None)
    assert again.status[0] != 0
    seeds = torch.tensor([caught.value.index - 1, caught.value.index])
    mean = priced.unroll(torch.full((2, 1), -1.5, dtype=torch.float64), (), seeds)[1].tolist()
    assert all(m == pytest.approx((7.0 - 1.5) / 2) or m == pytest.approx(7.0) for m in mean)
    with pytest.raises(NonFiniteLossError):
        pes_of(z, lost.unroll, lost.start, num_pairs=30).backward()
    found = pes_of(z, lost.unroll, lost.start, num_pairs=30, failures="restart").backward()
    assert 0 < found.num_failed < 30
    assert torch.isfinite(found.gradient).all()


def test_draws_that_cannot_be_tuned_are_refused(gaussian_process: Simulator, fragile: Simulator) -> None:
    for name in ("nu", ("mu", 1)):
        with pytest.raises(AddressError, match="they make the draws 'mu'"):
            SimulatorTuning(gaussian_process, [name], negative_log_evidence)
    with pytest.raises(AddressError, match="control=False"):
        SimulatorTuning(fragile, ["hidden"], negative_log_evidence)
    linear = Simulator([sys.executable, str(LINEAR), "2"], num_workers=1)
    with linear, pytest.raises(AddressError, match="it is an array"):
        SimulatorTuning(linear, ["state"], negative_log_evidence)
    for names in ("mu", []):
        with pytest.raises(ValueError, match="give a list of names"):
            SimulatorTuning(gaussian_process, names, negative_log_evidence)
    with pytest.raises(ValueError, match="names a draw twice"):
        SimulatorTuning(gaussian_process, ["mu", ("mu", 0)], negative_log_evidence)
    with pytest.raises(ValueError, match="num_traces must"):
        SimulatorTuning(gaussian_process, ["mu"], negative_log_evidence, num_traces=0)
    wrong = SimulatorTuning(gaussian_process, ["mu"], mean_loss(lambda traces: np.zeros(3)))
    with pytest.raises(ValueError, match="must be as many numbers"):
        wrong.unroll(torch.zeros(2, 1), (), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="2 numbers for 1 forced draws"):
        wrong.unroll(torch.zeros(2, 2), (), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="would draw its observations itself"):
        SimulatorTuning(gaussian_process, ["mu"], negative_log_evidence)


def ricker_likelihood(counts: dict[str, int], log_r: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """log p(counts | log r) by a filter on a grid of log(population size), as in tests/posteriors/gallery.py."""
    x = np.linspace(-14.0, 5.0, 500)
    found = []
    for r in log_r:
        moved = np.append(x, 0.0)
        moved = r + moved - np.exp(moved)
        step = stats.norm.pdf(x[:, None], moved[None, :], 0.3)
        belief = step[:, -1]
        for year, count in enumerate(counts.values()):
            if year:
                belief = step[:, :-1] @ belief * (x[1] - x[0])
            belief = belief * stats.poisson.pmf(count, 4.0 * np.exp(x))
        found.append(math.log(belief.sum() * (x[1] - x[0])))
    return np.array(found)


@pytest.mark.slow
def test_growth_rate_of_the_ricker_map_is_found() -> None:
    """The likelihood of the found rate is as high as the highest, within a tenth of a nat; those near are not."""
    counts = {"y0": 3, "y1": 9, "y2": 5, "y3": 17, "y4": 5, "y5": 7}
    z = coordinate(-2.0)
    with Simulator([sys.executable, str(RICKER)], num_workers=2) as simulator:
        tuning = SimulatorTuning(
            simulator, ["log_r"], negative_log_evidence, observations=counts, num_traces=200
        )
        best = minimised(pes_of(z, tuning.unroll, tuning.start, num_pairs=4), z)
        (log_r,) = tuning.values(best)
    exact = ricker_likelihood(counts, np.linspace(1.0, 3.0, 81))
    assert exact.max() - ricker_likelihood(counts, np.array([log_r]))[0] < 0.1
    assert exact.max() - ricker_likelihood(counts, np.array([1.0, 1.55, 1.95, 2.0])).max() > 0.3


SMALL = NetworkConfig(lstm_size=16, head_size=16, mixture_components=2, address_size=4, observation_size=8)
CONFIG = TrainingConfig(
    network=SMALL, batch_size=32, weight_decay=1e-3, lr_bounds=(1e-6, 1.0), max_grad_norm=1.0
)


def training(gaussian: Any, count: int = 320, **own: Any) -> TrainingTuning:
    traces = gaussian.execute(ScriptBatch.empty(5, np.arange(count)), None)
    return TrainingTuning(traces, ["y0", "y1"], **{"config": CONFIG, "num_steps": 3, **own})


def settings(*rows: tuple[float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def test_truncated_training_is_training(gaussian: Any) -> None:
    """Two unrolls are six steps of Adam-HD by hand, up to rounding, whoever else is trained in between."""
    tuning = training(gaussian)
    seeds = torch.tensor([11, 11, 12])
    params = settings((3e-3, 0.05), (1e-1, 0.5), (3e-3, 0.05))
    state, first = tuning.unroll(params, tuning.start(seeds), seeds)
    _, second = tuning.unroll(params, state, seeds + 1)

    traces = gaussian.execute(ScriptBatch.empty(5, np.arange(320)), None)
    layout, vocabulary = ObservationLayout.from_traces(traces, ["y0", "y1"]), Vocabulary()
    steps = encode(traces, vocabulary, grow=True)
    data = pack_minibatches(steps, layout.of_traces(traces), np.full(10, 32), device=torch.device("cpu"))
    network = ProposalNetwork(layout.flat_size, layout.grid_shapes, replace(SMALL, seed=11))
    network.grow(len(vocabulary), vocabulary.num_categories)
    optimizer = AdamHD(
        network.parameters(),
        lr=float(params[0, 0].exp()),
        hypergrad_lr=float(params[0, 1].exp()),
        rule="multiplicative",
        weight_decay=1e-3,
        lr_bounds=(1e-6, 1.0),
        max_grad_norm=1.0,
    )
    for seed, found in ((11, first), (12, second)):
        losses = []
        for number in np.random.default_rng(seed).integers(10, size=3).tolist():
            optimizer.zero_grad()
            loss = -network(data[number]).sum() / 32
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        assert float(found[0]) == pytest.approx(float(sum(losses)) / 3, abs=1e-8)
    assert float(second[0]) != float(second[1]) != float(second[2])
    # Negative control: without the optimizer's memory the second unroll goes another way.
    state["optimizer"] = [[torch.zeros_like(v) for v in own] for own in state["optimizer"]]
    assert abs(float(tuning.unroll(params, state, seeds + 1)[1][0]) - float(second[0])) > 1e-6


def test_learning_rate_goes_on_as_a_ratio(gaussian: Any) -> None:
    tuning = training(gaussian, num_steps=20)
    seeds = torch.tensor([1])
    state, _ = tuning.unroll(settings((1e-3, 0.05)), tuning.start(seeds), seeds)
    ratio = float(state["ratio"])
    assert ratio > 1.05
    state, _ = tuning.unroll(settings((2e-3, 1e-9)), state, seeds)
    assert float(state["ratio"]) == pytest.approx(ratio, rel=1e-6)


def test_settings_and_traces_that_do_not_fit_are_refused(gaussian: Any) -> None:
    for own in ({"names": ("momentum",)}, {"names": ()}, {"num_steps": 0}):
        with pytest.raises(ValueError, match="names must be some of"):
            training(gaussian, **own)
    with pytest.raises(ValueError, match="less than a minibatch"):
        training(gaussian, count=31)
    traces = gaussian.execute(ScriptBatch.empty(5, np.arange(64)), None)
    with pytest.raises(ObservationError, match="never observes"):
        TrainingTuning(traces, ["z"], config=CONFIG)


@pytest.mark.slow
def test_learning_rate_of_training_is_repaired(gaussian: Any) -> None:
    """From a learning rate a hundred times too small; the loss is that of whole runs with other seeds."""
    tuning = training(gaussian, count=4096, num_steps=10)
    theta = nn.Parameter(settings((1e-4, 0.02))[0])
    start = theta.detach().clone()
    pes = pes_of(theta, tuning.unroll, tuning.start, num_unrolls=10, num_pairs=4, sigma=0.3, ages="spread")
    optimizer = torch.optim.Adam([theta], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        pes.backward()
        optimizer.step()
    seeds = torch.arange(4) + 10**6
    losses = []
    for setting in (start, theta.detach()):
        state, total = tuning.start(seeds), 0.0
        for unroll in range(10):
            state, loss = tuning.unroll(setting.expand(4, -1), state, seeds + 10 * unroll)
            total += float(loss.mean()) / 10
        losses.append(total)
    assert theta[0].exp().item() > 1e-3
    assert losses[1] < losses[0] - 0.3


def example(name: str, *options: str) -> list[str]:
    return [sys.executable, str(ROOT / "examples" / name), *options]


GAUSSIAN_OPTIONS = ("--steps", "3", "--tune", "mu", "--observe", "y0=8", "--observe", "y1=9")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (
            example("tune_simulator.py", "--steps", "3", "--traces", "20"),
            ("log_r: 2 -> ", "-log likelihood: "),
        ),
        (
            example("tune_simulator.py", *GAUSSIAN_OPTIONS, "--", sys.executable, str(GAUSSIAN)),
            ("mu: 1 -> ",),
        ),
        (
            example(
                "tune_training.py", "--steps", "3", "--traces", "128", "--unrolls", "2", "--unroll-steps", "2"
            ),
            ("lr: 0.0001 -> ", "loss after 256 traces: "),
        ),
    ],
)
def test_examples_say_what_they_found(command: list[str], printed: tuple[str, ...]) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    assert all(words in run.stdout for words in printed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "printed"), [("tune_simulator.py", "-log likelihood: "), ("tune_training.py", "loss after ")]
)
def test_ctrl_c_keeps_what_was_found(name: str, printed: str) -> None:
    command = example(name, "--steps", "100000")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("tuning")
    time.sleep(3.0)  # some steps
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "interrupted" in out
    assert printed in out
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (example("tune_simulator.py", "--tune", "nothing"), 1, "they make the draws 'log_r', 'noise'"),
        (example("tune_simulator.py", "--traces", "0"), 1, "error: num_traces must be at least 1, not 0"),
        (example("tune_simulator.py", "--observe", "y0"), 2, "'y0' is no measurement; write NAME=NUMBER"),
        (example("tune_training.py", "--lr", "0"), 1, "error: lr must be finite"),
    ],
)
def test_what_goes_wrong_is_said_without_a_traceback(command: list[str], code: int, said: str) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == code
    assert said in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr

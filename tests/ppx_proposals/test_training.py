"""Training: it reaches the exact posterior, resumes to the last bit, and stops in good order."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from ppx_proposals import NetworkConfig, Proposal, TrainingConfig, TrainingReport, train
from ppx_server.errors import CheckpointError, ObservationError, SimulatorCrashError, SimulatorError
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import Status

SMALL = NetworkConfig(lstm_size=32, head_size=32, mixture_components=4, address_size=8, observation_size=32)
CONFIG = TrainingConfig(network=SMALL, batch_size=64, lr=3e-3, num_validation=128)
# Mutual information of mu and two observations: half the log of prior over posterior variance, 5 and 1 / (1/5 + 2/2).
BEST_LOSS = -0.5 * math.log(5.0 * (1.0 / 5.0 + 2.0 / 2.0))


def test_reaches_the_exact_posterior(gaussian) -> None:  # type: ignore[no-untyped-def]
    """Loss = -I(mu; y) + E[KL(posterior || q)]: what is left above the minimum is the divergence."""
    config = replace(CONFIG, network=replace(SMALL, defensive=0.01), batch_size=128, max_chunk=8192)
    proposal = train(gaussian, ["y0", "y1"], num_traces=60_000, seed=3, config=config, device="cpu")
    traces = gaussian.execute(ScriptBatch.empty(77, np.arange(20_000)), None)
    ratio = proposal.log_ratio(traces)
    # The exact proposal on the same traces; the difference has far less spread than either.
    rows = [traces.observations.rows(gaussian.addresses.find(name)) for name in ("y0", "y1")]
    y = sum(traces.observations.dense(r, ()) for r in rows)
    mean, sd = (1.0 / 5.0 + y / 2.0) / 1.2, math.sqrt(1.0 / 1.2)
    exact = (
        -0.5 * ((traces.value - mean) / sd) ** 2
        - math.log(sd)
        - 0.5 * math.log(2 * math.pi)
        - traces.log_prob
    )
    assert -float(exact.mean()) == pytest.approx(
        BEST_LOSS, abs=4 * float(exact.std()) / math.sqrt(len(exact))
    )
    divergence = float((exact - ratio).mean())
    # 0.01 of the divergence is the defensive component: -log 0.99.
    assert -1e-3 < divergence < 0.03
    assert proposal.history[-1].validation_loss < 0.8 * BEST_LOSS
    assert proposal.training.stopped == "done"


def _same(a: Proposal, b: Proposal) -> bool:
    weights = zip(a.network.state_dict().items(), b.network.state_dict().items(), strict=True)
    return all(n == m and torch.equal(t, u) for (n, t), (m, u) in weights)


@pytest.mark.parametrize("name", ["marsaglia", "branching"])
def test_training_twice_half_is_training_once(simulator, models, tmp_path, name: str) -> None:  # type: ignore[no-untyped-def]
    observed = {"marsaglia": ["y"], "branching": ["total", "grid"]}[name]
    config = replace(CONFIG, batch_size=32, num_validation=32)
    whole = train(simulator(models[name]), observed, num_traces=512, seed=1, config=config, device="cpu")
    half = train(simulator(models[name]), observed, num_traces=256, seed=1, config=config, device="cpu")
    half.save(tmp_path / "net")
    resumed = Proposal.load(tmp_path / "net", device="cpu")
    assert resumed.history[-1].loss == half.history[-1].loss
    train(simulator(models[name]), observed, num_traces=512, seed=1, config=config, proposal=resumed)
    assert _same(whole, resumed)
    assert resumed.optimizer is not None
    assert whole.optimizer is not None
    assert resumed.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"] != config.lr
    assert [s.loss for s in whole.history] == [s.loss for s in resumed.history]
    assert resumed.training.num_traces == 512


def test_no_trace_is_seen_twice(gaussian, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for total in (200, 500, 500):
        train(
            gaussian,
            ["y0"],
            num_traces=total,
            seed=1,
            config=CONFIG,
            checkpoint=tmp_path / "net",
            device="cpu",
        )
    trained = [i for i in gaussian.executed if i < 1 << 40]
    assert trained == list(range(500))
    assert Proposal.load(tmp_path / "net").training.num_traces == 500


def test_chunks_do_not_matter(simulator, models) -> None:  # type: ignore[no-untyped-def]
    proposals = [
        train(
            simulator(models["branching"]),
            ["total"],
            num_traces=400,
            seed=2,
            config=replace(CONFIG, batch_size=32, max_chunk=chunk, num_validation=32),
            device="cpu",
        )
        for chunk in (1, 400)
    ]
    assert _same(*proposals)


def test_addresses_appear_while_training(gaussian_with, simulator, models) -> None:  # type: ignore[no-untyped-def]
    """New addresses get room and a gradient, and the learning rate and moments of the others are kept."""
    sim = simulator(models["branching"])
    reports: list[TrainingReport] = []
    config = replace(CONFIG, batch_size=1, num_validation=1)
    proposal = train(
        sim,
        ["total"],
        num_traces=40,
        seed=0,
        config=config,
        device="cpu",
        on_step=lambda r: reports.append(r),
    )
    counts = [r.num_addresses for r in reports]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == len(proposal.addresses)
    assert proposal.optimizer is not None
    group = {id(p) for p in proposal.optimizer.param_groups[0]["params"]}
    assert group == {id(p) for p in proposal.network.parameters()}


def test_more_addresses_than_a_block(gaussian_with) -> None:  # type: ignore[no-untyped-def]
    sim = gaussian_with(draws=[f"x{i}" for i in range(100)])
    proposal = train(sim, ["y0"], num_traces=128, seed=0, config=CONFIG, device="cpu")
    assert len(proposal.addresses) == 100
    assert len(proposal.network.addresses.blocks) == 2


def test_reports_and_history(gaussian) -> None:  # type: ignore[no-untyped-def]
    reports: list[TrainingReport] = []
    proposal = train(
        gaussian,
        ["y0"],
        num_traces=320,
        seed=0,
        config=CONFIG,
        device="cpu",
        on_step=lambda r: reports.append(r),
    )
    assert [r.step for r in reports] == proposal.history
    assert [r.step.num_traces for r in reports] == [64, 128, 192, 256, 320]
    assert all(r.rate > 0 and r.seconds_left >= 0 and r.total == 320 for r in reports)
    assert reports[-1].seconds_left == 0
    assert math.isfinite(reports[-1].step.validation_loss)


class _Failing:
    """Passes executions on, and fails in its own way."""

    def __init__(self, sim, *, crash_at: int | None = None, fail_every: int | None = None) -> None:  # type: ignore[no-untyped-def]
        self._sim, self._crash_at, self._fail_every = sim, crash_at, fail_every
        self.addresses, self.model_name = sim.addresses, sim.model_name

    def execute(self, scripts, observations, guide=None):  # type: ignore[no-untyped-def]
        if self._crash_at is not None and self._crash_at in scripts.index:
            raise SimulatorCrashError("it crashed", seed=scripts.seed, index=self._crash_at)
        traces = self._sim.execute(scripts, observations, guide)
        if self._fail_every is None:
            return traces
        failed = traces.index % self._fail_every == 0
        failures = {int(i): "no luck" for i in traces.index[failed]}
        return replace(
            traces, status=np.where(failed, Status.FAILED, Status.OK).astype(np.uint8), failures=failures
        )


def test_simulator_error_arrives_and_what_was_learnt_is_saved(gaussian, tmp_path) -> None:  # type: ignore[no-untyped-def]
    sim = _Failing(gaussian, crash_at=1000)
    with pytest.raises(SimulatorCrashError, match="trace 1000") as caught:
        train(sim, ["y0"], num_traces=5000, config=CONFIG, checkpoint=tmp_path / "net", device="cpu")
    saved = Proposal.load(tmp_path / "net")
    assert _same(caught.value.partial, saved)
    assert 0 < saved.training.next_index <= 1000
    assert saved.training.stopped == "failed"
    assert not any(t.name == "ppx training traces" for t in threading.enumerate())


def test_an_error_without_a_checkpoint_hands_over_what_was_learnt(gaussian) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SimulatorCrashError) as caught:
        train(_Failing(gaussian, crash_at=1000), ["y0"], num_traces=5000, config=CONFIG, device="cpu")
    proposal = caught.value.partial
    learnt = proposal.training.next_index
    assert 0 < learnt <= 1000
    train(gaussian, ["y0"], num_traces=learnt + 64, config=CONFIG, proposal=proposal)
    assert proposal.training.num_traces == learnt + 64


def test_an_interrupt_before_training_waits_for_few_traces(gaussian) -> None:  # type: ignore[no-untyped-def]
    executed = []

    class Slow(_Failing):
        def execute(self, scripts, observations, guide=None):  # type: ignore[no-untyped-def]
            executed.append(len(scripts))
            time.sleep(0.6)
            if len(executed) == 3:
                raise KeyboardInterrupt
            return super().execute(scripts, observations, guide)

    with pytest.raises(KeyboardInterrupt):
        train(Slow(gaussian), ["y0"], num_traces=10**6, config=CONFIG, device="cpu")
    assert executed == [4, 4, 4]


def test_held_out_traces_are_executed_in_growing_chunks(gaussian) -> None:  # type: ignore[no-untyped-def]
    executed = []

    class Counting(_Failing):
        def execute(self, scripts, observations, guide=None):  # type: ignore[no-untyped-def]
            executed.append(scripts.index)
            return super().execute(scripts, observations, guide)

    train(Counting(gaussian), ["y0"], num_traces=10**5, config=replace(CONFIG, max_seconds=0.1), device="cpu")
    held_out = [index for index in executed if index[0] >= 1 << 40]
    assert [len(index) for index in held_out] == [4, 16, 64, 44]
    assert np.concatenate(held_out).tolist() == list(range(1 << 40, (1 << 40) + 128))


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_devices_that_are_not_there_are_refused_before_anything_runs(gaussian, device: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=rf"device '{device}' cannot be used.*give one of auto, cpu"):
        train(gaussian, ["y0"], num_traces=64, config=CONFIG, device=device)
    assert gaussian.executed == []


def test_failed_traces_are_left_out_and_counted(gaussian) -> None:  # type: ignore[no-untyped-def]
    proposal = train(_Failing(gaussian, fail_every=4), ["y0"], num_traces=640, config=CONFIG, device="cpu")
    assert proposal.training.num_failed == 160
    assert proposal.training.num_traces == 480
    assert proposal.training.next_index == 640
    with pytest.raises(SimulatorError, match="no luck"):
        train(_Failing(gaussian, fail_every=1), ["y0"], num_traces=640, config=CONFIG, device="cpu")


@pytest.mark.parametrize("how", ["signal", "callback"])
def test_interrupt_keeps_what_is_learnt(gaussian, tmp_path, how: str) -> None:  # type: ignore[no-untyped-def]
    def interrupt(report: TrainingReport) -> None:
        if report.step.step == 3:
            if how == "callback":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)

    proposal = train(
        gaussian,
        ["y0"],
        num_traces=10**9,
        config=CONFIG,
        checkpoint=tmp_path / "net",
        device="cpu",
        on_step=interrupt,
    )
    assert proposal.training.stopped == "interrupted"
    assert proposal.training.num_traces == 3 * 64
    assert _same(proposal, Proposal.load(tmp_path / "net", device="cpu"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_time_limit(gaussian) -> None:  # type: ignore[no-untyped-def]
    proposal = train(
        gaussian, ["y0"], num_traces=10**9, config=replace(CONFIG, max_seconds=0.3), device="cpu"
    )
    assert proposal.training.stopped == "out of time"
    assert 0.3 <= proposal.training.seconds < 5.0


def test_trained_guide_gives_good_weights(simulator, models) -> None:  # type: ignore[no-untyped-def]
    """A little training beats the prior, and the weights give the exact evidence."""
    sim = simulator(models["marsaglia"])
    config = replace(CONFIG, network=replace(SMALL, lstm_size=64, head_size=64), batch_size=32)
    proposal = train(sim, ["y"], num_traces=12_000, seed=1, config=config, device="cpu")
    given = {"y": 6.0, ("y", 1): 7.0}
    ess = []
    for guide, otherwise in ((None, Otherwise.PRIOR), (proposal.guide(given), Otherwise.ASK)):
        traces = sim.execute(ScriptBatch.empty(9, np.arange(1000), otherwise), given, guide)
        weight = np.exp(traces.log_weight)
        ess.append(float(weight.sum() ** 2 / (weight**2).sum()))
        # Exact evidence: y ~ N(1, [[7, 5], [5, 7]]).
        exact = -math.log(2 * math.pi) - 0.5 * math.log(24.0) - 0.5 * (5.5**2 * 2 / 12.0 + 2 * 0.5**2 / 2.0)
        tolerance = 4.0 * float(weight.std()) / math.sqrt(len(weight))
        assert float(weight.mean()) == pytest.approx(math.exp(exact), abs=tolerance)
    assert ess[1] > 2.0 * ess[0]


def test_what_does_not_fit_is_refused(gaussian, gaussian_with, tmp_path) -> None:  # type: ignore[no-untyped-def]
    proposal = train(
        gaussian, ["y0"], num_traces=64, config=CONFIG, device="cpu", checkpoint=tmp_path / "net"
    )
    with pytest.raises(CheckpointError, match=r"'y0', not on 'y1'"):
        train(gaussian, ["y1"], num_traces=128, config=CONFIG, proposal=proposal)
    with pytest.raises(CheckpointError, match=r"mu \(Normal\)"):
        train(gaussian_with(draws=["nu"]), ["y0"], num_traces=128, config=CONFIG, proposal=proposal)
    with pytest.raises(CheckpointError, match=r"'y0'.*'a', 'b'"):
        train(gaussian_with(names=["a", "b"]), ["y0"], num_traces=128, config=CONFIG, proposal=proposal)
    with pytest.raises(CheckpointError, match="another network"):
        train(
            gaussian,
            ["y0"],
            num_traces=128,
            config=TrainingConfig(),
            checkpoint=tmp_path / "net",
            device="cpu",
        )
    with pytest.raises(ObservationError, match="never observes 'x'"):
        train(gaussian, ["x"], num_traces=128, config=CONFIG)
    with pytest.raises(ValueError, match="at least 1"):
        train(gaussian, ["y0"], num_traces=0, config=CONFIG)

"""What all engines share: arguments, interruption, failure, progress, chunks, schedules."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import ppx_inference
from ppx_inference import (
    Simulator,
    TrustWarning,
    chains,
    importance,
    importance_sampling,
    inference_compilation,
    lightweight_mh,
    quiet,
    random_walk_mh,
    train,
)
from ppx_server.errors import (
    AddressError,
    ArgumentError,
    CheckpointError,
    ObservationError,
    PPXError,
    SimulatorCrashError,
)
from ppx_server.script import Choice

ENGINES = [importance_sampling, lightweight_mh, random_walk_mh]


def gaussian(ppx):
    ppx.observe("Normal", ppx.sample("Normal", 0.0, 1.0, name="mu"), 1.0, name="y")


class PriorGuide:
    """A proposal that proposes the prior, shifted by a known amount in standard coordinates."""

    shift = 0.5

    def guide(self, observations, speculation=True):
        self.speculation = speculation
        return self

    def require_known(self, addresses):
        assert "mu" in [a.name for a in addresses]

    def begin(self, num_traces, addresses):
        pass

    def choose(self, asks, normals):
        # log q - log p at z, for q = N(shift, 1) and p = N(0, 1).
        z = normals[:, 1] + self.shift
        return [Choice(float("nan"), v, self.shift * v - self.shift**2 / 2) for v in z.tolist()]


@pytest.fixture
def failing(in_process):
    """A simulator class that raises an error at the n-th call of `execute`."""

    class Failing(in_process):
        def __init__(self, model, error, at):
            super().__init__(model)
            self.error, self.left = error, at

        def execute(self, scripts, observations, guide=None):
            traces = super().execute(scripts, observations, guide)
            self.left -= 1
            if self.left == 0:
                if isinstance(self.error, PPXError):
                    # As the executor does: what finished, here all but the third trace.
                    self.error.completed = traces.select(np.flatnonzero(np.arange(len(traces)) != 2))
                raise self.error
            return traces

    return Failing


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_traces": 0}, "num_traces must be at least 1, not 0"),
        ({"num_traces": 2.5}, "num_traces must be a whole number, not 2.5"),
        ({"num_traces": 10, "seed": -1}, "seed must be at least 0"),
        ({"num_traces": 10, "seed": 2**64}, "seed must be at most 18446744073709551615"),
        ({"num_traces": 100.0}, "num_traces must be a whole number, not 100.0; write 100"),
        ({"num_traces": float("nan")}, "num_traces must be a whole number, not nan"),
        ({"num_traces": True}, "num_traces must be a whole number, not True"),
        ({"num_traces": 10, "seed": 1.0}, "seed must be a whole number, not 1.0; write 1"),
    ],
)
def test_arguments_out_of_range_are_refused(engine, arguments, message, in_process):
    with pytest.raises(ValueError, match=message):
        engine(in_process(gaussian), {"y": 0.0}, **arguments)


@pytest.mark.filterwarnings("ignore::ppx_inference.TrustWarning")
@pytest.mark.parametrize("engine", ENGINES)
def test_numbers_of_numpy_are_whole_numbers(engine, in_process):
    found = engine(in_process(gaussian), {"y": 0.0}, num_traces=np.int64(200), seed=np.uint64(2**64 - 1))
    assert len(found) >= 200


@pytest.mark.parametrize("engine", ENGINES)
def test_observations_without_names_are_refused(engine, in_process):
    with pytest.raises(ObservationError, match=r"given by name, as in \{'y': 1.5\}, not as list \[0.0\]"):
        engine(in_process(gaussian), [0.0], num_traces=100)


def test_a_path_is_no_proposal_and_a_text_no_list_of_names(in_process):
    with pytest.raises(ArgumentError, match=r"Proposal.load\('trained'\) reads one"):
        inference_compilation(in_process(gaussian), {"y": 0.0}, proposal="trained", num_traces=10)
    with pytest.raises(ArgumentError, match=r"Proposal.load\('trained'\) reads one"):
        train(in_process(gaussian), ["y"], proposal="trained", num_traces=10)
    with pytest.raises(ArgumentError, match=r"a list of names, \['y'\]"):
        train(in_process(gaussian), "y", num_traces=10)


def test_a_posterior_is_read_by_name(in_process):
    found = importance_sampling(in_process(gaussian), {"y": 0.0}, num_traces=200)
    for key in (0, slice(2), ("mu",), (0, "mu"), None):
        with pytest.raises(AddressError, match=r"read by the name of a draw or tag, posterior\['mu'\]"):
            found[key]
    assert found["mu", np.int64(0)].mean() == found["mu"].mean()
    with pytest.raises(ArgumentError, match=r"num_traces must be a whole number, not 10\.0; write 10"):
        found.resample(10.0, seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_chains": 0}, "num_chains must be at least 1"),
        ({"burn_in": -1}, "burn_in must be at least 0"),
        ({"thinning": 0}, "thinning must be at least 1"),
        ({"thinning": 30}, "thinning 30 keeps none of the 25 states"),
        ({"step_size": 1.5}, r"step_size must be in \(0, 1\]"),
    ],
)
def test_schedules_out_of_range_are_refused(arguments, message, in_process):
    with pytest.raises(ValueError, match=message):
        random_walk_mh(in_process(gaussian), {"y": 0.0}, num_traces=100, **arguments)


@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_observation_names_are_refused(engine, in_process):
    with pytest.raises(ObservationError):
        engine(in_process(gaussian), {"y": 0.0, "typo": 1.0}, num_traces=100)


def test_importance_traces_do_not_depend_on_chunks(in_process, monkeypatch):
    first = importance_sampling(in_process(gaussian), {"y": 0.0}, num_traces=300, seed=1)
    monkeypatch.setattr(importance, "_FIRST_CHUNK", 7)
    monkeypatch.setattr(importance, "_CHUNK_BYTES", 0)
    again = importance_sampling(in_process(gaussian), {"y": 0.0}, num_traces=300, seed=1)
    assert np.array_equal(first.traces.value, again.traces.value)
    assert again.traces.index.tolist() == list(range(300))


@pytest.mark.filterwarnings("ignore::ppx_inference.TrustWarning")
def test_an_observation_that_is_rarely_made_is_no_wrong_name(in_process):
    def model(ppx):
        if ppx.sample("Uniform", 0.0, 1.0, name="u") < 0.1:
            ppx.observe("Normal", 0.0, 1.0, name="rare")
        ppx.observe("Normal", 0.0, 1.0, name="y")

    simulator = in_process(model)
    posterior = importance_sampling(simulator, {"y": 0.0, "rare": 0.0}, num_traces=200, seed=3)
    made = posterior.traces.value < 0.1
    assert not made[:4].any(), "this seed does not test what it should"
    assert made[:64].any()
    assert posterior.traces.index.tolist() == list(range(200))


@pytest.mark.filterwarnings("ignore::ppx_inference.TrustWarning")
def test_slow_simulators_are_asked_for_few_traces_at_once_and_fast_ones_for_many(in_process):
    class Recording(in_process):
        slow = True

        def execute(self, scripts, observations, guide=None):
            chunks.append(len(scripts))
            if self.slow:
                time.sleep(0.6)
            return super().execute(scripts, observations, guide)

    chunks = []
    importance_sampling(Recording(gaussian), {"y": 0.0}, num_traces=10)
    assert chunks == [4, 4, 2]
    chunks, simulator = [], Recording(gaussian)
    simulator.num_workers = 9  # all of them are to have work
    importance_sampling(simulator, {"y": 0.0}, num_traces=20)
    assert chunks == [9, 9, 2]
    chunks, simulator = [], Recording(gaussian)
    simulator.slow = False
    importance_sampling(simulator, {"y": 0.0}, num_traces=400)
    assert chunks[:3] == [4, 16, 64]


@pytest.mark.filterwarnings("ignore::ppx_inference.TrustWarning")
def test_chains_start_from_other_noise_than_they_move_with(in_process, monkeypatch):
    seeds = []
    make = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: (seeds.append(seed), make(seed))[1])
    lightweight_mh(in_process(gaussian), {"y": 0.0}, num_traces=40, seed=5)
    states = [make(seed).bit_generator.state["state"]["state"] for seed in seeds]
    assert len(set(states)) == len(states) == 2


def test_inference_compilation_weighs_by_the_proposal(in_process):
    posterior = inference_compilation(
        in_process(gaussian), {"y": 1.0}, proposal=PriorGuide(), num_traces=2000, seed=1
    )
    z = posterior.traces.z
    likelihood = posterior.traces.log_likelihood
    assert posterior.log_weight == pytest.approx(likelihood - 0.5 * z + 0.125)
    assert posterior.traces.log_q == pytest.approx(posterior.traces.log_prob + 0.5 * z - 0.125)
    assert posterior["mu"].mean() == pytest.approx(0.5, abs=4 * 0.71 / np.sqrt(posterior.ess))
    # The evidence is that of N(0, sqrt 2) at 1.
    assert posterior.log_evidence == pytest.approx(-0.25 - 0.5 * np.log(4 * np.pi), abs=0.1)


def test_an_interrupted_run_keeps_its_finished_chunks(failing):
    simulator = failing(gaussian, KeyboardInterrupt(), at=3)
    with pytest.warns(TrustWarning, match="the run was interrupted"):
        posterior = importance_sampling(simulator, {"y": 0.0}, num_traces=100_000)
    assert posterior.provenance.interrupted
    assert posterior.traces.index.tolist() == list(range(len(posterior)))
    assert len(posterior) == 4 + 16


def test_interrupted_chains_keep_equal_lengths(failing):
    simulator = failing(gaussian, KeyboardInterrupt(), at=50)
    with pytest.warns(TrustWarning, match="the run was interrupted"):
        posterior = lightweight_mh(simulator, {"y": 0.0}, num_traces=100_000, num_chains=4, burn_in=40)
    # One call for the first states, ten of burn-in, the last one in vain.
    assert len(posterior) == 4 * (50 - 1 - 10 - 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_interruption_before_anything_is_done_is_passed_on(engine, failing):
    with pytest.raises(KeyboardInterrupt):
        engine(failing(gaussian, KeyboardInterrupt(), at=1), {"y": 0.0}, num_traces=1000)


ERRORS = [SimulatorCrashError("it is gone"), ObservationError("it is of another shape")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_keeps_the_traces_up_to_the_first_gap(error, failing):
    simulator = failing(gaussian, error, at=2)
    with pytest.raises(type(error)) as caught:
        importance_sampling(simulator, {"y": 0.0}, num_traces=1000)
    partial = caught.value.partial
    assert partial.provenance.interrupted
    assert partial.traces.index.tolist() == list(range(4 + 2))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("engine", [lightweight_mh, random_walk_mh])
def test_an_error_keeps_the_chains(engine, error, failing):
    simulator = failing(gaussian, error, at=30)
    with pytest.raises(type(error)) as caught:
        engine(simulator, {"y": 0.0}, num_traces=1000, burn_in=0, num_chains=2)
    assert len(caught.value.partial) == 2 * 28


MODEL = """
import ppx_client as ppx


def forward():
    x = ppx.sample(ppx.Normal(0.0, 1.0), name={name!r})
    ppx.observe(ppx.Normal(x, 1.0), name="y")


ppx.serve(forward, name="model")
"""


def test_a_proposal_of_another_simulator_is_refused_though_the_simulator_is_fresh(tmp_path):
    config = ppx_inference.TrainingConfig(
        network=ppx_inference.NetworkConfig(lstm_size=8, head_size=8, observation_size=8), num_validation=8
    )
    commands = {}
    for name in ("ours", "theirs"):
        (tmp_path / f"{name}.py").write_text(MODEL.format(name=name))
        commands[name] = [sys.executable, str(tmp_path / f"{name}.py")]
    with Simulator(commands["ours"], num_workers=1) as simulator:
        proposal = ppx_inference.train(simulator, ["y"], num_traces=64, config=config, device="cpu")
    for num_traces in (3, 30):
        with (
            Simulator(commands["theirs"], num_workers=1) as simulator,
            pytest.raises(
                CheckpointError, match=r"knows none .*theirs \(Normal\).*ours \(Normal\)"
            ) as caught,
        ):
            inference_compilation(simulator, {"y": 1.0}, proposal=proposal, num_traces=num_traces)
        assert caught.value.partial is None
    with Simulator(commands["ours"], num_workers=1) as simulator, warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        assert len(inference_compilation(simulator, {"y": 1.0}, proposal=proposal, num_traces=30)) == 30


def test_a_crash_at_the_start_has_nothing_to_keep(failing):
    with pytest.raises(SimulatorCrashError) as caught:
        lightweight_mh(failing(gaussian, SimulatorCrashError("it is gone"), at=1), {"y": 0.0}, num_traces=100)
    assert caught.value.partial is None


@pytest.mark.parametrize("engine", ENGINES)
def test_progress_ends_with_everything_done(engine, in_process):
    reports = []
    engine(in_process(gaussian), {"y": 0.0}, num_traces=1000, progress=reports.append)
    assert reports[-1].done == reports[-1].total >= 1000
    assert reports[-1].rate > 0
    assert engine.__name__.replace("_", " ") in reports[-1].message


def test_without_a_terminal_a_run_is_quiet(in_process, capfd):
    importance_sampling(in_process(gaussian), {"y": 0.0}, num_traces=500)
    importance_sampling(in_process(gaussian), {"y": 0.0}, num_traces=500, progress=quiet)
    assert capfd.readouterr() == ("", "")


def test_executions_are_counted_as_documented(in_process):
    simulator = in_process(gaussian)
    posterior = random_walk_mh(simulator, {"y": 0.0}, num_traces=2001, num_chains=10, burn_in=101, thinning=3)
    # 201 steps of 10 chains, every third kept; 11 steps of burn-in; 80 candidates for the first states.
    assert len(posterior) == 10 * 67
    assert posterior.provenance.num_executions == simulator.num_executed == 80 + 110 + 2010
    assert posterior.provenance.num_chains == 10
    assert 0 < posterior.provenance.acceptance_rate < 1
    assert posterior.provenance.traces_per_second > 0


def test_by_default_only_long_runs_have_many_chains(in_process):
    for num_traces, num_chains in ((100, 4), (4000, 8), (8000, 16), (32_000, 16), (64_000, 32), (10**6, 64)):
        assert chains.default_chains(num_traces) == num_chains
    posterior = lightweight_mh(in_process(gaussian), {"y": 0.0}, num_traces=3000)
    assert posterior.provenance.num_chains == 6


@pytest.mark.parametrize(("name", "value"), [("_PIECES", 3), ("_PIECES_BYTES", 0)])
def test_the_states_of_chains_do_not_depend_on_when_they_are_sorted_out(name, value, in_process, monkeypatch):
    arguments = {"num_traces": 600, "burn_in": 50, "thinning": 3, "seed": 8}
    first = lightweight_mh(in_process(gaussian), {"y": 0.0}, **arguments)
    monkeypatch.setattr(chains, name, value)
    again = lightweight_mh(in_process(gaussian), {"y": 0.0}, **arguments)
    assert np.array_equal(first.traces.value, again.traces.value)
    assert np.array_equal(first.traces.index, again.traces.index)


def test_every_execution_of_a_chain_has_its_own_index(in_process):
    seen = []

    class Recording(in_process):
        def execute(self, scripts, observations, guide=None):
            seen.extend(scripts.index.tolist())
            return super().execute(scripts, observations, guide)

    lightweight_mh(Recording(gaussian), {"y": 0.0}, num_traces=1000)
    assert len(set(seen)) == len(seen)


def test_the_public_names_are_these():
    assert ppx_inference.__all__ == [
        "FailurePolicy",
        "Marginal",
        "NetworkConfig",
        "Posterior",
        "Progress",
        "ProgressReport",
        "Proposal",
        "Provenance",
        "Simulator",
        "SummaryRow",
        "TrainingConfig",
        "TrustWarning",
        "importance_sampling",
        "inference_compilation",
        "lightweight_mh",
        "quiet",
        "random_walk_mh",
        "train",
    ]
    for name in ppx_inference.__all__:
        assert getattr(ppx_inference, name).__doc__, name
    assert set(ppx_inference.__all__) <= set(dir(ppx_inference))


def test_importing_the_package_loads_nothing_slow():
    code = (
        "import sys, ppx_inference; "
        "print([m for m in ('torch', 'pandas', 'xarray', 'scipy.stats', 'matplotlib', 'rich') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"

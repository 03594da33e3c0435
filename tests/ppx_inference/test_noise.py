"""Programs with hundreds of noise draws: left to the prior, posteriors are exact, and results small.

Exact: mu ~ N(0, 1), and y = 1 is mu with noise of variance 320 x 0.003125 = 1 and a measurement of variance 1/4, so mu
is N(4/9, 5/9).
"""

from __future__ import annotations

import math
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ppx_inference import Posterior, Simulator, TrustWarning, importance_sampling, random_walk_mh
from ppx_inference.cli.application import app
from ppx_server.errors import AddressError, StoreError
from ppx_server.store import TraceStore

MEAN, SD = 4 / 9, math.sqrt(5 / 9)
MODEL = textwrap.dedent(
    """
    import ppx_client as ppx

    def forward():
        mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
        ppx.sample(ppx.Uniform(0.0, 1.0))
        total = mu + sum(ppx.sample(ppx.Normal(0.0, 0.003125**0.5), name="noise") for _ in range(320))
        ppx.observe(ppx.Normal(total, 0.5), name="y")
        ppx.tag(mu * 2, name="twice"), ppx.tag(total, name="total")

    ppx.serve(forward, name="noise")
    """
)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("noise") / "walk.py"
    path.write_text(MODEL, encoding="utf-8")
    return [sys.executable, str(path)]


@pytest.fixture(scope="module")
def quiet_noise(command: list[str]) -> Iterator[Simulator]:
    with Simulator(command, num_workers=1, uncontrolled=["nois*"]) as simulator:
        yield simulator


def agrees(posterior: Posterior, mean: float) -> bool:
    return abs(float(posterior["mu"].mean()) - mean) < 4 * SD / math.sqrt(posterior["mu"].ess)


def test_noise_that_is_left_to_the_prior_costs_the_posterior_nothing(quiet_noise: Simulator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        weighted = importance_sampling(quiet_noise, {"y": 1.0}, num_traces=200, seed=1)
        chains = random_walk_mh(quiet_noise, {"y": 1.0}, num_traces=800, seed=2)
    for posterior in (weighted, chains):
        assert posterior["mu"].ess > 10
        assert agrees(posterior, MEAN)
        assert not agrees(posterior, -MEAN)  # as if y were -1
        assert posterior.traces.nbytes < 400 * len(posterior)
        assert (posterior.traces.ordinals.reshape(-1, 2) == [0, 1]).all()
    with pytest.raises(AddressError, match="keep_uncontrolled=True"):
        chains["noise"]


def test_what_is_kept_of_traces_is_what_was_there(quiet_noise: Simulator) -> None:
    def run(**arguments: object) -> list[Posterior]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrustWarning)
            return [
                importance_sampling(quiet_noise, {"y": 1.0}, num_traces=40, seed=1, **arguments),  # type: ignore[arg-type]
                random_walk_mh(quiet_noise, {"y": 1.0}, num_traces=80, seed=1, **arguments),  # type: ignore[arg-type]
            ]

    everything, named, some = run(), run(keep="named"), run(keep=["twice"])
    for whole, by_name, few in zip(everything, named, some, strict=True):
        np.testing.assert_array_equal(by_name.log_weight, whole.log_weight)
        np.testing.assert_array_equal(few.log_weight, whole.log_weight)
        np.testing.assert_array_equal(by_name["mu"].values, whole["mu"].values)
        np.testing.assert_array_equal(few["twice"].values, whole["twice"].values)
        np.testing.assert_array_equal(few.traces.log_likelihood, whole.traces.log_likelihood)
        assert by_name.names == ("mu", "twice", "total")
        assert len(by_name.traces.value) == len(whole.traces.value) / 2
        assert len(few.traces.value) == 0
        assert few.names == ("twice",)
        with pytest.raises(ValueError, match="keep='all'"):
            few.predictive(quiet_noise, 3, seed=1)
    with pytest.raises(ValueError, match="keep is 'twice'"):
        run(keep="twice")


def test_chains_say_that_noise_should_be_left_to_the_prior(command: list[str]) -> None:
    with Simulator(command, num_workers=1) as simulator, pytest.warns(TrustWarning) as caught:
        random_walk_mh(simulator, {"y": 1.0}, num_traces=40, seed=1)
    (warning,) = caught
    assert "control=False" in str(warning.message)
    assert "uncontrolled=['noise'] (--uncontrolled noise)" in str(warning.message)


def test_the_command_line_leaves_noise_to_the_prior(command: list[str], tmp_path: Path) -> None:
    def ppx(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--", *command])
        assert done.exit_code == 0, done.output
        return done.output

    store = tmp_path / "traces"
    ppx(
        "prior", "-n", "8", "--workers", "1", "--seed", "3", "-q", "-o", str(store), "--uncontrolled", "noise"
    )
    traces = TraceStore.open(store).read()
    assert traces.length.tolist() == [2] * 8
    shown = ppx("replay", "--store", str(store), "--index", "5", "--uncontrolled", "noise", "--json")
    assert shown.count('"prior, uncontrolled"') == 320
    assert '"difference": null' in shown


def test_traces_that_were_not_kept_whole_are_not_replayed(
    quiet_noise: Simulator, command: list[str], tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        kept = importance_sampling(quiet_noise, {"y": 1.0}, num_traces=4, seed=1, keep="named")
    kept.save(tmp_path / "posterior")
    words = ["replay", "--store", str(tmp_path / "posterior"), "--index", "0", "--", *command]
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0
    assert "keep='all'" in done.output or isinstance(done.exception, StoreError)

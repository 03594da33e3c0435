"""The C++ and the Python simulator are the same model: same draws, same addresses, same numbers."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from tau_decay import Recorder, log_likelihood, make_options, simulate

from ppx_inference import Simulator

Event = dict[str, Any]


class Replay:
    """Draws that were recorded, at the addresses where they were recorded."""

    def __init__(self, draws: Sequence[tuple[str, float]]) -> None:
        self._draws = list(draws)
        self._prefix = ""

    def _next(self, name: str) -> float:
        address, value = self._draws.pop(0)
        assert address == self._prefix + name
        return value

    def uniform(self, low: float, high: float, name: str) -> float:
        value = self._next(name)
        assert low < value < high
        return value

    def normal(self, mean: float, sd: float, name: str) -> float:
        return self._next(name)

    def categorical(self, probs: Sequence[float], name: str) -> int:
        return int(self._next(name))

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        outer, self._prefix = self._prefix, f"{self._prefix}{name}/"
        yield
        self._prefix = outer

    def rejection(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def observe(self, mean: NDArray[np.float64], sd: float, name: str) -> object:
        assert name == "calorimeter"
        return mean

    def tag(self, value: float, name: str) -> None:
        pass

    def finished(self) -> bool:
        """Whether all draws were used."""
        return not self._draws


@pytest.mark.parametrize("grid", [(8, 11, 11), (20, 35, 35), (3, 4, 5)])
def test_the_same_draws_give_the_same_event(
    cpp_command: list[str], run_events: Any, grid: tuple[int, int, int]
) -> None:
    options = make_options(grid, None, None)
    num_events = 8 if grid == (20, 35, 35) else 150
    for event in run_events(cpp_command, num_events, 5, "--grid", "x".join(map(str, grid))):
        replay = Replay(event["draws"])
        recorder = Recorder(replay)
        decay, summary = simulate(options, recorder)
        assert replay.finished()
        assert recorder.draws == [tuple(draw) for draw in event["draws"]]
        ours = [(s.particle.name, s.momentum) for v in decay.vertices for s in (v.parent, *v.daughters)]
        theirs = [(name, momentum) for vertex in event["vertices"] for name, momentum in vertex]
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        np.testing.assert_allclose([p for _, p in ours], [p for _, p in theirs], rtol=0, atol=1e-9)
        assert recorder.image.shape == grid
        np.testing.assert_allclose(recorder.image.ravel(), event["image"], rtol=0, atol=1e-9)
        assert recorder.tags == pytest.approx(event["tags"])
        assert summary.missing == pytest.approx(event["result"], abs=1e-9)
        observed = np.array(event["observed"]).reshape(grid)
        ours_log = log_likelihood(recorder.image, observed, options.noise)
        assert ours_log == pytest.approx(event["log_likelihood"], rel=1e-10)


def test_local_draws_have_the_same_distribution(
    cpp_command: list[str], python_command: list[str], run_events: Any
) -> None:
    a = run_events(cpp_command, 4000, 6, "--grid", "1x1x1")
    b = run_events(python_command, 4000, 7, "--grid", "1x1x1")

    def differ(of_a: list[float], of_b: list[float]) -> bool:
        return bool(ks_2samp(of_a, of_b).pvalue < 1e-4)

    def column(events: list[Event], tag: str) -> list[float]:
        return [event["tags"][tag] for event in events]

    for tag in a[0]["tags"]:
        assert not differ(column(a, tag), column(b, tag)), tag
    assert differ([1.15 * e for e in column(a, "visible_energy")], column(b, "visible_energy"))
    assert not differ([len(e["draws"]) for e in a], [len(e["draws"]) for e in b])
    assert not differ([e["image"][0] for e in a], [e["image"][0] for e in b])
    addresses = [Counter(address for e in events for address, _ in e["draws"]) for events in (a, b)]
    common = [{address for address, n in count.items() if n > 20} for count in addresses]
    assert common[0] <= set(addresses[1])
    assert common[1] <= set(addresses[0])


def test_a_controller_gets_the_same_traces_from_both(
    cpp_command: list[str], python_command: list[str]
) -> None:
    batches = []
    tables = []
    for command in (cpp_command, python_command):
        with Simulator([*command, "--grid", "3x4x5"], num_workers=1) as simulator:
            batch = simulator.prior(40, seed=3)
            tables.append(list(simulator.addresses))
            batches.append(batch)
            assert simulator.model_name == "tau_decay"
    assert tables[0] == tables[1]
    a, b = batches
    np.testing.assert_array_equal(a.offsets, b.offsets)
    np.testing.assert_array_equal(a.address_id, b.address_id)
    np.testing.assert_allclose(a.value, b.value, rtol=1e-12)
    np.testing.assert_allclose(a.observations.data, b.observations.data, atol=1e-9)
    np.testing.assert_allclose(a.observations.log_prob, b.observations.log_prob, atol=1e-8)
    np.testing.assert_allclose(a.tags.data, b.tags.data, atol=1e-9)
    np.testing.assert_allclose(a.results.data, b.results.data, atol=1e-9)


def test_a_table_of_events_is_printed(command: list[str]) -> None:
    outcome = _run([*command, "--local", "5", "--seed", "1"])
    assert outcome.returncode == 0
    lines = outcome.stdout.splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:4] == ["px", "py", "pz", "channel"]
    assert len({len(line) for line in lines[1:]}) == 1
    assert outcome.stdout == _run([*command, "--local", "5", "--seed", "1"]).stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--grid", "8x11"], "'8x11' is no grid"),
        (["--grid", "8x0x3"], "'8x0x3' is no grid"),
        (["--noise", "-1"], "'-1' is no positive number"),
        (["--half-width", "wide"], "'wide' is no positive number"),
        (["--frobnicate", "1"], "--frobnicate"),
        (["--local"], "--local"),
        (["--local", "many"], "'many'"),
    ],
)
def test_wrong_options_are_explained(command: list[str], arguments: list[str], complaint: str) -> None:
    outcome = _run([*command, *arguments])
    assert outcome.returncode == 2
    assert complaint in outcome.stderr
    assert outcome.stdout == ""


def test_options_come_from_the_environment_too(command: list[str], run_events: Any) -> None:
    (event,) = run_events(command, 1, 1, environment={"TAU_DECAY_GRID": "2x3x4", "TAU_DECAY_NOISE": "1e-6"})
    assert len(event["image"]) == 24
    assert event["observed"] == pytest.approx(event["image"], abs=1e-5)


def test_help_names_every_option(command: list[str]) -> None:
    text = _run([*command, "--help"]).stdout
    for option in ("--grid", "--half-width", "--noise", "--local", "--json", "--seed"):
        assert option in text


def test_the_bare_simulator_can_be_timed(cpp_command: list[str]) -> None:
    assert "events/s" in _run([*cpp_command, "--bare", "100"]).stdout


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

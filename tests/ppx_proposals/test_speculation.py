"""Speculation: choosing ahead gives the draws and weights of answering draw by draw, whatever is foreseen."""

from __future__ import annotations

import json
import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np
import pytest
import torch

from ppx_proposals import TrainingConfig, settling, train
from ppx_proposals.batching import encode
from ppx_proposals.config import NetworkConfig
from ppx_proposals.forecast import NONE, Forecast, Past, TableForecast, Transitions
from ppx_proposals.guide import NetworkGuide
from ppx_proposals.observations import ObservationLayout
from ppx_proposals.proposal import Proposal
from ppx_proposals.rollout import Rollout
from ppx_proposals.speculation import SpeculativeNetworkGuide
from ppx_proposals.vocabulary import Vocabulary
from ppx_server.address import AddressTable
from ppx_server.protocol import Event
from ppx_server.script import Ask, Otherwise, ScriptBatch
from ppx_server.trace import Status, TraceBatch, segment_sum
from tests.ppx_proposals.dependent_models import MODELS, draw, observe, sigmoid

CONFIG = NetworkConfig(lstm_size=24, head_size=16, mixture_components=4, address_size=8, observation_size=8)
NUM_TRACES = 60


OBSERVED = {
    "marsaglia": {"y": 2.0, ("y", 1): 2.5},
    "branching": {"total": 3.0, "sometimes": 5.0, "grid": np.ones((3, 4, 5))},
}


class Nothing:
    """Foresees nothing."""

    def begin(self, addresses: AddressTable) -> None:
        self.addresses = addresses

    def next(self, past: Past):  # type: ignore[no-untyped-def]
        return np.full(len(past.site), NONE), np.zeros(len(past.site))

    def observe(self, transitions: Transitions) -> None:
        assert (transitions.site < 2 * len(self.addresses)).all()


class Wrong(Nothing):
    """Is sure that the draw before comes again."""

    def next(self, past: Past):  # type: ignore[no-untyped-def]
        return np.where(past.site == NONE, 1, past.site), np.ones(len(past.site))


class Random(Nothing):
    """Guesses any address, chosen or not, draw or not."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)

    def next(self, past: Past):  # type: ignore[no-untyped-def]
        n = len(past.site)
        return self.rng.integers(-1, 2 * len(self.addresses), n), np.full(n, 0.9)


@pytest.fixture
def build(simulator, models):  # type: ignore[no-untyped-def]
    """A simulator, a proposal far from the prior, and observations, for a model by name."""

    def build(name: str, waves: int = 2):  # type: ignore[no-untyped-def]
        model = MODELS.get(name) or models[name]
        sim = simulator(model, waves=waves)
        prior = sim.execute(ScriptBatch.empty(1, np.arange(150)), None)
        given = OBSERVED.get(name, {"o": 2.0})
        return sim, _proposal(prior, sorted({k if isinstance(k, str) else k[0] for k in given})), given

    return build


def _proposal(prior: TraceBatch, observed: list[str], noise: float = 0.2) -> Proposal:
    layout = ObservationLayout.from_traces(prior, observed)
    proposal = Proposal.create(layout, CONFIG, device=torch.device("cpu"))
    vocabulary = Vocabulary()
    encode(prior, vocabulary, grow=True)
    proposal.grow(vocabulary.keys)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in proposal.network.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * noise)
    return proposal


def _ahead(proposal: Proposal, given, forecast: Forecast | None = None) -> SpeculativeNetworkGuide:  # type: ignore[no-untyped-def]
    guide = proposal.guide(given, speculation=False)
    assert isinstance(guide, NetworkGuide)
    return SpeculativeNetworkGuide(guide, forecast or TableForecast())


def _guided(sim, given, guide, count: int = NUM_TRACES) -> TraceBatch:  # type: ignore[no-untyped-def]
    return sim.execute(ScriptBatch.empty(2, np.arange(count), Otherwise.ASK), given, guide)  # type: ignore[no-any-return]


def _assert_same(ours: TraceBatch, theirs: TraceBatch) -> None:
    np.testing.assert_array_equal(ours.status, theirs.status)
    np.testing.assert_array_equal(ours.offsets, theirs.offsets)
    for name in ("address_id", "instance", "flags"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.log_q - ours.log_prob, theirs.log_q - theirs.log_prob, atol=2e-3)
    np.testing.assert_allclose(ours.log_weight, theirs.log_weight, rtol=1e-3, atol=2e-3)


ALL = [*MODELS, *OBSERVED]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("waves", [1, 3])
def test_choosing_ahead_gives_the_draws_and_weights_of_answering(build, name: str, waves: int) -> None:  # type: ignore[no-untyped-def]
    sim, proposal, given = build(name, waves)
    answered = _guided(sim, given, proposal.guide(given, speculation=False))
    guide = _ahead(proposal, given)
    ahead = _guided(sim, given, guide)
    _assert_same(ahead, answered)
    assert guide.num_asks == int(ahead.controlled.sum())
    assert guide.num_open == 0
    # Once more, with a forecast that has learnt.
    rounds, sim.rounds = sim.rounds, 0
    _assert_same(_guided(sim, given, guide), answered)
    assert sim.rounds <= rounds


@pytest.mark.parametrize("name", ALL)
def test_weights_are_those_of_the_network(build, name: str) -> None:  # type: ignore[no-untyped-def]
    sim, proposal, given = build(name)
    guide = _ahead(proposal, given)
    for _ in range(2):
        traces = _guided(sim, given, guide)
        expected = proposal.log_ratio(traces, given)
        assert np.abs(expected).max() > 0.3
        np.testing.assert_allclose(traces.log_q - traces.log_prob, expected, atol=1e-4)


def test_weights_depend_on_the_check_of_parameters(build, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Negative control of the test above."""
    monkeypatch.setattr(settling, "same_vectors", lambda a, i, b, j: np.ones(len(i), np.bool_))
    sim, proposal, given = build("changing")
    guide = _ahead(proposal, given)
    _guided(sim, given, guide)  # it learns what to foresee
    traces = _guided(sim, given, guide)
    wrong = np.abs(traces.log_q - traces.log_prob - proposal.log_ratio(traces, given)) > 1e-4
    assert wrong.sum() > 20


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("forecast", [Nothing, Wrong, Random])
def test_a_bad_forecast_costs_rounds_only(build, name: str, forecast: type[Nothing]) -> None:  # type: ignore[no-untyped-def]
    sim, proposal, given = build(name)
    good = _ahead(proposal, given)
    _guided(sim, given, good)
    sim.rounds = 0
    expected = _guided(sim, given, good)
    rounds, sim.rounds = sim.rounds, 0
    _assert_same(_guided(sim, given, _ahead(proposal, given, forecast())), expected)
    if forecast is not Wrong:  # it is right about loops
        assert sim.rounds > rounds


def test_unknown_addresses_come_from_the_prior(build) -> None:  # type: ignore[no-untyped-def]
    for name, unknown in (("changing", ("c", "n", "y")), ("arrays", ("counts", "which"))):
        sim, full, given = build(name)
        known = [key for key in full.addresses if key.address not in unknown]
        proposal = Proposal(full.network, Vocabulary(known), full.layout, device=full.device)
        answering = proposal.guide(given, speculation=False)
        answered = _guided(sim, given, answering)
        guide = _ahead(proposal, given)
        ahead = _guided(sim, given, guide)
        _assert_same(ahead, answered)
        np.testing.assert_allclose(ahead.log_q - ahead.log_prob, proposal.log_ratio(ahead, given), atol=1e-4)
        assert guide.fallbacks == answering.fallbacks
        assert set(guide.fallbacks) == set(unknown)


def test_broken_weights_still_give_draws(build) -> None:  # type: ignore[no-untyped-def]
    sim, proposal, given = build("changing")
    with torch.no_grad():
        proposal.network.lstm.bias_ih_l0.fill_(float("nan"))
    traces = _guided(sim, given, _ahead(proposal, given))
    np.testing.assert_array_equal(traces.log_q, traces.log_prob)


@pytest.mark.parametrize("by_z", [False, True])
@pytest.mark.parametrize("name", ["changing", "arrays", "intervening", "looping"])
def test_choices_of_the_script_come_first_and_weigh_nothing(build, name: str, by_z: bool) -> None:  # type: ignore[no-untyped-def]
    """The network sees them, as `Proposal.log_ratio` does."""
    sim, proposal, given = build(name)
    prior = sim.execute(ScriptBatch.empty(7, np.arange(NUM_TRACES)), given)
    forced = ScriptBatch.replay(prior, by_z=by_z)
    # The first controlled draws of each trace: none for the first, one for the second, ...
    kept = [
        np.flatnonzero(prior.controlled[a:b])[: k % 5] + a
        for k, (a, b) in enumerate(zip(prior.offsets[:-1], prior.offsets[1:], strict=True))
    ]
    rows = np.concatenate(kept)
    scripts = replace(
        forced,
        seed=2,
        otherwise=Otherwise.ASK,
        offsets=np.cumsum([0, *map(len, kept)]),
        **{n: getattr(forced, n)[rows] for n in ("address_id", "instance", "value", "z")},
    )
    traces = sim.execute(scripts, given, _ahead(proposal, given))
    guided = (traces.flags & 4) != 0
    own = segment_sum((traces.controlled & ~guided).astype(float), traces.offsets)
    np.testing.assert_array_equal(own, np.minimum(list(map(len, kept)), own))
    assert own.max() == 4
    ratio = traces.log_q - traces.log_prob
    assert not ratio[~guided].any()
    np.testing.assert_allclose(ratio[guided], proposal.log_ratio(traces, given)[guided], atol=1e-4)


def test_a_trace_that_only_fails_on_a_wrong_track_does_not_fail(simulator) -> None:  # type: ignore[no-untyped-def]
    """Draws behind one that does not hold are nobody's: a model that fails there has not failed."""

    def failing() -> Generator[Event, float, None]:
        x = yield draw("x", "Normal", 0.0, 1.0)
        sure = float(x > 0.0)
        c = yield draw("c", "Categorical", np.array([sure, 1.0 - sure]))
        n = yield draw("n", "Binomial", 1.0 + 4.0 * sure, 0.5)
        if (c == 0.0) != (x > 0.0) or n > 1.0 + 4.0 * sure:
            raise simulator.failure("impossible")
        y = yield draw("y", "Normal", x, 1.0)
        if y > 1.5:
            raise simulator.failure("too large")
        yield draw("z", "Normal", 0.0, 1.0)
        yield observe("o", y, 1.0)

    sim = simulator(failing)
    prior = sim.follow(ScriptBatch.empty(1, np.arange(100)), None)
    proposal = _proposal(prior.select(prior.status == Status.OK), ["o"])
    given = {"o": 0.5}
    guide = _ahead(proposal, given)
    for _ in range(2):
        traces = _guided(sim, given, guide)
        failed = traces.status == Status.FAILED
        assert 5 < failed.sum() < 40
        y = traces.value[traces.offsets[:-1] + 3]
        np.testing.assert_array_equal(failed, y > 1.5)
        assert set(traces.failures.values()) == {"too large"}
    assert guide.num_open == 0


def test_traces_that_fail_before_their_first_draw_are_finished(build) -> None:  # type: ignore[no-untyped-def]
    sim, proposal, given = build("changing")
    guide = _ahead(proposal, given)
    _guided(sim, given, guide)
    guide.begin(4, sim.addresses)
    guide.speculate(np.arange(4), None, lambda slots, start, count: np.zeros((len(slots), count, 2)))
    nothing = sim.execute(ScriptBatch.empty(2, np.arange(0)), given)
    failed = replace(
        nothing, index=np.arange(4), status=np.full(4, Status.FAILED, np.uint8), offsets=np.zeros(5, np.int64)
    )
    tails = guide.speculate(np.arange(4), failed, lambda *_: np.zeros((0, 0, 2)))
    assert tails.offsets.tolist() == [0] * 5
    assert tails.holds.tolist() == [0] * 4
    assert guide.num_open == 0


@pytest.mark.parametrize("name", ["changing", "looping"])
def test_a_restarted_trace_begins_again(build, simulator, name: str) -> None:  # type: ignore[no-untyped-def]
    sim, proposal, given = build(name)
    answered = _guided(sim, given, proposal.guide(given, speculation=False))
    guide = _ahead(proposal, given)
    _guided(sim, given, guide)
    again = simulator(MODELS[name], lost=range(0, NUM_TRACES, 3))
    again.execute(ScriptBatch.empty(1, np.arange(150)), None)
    _assert_same(_guided(again, given, guide), replace(answered, addresses=again.addresses))
    assert guide.num_open == 0


def test_a_restarted_trace_is_never_on_a_wrong_track(simulator) -> None:  # type: ignore[no-untyped-def]
    ends = []

    def recorded() -> Generator[Event, float, None]:
        x = yield draw("x", "Normal", 0.0, 1.0)
        c = yield draw("c", "Categorical", np.array([sigmoid(x), sigmoid(-x)]))
        y = yield draw("y", "Normal", c, 1.0)
        ends.append((x, c, y))
        yield observe("o", y, 1.0)

    for lost in ((), range(NUM_TRACES)):
        sim = simulator(recorded, lost=lost)
        guide = _ahead(_proposal(sim.execute(ScriptBatch.empty(1, np.arange(50)), None), ["o"]), {"o": 0.0})
        if not lost:
            _guided(sim, {"o": 0.0}, guide)
        ends.clear()
        traces = _guided(sim, {"o": 0.0}, guide)
        wrong = np.unique(ends, axis=0).shape[0] - len(np.unique(traces.value.reshape(-1, 3), axis=0))
        assert (wrong > 0) == (not lost)


def test_a_restarted_slot_is_answered_from_the_firstdraw(build) -> None:  # type: ignore[no-untyped-def]
    sim, proposal, given = build("changing")
    guide = proposal.guide(given, speculation=False)
    guide.begin(1, sim.addresses)
    x = next(i for i, a in enumerate(sim.addresses) if a.name == "x")
    chosen = []
    for _ in range(2):
        for instance in range(2):
            ask = Ask(0, x, instance, (0.0, 1.0))
            chosen.append(guide.choose([ask], np.array([[0.3, -0.5]]))[0].z)
        guide.restart(0)
    assert chosen[0] != chosen[1]
    assert chosen[:2] == chosen[2:]


def correlated() -> Generator[Event, float, None]:
    """x ~ N(0, 1), c ~ Bernoulli as a categorical with odds exp(3 x), o ~ N(c, 1/2)."""
    x = yield draw("x", "Normal", 0.0, 1.0)
    c = yield draw("c", "Categorical", np.array([sigmoid(-3.0 * x), sigmoid(3.0 * x)]))
    yield observe("o", c, 0.5)


def _error_of_x(simulator) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Error of E[x | o = 1.2], and four standard errors."""
    x = np.linspace(-8, 8, 4001)
    p = 1.0 / (1.0 + np.exp(-3.0 * x))
    density = np.exp(-0.5 * x**2) * (p * math.exp(-0.5 * 0.4**2) + (1 - p) * math.exp(-0.5 * 2.4**2))
    exact = float((x * density).sum() / density.sum())
    sim = simulator(correlated)
    prior = sim.execute(ScriptBatch.empty(1, np.arange(100)), None)
    given = {"o": 1.2}
    guide = _ahead(_proposal(prior, ["o"], noise=0.1), given)
    _guided(sim, given, guide, 20)  # it learns what to foresee
    traces = _guided(sim, given, guide, 1500)
    value, weight = traces.value[traces.offsets[:-1]], np.exp(traces.log_weight)
    weight /= weight.sum()
    mean = float((weight * value).sum())
    stddev = math.sqrt(float((weight * (value - mean) ** 2).sum()))
    return abs(mean - exact), 4.0 * stddev * math.sqrt(float((weight**2).sum()))


def test_posterior_is_exact_where_parameters_depend_on_draws(simulator, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    error, tolerance = _error_of_x(simulator)
    assert tolerance < 0.2
    assert error < tolerance
    # Negative control: a guide that takes foreseen parameters for the actual ones is noticed.
    by_coordinate = Rollout.tails

    def by_value(rollout, address_id):  # type: ignore[no-untyped-def]
        return by_coordinate(rollout, address_id) | {"value": rollout.value}

    monkeypatch.setattr(Rollout, "tails", by_value)
    monkeypatch.setattr(settling, "same_vectors", lambda a, i, b, j: np.ones(len(i), np.bool_))
    error, tolerance = _error_of_x(simulator)
    assert error > tolerance


def test_posterior_of_the_gaussian_is_exact(build) -> None:  # type: ignore[no-untyped-def]
    sim, proposal, given = build("marsaglia")
    # mu ~ N(1, 5), two observations with variance 2.
    precision = 1 / 5 + 2 / 2
    exact = (1.0 / 5 + (2.0 + 2.5) / 2) / precision
    traces = _guided(sim, given, _ahead(proposal, given), 1500)
    u, v = traces.value[traces.offsets[1:] - 2], traces.value[traces.offsets[1:] - 1]
    s = u * u + v * v
    mu = 1.0 + math.sqrt(5.0) * u * np.sqrt(-2.0 * np.log(s) / s)
    weight = np.exp(traces.log_weight)
    ess = float(weight.sum() ** 2 / (weight**2).sum())
    assert ess > 100
    tolerance = 4.0 / math.sqrt(precision * ess)
    assert float((weight * mu).sum() / weight.sum()) == pytest.approx(exact, abs=tolerance)
    # Negative control: the proposal's draws, not weighted.
    assert abs(float(mu.mean()) - exact) > tolerance


def test_training_and_checkpoints_keep_the_forecast(build, tmp_path) -> None:  # type: ignore[no-untyped-def]
    sim, _, given = build("looping")
    config = TrainingConfig(network=CONFIG, num_threads=1)
    proposal = train(sim, ["o"], num_traces=100, config=config, device="cpu")
    proposal.save(tmp_path / "net")
    for loaded in (proposal, Proposal.load(tmp_path / "net", device="cpu")):
        assert loaded.forecast.counts[:, 5].sum() > 32 * 8
        sim.rounds = 0
        expected = _guided(sim, given, loaded.guide(given))
        learnt, sim.rounds = sim.rounds, 0
        _assert_same(_guided(sim, given, _ahead(proposal, given)), expected)
        assert sim.rounds > learnt + 6
    # A checkpoint of an older version has no forecast.
    description = tmp_path / "net" / "proposal.json"
    content = json.loads(description.read_text())
    del content["forecast"]
    description.write_text(json.dumps(content))
    older = Proposal.load(tmp_path / "net", device="cpu")
    assert len(older.forecast.counts) == 0
    _assert_same(_guided(sim, given, older.guide(given)), expected)

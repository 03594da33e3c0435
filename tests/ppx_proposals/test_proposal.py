"""A proposal as a whole: densities, unknown addresses, growth, observations."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ppx_proposals.batching import encode, pack
from ppx_proposals.config import NetworkConfig
from ppx_proposals.embeddings import BLOCK, GridEmbedding, GrowingTable
from ppx_proposals.observations import ObservationLayout
from ppx_proposals.proposal import Proposal
from ppx_proposals.vocabulary import Vocabulary
from ppx_server.address import AddressTable
from ppx_server.errors import CheckpointError, ObservationError
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import DrawFlag, Status, TraceBatch, segment_sum

CONFIG = NetworkConfig(lstm_size=24, head_size=16, mixture_components=4, address_size=8, observation_size=8)
OBSERVED = {"marsaglia": ["y"], "branching": ["total", "sometimes", "grid"]}
GIVEN = {
    "marsaglia": {"y": 8.0, ("y", 1): 9.0},
    "branching": {"total": 3.0, "sometimes": 5.0, "grid": np.ones((3, 4, 5))},
}


def _prior(sim, count: int, *, start: int = 0) -> TraceBatch:  # type: ignore[no-untyped-def]
    return sim.execute(ScriptBatch.empty(1, np.arange(start, start + count)), None)  # type: ignore[no-any-return]


def _proposal(
    traces: TraceBatch, observed: list[str], *, config: NetworkConfig = CONFIG, noise: float = 0.2
) -> Proposal:
    """A proposal with room for what the traces visit and weights that are far from the prior."""
    proposal = Proposal.create(
        ObservationLayout.from_traces(traces, observed), config, device=torch.device("cpu")
    )
    vocabulary = Vocabulary()
    encode(traces, vocabulary, grow=True)
    proposal.grow(vocabulary.keys)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in proposal.network.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * noise)
    return proposal


@pytest.mark.parametrize("name", ["marsaglia", "branching"])
@pytest.mark.parametrize("asks", [1, 5])
def test_guide_draws_from_the_density_that_log_ratio_evaluates(
    simulator, models, name: str, asks: int
) -> None:  # type: ignore[no-untyped-def]
    sim = simulator(models[name], asks=asks)
    proposal = _proposal(_prior(sim, 200), OBSERVED[name])
    guide = proposal.guide(GIVEN[name])
    traces = sim.execute(ScriptBatch.empty(2, np.arange(100), Otherwise.ASK), GIVEN[name], guide)
    stepwise = traces.log_q - traces.log_prob
    forced = proposal.log_ratio(traces, GIVEN[name])
    assert np.abs(forced).max() > 0.5
    np.testing.assert_allclose(stepwise, forced, atol=1e-5)
    assert guide.num_asks == int(traces.controlled.sum())
    assert not guide.fallbacks
    assert (traces.flags[traces.controlled] & DrawFlag.GUIDED).all()
    assert not forced[~traces.controlled].any()


def test_guided_weights_average_to_one(simulator, models) -> None:  # type: ignore[no-untyped-def]
    """E_q[p / q] = 1, whatever q: only true if draws follow exactly the density that is reported."""
    sim = simulator(models["branching"])
    proposal = _proposal(_prior(sim, 200), OBSERVED["branching"], noise=0.15)
    guide = proposal.guide(GIVEN["branching"])
    traces = sim.execute(ScriptBatch.empty(3, np.arange(1500), Otherwise.ASK), GIVEN["branching"], guide)
    log_weight = segment_sum(traces.log_prob - traces.log_q, traces.offsets)
    weight = np.exp(log_weight)
    tolerance = 4.0 * float(weight.std()) / math.sqrt(len(weight))
    assert tolerance < 0.2
    assert float(weight.mean()) == pytest.approx(1.0, abs=tolerance)
    # Negative control: a density that is off by a tenth of a nat per trace is noticed.
    assert abs(float((weight * math.exp(0.3)).mean()) - 1.0) > tolerance


def test_does_not_depend_on_who_asks_together(simulator, models) -> None:  # type: ignore[no-untyped-def]
    results = []
    for asks in (1, 7):
        sim = simulator(models["branching"], asks=asks)
        proposal = _proposal(_prior(sim, 100), OBSERVED["branching"])
        guide = proposal.guide(GIVEN["branching"])
        results.append(
            sim.execute(ScriptBatch.empty(2, np.arange(40), Otherwise.ASK), GIVEN["branching"], guide)
        )
    np.testing.assert_array_equal(results[0].offsets, results[1].offsets)
    np.testing.assert_allclose(results[0].value, results[1].value, rtol=1e-4, atol=1e-4)


def test_fresh_proposal_is_nearly_the_prior(simulator, models) -> None:  # type: ignore[no-untyped-def]
    traces = _prior(simulator(models["branching"]), 300)
    proposal = _proposal(traces, OBSERVED["branching"], noise=0.0)
    assert abs(proposal.loss(traces)) < 0.02


def test_every_parameter_gets_a_gradient(simulator, models) -> None:  # type: ignore[no-untyped-def]
    traces = _prior(simulator(models["branching"]), 100)
    proposal = _proposal(traces, OBSERVED["branching"])
    steps = encode(traces, proposal.vocabulary, grow=False)
    batch = pack(steps, proposal.layout.of_traces(traces), device=torch.device("cpu"))
    proposal.batch_loss(batch).backward()
    for name, p in proposal.network.named_parameters():
        assert p.grad is not None, name
        assert bool(torch.isfinite(p.grad).all()), name
        assert bool((p.grad != 0).any()), name


def test_unknown_address_falls_back_to_the_prior_and_the_next_is_guided(simulator, models) -> None:  # type: ignore[no-untyped-def]
    sim = simulator(models["branching"])
    traces = _prior(sim, 200)
    full = _proposal(traces, OBSERVED["branching"])
    known = [key for key in full.addresses if key.address not in ("channel", "w")]
    proposal = Proposal(full.network, Vocabulary(known), full.layout, device=full.device)
    guide = proposal.guide(GIVEN["branching"])
    guided = sim.execute(ScriptBatch.empty(2, np.arange(100), Otherwise.ASK), GIVEN["branching"], guide)
    ratio = guided.log_q - guided.log_prob
    np.testing.assert_allclose(ratio, proposal.log_ratio(guided, GIVEN["branching"]), atol=1e-5)
    names = np.array([a.name for a in sim.addresses])[guided.address_id]
    assert not ratio[np.isin(names, ["channel", "w"])].any()
    assert np.abs(ratio[np.isin(names, ["b", "g"])]).min() > 0.0
    assert guide.fallbacks == {"channel": 100, "w": 300}
    # The prior's own numbers: an unknown draw is the draw of the prior run with the same seed and index.
    prior = sim.execute(ScriptBatch.empty(2, np.arange(100)), None)
    channel = [i for i, a in enumerate(sim.addresses) if a.name == "channel"]
    np.testing.assert_array_equal(guided.value[guided.rows(channel)], prior.value[prior.rows(channel)])


def test_growing_keeps_what_is_known(simulator, models) -> None:  # type: ignore[no-untyped-def]
    traces = _prior(simulator(models["branching"]), 100)
    proposal = _proposal(traces, OBSERVED["branching"])
    before = proposal.log_ratio(traces)
    from ppx_proposals.vocabulary import AddressKey

    proposal.grow([AddressKey(f"new{i}", "Normal", 0) for i in range(200)])
    proposal.grow([AddressKey("more", "Categorical", 100)])
    assert len(proposal.addresses) == 201 + 8
    np.testing.assert_allclose(proposal.log_ratio(traces), before, atol=1e-6)


def test_failed_traces_count_nothing(simulator, models) -> None:  # type: ignore[no-untyped-def]
    traces = _prior(simulator(models["branching"]), 50)
    proposal = _proposal(traces, OBSERVED["branching"])
    expected = proposal.log_ratio(traces)
    status = traces.status.copy()
    status[::7] = Status.FAILED
    expected[np.repeat(status == Status.FAILED, traces.length)] = 0.0
    # Another batch is another order of float32 sums.
    np.testing.assert_allclose(proposal.log_ratio(replace(traces, status=status)), expected, atol=1e-5)


def test_values_outside_the_support_count_nothing(simulator, models) -> None:  # type: ignore[no-untyped-def]
    traces = _prior(simulator(models["branching"]), 50)
    proposal = _proposal(traces, OBSERVED["branching"])
    log_prob = np.where(np.arange(len(traces.value)) % 5 == 0, -np.inf, traces.log_prob)
    ratio = proposal.log_ratio(replace(traces, log_prob=log_prob))
    assert np.isfinite(ratio).all()
    assert not ratio[::5].any()


def test_broken_weights_still_give_draws(simulator, models) -> None:  # type: ignore[no-untyped-def]
    sim = simulator(models["branching"])
    proposal = _proposal(_prior(sim, 50), OBSERVED["branching"])
    with torch.no_grad():
        proposal.network.lstm.bias_ih_l0.fill_(float("nan"))
    traces = sim.execute(
        ScriptBatch.empty(2, np.arange(20), Otherwise.ASK),
        GIVEN["branching"],
        proposal.guide(GIVEN["branching"]),
    )
    np.testing.assert_array_equal(traces.log_q, traces.log_prob)


def test_missing_observation_names_both(simulator, models) -> None:  # type: ignore[no-untyped-def]
    proposal = _proposal(_prior(simulator(models["branching"]), 50), OBSERVED["branching"])
    with pytest.raises(CheckpointError, match=r"'total'.*'other'"):
        proposal.guide({"other": 1.0})
    with pytest.raises(CheckpointError, match=r"\(2, 2\).*\(3, 4, 5\)"):
        proposal.guide({"total": 1.0, "grid": np.zeros((2, 2)), "sometimes": 0.0})
    given = {"total": 1.0, "grid": np.zeros((3, 4, 5))}
    for missing in ({}, {"sometimes": None}, {"sometimes": math.nan}):
        with pytest.raises(CheckpointError, match=r"'sometimes'.*measured"):
            proposal.guide({**given, **missing})
    with pytest.raises(CheckpointError, match="1 of 60 elements of observation 'grid' were not measured"):
        proposal.guide({**given, "sometimes": 1.0, "grid": np.r_[math.nan, np.zeros(59)].reshape(3, 4, 5)})
    # An observation that not every trace makes may not have been made.
    proposal.guide({**given, "sometimes": []})


def test_unknown_observation_is_refused(simulator, models) -> None:  # type: ignore[no-untyped-def]
    traces = _prior(simulator(models["marsaglia"]), 20)
    with pytest.raises(ObservationError, match=r"'z'.*'y'"):
        ObservationLayout.from_traces(traces, ["z"])
    with pytest.raises(ObservationError, match="list"):
        ObservationLayout.from_traces(traces, "y")  # type: ignore[arg-type]


def test_conditioned_traces_need_their_observations(simulator, models) -> None:  # type: ignore[no-untyped-def]
    sim = simulator(models["marsaglia"])
    proposal = _proposal(_prior(sim, 50), ["y"])
    traces = sim.execute(ScriptBatch.empty(1, np.arange(5)), GIVEN["marsaglia"])
    with pytest.raises(ObservationError, match="given"):
        proposal.log_ratio(traces)
    assert np.isfinite(proposal.log_ratio(traces, GIVEN["marsaglia"])).all()


def test_coverage_counts_draws_only(simulator, models) -> None:  # type: ignore[no-untyped-def]
    sim = simulator(models["branching"])
    full = _proposal(_prior(sim, 100), OBSERVED["branching"])
    known = [key for key in full.addresses if key.address != "w"]
    coverage = Proposal(full.network, Vocabulary(known), full.layout, device=full.device).coverage(
        sim.addresses
    )
    # The draw that is not controlled cannot be told from one that is.
    assert {a.address for a in coverage.unknown} == {"w", "hidden"}
    assert coverage.num_known == len(known)


def test_proposal_of_another_simulator_is_refused(simulator, models) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = simulator(models["marsaglia"]), simulator(models["branching"])
    _prior(theirs, 5)
    proposal = _proposal(_prior(ours, 50), ["y"])
    with pytest.raises(CheckpointError, match=r"u \(Uniform\)"):
        proposal.guide(GIVEN["marsaglia"]).begin(5, theirs.addresses)
    proposal.guide(GIVEN["marsaglia"]).begin(5, AddressTable())


@pytest.mark.parametrize("shape", [(8, 11, 11), (20, 35, 35), (1, 1, 1), (2, 40, 3)])
def test_grid_embedding_fits_any_grid(shape: tuple[int, int, int]) -> None:
    embedding = GridEmbedding(shape, (4, 8, 16), 10)
    assert embedding(torch.zeros(2, 2, *shape)).shape == (2, 10)


def test_rows_of_tables_depend_on_the_seed_and_the_row_alone() -> None:
    def rows(seed: int, steps: tuple[int, ...]) -> torch.Tensor:
        table = GrowingTable(3, scale=1.0, seed=seed)
        for step in steps:
            table.grow(step)
        return table().detach()

    assert torch.equal(rows(1, (10, 100, 200)), rows(1, (200,)))
    blocks = [b for seed in (1, 2) for b in rows(seed, (2 * BLOCK,))[1:].split(BLOCK)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(blocks, 2))

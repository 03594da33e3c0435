"""Checkpoints: the same proposal comes back, and anything wrong with the files is one clear error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ppx_proposals import NetworkConfig, Proposal, TrainingConfig, train
from ppx_proposals.vocabulary import AddressKey
from ppx_server.errors import CheckpointError
from ppx_server.script import ScriptBatch

CONFIG = TrainingConfig(
    network=NetworkConfig(
        lstm_size=16, head_size=16, mixture_components=3, address_size=8, observation_size=8
    ),
    batch_size=32,
    num_validation=32,
)


@pytest.fixture
def saved(simulator, models, tmp_path):  # type: ignore[no-untyped-def]
    """A proposal, its folder and its simulator."""
    sim = simulator(models["branching"])
    proposal = train(sim, ["total", "sometimes", "grid"], num_traces=128, seed=1, config=CONFIG, device="cpu")
    proposal.save(tmp_path / "net")
    return proposal, tmp_path / "net", sim


def test_loaded_proposal_gives_the_same_densities(saved) -> None:  # type: ignore[no-untyped-def]
    proposal, folder, sim = saved
    loaded = Proposal.load(folder, device="cpu")
    traces = sim.execute(ScriptBatch.empty(5, np.arange(100)), None)
    np.testing.assert_array_equal(loaded.log_ratio(traces), proposal.log_ratio(traces))
    assert loaded.addresses == proposal.addresses
    assert loaded.layout.slots == proposal.layout.slots
    assert loaded.training == proposal.training
    assert repr(loaded) == repr(proposal)


def test_saving_again_replaces_the_checkpoint(saved) -> None:  # type: ignore[no-untyped-def]
    proposal, folder, sim = saved
    config = replace(CONFIG, max_chunk=32)
    train(sim, ["total", "sometimes", "grid"], num_traces=192, seed=1, config=config, proposal=proposal)
    proposal.save(folder)
    assert len(list(folder.iterdir())) == 2
    assert Proposal.load(folder).training.num_traces == 192


@pytest.mark.parametrize("damage", ["flip", "cut", "json", "version", "key", "empty"])
def test_corrupt_files_are_one_clear_error(saved, damage: str) -> None:  # type: ignore[no-untyped-def]
    _, folder, _ = saved
    weights, description = next(folder.glob("*.safetensors")), folder / "proposal.json"
    content = json.loads(description.read_text())
    if damage == "flip":
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 1
        weights.write_bytes(bytes(data))
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "json":
        description.write_text(description.read_text()[:200])
    elif damage == "version":
        description.write_text(json.dumps({**content, "version": 99}))
    elif damage == "key":
        del content["addresses"]
        description.write_text(json.dumps(content))
    else:
        description.write_text("[]")
    with pytest.raises(CheckpointError, match=str(folder)) as caught:
        Proposal.load(folder)
    assert "train again" in str(caught.value)


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*missing"):
        Proposal.load(tmp_path / "nothing")


def test_unwritable_folder(saved, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    proposal, _, _ = saved
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        proposal.save(tmp_path / "file")


def test_a_save_that_breaks_off_leaves_the_old_checkpoint(saved) -> None:  # type: ignore[no-untyped-def]
    """What a crash between the two files leaves behind: new weights, old description."""
    proposal, folder, _ = saved
    before = proposal.training.num_traces
    (folder / "weights-0123456789abcdef.safetensors").write_bytes(b"unfinished")
    assert Proposal.load(folder).training.num_traces == before


def test_loaded_optimizer_has_its_parameters_in_the_order_in_which_they_joined(saved) -> None:  # type: ignore[no-untyped-def]
    """Sums over all parameters, of which alpha is made, are rounded in that order."""
    proposal, folder, _ = saved
    proposal.grow([AddressKey(f"new{i}", "Normal", 0) for i in range(200)])
    proposal.save(folder)

    def order(of: Proposal) -> list[str]:
        names = {id(p): name for name, p in of.network.named_parameters()}
        assert of.optimizer is not None
        return [names[id(p)] for p in of.optimizer.param_groups[0]["params"]]

    assert order(proposal) != [name for name, _ in proposal.network.named_parameters()]
    assert order(Proposal.load(folder, device="cpu")) == order(proposal)

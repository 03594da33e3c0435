"""Training of a proposal network on prior traces of the tau decay that were drawn once.

All runs see the same minibatches, in an order that depends on the seed alone, and judge themselves on the same held-out
traces. Besides, training is what `ppx_inference.train` does: the same loss, size of minibatches and largest norm of
gradients. Traces lie in files that processes map into memory, so that they share them.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import MODELS, languages
from benchmarks.optimizers.methods import optimizer
from benchmarks.optimizers.mnist import curve
from benchmarks.optimizers.runs import Outcome, Run, Sources
from ppx_inference import Simulator
from ppx_proposals.batching import PackedSteps, encode, pack_minibatches
from ppx_proposals.config import NetworkConfig, TrainingConfig
from ppx_proposals.observations import ObservationLayout
from ppx_proposals.proposal import Proposal
from ppx_proposals.training import VALIDATION_INDEX
from ppx_proposals.vocabulary import Vocabulary
from ppx_server.script import ScriptBatch

NETWORKS = {
    "small": NetworkConfig(lstm_size=64, head_size=64, observation_size=32, grid_channels=(8, 16, 32)),
    "default": NetworkConfig(),
}
TITLES = {"small": "proposal, LSTM 64, tau decay", "default": "proposal, LSTM 128, tau decay"}
_TRAINING = TrainingConfig()
_HELD_OUT = 16
"""Minibatches to judge by."""
_CHUNK = 32
"""Minibatches per file."""
_SEED = 0
"""Of the traces."""


def prepare(folder: Path, runs: list[Run]) -> None:
    """Draws the traces that runs need, and makes their untrained networks.

    Args:
        folder: Where to put them; about 1 MB per minibatch.
        runs: Runs on the tau decay.
    """
    model, size = MODELS["tau"], _TRAINING.batch_size
    count = max(run.length for run in runs)
    vocabulary = Vocabulary()
    with Simulator(model.command(languages()[0]), num_workers=1) as sim:
        indices = VALIDATION_INDEX + np.arange(_HELD_OUT * size)
        held_out = sim.execute(ScriptBatch.empty(_SEED, indices), None)
        layout = ObservationLayout.from_traces(held_out, model.observed)
        for start in range(0, count, _CHUNK):
            number = min(_CHUNK, count - start)
            indices = start * size + np.arange(number * size)
            traces = sim.execute(ScriptBatch.empty(_SEED, indices), None)
            _write(folder / f"{start // _CHUNK}.pt", traces, vocabulary, layout)
    # Last, because it may not add addresses.
    _write(folder / "held_out.pt", held_out, vocabulary, layout)
    for task, seed in {(run.task, run.seed) for run in runs}:
        config = replace(NETWORKS[task], seed=seed)
        proposal = Proposal.create(layout, config, device=torch.device("cpu"))
        proposal.grow(vocabulary.keys)
        proposal.save(folder / f"{task} {seed}")


def work(run: Run, sources: Sources) -> Outcome:
    """Does a run."""
    folder = sources.tau
    assert folder is not None
    started = time.perf_counter()
    proposal = Proposal.load(folder / f"{run.task} {run.seed}", device="cpu")
    params = list(proposal.network.parameters())
    chosen = optimizer(run.method, params, run.lr)
    order = torch.randperm(run.length, generator=torch.Generator().manual_seed(run.seed))
    losses: list[float] = []
    lrs: list[float] = []
    for number in order.tolist():
        chosen.zero_grad()
        loss = proposal.batch_loss(_minibatches(folder / f"{number // _CHUNK}.pt")[number % _CHUNK])
        torch.autograd.backward(loss)
        # As training does: a gradient that is not finite moves nothing.
        norm = torch.nn.utils.clip_grad_norm_(params, _TRAINING.max_grad_norm)
        if math.isfinite(float(norm)):
            chosen.step()
        losses.append(float(loss.detach()))
        lrs.append(float(chosen.param_groups[0]["lr"]))
    with torch.inference_mode():
        held_out = [float(proposal.batch_loss(batch)) for batch in _minibatches(folder / "held_out.pt")]
    final = float(np.mean(held_out))
    return {
        "loss": final if math.isfinite(final) else None,
        "lr": lrs[-1:],
        "curve": curve(losses, lrs),
        "seconds": time.perf_counter() - started,
    }


def _write(path: Path, traces: Any, vocabulary: Vocabulary, layout: ObservationLayout) -> None:
    steps = encode(traces, vocabulary, grow=path.stem != "held_out")
    sizes = np.full(len(traces) // _TRAINING.batch_size, _TRAINING.batch_size)
    packed = pack_minibatches(steps, layout.of_traces(traces), sizes, device=torch.device("cpu"))
    torch.save([{**vars(batch), "row": torch.from_numpy(batch.row)} for batch in packed], path)


@cache
def _minibatches(path: Path) -> list[PackedSteps]:
    found = torch.load(path, mmap=True, weights_only=True)
    return [PackedSteps(**{**columns, "row": columns["row"].numpy()}) for columns in found]

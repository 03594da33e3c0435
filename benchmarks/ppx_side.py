"""The work done by this project, in a process of its own: `python -m benchmarks.ppx_side REQUEST` (JSON)."""

from __future__ import annotations

import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import work
from benchmarks.models import MODELS
from ppx_inference import (
    NetworkConfig,
    Posterior,
    Proposal,
    Simulator,
    TrainingConfig,
    importance_sampling,
    inference_compilation,
    lightweight_mh,
    quiet,
    random_walk_mh,
    train,
)


def measure(request: Mapping[str, Any]) -> work.Figures:
    """Does the work that was asked for.

    Args:
        request: Model, language, `batches`, number of workers, names of the work, observations and seconds.
    """
    model, wanted = MODELS[request["model"]], set(request["only"])
    seconds = work.Seconds(*request["seconds"])
    given = {name: np.array(value) for name, value in request["observations"].items()}
    seeds = itertools.count(1)
    options: dict[str, Any] = {} if request["workers"] is None else {"num_workers": request["workers"]}
    with Simulator(model.command(request["language"]), batches=request["batches"], **options) as sim:
        chains: dict[str, Any] = {"num_chains": work.NUM_CHAINS, "burn_in": 0, "progress": quiet}
        runs: dict[str, Callable[[int], object]] = {
            "prior": lambda count: sim.prior(count, seed=next(seeds)),
            "importance": lambda count: importance_sampling(
                sim, given, num_traces=count, seed=next(seeds), progress=quiet
            ),
            "lmh": lambda count: _executions(
                lightweight_mh(sim, given, num_traces=count, seed=next(seeds), **chains)
            ),
            "rmh": lambda count: _executions(
                random_walk_mh(sim, given, num_traces=count, seed=next(seeds), **chains)
            ),
        }
        figures: work.Figures = {
            name: work.rate(run, seconds.work, first=4 * work.NUM_CHAINS)
            for name, run in runs.items()
            if name in wanted
        }
        if wanted & {"training", "compilation", "effective"}:
            work.load_torch()
            figures |= _compilation(sim, given, seconds)
    return {name: value for name, value in figures.items() if name in wanted}


def _executions(posterior: Posterior) -> int:
    """Steps of chains, and the executions that found where they begin."""
    return posterior.provenance.num_executions


def _compilation(sim: Simulator, given: Mapping[str, Any], seconds: work.Seconds) -> work.Figures:
    config = TrainingConfig(network=NetworkConfig(lstm_size=work.LSTM_SIZE), max_seconds=seconds.training)
    started = time.perf_counter()
    proposal: Proposal = train(
        sim, list(given), num_traces=10**9, seed=1, config=config, device="cpu", progress=quiet
    )
    training = proposal.training.num_traces / (time.perf_counter() - started)
    seeds = itertools.count(1 << 20)
    effective = 0.0

    def run(count: int) -> None:
        nonlocal effective
        posterior = inference_compilation(
            sim, given, proposal=proposal, num_traces=count, seed=next(seeds), progress=quiet
        )
        effective = posterior.ess / count

    rate = work.rate(run, seconds.work, first=64)
    return {"training": training, "compilation": rate, "effective": rate * effective}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(measure(json.loads(sys.argv[1]))))

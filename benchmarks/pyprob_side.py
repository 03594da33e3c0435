"""The work done by pyprob 1.5.0, in a process of its own: `python -m benchmarks.pyprob_side REQUEST` (JSON)."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import work

_BATCH_SIZE = 64
"""pyprob's default."""


def measure(request: Mapping[str, Any]) -> work.Figures:
    """Does the work that was asked for.

    Args:
        request: Address of the running simulator, names of the work, observations and seconds.
    """
    import pyprob
    import torch
    from pyprob import InferenceEngine

    pyprob.set_verbosity(0)
    pyprob.seed(1)
    wanted, seconds = set(request["only"]), work.Seconds(*request["seconds"])
    given = {name: torch.tensor(np.array(value)) for name, value in request["observations"].items()}
    model = pyprob.RemoteModel(request["address"])

    def posterior(engine: InferenceEngine) -> Callable[[int], Any]:
        return lambda count: model.posterior_results(num_traces=count, inference_engine=engine, observe=given)

    runs = {
        "prior": lambda count: model.prior_results(num_traces=count),
        "importance": posterior(InferenceEngine.IMPORTANCE_SAMPLING),
        "lmh": posterior(InferenceEngine.LIGHTWEIGHT_METROPOLIS_HASTINGS),
        "rmh": posterior(InferenceEngine.RANDOM_WALK_METROPOLIS_HASTINGS),
    }
    figures: work.Figures = {}
    for name, run in runs.items():
        if name in wanted:
            with _refusals(name):
                figures[name] = work.rate(run, seconds.work)
    if wanted & {"training", "compilation", "effective"}:
        work.load_torch()
        with _refusals("inference compilation"):
            figures |= _compilation(model, given, seconds)
    return {name: figures.get(name) for name in request["only"]}


def _compilation(model: Any, given: Mapping[str, Any], seconds: work.Seconds) -> work.Figures:
    from pyprob import InferenceEngine, InferenceNetwork

    started = time.perf_counter()
    num_traces = 0
    while time.perf_counter() - started < seconds.training:
        # One minibatch: the network and its optimizer go on where they stopped.
        model.learn_inference_network(
            num_traces=_BATCH_SIZE,
            inference_network=InferenceNetwork.LSTM,
            observe_embeddings={name: {"dim": 32} for name in given},
            batch_size=_BATCH_SIZE,
            lstm_dim=work.LSTM_SIZE,
        )
        num_traces += _BATCH_SIZE
    training = num_traces / (time.perf_counter() - started)
    effective = 0.0

    def run(count: int) -> None:
        nonlocal effective
        posterior = model.posterior_results(
            num_traces=count,
            inference_engine=InferenceEngine.IMPORTANCE_SAMPLING_WITH_INFERENCE_NETWORK,
            observe=given,
        )
        effective = float(posterior.effective_sample_size) / count

    rate = work.rate(run, seconds.work)
    return {"training": training, "compilation": rate, "effective": rate * effective}


@contextlib.contextmanager
def _refusals(what: str) -> Any:
    """Goes on without what pyprob cannot do, and says why."""
    try:
        yield
    except Exception as error:
        print(f"pyprob cannot do {what}: {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        found = measure(json.loads(sys.argv[1]))
    print(json.dumps(found))

"""One round of work by pyprob 1.5.0; a process of its own: `python -m benchmarks.pyprob_side ADDRESS QUICK|FULL`."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import warnings

from benchmarks import work


def measure(address: str, size: work.Size) -> work.Figures:
    """Runs one round against the simulator at `address`."""
    import pyprob
    from pyprob import InferenceEngine, InferenceNetwork

    pyprob.set_verbosity(0)
    pyprob.seed(1)
    model = pyprob.RemoteModel(address)
    model.prior_results(num_traces=50)

    def seconds(run) -> float:  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def chain(engine: InferenceEngine) -> float:
        return size.chain / seconds(
            lambda: model.posterior_results(
                num_traces=size.chain, inference_engine=engine, observe=work.OBSERVED
            )
        )

    prior = size.prior / seconds(lambda: model.prior_results(num_traces=size.prior))
    lmh = chain(InferenceEngine.LIGHTWEIGHT_METROPOLIS_HASTINGS)
    rmh = chain(InferenceEngine.RANDOM_WALK_METROPOLIS_HASTINGS)
    training = size.training / seconds(
        lambda: model.learn_inference_network(
            num_traces=size.training,
            inference_network=InferenceNetwork.LSTM,
            observe_embeddings={name: {"dim": 32} for name in work.OBSERVED},
            batch_size=64,
            lstm_dim=work.LSTM_SIZE,
        )
    )
    start = time.perf_counter()
    posterior = model.posterior_results(
        num_traces=size.posterior,
        inference_engine=InferenceEngine.IMPORTANCE_SAMPLING_WITH_INFERENCE_NETWORK,
        observe=work.OBSERVED,
    )
    elapsed = time.perf_counter() - start
    return work.Figures(
        prior, lmh, rmh, training, size.posterior / elapsed, float(posterior.effective_sample_size) / elapsed
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        figures = measure(sys.argv[1], getattr(work, sys.argv[2]))
    print(json.dumps(figures._asdict()))

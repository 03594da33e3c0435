"""One round of work by this project; a process of its own: `python -m benchmarks.ppx_side COMMAND QUICK|FULL`."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable

from benchmarks import work
from ppx_inference import (
    NetworkConfig,
    Simulator,
    TrainingConfig,
    importance_sampling,
    inference_compilation,
    lightweight_mh,
    random_walk_mh,
    train,
)


def measure(command: str, size: work.Size) -> work.Figures:
    """Runs one round on the simulator that `command` starts.

    It does four times the work that pyprob does, so that the rounds take comparable times.
    """
    scale = 4
    with Simulator(command) as sim:
        sim.prior(50)

        def rate(count: int, run: Callable[[], object]) -> float:
            start = time.perf_counter()
            run()
            return count / (time.perf_counter() - start)

        prior = rate(scale * size.prior, lambda: sim.prior(scale * size.prior, seed=1))
        chain = scale * size.chain
        lmh = rate(chain, lambda: lightweight_mh(sim, work.OBSERVED, num_traces=chain, burn_in=0))
        rmh = rate(chain, lambda: random_walk_mh(sim, work.OBSERVED, num_traces=chain, burn_in=0))
        trained = []
        training = rate(
            scale * size.training,
            lambda: trained.append(
                train(
                    sim,
                    observed=list(work.OBSERVED),
                    num_traces=scale * size.training,
                    seed=1,
                    config=TrainingConfig(network=NetworkConfig(lstm_size=work.LSTM_SIZE)),
                )
            ),
        )
        num_traces = scale * size.posterior
        start = time.perf_counter()
        posterior = inference_compilation(
            sim, work.OBSERVED, proposal=trained[0], num_traces=num_traces, seed=2
        )
        elapsed = time.perf_counter() - start
        importance_sampling(sim, work.OBSERVED, num_traces=100, seed=3)
    return work.Figures(prior, lmh, rmh, training, num_traces / elapsed, posterior.ess / elapsed)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(measure(sys.argv[1], getattr(work, sys.argv[2]))._asdict()))

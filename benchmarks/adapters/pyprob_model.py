"""A pyprob model under its own prior, against the same served; `benchmarks.adapters` tells how it is talked to."""

from __future__ import annotations

import contextlib
import io
import math
import sys
import warnings
from typing import Any

from benchmarks.adapters.rows import Row, run


def _gaussian() -> Row:
    import pyprob
    import torch
    from pyprob.distributions import Normal

    from ppx_client.pyprob import controlled

    class Gaussian(pyprob.Model):  # type: ignore[misc]
        def forward(self) -> Any:
            mu = pyprob.sample(Normal(1.0, math.sqrt(5.0)), name="mu")
            likelihood = Normal(mu, math.sqrt(2.0))
            pyprob.observe(likelihood, name="y0")
            pyprob.observe(likelihood, name="y1")
            return mu

    torch.set_num_threads(1)
    pyprob.set_verbosity(0)
    model = Gaussian()

    def prior(num_traces: int) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            model.prior_results(num_traces=num_traces)

    return Row(prior, controlled(model))


ROWS = {"gaussian, 1 draw, 2 observations": _gaussian}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    run(sys.argv[1], ROWS[sys.argv[2]]())

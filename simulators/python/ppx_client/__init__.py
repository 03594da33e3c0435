"""What a Python simulator imports, so that inference can steer its random choices.

Replace the simulator's random number calls by `sample`, state what was measured by `observe`, and serve it:

    import ppx_client as ppx

    def forward():
        mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
        ppx.observe(ppx.Normal(mu, 0.5), name="y")
        return mu

    if __name__ == "__main__":
        ppx.serve(forward, name="gaussian")

Called directly, `forward()` is still a simulator: it draws for itself.
"""

from __future__ import annotations

from ppx_client.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    LogNormal,
    Normal,
    Poisson,
    TruncatedNormal,
    Uniform,
    Weibull,
)
from ppx_client.errors import CapabilityError, DistributionError, PPXError, ServeError, TensorError
from ppx_client.local import seed
from ppx_client.serving import serve
from ppx_client.statements import observe, rejection, sample, scope, tag
from ppx_client.version import __version__

__all__ = [
    "Bernoulli",
    "Beta",
    "Binomial",
    "CapabilityError",
    "Categorical",
    "Distribution",
    "DistributionError",
    "Exponential",
    "Gamma",
    "LogNormal",
    "Normal",
    "PPXError",
    "Poisson",
    "ServeError",
    "TensorError",
    "TruncatedNormal",
    "Uniform",
    "Weibull",
    "__version__",
    "observe",
    "rejection",
    "sample",
    "scope",
    "seed",
    "serve",
    "tag",
]

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

Code that has a NumPy generator stays as it is and gets a `ppx_client.random.Generator`; `patched` controls code that
uses the functions of `random` and `numpy.random`, and `ppx_client.pyprob` serves a pyprob model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
from ppx_client.errors import (
    CapabilityError,
    DistributionError,
    ModelWarning,
    PPXError,
    ServeError,
    TensorError,
    TraceEnded,
    UncontrolledError,
)
from ppx_client.local import seed
from ppx_client.serving import serve
from ppx_client.statements import observe, rejection, sample, scope, tag, uncontrolled
from ppx_client.version import __version__

if TYPE_CHECKING:
    from ppx_client import random as random
    from ppx_client.patching import patched

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
    "ModelWarning",
    "Normal",
    "PPXError",
    "Poisson",
    "ServeError",
    "TensorError",
    "TraceEnded",
    "TruncatedNormal",
    "UncontrolledError",
    "Uniform",
    "Weibull",
    "__version__",
    "observe",
    "patched",
    "rejection",
    "sample",
    "scope",
    "seed",
    "serve",
    "tag",
    "uncontrolled",
]


def __getattr__(name: str) -> Any:
    # They need numpy.random, which takes a while to import. `random` is not in `__all__`, so that `import *` leaves
    # Python's module of that name alone.
    if name == "patched":
        return importlib.import_module("ppx_client.patching").patched
    if name == "random":
        return importlib.import_module("ppx_client.random")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "random"])

"""The client's public names, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import ppx_client as ppx

FAMILIES = [
    "Normal",
    "Uniform",
    "Categorical",
    "Poisson",
    "Bernoulli",
    "Beta",
    "Exponential",
    "Gamma",
    "LogNormal",
    "Binomial",
    "Weibull",
    "TruncatedNormal",
]
ERRORS = ["CapabilityError", "DistributionError", "PPXError", "ServeError", "TensorError"]


def test_public_names() -> None:
    statements = ["observe", "sample", "scope", "seed", "serve", "tag"]
    assert sorted(ppx.__all__) == sorted([*FAMILIES, *ERRORS, *statements, "Distribution", "__version__"])
    assert all(getattr(ppx, name).__doc__ for name in ppx.__all__)
    assert [getattr(ppx, name).code for name in FAMILIES] == list(range(1, 13))


def test_importing_the_client_imports_little() -> None:
    code = "import sys, ppx_client; print(*{name.split('.')[0] for name in sys.modules})"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not {"torch", "scipy", "ppx_server", "flatbuffers", "pyarrow"} & set(output.split())

"""The client's public names, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import ppx_client as ppx
from ppx_server.distributions import FAMILIES as FAMILY_TABLE

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
ERRORS = [
    "CapabilityError",
    "DistributionError",
    "ModelWarning",
    "PPXError",
    "ServeError",
    "TensorError",
    "TraceEnded",
    "UncontrolledError",
]


def test_public_names() -> None:
    statements = [
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
    others = ["Distribution", "__version__"]
    assert sorted(ppx.__all__) == sorted([*FAMILIES, *ERRORS, *statements, *others])
    assert all(getattr(ppx, name).__doc__ for name in ppx.__all__)
    assert [getattr(ppx, name).code for name in FAMILIES] == list(range(1, 13))


def test_importing_the_client_imports_little() -> None:
    code = "import sys, ppx_client; print(*{name.split('.')[0] for name in sys.modules})"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not {"torch", "scipy", "ppx_server", "flatbuffers", "pyarrow"} & set(output.split())


def test_adapters_are_imported_when_they_are_used() -> None:
    code = (
        "import sys, ppx_client as ppx; print('numpy.random' in sys.modules); "
        "ppx.random.Generator, ppx.patched; print(*{name.split('.')[0] for name in sys.modules})"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.startswith("False")
    assert not {"torch", "scipy", "pyprob"} & set(output.split())


def test_families_are_those_of_the_server() -> None:
    # Simulators share bytes with the server, not imports; so that the two tables cannot drift apart, compare them here.
    for name, family in FAMILY_TABLE.items():
        client = getattr(ppx, name)
        assert client.code == family.code
        assert tuple(field.name for field in fields(client)) == family.param_names
        assert [domain.text for domain in client._domains if domain.text.startswith("finite and")] == [
            domain.value for domain in family.domains if domain.value.startswith("finite and")
        ]

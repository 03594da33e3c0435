"""A name in the `<random>` adapter belongs to the number that the program gets, as it does in Python."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from ppx_client.cpp_build import compile_simulator, toolchain_missing
from ppx_inference import Simulator, TrustWarning, importance_sampling
from ppx_server.trace import TraceBatch

PROGRAMS = Path(__file__).resolve().parent / "programs"
BUILD = Path(__file__).resolve().parents[2] / "build" / "tests"
NUM_TRACES = 30
NATIVE = {
    "from_zero", "coin", "successes", "count", "kind", "x", "size", "u", "time", "shape", "life", "square"
}  # fmt: skip
"""Names of draws that are the number themselves; others are tags."""


@pytest.fixture(scope="module")
def program() -> Path:
    if missing := toolchain_missing():
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    flags = ["-O0", "-Wpedantic", "-Werror"]
    return compile_simulator(PROGRAMS / "names.cpp", BUILD / "names", flags=flags)


def named(traces: TraceBatch) -> dict[str, tuple[str, np.ndarray]]:
    """By name: whether it is of a draw or a tag, and its numbers in order of the traces."""
    found: dict[str, tuple[str, list[float]]] = {}
    for sort, ids, values in (
        ("draw", traces.address_id, traces.value),
        ("tag", traces.tags.address_id, traces.tags.data),
    ):
        for number, value in zip(ids.tolist(), values.tolist(), strict=True):
            if name := traces.addresses[number].name:
                assert found.setdefault(name, (sort, []))[0] == sort
                found[name][1].append(value)
    return {name: (sort, np.array(values)) for name, (sort, values) in found.items()}


@pytest.mark.parametrize("batches", [True, False])
def test_a_name_is_that_of_the_number_that_the_program_gets(program: Path, batches: bool) -> None:
    with Simulator([str(program)], num_workers=1, batches=batches) as sim:
        traces = sim.prior(NUM_TRACES, seed=5)
    found = named(traces)
    got = {name.removesuffix(" got"): found.pop(name)[1] for name in list(found) if name.endswith(" got")}
    assert found.keys() == got.keys()
    assert {name for name, (sort, _) in found.items() if sort == "draw"} == NATIVE
    for name, (_, values) in found.items():
        np.testing.assert_array_equal(values, got[name], err_msg=name)
    assert set(found["die"][1]) == {1, 2, 3, 4, 5, 6}
    assert (found["heavy"][1] != found["heavier"][1]).all()


def test_what_a_number_is_made_of_has_an_address_below_its_own_and_no_name(program: Path) -> None:
    with Simulator([str(program)], num_workers=1) as sim:
        traces = sim.prior(1)
    parts = [traces.addresses[i] for i in traces.address_id.tolist() if not traces.addresses[i].name]
    assert [part.address for part in parts] == [
        "die/index", "wide/uniform", "failures/exponential", "waiting/gamma", "waiting/poisson",
        "flood/exponential", "line/uniform", "ratio/numerator", "ratio/denominator",
        "heavy/normal", "heavy/mean_square", "heavier/normal", "heavier/mean_square",
        "steps/uniform", "slope/uniform", "bits/uniform",
        "names_cpp:52:names/exponential", "names_cpp:53:names/uniform",
    ]  # fmt: skip


def test_the_posterior_of_a_die_has_the_numbers_on_its_faces(program: Path) -> None:
    with Simulator([str(program)], num_workers=1) as sim, warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        faces = importance_sampling(sim, {"y": 6.0}, num_traces=300, seed=2)["die"].probabilities()
    assert set(faces) == {1, 2, 3, 4, 5, 6}
    assert faces[6] == pytest.approx(1.0, abs=1e-9)


PYTHON = """
import ppx_client as ppx
from ppx_client.random import Generator

def names():
    rng = Generator()
    die = rng.integers(1, 7)
    waiting = rng.negative_binomial(3, 0.4)
    kind = rng.integers(0, 6)
    x = rng.normal(1, 2)

ppx.serve(names, name="names")
"""


def test_names_are_of_the_same_sort_as_in_python(program: Path, tmp_path: Path) -> None:
    (tmp_path / "names.py").write_text(PYTHON)
    with Simulator([sys.executable, str(tmp_path / "names.py")], num_workers=1) as sim:
        python = named(sim.prior(NUM_TRACES))
    with Simulator([str(program)], num_workers=1) as sim:
        ours = named(sim.prior(NUM_TRACES))
    sorts = {name: sort for name, (sort, _) in ours.items()}
    assert {name: sort for name, (sort, _) in python.items()} == {
        "die": sorts["die"], "kind": sorts["from_zero"], "waiting": sorts["waiting"], "x": sorts["x"]
    }  # fmt: skip
    assert set(python["die"][1]) == set(ours["die"][1])

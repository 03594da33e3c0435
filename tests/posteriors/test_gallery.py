"""The examples of the gallery: real programs, in several languages, whose posteriors are those computed exactly."""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ppx_client.cpp_build import compile_simulator, toolchain_missing
from ppx_inference import Simulator, TrustWarning, importance_sampling, lightweight_mh, random_walk_mh
from tests.posteriors import gallery
from tests.posteriors.agreement import Exact, too_far_off

ROOT = Path(__file__).resolve().parents[2]
SIMULATORS = ROOT / "simulators"
BUILD = ROOT / "build" / "gallery"
GSL = Path("/usr/include/gsl/gsl_rng.h")

POSITIONS = (0.4, -0.5, 0.9, 0.2, 1.6, 2.9, 2.5, 3.8, 3.1, 4.4, 4.0, 5.2)
COUNTS = (3, 9, 5, 17, 5, 7)
CHARGE = 7.0
CASES = (7, 8, 6, 3, 0)
EXACT: dict[str, Callable[[], Exact]] = {
    "linear_gaussian 4": lambda: gallery.of_linear_gaussian(POSITIONS[:4]),
    "linear_gaussian": lambda: gallery.of_linear_gaussian(POSITIONS),
    "ricker": lambda: gallery.of_ricker(COUNTS),
    "counting": lambda: gallery.of_counting(CHARGE),
    "sir": lambda: gallery.of_sir(CASES),
}
QUICK = [
    (importance_sampling, "linear_gaussian 4", "python", 2000),
    (importance_sampling, "ricker", "python", 3000),
    (importance_sampling, "counting", "cpp", 5000),
    (importance_sampling, "sir", "fortran", 10_000),
]
LONG = [
    (importance_sampling, "linear_gaussian 4", "cpp", 100_000),
    (random_walk_mh, "linear_gaussian", "cpp", 200_000),
    (importance_sampling, "ricker", "python", 50_000),
    (random_walk_mh, "ricker", "python", 20_000),
    (importance_sampling, "counting", "cpp", 200_000),
    (lightweight_mh, "counting", "cpp", 100_000),
    (random_walk_mh, "counting", "cpp", 100_000),
    (importance_sampling, "sir", "fortran", 200_000),
    (lightweight_mh, "sir", "fortran", 200_000),
]


@cache
def exact(model: str) -> Exact:
    return EXACT[model]()


def command(model: str, language: str) -> list[str]:
    """What starts a simulator, compiled if need be."""
    name, *arguments = model.split()
    folder = SIMULATORS / name
    if language == "python":
        script = folder / {"ricker": "serve_ricker.py"}.get(name, f"{name}.py")
        return [sys.executable, str(script), *arguments]
    if missing := toolchain_missing():
        pytest.skip(f"no C++ toolchain: {', '.join(missing)}")
    if language == "fortran":
        return [str(compile_fortran(folder / f"{name}.f90"))]
    flags = []
    if name == "counting":
        if not GSL.is_file():
            pytest.skip("no GSL: apt-get install libgsl-dev")
        flags = ["-lgsl", "-lgslcblas"]
    return [str(compile_simulator(folder / f"{name}.cpp", BUILD / name, flags=["-O0", *flags])), *arguments]


def compile_fortran(source: Path) -> Path:
    """Compiles a Fortran simulator with the module `ppx`, unless that was done since it was changed."""
    from ppx_client.c_build import c_flags

    if shutil.which("gfortran") is None:
        pytest.skip("no Fortran compiler: apt-get install gfortran")
    sources = [SIMULATORS / "fortran" / "ppx.f90", source]
    command = ["gfortran", "-std=f2008", "-Wall", "-Wextra", "-Werror", *map(str, sources), *c_flags()]
    program = BUILD / source.stem
    stamp = program.with_suffix(".command")
    made = program.stat().st_mtime if program.is_file() and stamp.is_file() else 0.0
    if all(file.stat().st_mtime < made for file in sources) and stamp.read_text() == str(command):
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
        outcome = subprocess.run(
            [*command, "-J", scratch, "-o", f"{scratch}/program"], capture_output=True, text=True, check=False
        )
        assert outcome.returncode == 0, outcome.stderr
        Path(scratch, "program").replace(program)
    stamp.write_text(str(command))
    return program


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[[str, str], Simulator]]:
    """Starts a simulator, once per session."""
    running: dict[tuple[str, str], Simulator] = {}

    def get(model: str, language: str) -> Simulator:
        if (model, language) not in running:
            running[model, language] = Simulator(command(model, language), num_workers=2)
        return running[model, language]

    yield get
    for simulator in running.values():
        simulator.close()


def infer(engine: Any, simulator: Simulator, observations: dict[str, float], num_traces: int) -> Any:
    """Runs an engine; these runs are short on purpose, so their doubts are no failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        return engine(simulator, observations, num_traces=num_traces, seed=1)


@pytest.mark.parametrize(("engine", "model", "language", "num_traces"), QUICK)
def test_an_example_has_the_exact_posterior(engine, model, language, num_traces, start) -> None:
    posterior = infer(engine, start(model, language), exact(model).observations, num_traces)
    assert posterior.ess > 50
    assert not too_far_off(posterior, exact(model))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("engine", "model", "language", "num_traces"), LONG)
def test_long_runs_of_an_example_have_the_exact_posterior(engine, model, language, num_traces, start) -> None:
    posterior = infer(engine, start(model, language), exact(model).observations, num_traces)
    assert posterior.ess > 100
    assert not too_far_off(posterior, exact(model))


@pytest.mark.parametrize(("engine", "model", "language", "num_traces"), QUICK)
def test_the_check_rejects_the_posterior_of_other_data(engine, model, language, num_traces, start) -> None:
    observations = dict(exact(model).observations)
    name = list(observations)[-1]
    observations[name] += 3.0
    posterior = infer(engine, start(model, language), observations, num_traces)
    assert any(check.startswith("mean of") for check in too_far_off(posterior, exact(model)))


@pytest.mark.slow
def test_both_languages_of_the_state_space_model_make_the_same_traces(start) -> None:
    observations = exact("linear_gaussian 4").observations
    python, cpp = (
        infer(importance_sampling, start("linear_gaussian 4", language), observations, 300)
        for language in ("python", "cpp")
    )
    assert python.traces.value == pytest.approx(cpp.traces.value, rel=1e-9, abs=1e-12)
    assert python.traces.log_weight == pytest.approx(cpp.traces.log_weight, rel=1e-9)


# The program before it was instrumented, and after.
INSTRUMENTED = [
    ("linear_gaussian/plain/linear_gaussian.py", "linear_gaussian/linear_gaussian.py"),
    ("linear_gaussian/plain/linear_gaussian.cpp", "linear_gaussian/linear_gaussian.cpp"),
    ("counting/plain/counting.cpp", "counting/counting.cpp"),
    ("sir/plain/sir.f90", "sir/sir.f90"),
]


@pytest.mark.parametrize(("before", "after"), INSTRUMENTED)
def test_the_number_of_changed_lines_is_what_the_example_says(before: str, after: str) -> None:
    old, new = (
        [line for line in (SIMULATORS / file).read_text().splitlines() if line.strip()]
        for file in (before, after)
    )
    added = sum(line.startswith("+ ") for line in difflib.ndiff(old, new))
    readme = (SIMULATORS / after).parent.joinpath("README.md").read_text()
    assert re.search(rf"\b{added} (new or changed lines )?of {len(old)}\b", readme), (added, len(old))


def test_the_numpy_simulator_knows_nothing_of_ppx() -> None:
    folder = SIMULATORS / "ricker"
    model, served, readme = (
        folder.joinpath(name).read_text() for name in ("ricker.py", "serve_ricker.py", "README.md")
    )
    assert "ppx" not in model.lower()
    model_lines, served_lines = (
        len([line for line in text.splitlines() if line.strip()]) for text in (model, served)
    )
    assert f"{served_lines} lines in a file of their own, and 0 of the {model_lines} lines" in readme


@pytest.mark.slow
@pytest.mark.parametrize("before", [before for before, _ in INSTRUMENTED])
def test_the_programs_before_they_were_instrumented_run(before: str, tmp_path: Path) -> None:
    source, program = SIMULATORS / before, tmp_path / "program"
    compilers = {".cpp": ["g++", "-std=c++17"], ".f90": ["gfortran", "-std=f2008", "-J", str(tmp_path)]}
    command = [sys.executable, str(source)]
    if source.suffix in compilers:
        compiler = compilers[source.suffix]
        if shutil.which(compiler[0]) is None:
            pytest.skip(f"no {compiler[0]}")
        libraries = ["-lgsl", "-lgslcblas"] if "counting" in before else []
        if libraries and not GSL.is_file():
            pytest.skip("no GSL: apt-get install libgsl-dev")
        subprocess.run(
            [*compiler, "-Wall", "-Werror", str(source), *libraries, "-o", str(program)], check=True
        )
        command = [str(program)]
    numbers = [float(x) for x in subprocess.run(command, capture_output=True, check=True).stdout.split()]
    assert len(numbers) == {"linear_gaussian": 12, "counting": 1, "sir": 5}[before.partition("/")[0]]


@pytest.mark.parametrize(
    "dockerfile", sorted(SIMULATORS.glob("*/Dockerfile")), ids=lambda path: path.parent.name
)
def test_the_images_of_examples_keep_to_the_convention(dockerfile: Path) -> None:
    text = dockerfile.read_text().replace("\\\n", " ")
    assert f"docker build -f simulators/{dockerfile.parent.name}/Dockerfile -t ppx-" in text
    copied = [
        source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M) for source in line.split()[:-1]
    ]
    assert copied
    assert all((ROOT / source).exists() for source in copied)
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r'^ENTRYPOINT \["[^"]+"', last, re.M)
    if not last.startswith(("ppx-run\n", "ppx-python\n")):  # which have all this
        for statement in ("USER simulator", "ENV PPX_BIND=tcp://0.0.0.0:5555", "EXPOSE 5555", "HEALTHCHECK "):
            assert f"\n{statement}" in last

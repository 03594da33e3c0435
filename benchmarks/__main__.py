"""Prints the table: pyprob, this project, and the ratio, medians of interleaved rounds."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import work
from ppx_client.cpp_build import compile_simulator, toolchain_missing

ROOT = Path(__file__).resolve().parents[1]
GAUSSIAN = ROOT / "simulators" / "gaussian"


def simulator_command() -> tuple[str, str]:
    """The Marsaglia Gaussian, compiled if possible; and its language."""
    if toolchain_missing():
        return f"{sys.executable} {GAUSSIAN / 'gaussian.py'} --marsaglia", "Python"
    program = compile_simulator(
        GAUSSIAN / "gaussian_marsaglia.cpp", ROOT / "build" / "simulators" / "gaussian_marsaglia"
    )
    return str(program), "C++"


@contextlib.contextmanager
def serving(command: str) -> Iterator[str]:
    """A running simulator, by its address."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/socket"
        process = subprocess.Popen(
            command.split(), env={**os.environ, "PPX_BIND": address}, stderr=subprocess.DEVNULL
        )
        try:
            yield address
        finally:
            process.terminate()
            process.wait()


def run(module: str, target: str, size: str) -> work.Figures:
    """One round in a fresh process."""
    result = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", target, size],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise SystemExit(f"{module} failed:\n{result.stderr}")
    # pyprob says good-bye on stdout.
    figures = next(line for line in result.stdout.splitlines() if line.startswith("{"))
    return work.Figures(**json.loads(figures))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print the figures of every round as JSON")
    options = parser.parse_args()
    size, rounds = ("QUICK", 1) if options.quick else ("FULL", options.rounds)
    command, language = simulator_command()
    theirs, ours = [], []
    for number in range(rounds):
        with serving(command) as address:
            theirs.append(run("pyprob_side", address, size))
        ours.append(run("ppx_side", command, size))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    if options.json:
        print(json.dumps({"pyprob": [f._asdict() for f in theirs], "ppx": [f._asdict() for f in ours]}))
        return
    table = Table(title=f"Marsaglia Gaussian, {language} simulator over PPX 1.0, medians of {rounds} rounds")
    for column in ("", "pyprob 1.5.0", "ours", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for name, label in work.LABELS.items():
        old = statistics.median(getattr(f, name) for f in theirs)
        new = statistics.median(getattr(f, name) for f in ours)
        ratio = statistics.median(
            getattr(n, name) / getattr(o, name) for n, o in zip(ours, theirs, strict=True)
        )
        table.add_row(label, f"{old:,.0f}", f"{new:,.0f}", f"{ratio:.1f} x")
    Console().print(table)


if __name__ == "__main__":
    main()

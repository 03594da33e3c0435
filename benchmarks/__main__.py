"""The command line of the benchmarks; see EXAMPLES."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import __doc__ as about
from benchmarks import adapters, comparison, costs, memory, million, optimizers, scaling, work
from benchmarks.models import LANGUAGES, MODELS, languages

EXAMPLES = """\
examples:
  python -m benchmarks                                         the whole table, five rounds, about 20 minutes
  python -m benchmarks --rounds 1 --models gaussian --languages C++
  python -m benchmarks --only prior training --json speed.json
  python -m benchmarks --quick                                 one short round, to see that it runs
  python -m benchmarks scaling                                 1 to 8 simulator processes
  python -m benchmarks memory                                  bytes per kept trace, in memory and on disk
  python -m benchmarks million --out /data/tau                 a million tau traces to disk; go on by the same command
  python -m benchmarks profile                                 what a draw costs, in ns, and where
  python -m benchmarks adapters                                what a draw through each adapter costs, and without it
  python -m benchmarks adapters --only python cpp --json adapters.json
  python -m benchmarks optimizers --mnist mnist.npz --json optimizers.json --figures figures
  python -m benchmarks optimizers --only tau overhead          what needs no images
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = _parse(arguments)
    console = Console(highlight=False, width=None if Console().is_terminal else 150)
    if options.what == "table":
        _table(options, console)
    elif options.what == "scaling":
        scaling.show(options.models, options.most, options.seconds, console)
    elif options.what == "memory":
        memory.show(options.models, options.num_traces, console)
    elif options.what == "million":
        million.run(options.out, options.num_traces, drawn=options.drawn)
    elif options.what == "adapters":
        seconds, rounds = (0.02, 1) if options.quick else (options.seconds, 10)
        adapters.show(options.only, seconds, console, rounds=rounds, file=options.json)
    elif options.what == "optimizers":
        effort = optimizers.Effort(options.quick, options.seeds, options.workers)
        optimizers.show(
            options.only, options.mnist, effort, console, file=options.json, figures=options.figures
        )
    else:
        costs.show(options.models, options.seconds, console)


def _table(options: argparse.Namespace, console: Console) -> None:
    seconds = work.Seconds(options.seconds, options.training_seconds)
    rounds = options.rounds
    if options.quick:
        seconds, rounds = work.Seconds(0.2, 1.0), 1
    available = [language for language in options.languages if language in languages()]
    plan = comparison.Plan(options.models, available, options.only, options.sides, seconds, options.workers)
    cells = []
    try:
        for cell in comparison.run(plan, rounds):
            cells.append(cell)
            if options.json is not None:
                options.json.write_text(
                    json.dumps({"plan": plan._asdict(), "cells": [c._asdict() for c in cells]})
                )
    finally:
        comparison.show(cells, plan, console)
        console.print(
            "pyprob and bare: one simulator process; ours: "
            f"{'the default number' if plan.workers is None else plan.workers}. MH: {work.NUM_CHAINS} chains (pyprob: "
            f"one). Training: {seconds.training:g} s for each, LSTM {work.LSTM_SIZE}, minibatches "
            "as each does by default; effective samples/s with the network that came out. In brackets: the least that "
            "the design asks for."
        )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=about,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what",
        nargs="?",
        default="table",
        choices=("table", "scaling", "memory", "million", "profile", "adapters", "optimizers"),
        help="what to measure (default: table)",
    )
    several: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    names = ", ".join
    parser.add_argument(
        "--models", choices=MODELS, default=list(MODELS), help=f"which of {names(MODELS)}", **several
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="per kind of work, or adapter (default 1)")
    parser.add_argument(
        "--only",
        help=f"which of {names(work.LABELS)}; adapters: of {names(adapters.PROGRAMS)}; optimizers: of "
        f"{names(optimizers.EXPERIMENTS)}",
        **several,
    )
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="table, adapters, optimizers: write the figures"
    )
    table = parser.add_argument_group("table")
    table.add_argument(
        "--languages",
        choices=LANGUAGES,
        default=list(LANGUAGES),
        help=f"which of {names(LANGUAGES)}",
        **several,
    )
    table.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    table.add_argument(
        "--sides",
        choices=comparison.SIDES,
        default=list(comparison.SIDES),
        help=f"which of {names(comparison.SIDES)}",
        **several,
    )
    table.add_argument("--training-seconds", type=float, default=3.0, help="of training (default 3)")
    table.add_argument(
        "--workers",
        type=int,
        help="simulator processes of ours (default: that of Simulator); optimizers: runs at once (default: half of "
        "the cores)",
    )
    others = parser.add_argument_group("scaling, memory, million")
    others.add_argument("--most", type=int, default=8, help="scaling: most simulator processes (default 8)")
    others.add_argument("--num-traces", type=int, help="memory, million: how many traces")
    others.add_argument("--out", type=Path, help="million: the trace store to write, or to go on with")
    others.add_argument(
        "--drawn", action="store_true", help="million: with the drawn calorimeter images, 8 kB more per trace"
    )
    learners = parser.add_argument_group("optimizers")
    learners.add_argument("--mnist", type=Path, metavar="FILE", help="the images, mnist.npz as Keras has it")
    learners.add_argument("--seeds", type=int, metavar="N", help="runs of each kind (default 2 to 10)")
    learners.add_argument("--figures", type=Path, metavar="FOLDER", help="where to draw figures")
    options = parser.parse_args(arguments)
    known = list(
        {"adapters": adapters.PROGRAMS, "optimizers": optimizers.EXPERIMENTS}.get(options.what, work.LABELS)
    )
    options.only = options.only or known
    unknown = [name for name in options.only if name not in known]
    if unknown:
        parser.error(f"--only: {options.what} does not measure {names(unknown)}; choose from {names(known)}")
    if options.what == "million" and options.out is None:
        parser.error("million writes to disk: say where, --out FOLDER")
    if options.what == "optimizers":
        _check_optimizers(options, parser)
    return options


def _check_optimizers(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    learners = [name for name in options.only if name in optimizers.LEARN_IMAGES]
    if any(number is not None and number < 1 for number in (options.seeds, options.workers)):
        parser.error("--seeds and --workers must be at least 1")
    if learners and options.mnist is None:
        others = [name for name in optimizers.EXPERIMENTS if name not in optimizers.LEARN_IMAGES]
        parser.error(
            f"the images of MNIST are needed for {', '.join(learners)}: say where they are, --mnist mnist.npz, or "
            f"choose what needs none, --only {' '.join(others)}"
        )
    if learners:
        try:
            optimizers.check_images(options.mnist)
        except ValueError as error:
            parser.error(f"--mnist: {error}")


if __name__ == "__main__":
    main()

"""Tunes parameters of a simulator, which runs in processes of its own, to the maximum of their likelihood.

    python examples/tune_simulator.py      # the growth rate of the Ricker map, in half a minute

    python examples/tune_simulator.py --tune infection --tune recovery --observe week1=7 --observe week2=8 \\
        --observe week3=6 --observe week4=3 --observe week5=0 -- ./sir

The parameters are draws of the simulator; they start at the medians of their priors. All other draws are drawn, and the
likelihood of the observations is averaged over them. No derivative of the simulator is needed: persistent evolution
strategies estimate the gradient from executions at perturbed parameters. Ctrl-C ends with what was found so far.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ppx_inference import Simulator
from ppx_proposals.optim import AdamHD
from ppx_proposals.optim.evolution import PES, NonFiniteLossError
from ppx_proposals.tuning import SimulatorTuning, negative_log_evidence
from ppx_server.errors import PPXError

RICKER = Path(__file__).resolve().parents[1] / "simulators" / "ricker" / "serve_ricker.py"
COUNTS = {"y0": 3.0, "y1": 9.0, "y2": 5.0, "y3": 17.0, "y4": 5.0, "y5": 7.0}
COMPARED_TRACES = 4000
"""Traces by which the start is compared with what was found."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the example; returns the exit code."""
    options = _parse(arguments)
    command = options.command or [sys.executable, str(RICKER)]
    try:
        with Simulator(command, num_workers=options.workers) as simulator:
            return _tune(simulator, options)
    except (PPXError, NonFiniteLossError, ValueError) as error:
        Console(stderr=True, highlight=False).print(f"[red]error:[/red] {error}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("[yellow]interrupted[/yellow]")
        return 130


def _tune(simulator: Simulator, options: argparse.Namespace) -> int:
    tuning = SimulatorTuning(
        simulator,
        options.tune,
        negative_log_evidence,
        observations=options.observe,
        num_traces=options.traces,
        seed=options.seed,
    )
    z = torch.nn.Parameter(torch.zeros(len(options.tune), dtype=torch.float64))
    pes = PES(
        [z],
        tuning.unroll,
        tuning.start,
        num_unrolls=1,
        num_pairs=options.pairs,
        sigma=options.sigma,
        generator=torch.Generator().manual_seed(options.seed),
    )
    optimizer = AdamHD([z], lr=options.lr)
    seen = [z.detach().clone()]
    interrupted = False
    console.print(f"tuning {', '.join(options.tune)} of {simulator.model_name}, {options.steps} steps")
    try:
        with Progress(console=console, disable=not sys.stdout.isatty()) as progress:
            task = progress.add_task("tuning", total=options.steps)
            for _ in range(options.steps):
                optimizer.zero_grad()
                estimate = pes.backward()
                optimizer.step()
                seen.append(z.detach().clone())
                progress.update(task, advance=1, description=f"loss {float(estimate.loss):.3f}")
    except KeyboardInterrupt:
        interrupted = True
        console.print(f"[yellow]interrupted[/yellow] after {len(seen) - 1} steps; this is what was found:")
    # Steps scatter around the optimum; the mean of the second half scatters less.
    _report(simulator, options, tuning, seen[0], torch.stack(seen[len(seen) // 2 :]).mean(dim=0))
    return 130 if interrupted else 0


def _report(
    simulator: Simulator, options: argparse.Namespace, tuning: SimulatorTuning, start: Tensor, found: Tensor
) -> None:
    """Prints parameters and losses before and after, on the same random numbers, which tuning has not seen."""
    compared = SimulatorTuning(
        simulator,
        options.tune,
        negative_log_evidence,
        observations=options.observe,
        num_traces=COMPARED_TRACES,
        seed=options.seed + 1,
    )
    _, losses = compared.unroll(torch.stack([start, found]), (), torch.zeros(2, dtype=torch.int64))
    columns = (tuning.values(start).tolist(), tuning.values(found).tolist())
    for name, before, after in zip(options.tune, *columns, strict=True):
        console.print(f"{name}: {before:.4g} -> {after:.4g}")
    console.print(f"-log likelihood: {float(losses[0]):.3f} -> {float(losses[1]):.3f}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="*", help="how to start the simulator (the Ricker map)")
    parser.add_argument("--tune", action="append", metavar="NAME", help="a draw to tune (log_r)")
    parser.add_argument(
        "--observe", action="append", type=_observation, metavar="NAME=VALUE", help="a measurement"
    )
    parser.add_argument("--steps", type=int, default=40, help="steps of the optimizer (%(default)s)")
    parser.add_argument("--traces", type=int, default=100, help="executions per likelihood (%(default)s)")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of perturbed parameters (%(default)s)")
    parser.add_argument("--sigma", type=float, default=0.1, help="size of perturbations (%(default)s)")
    parser.add_argument("--lr", type=float, default=0.1, help="first learning rate of Adam-HD (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes to start (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (%(default)s)")
    options = parser.parse_args(arguments)
    options.tune = options.tune or ["log_r"]
    options.observe = dict(options.observe) if options.observe else COUNTS
    return options


def _observation(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no measurement; write NAME=NUMBER") from None


if __name__ == "__main__":
    sys.exit(main())

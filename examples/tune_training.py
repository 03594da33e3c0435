"""Tunes the learning rate of proposal training, and its learning rate, by persistent evolution strategies.

    python examples/tune_training.py      # half a minute, from a learning rate that is a hundred times too small

A training run is cut into unrolls of some steps. Several runs go on side by side with perturbed settings, and after
every unroll the settings take a step towards those that learn faster: many runs long, but never waiting for the end of
one. Then one proposal is trained with the settings at the start, and one with those found, on traces neither has seen.
Ctrl-C ends with what was found so far.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from ppx_inference import Simulator
from ppx_proposals import NetworkConfig, TrainingConfig, train
from ppx_proposals.optim.evolution import PES, NonFiniteLossError
from ppx_proposals.tuning import TrainingTuning
from ppx_server.errors import PPXError

GAUSSIAN = Path(__file__).resolve().parents[1] / "simulators" / "gaussian" / "gaussian.py"
NETWORK = NetworkConfig(
    lstm_size=32,
    head_size=32,
    mixture_components=5,
    address_size=8,
    observation_size=16,
    grid_channels=(4, 8),
)
NAMES = ("lr", "hypergrad_lr")

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the example; returns the exit code."""
    options = _parse(arguments)
    torch.set_num_threads(1)  # the networks are small
    command = options.command or [sys.executable, str(GAUSSIAN)]
    start = TrainingConfig(
        network=NETWORK,
        batch_size=options.batch_size,
        lr=options.lr,
        hypergrad_lr=options.hypergrad_lr,
        lr_bounds=(1e-6, 1.0),
    )
    try:
        with Simulator(command, num_workers=2) as simulator:
            found, interrupted = _tune(simulator, options, start)
            _compare(simulator, options, start, found)
    except (PPXError, NonFiniteLossError, ValueError) as error:
        Console(stderr=True, highlight=False).print(f"[red]error:[/red] {error}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("[yellow]interrupted[/yellow]")
        return 130
    return 130 if interrupted else 0


def _tune(
    simulator: Simulator, options: argparse.Namespace, start: TrainingConfig
) -> tuple[TrainingConfig, bool]:
    """The settings found, and whether Ctrl-C came."""
    traces = simulator.prior(options.traces, seed=options.seed + 1)
    tuning = TrainingTuning(
        traces, options.observed, names=NAMES, config=start, num_steps=options.unroll_steps
    )
    theta = torch.nn.Parameter(torch.tensor([start.lr, start.hypergrad_lr], dtype=torch.float64).log())
    pes = PES(
        [theta],
        tuning.unroll,
        tuning.start,
        num_unrolls=options.unrolls,
        num_pairs=options.pairs,
        sigma=options.sigma,
        generator=torch.Generator().manual_seed(options.seed),
        ages="spread",
    )
    optimizer = torch.optim.Adam([theta], lr=0.1)
    interrupted = False
    console.print(f"tuning {' and '.join(NAMES)} for {simulator.model_name}, {options.steps} steps")
    try:
        with Progress(console=console, disable=not sys.stdout.isatty()) as progress:
            task = progress.add_task("tuning", total=options.steps)
            for _ in range(options.steps):
                optimizer.zero_grad()
                estimate = pes.backward()
                optimizer.step()
                lr, hypergrad_lr = theta.detach().exp().tolist()
                progress.update(task, advance=1, description=f"loss {float(estimate.loss):.3f}, lr {lr:.2g}")
    except KeyboardInterrupt:
        interrupted = True
        console.print("[yellow]interrupted[/yellow]: this is what was found so far:")
    lr, hypergrad_lr = theta.detach().exp().tolist()
    console.print(f"lr: {start.lr:.3g} -> {lr:.3g}")
    console.print(f"hypergrad_lr: {start.hypergrad_lr:.3g} -> {hypergrad_lr:.3g}")
    return replace(start, lr=lr, hypergrad_lr=hypergrad_lr), interrupted


def _compare(
    simulator: Simulator, options: argparse.Namespace, start: TrainingConfig, found: TrainingConfig
) -> None:
    """Trains with both settings, as long as an episode of the tuning, and prints the losses on held-out traces."""
    held_out = simulator.prior(2000, seed=options.seed + 2)
    count = options.unrolls * options.unroll_steps * options.batch_size
    losses = []
    for config in (start, found):
        config = replace(config, network=replace(NETWORK, seed=options.seed + 3), num_validation=32)
        proposal = train(
            simulator, options.observed, num_traces=count, seed=options.seed + 3, config=config, device="cpu"
        )
        losses.append(proposal.loss(held_out))
    console.print(f"loss after {count:,} traces: {losses[0]:.3f} -> {losses[1]:.3f} nats")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="*", help="how to start the simulator (the Gaussian)")
    parser.add_argument("--observed", action="append", metavar="NAME", help="an observation (y0 and y1)")
    parser.add_argument("--lr", type=float, default=1e-4, help="learning rate to start from (%(default)s)")
    parser.add_argument(
        "--hypergrad-lr", type=float, default=0.02, help="and its learning rate (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=80, help="steps of the settings (%(default)s)")
    parser.add_argument("--unrolls", type=int, default=20, help="unrolls per training run (%(default)s)")
    parser.add_argument("--unroll-steps", type=int, default=10, help="minibatches per unroll (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="traces per minibatch (%(default)s)")
    parser.add_argument("--traces", type=int, default=8192, help="traces to tune on (%(default)s)")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of perturbed settings (%(default)s)")
    parser.add_argument(
        "--sigma", type=float, default=0.3, help="size of perturbations, in logs (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (%(default)s)")
    options = parser.parse_args(arguments)
    options.observed = options.observed or ["y0", "y1"]
    return options


if __name__ == "__main__":
    sys.exit(main())

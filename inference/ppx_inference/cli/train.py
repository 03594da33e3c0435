"""`ppx train`: a proposal network from a simulator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppx_inference.cli.console import Interrupted, note, number, reported, show, show_json
from ppx_inference.cli.failures import Invocation, report_failures
from ppx_inference.cli.options import (
    Addresses,
    AsJson,
    Command,
    Quiet,
    Seed,
    Timeout,
    Workers,
    open_simulator,
    refuse_existing,
    shown,
)
from ppx_inference.failures import FailureLog
from ppx_inference.simulator import Simulator
from ppx_server.errors import ObservationError, PPXError

if TYPE_CHECKING:
    from ppx_inference.compilation import Proposal, TrainingConfig


@reported
def train(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Checkpoint to write.", show_default=False)
    ],
    command: Command = None,
    addresses: Addresses = None,
    observed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An observation that the network will be given; repeat it for several. By default all of them.",
            show_default=False,
        ),
    ] = None,
    num_traces: Annotated[
        int, typer.Option("--num-traces", "-n", min=1, help="Prior traces to learn from in all.")
    ] = 200_000,
    max_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Stop training after this time.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the checkpoint at --output.")] = False,
    lstm_size: Annotated[
        int | None, typer.Option(min=1, help="Size of the LSTM; by default 128.", show_default=False)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Traces per minibatch; by default 128.", show_default=False)
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=1e-9, help="First learning rate, by default 0.01; Adam-HD adapts it.", show_default=False
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, cuda:1, ...")
    ] = "auto",
    workers: Workers = 4,
    seed: Seed = 1,  # not the default of ppx posterior, whose random numbers should be new to the network
    timeout: Timeout = 60.0,
    is_quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Trains a proposal network on traces that the simulator draws from its prior meanwhile.

    Ctrl-C, or --max-seconds, ends training and saves what was learnt; --resume goes on from there.

    Examples:

      ppx train -o checkpoint -n 200000 --observed calorimeter -- ./tau_decay

      ppx train -o checkpoint -n 1000000 --resume --workers 16 -- ./tau_decay

      ppx train -o checkpoint --max-seconds 600 --address tcp://node1:5555
    """
    if not resume:
        refuse_existing(output)
    from ppx_inference import compilation
    from ppx_inference.compilation import Proposal

    written = output / "proposal.json"
    known = Proposal.load(output, device=device) if resume and written.exists() else None
    config = _config(known, lstm_size, batch_size, learning_rate, max_seconds)
    try:
        with open_simulator(command, addresses, workers=workers, timeout=timeout) as simulator:
            names = observed or (list(known.observed) if known else _observed(simulator, seed))
            log = FailureLog(simulator, simulator.num_workers)
            try:
                proposal = compilation.train(
                    log,
                    names,
                    num_traces=num_traces,
                    seed=seed,
                    config=config,
                    proposal=known,
                    checkpoint=output,
                    device=device,
                    progress=shown(is_quiet),
                )
            finally:
                report_failures(log.report(), output, Invocation(command, addresses))
        _report(proposal, output, as_json=as_json)
    except PPXError:
        if written.exists():
            note(f"what was learnt before is in {output}; go on with --resume")
        raise
    except KeyboardInterrupt:
        if not written.exists():
            raise
        raise Interrupted(
            f"what was learnt when it was last saved is in {output}; go on with --resume"
        ) from None


def _config(
    known: Proposal | None,
    lstm_size: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    max_seconds: float | None,
) -> TrainingConfig:
    from ppx_inference.compilation import NetworkConfig, TrainingConfig

    if known is not None and lstm_size not in (None, known.config.lstm_size):
        raise typer.BadParameter(
            f"the checkpoint has an LSTM of size {known.config.lstm_size}; leave --lstm-size out, or train into "
            "another --output"
        )
    network = known.config if known else NetworkConfig(lstm_size=lstm_size or NetworkConfig.lstm_size)
    return TrainingConfig(
        network=network,
        batch_size=batch_size or TrainingConfig.batch_size,
        lr=learning_rate or TrainingConfig.lr,
        max_seconds=max_seconds,
    )


def _observed(simulator: Simulator, seed: int) -> list[str]:
    """Names of all observations of a few prior traces."""
    traces = simulator.prior(8, seed=seed)
    entries = [traces.addresses[int(i)] for i in sorted(set(traces.observations.address_id.tolist()))]
    if not entries:
        raise ObservationError(
            "the simulator observes nothing; call observe with a name in it (see ppx check)"
        )
    return list(dict.fromkeys(entry.name or entry.address for entry in entries))


def _report(proposal: Proposal, output: Path, *, as_json: bool) -> None:
    document = {**proposal_document(proposal), "output": output}
    interrupted = proposal.training.stopped == "interrupted"
    if not as_json:
        show(proposal_line(proposal))
    if interrupted:
        kept = f"what was learnt from {proposal.training.num_traces:,} traces is in {output}; go on with --resume"
        raise Interrupted(kept, {**document, "interrupted": True})
    if as_json:
        show_json(document)
    else:
        note(f"saved in {output}")


def proposal_document(proposal: Proposal) -> dict[str, Any]:
    """A proposal and its training as JSON values."""
    training, last = proposal.training, proposal.history[-1] if proposal.history else None
    return {
        "observed": proposal.observed,
        "num_addresses": len(proposal.addresses),
        "num_parameters": proposal.num_parameters,
        "num_traces": training.num_traces,
        "num_failed": training.num_failed,
        "num_steps": len(proposal.history),
        "loss": last.loss if last else None,
        "validation_loss": last.validation_loss if last else None,
        "lr": last.lr if last else None,
        "seconds": training.seconds,
        "traces_per_second": training.num_traces / training.seconds if training.seconds else None,
        "stopped": training.stopped,
    }


def proposal_line(proposal: Proposal) -> str:
    """A proposal and its training in one line."""
    about = proposal_document(proposal)
    return (
        f"proposal given {', '.join(about['observed'])}: {about['num_addresses']:,} addresses, "
        f"{about['num_parameters']:,} parameters, {about['num_traces']:,} traces in {about['seconds']:.0f} s "
        f"({number(about['traces_per_second'], 3)}/s), held-out loss {number(about['validation_loss'])} nats "
        f"(0 is the prior), learning rate {number(about['lr'], 2)}"
    )

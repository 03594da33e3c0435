"""`ppx posterior`: inference, from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ppx_inference.cli.console import Interrupted, note, reported, show_json
from ppx_inference.cli.failures import Invocation, report_failures
from ppx_inference.cli.options import (
    Addresses,
    AsJson,
    Command,
    Csv,
    Observe,
    Quiet,
    Seed,
    Timeout,
    Workers,
    open_simulator,
    parse_observations,
    refuse_existing,
    shown,
)
from ppx_inference.cli.summary import posterior_document, show_posterior, write_table
from ppx_inference.failures import FailureLog
from ppx_inference.posterior import Posterior
from ppx_inference.progress import Progress
from ppx_server.errors import ObservationError, PPXError
from ppx_server.executor import Executes
from ppx_server.store.manifest import MANIFEST
from ppx_server.text import counted


class Engine(StrEnum):
    """Engines by the name they have on the command line."""

    IC = "ic"
    RMH = "rmh"
    LMH = "lmh"
    IMPORTANCE = "importance"


_CHAIN_OPTIONS = {
    "num_chains": "--chains",
    "burn_in": "--burn-in",
    "thinning": "--thinning",
    "step_size": "--step-size",
}
_TAKES: Mapping[Engine, tuple[str, ...]] = {
    Engine.IC: (),
    Engine.RMH: ("num_chains", "burn_in", "thinning", "step_size"),
    Engine.LMH: ("num_chains", "burn_in", "thinning"),
    Engine.IMPORTANCE: (),
}


@reported
def posterior(
    command: Command = None,
    addresses: Addresses = None,
    observe: Observe = None,
    engine: Annotated[
        Engine | None,
        typer.Option(
            "--engine",
            "-e",
            help="ic: inference compilation (needs --proposal). rmh, lmh: random-walk and single-site "
            "Metropolis-Hastings. importance: weighted prior traces. By default ic with --proposal, else rmh.",
            show_default=False,
        ),
    ] = None,
    num_traces: Annotated[
        int, typer.Option("--num-traces", "-n", min=1, help="Executions that count.")
    ] = 10_000,
    proposal: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Checkpoint of ppx train, for the engine ic.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Where to save the posterior.", show_default=False
        ),
    ] = None,
    csv: Csv = None,
    num_chains: Annotated[
        int | None, typer.Option("--chains", min=1, help="rmh, lmh: number of chains.", show_default=False)
    ] = None,
    burn_in: Annotated[
        int | None,
        typer.Option(min=0, help="rmh, lmh: executions before those that count.", show_default=False),
    ] = None,
    thinning: Annotated[
        int | None, typer.Option(min=1, help="rmh, lmh: keep every so-manyth state.", show_default=False)
    ] = None,
    step_size: Annotated[
        float | None,
        typer.Option(
            help="rmh: step in standard coordinates; by default learnt in burn-in.", show_default=False
        ),
    ] = None,
    workers: Workers = 4,
    seed: Seed = 0,
    timeout: Timeout = 60.0,
    is_quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Infers every random choice of a simulator from observations.

    Prints a summary, and with --output saves the weighted traces (see ppx show). Ctrl-C, or a simulator that fails,
    keeps the traces that are finished.

    Examples:

      ppx posterior --observe y0=8 --observe y1=9 -- python gaussian.py

      ppx posterior --proposal checkpoint --observe image=@event.npy -o result -- ./sim

      ppx posterior -e rmh --observe image=@event.npy --address tcp://localhost:5555
    """
    chosen = engine or (Engine.IC if proposal is not None else Engine.RMH)
    given = {"num_chains": num_chains, "burn_in": burn_in, "thinning": thinning, "step_size": step_size}
    settings = _settings(chosen, given, proposal)
    observations = parse_observations(observe or [])
    if not observations:
        raise ObservationError("nothing is observed; give at least one --observe NAME=VALUE")
    refuse_existing(output)
    progress = shown(is_quiet)
    run = {"num_traces": num_traces, "seed": seed, "progress": progress, **settings}
    invocation = Invocation(command, addresses, observe or [])
    found: Posterior | None = None
    try:
        with open_simulator(command, addresses, workers=workers, timeout=timeout) as simulator:
            log = FailureLog(simulator, simulator.num_workers)
            try:
                found = _infer(chosen, log, observations, run)
            except PPXError as error:
                _keep_part(error, output, progress)
                report_failures(log.report(), output, invocation)
                raise
    except KeyboardInterrupt:
        if found is None:
            raise
        interrupted = True  # when all was done
    else:
        interrupted = found.provenance.interrupted
    if output is not None:
        interrupted |= _save(found, output, progress)
    try:
        document: dict[str, Any] = {**posterior_document(found), "output": output}
        if csv is not None:
            write_table(found, csv)
        if not as_json:
            show_posterior(found)
        report_failures(log.report(), output, invocation)
    except KeyboardInterrupt:
        raise Interrupted(_kept(found, output)) from None
    if interrupted:
        raise Interrupted(_kept(found, output), document)
    if as_json:
        show_json(document)
    elif output is not None:
        note(f"saved in {output}; look at it with: ppx show {output}")


def _keep_part(error: PPXError, output: Path | None, progress: Progress | None) -> None:
    """Saves what an engine had finished when something went wrong."""
    if isinstance(error.partial, Posterior) and output is not None:
        _save(error.partial, output, progress)
        note(f"{counted(len(error.partial), 'trace')} that {_were(error.partial)} finished are in {output}")


def _save(found: Posterior, output: Path, progress: Progress | None) -> bool:
    """Saves a posterior; says whether an interruption came meanwhile, which waited for the end.

    Raises:
        Interrupted: A second one gave it up.
    """
    try:
        found.save(output, progress=progress)
    except KeyboardInterrupt:
        if (output / MANIFEST).exists():
            return True
        many = counted(len(found), "trace")
        raise Interrupted(
            f"{many} {_were(found)} finished, but saving was given up; nothing is kept"
        ) from None
    return False


def _kept(found: Posterior, output: Path | None) -> str:
    where = f"in {output}" if output else "not saved; --output saves them"
    return f"the {counted(len(found), 'trace')} that {_were(found)} finished are {where}"


def _were(found: Posterior) -> str:
    return "was" if len(found) == 1 else "were"


def _settings(engine: Engine, given: Mapping[str, Any], proposal: Path | None) -> dict[str, Any]:
    """What was given for the engine; typer.BadParameter for what it does not take."""
    settings = {name: value for name, value in given.items() if value is not None}
    for name in settings:
        if name not in _TAKES[engine]:
            raise typer.BadParameter(
                f"the engine {engine.value} does not take {_CHAIN_OPTIONS[name]}; leave it out"
            )
    if (engine is Engine.IC) != (proposal is not None):
        raise typer.BadParameter(
            "the engine ic needs --proposal, a checkpoint written by ppx train"
            if engine is Engine.IC
            else f"the engine {engine.value} takes no --proposal; leave it out, or use --engine ic"
        )
    return settings if proposal is None else {**settings, "proposal": proposal}


def _infer(
    engine: Engine, simulator: Executes, observations: Mapping[Any, Any], run: dict[str, Any]
) -> Posterior:
    match engine:
        case Engine.IMPORTANCE:
            from ppx_inference.importance import importance_sampling

            return importance_sampling(simulator, observations, **run)
        case Engine.LMH:
            from ppx_inference.lightweight import lightweight_mh

            return lightweight_mh(simulator, observations, **run)
        case Engine.RMH:
            from ppx_inference.random_walk import random_walk_mh

            return random_walk_mh(simulator, observations, **run)
        case Engine.IC:
            from ppx_inference.compilation import Proposal, inference_compilation

            run["proposal"] = Proposal.load(run["proposal"])
            return inference_compilation(simulator, observations, **run)

"""The main job, end to end: a tau decays in another process, and a network that was just trained says how.

    python examples/demo.py                  # about five minutes on two cores
    python examples/demo.py --event 7        # another event, with the network that is there: two minutes
    python examples/demo.py --quick          # half a minute, to see that everything works

Builds the C++ simulator, draws one event from its prior as the truth, trains a proposal network on other events, infers
the event by inference compilation and, as a check, by random-walk Metropolis-Hastings, compares the two and draws
figures. The network is kept in results/demo/checkpoint and used again, training that was cut short goes on; each event
has a folder of its own: look at it with `ppx show results/demo/event-149/ic`. Ctrl-C keeps what is finished.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from report import (
    QUANTITIES,
    Event,
    channel_name,
    compare,
    print_comparison,
    verdict,
    write_figures,
    write_report,
)
from rich.console import Console

from ppx_client import cpp_build
from ppx_inference import (
    NetworkConfig,
    Posterior,
    Progress,
    ProgressReport,
    Proposal,
    Simulator,
    TrainingConfig,
    TrustWarning,
    inference_compilation,
    random_walk_mh,
    train,
)
from ppx_server.errors import PPXError
from ppx_server.script import ScriptBatch

TAU_DECAY = Path(__file__).resolve().parents[1] / "simulators" / "tau_decay"
OBSERVED = "calorimeter"
EVENT_SEED, EVENT_INDEX = 1, 149
"""A decay to three charged pions: hadronic showers that overlap, but well above the noise. It is not a random event: of
220 it was chosen for its visible energy, a common channel, a high posterior probability of the true channel and a good
effective sample size of inference compilation. `--event` takes another one; most are less clear."""

_FEWEST_TRACES = 100
_GUIDE_SECONDS, _STEP_SECONDS = 250e-6, 30e-6
"""What the network takes for a trace, and RMH for a step, about, beside the simulator."""
_THINNING = 10

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


_LARGEST_EVENT = (1 << 40) - 1
_WORTHWHILE = 0.1
"""Share of the training time from which on training goes on where it was cut short."""


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """Ctrl-C came; the text says what is kept."""


class DemoError(PPXError):
    """The demo cannot do what was asked for; the text says why, and what to do."""


@dataclass(frozen=True)
class Effort:
    """How much work the demo does.

    Attributes:
        training_traces: Most traces to learn from.
        training_seconds: Longest time to learn.
        prior_traces: Events for the prior's histograms; they also measure the simulator's speed.
        ic_traces: Most executions of inference compilation.
        ic_seconds: About the longest time for them.
        rmh_traces: Most executions of RMH after burn-in, of which every tenth is kept.
        rmh_seconds: About the longest time for them.
        predictive_traces: Events of the posterior predictive.
        network: Sizes of the network.
    """

    training_traces: int = 1_000_000
    training_seconds: float = 150.0
    prior_traces: int = 20_000
    ic_traces: int = 60_000
    ic_seconds: float = 30.0
    rmh_traces: int = 2_000_000
    rmh_seconds: float = 60.0
    predictive_traces: int = 400
    network: NetworkConfig = field(default_factory=NetworkConfig)


QUICK = Effort(2000, 6.0, 200, 200, 3.0, 400, 3.0, 50, NetworkConfig(lstm_size=32, grid_channels=(4, 8)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code."""
    options = _parse(arguments)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a stopped container keeps what is finished, too
    warnings.simplefilter("ignore", TrustWarning)  # the table says the same
    try:
        _demo(options, _effort(options))
    except (KeyboardInterrupt, Interrupted) as stop:
        console.print(
            f"[yellow]interrupted[/yellow]: {str(stop) or 'what is finished'} is kept in {options.output}"
        )
        return 130
    except PPXError as error:
        if isinstance(error.partial, Posterior):
            partial = _event_folder(options) / "partial"
            error.partial.save(partial)
            console.print(f"the {len(error.partial):,} traces that were finished are in {partial}")
        Console(stderr=True, highlight=False).print(f"[red]error:[/red] {error}", markup=True, soft_wrap=True)
        return 1
    return 0


def _demo(options: argparse.Namespace, effort: Effort) -> None:
    started = time.perf_counter()
    output = _event_folder(options)
    seed = 10 * (options.seed + 1)  # far from EVENT_SEED: the network must not have seen the event
    _make_room(output)
    with _open_simulator(options) as simulator:
        prior, rate = _prior(simulator, effort, seed)
        event = _draw_event(simulator, options.event, output)
        proposal = _network(simulator, effort, options.output / "checkpoint", seed + 1, anew=options.retrain)
        ic, rmh = _infer(simulator, proposal, event, effort, rate, output, seed + 2)
        predicted = Posterior.of_traces(ic.predictive(simulator, effort.predictive_traces, seed + 4))
    rows = compare(ic, rmh, event)
    sentence = verdict(rows, ic, rmh)
    console.print()
    print_comparison(console, rows, ic, rmh)
    console.print(sentence, soft_wrap=True)
    write_report(output, rows, sentence, {"IC": ic, "RMH": rmh})
    posteriors = {"inference compilation": ic, "RMH": rmh, "prior": prior}
    names = write_figures(output, event, posteriors, predicted, proposal.history)
    _say(f"figures: {', '.join(names)}")
    _say(f"finished after {time.perf_counter() - started:.0f} s; everything is in {output}")
    console.print(f"  look at it again:  ppx show {output / 'ic'}")


def _open_simulator(options: argparse.Namespace) -> Simulator:
    """A running simulator, or the C++ one built here, or without a compiler the Python one."""
    if options.address:
        _say(f"connecting to the simulator at {', '.join(options.address)}")
        return Simulator(address=options.address, start_timeout=3.0 if options.quick else 30.0)
    missing = [] if options.python else cpp_build.toolchain_missing()
    if options.python or missing:
        why = f"no C++ toolchain here ({', '.join(missing)})" if missing else "as asked"
        _say(f"using the Python simulator, {why}")
        return Simulator([sys.executable, str(TAU_DECAY / "tau_decay.py")], num_workers=options.workers)
    _say("building the tau decay simulator, C++, against ppx_client.hpp")
    program = cpp_build.compile_simulator(TAU_DECAY / "tau_decay.cpp", options.output / "build" / "tau_decay")
    _say(f"starting {options.workers} processes of {program.name}")
    return Simulator([str(program)], num_workers=options.workers)


def _prior(simulator: Simulator, effort: Effort, seed: int) -> tuple[Posterior, float]:
    """Events from the prior, and how many a second the simulator makes."""
    _say(f"drawing {effort.prior_traces:,} events from the prior")
    started = time.perf_counter()
    traces = simulator.prior(effort.prior_traces, seed=seed)
    rate = len(traces) / (time.perf_counter() - started)
    console.print(
        f"  {rate:,.0f} events/s, {traces.length.min()} to {traces.length.max()} random choices each "
        f"(mean {traces.length.mean():.1f}), {len(simulator.addresses)} addresses"
    )
    return Posterior.of_traces(traces), rate


def _draw_event(simulator: Simulator, index: int, output: Path) -> Event:
    """The event that is to be inferred: one trace of the prior, with what it knows of itself as the truth."""
    drawn = Posterior.of_traces(simulator.execute(ScriptBatch.empty(EVENT_SEED, [index]), None))
    truth = {name: float(drawn[name].mean()) for name in (*QUANTITIES, "channel")}
    event = Event(np.asarray(drawn[OBSERVED].values[0]), truth)
    np.save(output / "event.npy", event.image)
    (output / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    _say(
        f"the event: a tau with p = ({truth['px']:.2f}, {truth['py']:.2f}, {truth['pz']:.2f}) GeV "
        f"that decays to {channel_name(truth['channel'])}; only its calorimeter image, "
        f"{'x'.join(map(str, event.image.shape))} voxels, is given to inference"
    )
    return event


def _network(simulator: Simulator, effort: Effort, path: Path, seed: int, *, anew: bool) -> Proposal:
    """The network that is there, or one that is trained now; training that was cut short goes on."""
    left = effort.training_seconds
    if anew:
        shutil.rmtree(path, ignore_errors=True)
    elif (path / "proposal.json").exists():
        proposal = Proposal.load(path)
        if proposal.config != effort.network:
            raise DemoError(
                f"{path} holds a network of other sizes, as of --quick; name another --output, or give --retrain to "
                "replace it"
            )
        done = proposal.training
        left -= done.seconds
        if done.num_traces >= effort.training_traces or left < _WORTHWHILE * effort.training_seconds:
            _say(
                f"using the network in {path}, trained for {done.seconds:.0f} s on {done.num_traces:,} events; "
                "--retrain trains another"
            )
            return proposal
        _say(f"going on with the network in {path}, trained for {done.seconds:.0f} s so far")
        seed = seed if done.seed is None else done.seed
    _say(f"training a proposal network on events as they are simulated, for {left:.0f} s at most")
    return _train(simulator, effort, path, seed, left)


def _train(simulator: Simulator, effort: Effort, path: Path, seed: int, seconds: float) -> Proposal:
    proposal = train(
        simulator,
        [OBSERVED],
        num_traces=effort.training_traces,
        seed=seed,
        config=TrainingConfig(network=effort.network, max_seconds=seconds),
        checkpoint=path,
        progress=_bar(),
    )
    training = proposal.training
    console.print(
        f"  {training.num_traces:,} events in {training.seconds:.0f} s "
        f"({training.num_traces / training.seconds:,.0f}/s), {len(proposal.addresses)} addresses, "
        f"{proposal.num_parameters:,} parameters, held-out loss {proposal.history[-1].validation_loss:.2f} nats "
        "(the prior has 0)"
    )
    if training.stopped == "interrupted":
        raise Interrupted("the network, as far as it was trained,")
    return proposal


def _infer(
    simulator: Simulator,
    proposal: Proposal,
    event: Event,
    effort: Effort,
    rate: float,
    output: Path,
    seed: int,
) -> tuple[Posterior, Posterior]:
    """The event's posterior by inference compilation and by RMH."""
    observations = {OBSERVED: event.image}
    # Beside the simulator's own time: parts of guided traces are executed twice, and the network takes its time.
    num_traces = _affordable(effort.ic_traces, effort.ic_seconds / (2 / rate + _GUIDE_SECONDS))
    _say(f"inference compilation: {num_traces:,} traces from the network, weighted")
    ic = inference_compilation(
        simulator, observations, proposal=proposal, num_traces=num_traces, seed=seed, progress=_bar()
    )
    _keep(ic, output / "ic")
    num_traces = _affordable(effort.rmh_traces, effort.rmh_seconds / (1.2 * (1 / rate + _STEP_SECONDS)))
    _say(f"random-walk Metropolis-Hastings, as a check: {num_traces:,} traces after burn-in")
    rmh = random_walk_mh(
        simulator,
        observations,
        num_traces=num_traces,
        thinning=max(1, min(_THINNING, num_traces // 1000)),
        seed=seed + 1,
        progress=_bar(),
    )
    _keep(rmh, output / "rmh")
    return ic, rmh


def _affordable(most: int, in_time: float) -> int:
    return max(_FEWEST_TRACES, min(most, int(in_time)))


def _keep(posterior: Posterior, path: Path) -> None:
    posterior.save(path)
    console.print(f"  {_trust(posterior)}")
    if posterior.provenance.interrupted:
        raise Interrupted(f"the network and {len(posterior):,} traces of {path.name}")


def _trust(posterior: Posterior) -> str:
    doubts = "; ".join(posterior.doubts)
    speed = (
        f"{posterior.provenance.traces_per_second:,.0f} traces/s, effective sample size {posterior.ess:,.0f}"
    )
    return f"{speed}[yellow]: {doubts}[/yellow]" if doubts else speed


def _bar() -> Progress | None:
    """The engines' own bar on a terminal; elsewhere a line now and then."""
    return None if sys.stderr.isatty() else _Lines()


class _Lines:
    """Prints a line of progress at the first step, and every `SECONDS`."""

    SECONDS = 20.0

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, report: ProgressReport) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self.SECONDS
            console.print(f"  {report.message}: {report.done:,} of {report.total:,} ({report.rate:,.0f}/s)")


def _say(text: str) -> None:
    console.print(f"[bold]==[/bold] {text}", soft_wrap=True)


def _event_folder(options: argparse.Namespace) -> Path:
    """Where the results of the event go."""
    output: Path = options.output
    return output / f"event-{options.event}"


def _make_room(folder: Path) -> None:
    """Makes the folder of an event, without what an earlier demo left there.

    Raises:
        DemoError: It cannot be made.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"cannot write to {folder}: {error.strerror}; name another --output") from error


def _effort(options: argparse.Namespace) -> Effort:
    effort = QUICK if options.quick else Effort()
    if options.train_seconds is not None:
        effort = replace(effort, training_seconds=options.train_seconds, training_traces=10**9)
    return effort


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    description, *details = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        description=description,
        epilog="\n\n".join(details),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, help="folder for everything (results/demo, with --quick results/demo-quick)"
    )
    parser.add_argument(
        "--address",
        action="append",
        metavar="tcp://HOST:PORT",
        help="use a running simulator; repeat for several",
    )
    parser.add_argument(
        "--python", action="store_true", help="use the simulator in Python, not the one in C++"
    )
    parser.add_argument("--quick", action="store_true", help="little of everything, to see that it works")
    parser.add_argument("--train-seconds", type=float, metavar="S", help="how long to train")
    parser.add_argument("--workers", type=int, default=4, help="simulator processes to start (%(default)s)")
    parser.add_argument(
        "--event", type=_event_number, default=EVENT_INDEX, help="number of the event to infer (%(default)s)"
    )
    parser.add_argument("--retrain", action="store_true", help="replace the network that is there")
    parser.add_argument("--seed", type=int, default=1, help="seed of training and inference (%(default)s)")
    options = parser.parse_args(arguments)
    if options.output is None:
        options.output = Path("results/demo-quick" if options.quick else "results/demo")
    return options


def _event_number(text: str) -> int:
    if text.isdecimal() and int(text) <= _LARGEST_EVENT:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 to {_LARGEST_EVENT}")


if __name__ == "__main__":
    sys.exit(main())

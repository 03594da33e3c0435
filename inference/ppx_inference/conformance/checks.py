"""The checks of the kit, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ppx_inference.conformance import (
    addresses,
    contents,
    densities,
    forcing,
    introduction,
    leaks,
    loops,
    observing,
    repeating,
    wire,
)
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_server.errors import PPXError


@dataclass(frozen=True)
class Check:
    """One thing that is judged.

    Attributes:
        name: Its name, as in `--only`.
        purpose: What it finds, in one line.
        judge: Looks at the evidence, and says what it finds.
        needs: What it cannot do without: `command`, `batch`, `traces`, `draws`, `observations`, `repeatable` (traces
            that are the same again in the same process) or `stable` (in another process, too).
    """

    name: str
    purpose: str
    judge: Callable[[Evidence], Iterable[Finding]]
    needs: tuple[str, ...] = ()


def _wire(evidence: Evidence) -> Iterable[Finding]:
    return wire.checks(evidence.subject)


CHECKS: Sequence[Check] = (
    Check("handshake", "it starts, answers, and says who it is", introduction.handshake),
    Check("wire", "messages and states as PPX says, also where the controller errs", _wire),
    Check("traces", "prior traces run through; why they do not", contents.traces),
    Check("draws", "there are draws, and inference may choose some", contents.draws, ("traces",)),
    Check("lengths", "no trace is very long", contents.lengths, ("traces",)),
    Check("values", "observations, tags and results are finite numbers", contents.values, ("traces",)),
    Check("same seed", "no randomness that bypasses PPX", repeating.same_seed, ("traces",)),
    Check("replay", "nothing is left over from other traces", repeating.replay, ("draws", "repeatable")),
    Check("restart", "the same in another process", repeating.restart, ("command", "repeatable")),
    Check(
        "other folder",
        "the same where it is started elsewhere",
        repeating.other_folder,
        ("command", "stable"),
    ),
    Check("both ways", "the same by batches and draw by draw", repeating.both_ways, ("batch", "stable")),
    Check("addresses", "no counters and pointers in addresses", addresses.growth, ("draws",)),
    Check("names", "draws have names", addresses.names, ("draws",)),
    Check("observations", "it observes, under names, in one shape", observing.observations, ("traces",)),
    Check("observed values", "values given are used", observing.observed_values, ("observations", "stable")),
    Check("log_prob", "densities are right", densities.log_prob, ("traces", "batch")),
    Check("support", "values that a draw cannot have are refused", forcing.support, ("draws",)),
    Check(
        "rejection loops",
        "those that draw until one is accepted are marked",
        loops.rejection,
        ("draws", "repeatable"),
    ),
    Check("leaks", "memory, files and threads do not grow", leaks.leaks, ("traces", "command")),
    Check("speed", "for information", introduction.speed, ("traces",)),
)


def judge(
    evidence: Evidence, checks: Sequence[Check] = CHECKS, say: Callable[[str], None] = lambda name: None
) -> Iterator[Finding]:
    """Makes checks one after the other.

    Args:
        evidence: The simulator.
        checks: Which; what one of them needs is looked up even if its own check is left out.
        say: Is told the name of each before it is made.

    Yields:
        What they find, as soon as it is known. A check that cannot be made is skipped, one that breaks off has failed.
    """
    for check in checks:
        say(check.name)
        try:
            missing = next((reason for need in check.needs if (reason := _missing(evidence, need))), "")
            if missing:
                yield Finding(check.name, Level.SKIP, missing)
            else:
                yield from check.judge(evidence)
        except PPXError as error:
            yield Finding(check.name, Level.FAIL, str(error), "see the message; --timeout gives it more time")


def unstarted(error: PPXError) -> Finding:
    """The finding on a simulator that cannot be reached at all."""
    remedy = (
        "serve PPX at the endpoint in the environment variable PPX_BIND (or {address} in the command), and answer the "
        "Handshake; --start-timeout gives it more time"
    )
    return Finding("handshake", Level.FAIL, str(error), remedy)


def _missing(evidence: Evidence, need: str) -> str:
    """Why a need is not met; empty if it is."""
    if need == "command":
        return "" if evidence.subject.command else "only for a simulator that is started by a command"
    if need == "batch":
        return "" if evidence.takes_batches else "only for simulators that execute batches"
    if not _has_traces(evidence):
        return "no trace runs through"
    if need == "draws" and not len(evidence.sound.value):
        return "there are no draws"
    if need == "observations" and not len(evidence.sound.observations.address_id):
        return "nothing is observed"
    if need in ("repeatable", "stable") and evidence.hidden is not None:
        return "traces are not the same again: see same seed"
    if need == "stable" and evidence.unsteady is not None:
        return "traces are not the same in another process: see restart"
    return ""


def _has_traces(evidence: Evidence) -> bool:
    try:
        return len(evidence.sound) > 0
    except PPXError:  # told by the check of traces
        return False

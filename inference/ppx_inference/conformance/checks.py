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
from ppx_inference.conformance.findings import Finding, Level, Subject
from ppx_server.errors import PPXError


@dataclass(frozen=True)
class Check:
    """One thing that is judged.

    Attributes:
        name: Its name, as in `--only`.
        purpose: What it finds, in one line.
        judge: Looks at the evidence, and says what it finds.
        needs: What it cannot do without: `command`, `batch`, `traces`, `draws`, `observations`.
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
    Check("replay", "nothing is left over from other traces", repeating.replay, ("traces", "draws")),
    Check(
        "both ways", "the same traces by batches and draw by draw", repeating.both_ways, ("traces", "batch")
    ),
    Check(
        "restart",
        "the same addresses and traces in another process",
        repeating.restart,
        ("traces", "command"),
    ),
    Check(
        "other folder",
        "the same addresses where it is started elsewhere",
        repeating.other_folder,
        ("traces", "command"),
    ),
    Check("addresses", "no counters and pointers in addresses", addresses.growth, ("traces", "draws")),
    Check("names", "draws have names", addresses.names, ("traces", "draws")),
    Check("observations", "it observes, under names, in one shape", observing.observations, ("traces",)),
    Check(
        "observed values",
        "values given are those that are used",
        observing.observed_values,
        ("traces", "observations"),
    ),
    Check("log_prob", "densities are right", densities.log_prob, ("traces", "batch")),
    Check("support", "values that a draw cannot have are refused", forcing.support, ("traces", "draws")),
    Check(
        "rejection loops",
        "loops that draw until something is accepted are marked",
        loops.rejection,
        ("traces", "draws"),
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
    return Finding("handshake", Level.FAIL, str(error))


def _missing(evidence: Evidence, need: str) -> str:
    """Why a need is not met; empty if it is."""
    match need:
        case "command" if not evidence.subject.command:
            return "only for a simulator that is started by a command"
        case "batch" if not evidence.takes_batches:
            return "only for simulators that execute batches: in PPX 1.0 the controller does this"
        case "traces" if not _has_traces(evidence):
            return "no trace runs through"
        case "draws" if not len(evidence.sound.value):
            return "there are no draws"
        case "observations" if not len(evidence.sound.observations.address_id):
            return "nothing is observed"
    return ""


def _has_traces(evidence: Evidence) -> bool:
    try:
        return len(evidence.sound) > 0
    except PPXError:  # told by the check of traces
        return False


__all__ = ["CHECKS", "Check", "Evidence", "Subject", "judge", "unstarted"]

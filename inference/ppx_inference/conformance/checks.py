"""The checks of the kit, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ppx_inference.conformance import (
    addresses,
    beside,
    contents,
    densities,
    forcing,
    generators,
    influence,
    introduction,
    leaks,
    loops,
    observing,
    repeating,
    wire,
)
from ppx_inference.conformance.differences import briefly
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_inference.conformance.reasons import Fault, faults
from ppx_server.errors import PPXError


@dataclass(frozen=True)
class Check:
    """One thing that is judged.

    Attributes:
        name: Its name, as in `--only`.
        purpose: What it finds, in one line.
        judge: Looks at the evidence, and says what it finds.
        needs: What it cannot do without: `command`, `batch`, `model` (one that does not raise in every trace), `second`
            (a second process beside the first), `traces` (one that runs through at least), `draws`, `observations`,
            `sound` (a process that no trace crashes), `steady` (a model that repeats its traces), `repeatable` (traces
            that are the same again in the same process) or `stable` (in another process, too).
    """

    name: str
    purpose: str
    judge: Callable[[Evidence], Iterable[Finding]]
    needs: tuple[str, ...] = ()


def _wire(evidence: Evidence) -> Iterable[Finding]:
    is_hidden = _has_traces(evidence) and evidence.hidden is not None
    return wire.checks(evidence.subject, unrepeated=_UNREPEATED if is_hidden else "")


CHECKS: Sequence[Check] = (
    Check("handshake", "it starts, answers, and says who it is", introduction.handshake),
    Check("traces", "prior traces run through; why they do not", contents.traces),
    Check("warnings", "what its client says of it", generators.warnings, ("command", "traces")),
    Check("same seed", "no randomness that bypasses PPX", repeating.same_seed, ("traces", "sound")),
    Check("draws", "there are draws, and inference may choose some", contents.draws, ("traces",)),
    Check("lengths", "no trace is long for noise that nobody asks for", contents.lengths, ("traces",)),
    Check("values", "observations, tags and results are finite numbers", contents.values, ("traces",)),
    Check("replay", "nothing is left over from other traces", repeating.replay, ("draws", "repeatable")),
    Check("restart", "the same in another process", repeating.restart, ("command", "second", "repeatable")),
    Check(
        "side by side",
        "processes that run at once leave each other alone",
        beside.side_by_side,
        ("command", "stable"),
    ),
    Check(
        "other folder",
        "the same where it is started elsewhere",
        beside.other_folder,
        ("command", "second", "stable"),
    ),
    Check(
        "both ways",
        "the same by batches and draw by draw",
        repeating.both_ways,
        ("batch", "second", "stable"),
    ),
    Check("generators", "no random numbers of the C library or Fortran", generators.linked, ("command",)),
    Check("addresses", "no counters and pointers in addresses", addresses.growth, ("draws",)),
    Check("names", "draws have names", addresses.names, ("draws",)),
    Check("observations", "it observes, under names, in one shape", observing.observations, ("traces",)),
    Check(
        "observed values",
        "values given are used",
        observing.observed_values,
        ("observations", "second", "stable"),
    ),
    Check(
        "influence",
        "what is observed depends on the draws",
        influence.influence,
        ("draws", "observations", "stable"),
    ),
    Check("log_prob", "densities are right", densities.log_prob, ("batch", "traces", "sound", "second")),
    Check(
        "support", "values that a draw cannot have are refused", forcing.support, ("draws", "sound", "second")
    ),
    Check(
        "rejection loops",
        "those that draw until one is accepted are marked",
        loops.rejection,
        ("draws", "repeatable"),
    ),
    Check(
        "leaks",
        "memory, files and threads do not grow",
        leaks.leaks,
        ("command", "second", "traces", "sound"),
    ),
    Check(
        "wire",
        "messages and states as PPX says, also where the controller errs",
        _wire,
        ("model", "sound", "second", "steady"),
    ),
    Check("speed", "for information", introduction.speed, ("traces",)),
)


_EXECUTING = {"second", "sound", "steady", "repeatable", "stable"}
"""What checks need that run the simulator again; the others look at what has been run, which takes no time."""


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
            if evidence.overtime and not _EXECUTING.isdisjoint(check.needs):
                detail = "no time was left for it; allow the check more --seconds"
                yield Finding(check.name, Level.SKIP, detail)
                continue
            missing = next((reason for need in check.needs if (reason := _missing(evidence, need))), "")
            if missing:
                yield Finding(check.name, Level.SKIP, missing)
            else:
                yield from check.judge(evidence)
        except PPXError as error:
            yield _broken_off(evidence, check.name, error)


def _broken_off(evidence: Evidence, check: str, error: PPXError) -> Finding:
    ended = evidence.second.ended() or evidence.third.ended()
    if not ended:
        remedy = "see the message; --timeout gives a slow trace more time"
        return Finding(check, Level.FAIL, str(error), remedy)
    evidence.trouble = evidence.trouble or f"its process crashes: see {check}"
    return Finding(
        check, Level.FAIL, f"its process does not last: {briefly(ended)}", repeating.LOST[Fault.CRASH]
    )


def unstarted(error: PPXError) -> Finding:
    """The finding on a simulator that cannot be reached at all."""
    remedy = (
        "serve PPX at the endpoint in the environment variable PPX_BIND (or {address} in the command), and answer the "
        "Handshake; a program that reads files by relative paths is started with a copy of this folder by --cwd ., one "
        "that takes long to start is waited for by --start-timeout SECONDS"
    )
    return Finding("handshake", Level.FAIL, str(error), remedy)


_NO_TRACE = "no trace runs through: see traces"
_UNREPEATED = "traces are not the same again: see same seed"


def _missing(evidence: Evidence, need: str) -> str:
    """Why a need is not met; empty if it is."""
    if need == "command":
        return "" if evidence.subject.command else "only for a simulator that is started by a command"
    if need == "batch" and not evidence.takes_batches:
        return "only for simulators that execute batches"
    if need == "model":
        return _NO_TRACE if _always_raises(evidence) else ""
    if need == "steady":
        return _UNREPEATED if _has_traces(evidence) and evidence.is_model_hidden else ""
    if need in ("sound", "repeatable", "stable") and (trouble := _trouble(evidence)):
        return trouble
    if need == "sound":
        return ""
    if need == "second":
        lonely = evidence.subject.command and evidence.lonely
        return "a second process does not start: see side by side" if lonely else ""
    if not _has_traces(evidence):
        return _NO_TRACE
    if need == "draws" and not len(evidence.sound.value):
        return "there are no draws"
    if need == "observations" and not len(evidence.sound.observations.address_id):
        return "nothing is observed"
    if need in ("repeatable", "stable") and evidence.hidden is not None:
        return evidence.trouble or _UNREPEATED
    if need == "stable" and not evidence.lonely and evidence.unsteady is not None:
        return evidence.trouble or "traces are not the same in another process: see restart"
    return ""


def _has_traces(evidence: Evidence) -> bool:
    try:
        return len(evidence.sound) > 0
    except PPXError:  # told by the check of traces
        return False


def _always_raises(evidence: Evidence) -> bool:
    try:
        return not len(evidence.sound) and faults(evidence.traces) == {Fault.MODEL}
    except PPXError:
        return False


def _trouble(evidence: Evidence) -> str:
    _has_traces(evidence)  # which have been executed then
    return evidence.trouble

"""The check `wire`: does the simulator speak PPX, whoever it talks to and whatever it is sent?

Its parts talk to the simulator by hand, as a foreign controller would, and judge the protocol (docs/protocol.md), not
the model. Falling over what no controller should send counts as a failure for simulators that announce an extension,
and as a warning for others, because PPX 1.0 asked for nothing better.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ppx_inference.conformance import wire_batches, wire_hostile, wire_refusing, wire_talk
from ppx_inference.conformance.findings import Finding, Level, Subject
from ppx_inference.conformance.wire_link import DefectError, Stage, UnjudgedError

_SHARE = 0.45
"""Of the time for all checks; parts that would begin later are skipped."""


class Part(NamedTuple):
    """One thing that is judged.

    Attributes:
        name: Behind `wire/` in its finding.
        judge: Does it.
        remedy: What to do if it fails, where the defect itself does not say.
        needs: Capability without which it is left out.
        extra: Whether PPX 1.0 did not ask for it.
        after: Parts that must not have failed, or this one says nothing new.
    """

    name: str
    judge: Callable[[Stage], str]
    remedy: str
    needs: str = ""
    extra: bool = False
    after: tuple[str, ...] = ("run",)


_TRACES_REPEAT = ("columns", "independence")
HANDSHAKE = Part(
    "handshake",
    wire_talk.handshake,
    "bind the endpoint in PPX_BIND, and answer every Handshake with HandshakeResult, also a second one",
)
PARTS = (
    Part(
        "run",
        wire_talk.run,
        "answer Run with Sample, Observe or Tag, each of their answers with the next one, and end with RunResult",
        after=(),
    ),
    Part("sockets", wire_talk.sockets, "bind a REP socket, or a ROUTER that keeps the empty frame"),
    Part(
        "float64",
        wire_talk.float64,
        "send and read tensors as doubles; nothing is wrong if the model itself computes in single precision",
    ),
    Part(
        "marks",
        wire_talk.marks,
        "send Rejection with begin true and then false, also where the loop is left early",
    ),
    Part(
        "new_handshake",
        wire_talk.new_handshake,
        "accept a Handshake wherever an answer is due: abandon the trace, and answer it",
        extra=True,
    ),
    Part(
        "vanishing",
        wire_talk.vanishing,
        "wait for the next message when a controller goes away, and let its Handshake abandon the trace",
        extra=True,
    ),
    Part(
        "two_controllers",
        wire_talk.two_controllers,
        "bind a ROUTER, keep who sent what apart, and refuse others with Reset while a trace runs",
        extra=True,
    ),
    Part(
        "garbage",
        wire_hostile.garbage,
        "check every offset and length against the size of the message; answer what is none with Reset, and go on",
        extra=True,
    ),
    Part(
        "mutations",
        wire_hostile.mutations,
        "check every offset and length before using it, and that strings, shapes and columns are what they must be",
        extra=True,
    ),
    Part(
        "oversized",
        wire_hostile.oversized,
        "answer long messages that are none with Reset, and go on; set ZMQ_MAXMSGSIZE to 1 GiB",
        extra=True,
    ),
    Part(
        "out_of_turn",
        wire_hostile.out_of_turn,
        "answer messages that are not due with Reset, and go on",
        extra=True,
    ),
    Part(
        "envelope",
        wire_hostile.envelope,
        "ignore messages without the empty frame, as a REP socket does",
        extra=True,
    ),
    Part(
        "values",
        wire_hostile.values,
        "refuse values of another shape, not finite, or (discrete families) not whole or no index, with Reset or Error",
        extra=True,
    ),
    Part(
        "columns",
        wire_batches.columns,
        "fill the columns of BatchResult as section 6 of the protocol says",
        "batch",
        after=(),
    ),
    Part(
        "numbers",
        wire_batches.numbers,
        "take number n of trace i from Philox4x32-10, key seed, counter (i, n div 2, stream 0); all scalar draws count",
        "batch",
        after=("columns",),
    ),
    Part(
        "independence",
        wire_batches.independence,
        "let a trace depend on its seed, index and script alone: keep nothing from one trace to the next",
        "batch",
        after=("columns",),
    ),
    Part(
        "order",
        wire_batches.order,
        "answer RunBatches one after the other, in the order they came",
        "batch",
        after=_TRACES_REPEAT,
    ),
    Part(
        "scripts",
        wire_batches.scripts,
        "look for choices by (address, name, family, shape) and visit; force value, or that of z where it is NaN",
        "batch",
        after=_TRACES_REPEAT,
    ),
    Part(
        "asking",
        wire_batches.asking,
        "end a trace whose script asks at the first controlled draw that is not its next choice: status 2, flag 8",
        "batch",
        after=_TRACES_REPEAT,
    ),
    Part(
        "malformed",
        wire_refusing.malformed,
        "check a RunBatch as a whole before executing it, and answer with Error if it makes no sense",
        "batch",
        after=_TRACES_REPEAT,
    ),
    Part(
        "impossible_choices",
        wire_refusing.impossible_choices,
        "fail the trace (kind Choice) where a forced value is not finite, not whole or no index",
        "batch",
        after=_TRACES_REPEAT,
    ),
    Part(
        "observations",
        wire_refusing.observations,
        "take observations by name (or address) and visit, keep the set last sent, send none back that were given",
        "batch",
        after=_TRACES_REPEAT,
    ),
    Part(
        "uncontrolled",
        wire_refusing.uncontrolled,
        "look for patterns of the Handshake in names and addresses; leave out rows only, no numbers and visits",
        "uncontrolled",
        after=_TRACES_REPEAT,
    ),
    Part(
        "sessions",
        wire_refusing.sessions,
        "keep capabilities, address numbers and observations for each sender; answer others with Reset",
        "batch",
        after=_TRACES_REPEAT,
    ),
    Part(
        "shutdown",
        wire_refusing.shutdown,
        "answer Shutdown with ShutdownResult, then end with exit code 0",
        "shutdown",
        after=(),
    ),
)
"""In this order; the last one ends the process."""


def checks(subject: Subject, parts: Sequence[Part] = PARTS, *, unrepeated: str = "") -> Iterator[Finding]:
    """Judges a fresh process, or the simulator that is running.

    Args:
        subject: The simulator.
        parts: What to try, behind the handshake.
        unrepeated: That its traces are not the same again, if that is known: then the loss of a process may be the
            model's fault, and ends the check without a verdict.

    Raises:
        SimulatorStartError: The program does not exist or cannot be executed.
    """
    with Stage(subject) as stage:
        yield _judge(HANDSHAKE, stage)
        began = time.monotonic()  # it may take long to start
        if stage.greeting is None:
            return
        for capability in sorted({part.needs for part in parts} - stage.capabilities - {""}):
            yield Finding(f"wire/{capability}", Level.SKIP, f"the simulator does not announce `{capability}`")
        failed: set[str] = set()
        for part in parts:
            if part.needs and part.needs not in stage.capabilities:
                continue
            if reason := _pointless(part, stage, failed, began):
                yield Finding(_name(part), Level.SKIP, reason)
                continue
            finding = _judge(part, stage)
            if finding.level is Level.FAIL and unrepeated and stage.num_lost:
                yield Finding(finding.check, Level.SKIP, f"{finding.detail}; {unrepeated}")
                return
            yield finding
            if finding.level is Level.FAIL:
                failed.add(part.name)


def _pointless(part: Part, stage: Stage, failed: set[str], began: float) -> str:
    """Why a part is left out; empty if it is not."""
    if before := failed.intersection(part.after):
        return f"says nothing new where wire/{min(before)} fails"
    if time.monotonic() - began > _SHARE * stage.subject.seconds:
        return "no time was left for it; allow the check more seconds"
    return "" if stage.revive() else "the simulator no longer answers, after what came before"


def _name(part: Part) -> str:
    return f"wire/{part.name}"


def _judge(part: Part, stage: Stage) -> Finding:
    try:
        return Finding(_name(part), Level.PASS, part.judge(stage))
    except UnjudgedError as error:
        return Finding(_name(part), Level.SKIP, str(error))
    except DefectError as error:
        level = error.level or (stage.robustness if part.extra else Level.FAIL)
        return Finding(_name(part), level, str(error), error.remedy or part.remedy)

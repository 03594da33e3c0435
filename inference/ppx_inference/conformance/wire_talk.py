"""Parts of the check `wire`: a conversation of PPX 1.0, draw by draw, as every simulator must lead it."""

from __future__ import annotations

import time

import numpy as np
import zmq
from numpy.typing import NDArray

from ppx_inference.conformance.findings import Level
from ppx_inference.conformance.wire_link import DefectError, Link, Stage, UnjudgedError
from ppx_inference.conformance.wire_play import Choose, End, Played, Player, Statement, is_draw, play
from ppx_server.distributions import FAMILIES, Kind
from ppx_server.protocol import (
    CAPABILITIES,
    Error,
    Observe,
    Rejection,
    Reset,
    Run,
    RunResult,
    Sample,
    Tag,
    Tensor,
    encode,
)

_TRACES = 5
_SHARE = 0.1
"""Of the time for all checks, for these traces."""
_UNKNOWN = "x_no_such_extension"


def handshake(stage: Stage) -> str:
    """A controller of PPX 1.0 is answered in its own words; one with extensions, by those the simulator has."""
    with stage.link() as link:
        plain = link.greet()
        again = link.greet()
    with stage.link() as link:
        stage.greeting = link.greet((*CAPABILITIES, _UNKNOWN))
    if not plain.model_name or not plain.system_name:
        empty = "model_name" if not plain.model_name else "system_name"
        raise DefectError(
            f"HandshakeResult has an empty {empty}", remedy="give the model a name", level=Level.WARN
        )
    if plain.capabilities or plain.fingerprint:
        raise DefectError(
            f"HandshakeResult to a controller of PPX 1.0 has capabilities {', '.join(plain.capabilities) or '(none)'} "
            f"and fingerprint {plain.fingerprint!r}",
            remedy="send the fields of the extension only to controllers that announce any capability",
            level=Level.WARN,
        )
    if again != plain:
        raise DefectError(f"the second of two Handshakes is answered {again}, the first {plain}")
    if unknown := set(stage.capabilities) - set(CAPABILITIES):
        raise DefectError(
            f"it announces unknown capabilities: {', '.join(sorted(unknown))}",
            remedy=f"announce of {', '.join(CAPABILITIES)} what the simulator understands",
            level=Level.WARN,
        )
    words = ", ".join(stage.greeting.capabilities) or "none: it speaks PPX 1.0"
    return f"{plain.model_name!r} ({plain.system_name}); extensions: {words}"


def run(stage: Stage) -> str:
    """Traces of PPX 1.0: legal messages in legal order, and nothing of the extension."""
    ends: list[End] = []
    count = 0
    with stage.link() as link:
        link.greet()
        stage.be_patient()
        slowest, limit = 0.0, time.monotonic() + _SHARE * stage.subject.seconds
        for index in range(_TRACES):
            began = time.monotonic()
            played = play(link, stage.subject.seed, index)
            slowest = max(slowest, time.monotonic() - began)
            _check_statements(played)
            ends.append(played.end)
            count += len(played.statements)
            if time.monotonic() > limit:
                break
    stage.settle(slowest)
    finished = sum(isinstance(end, RunResult) for end in ends)
    if not finished:
        if "truncated_normal" in stage.capabilities:
            _finish_with_extensions(stage)
        raise DefectError(f"none of {len(ends)} traces ends with RunResult: it sends Reset")
    return f"{len(ends)} traces, {count} statements, {finished} RunResults"


def _check_statements(played: Played) -> None:
    for event in played.statements:
        if not event.address:
            raise DefectError(
                f"{type(event).__name__} has an empty address",
                remedy="give every statement an address: its name or its place in the source",
            )
        if isinstance(event, Sample | Observe) and event.distribution.family == "TruncatedNormal":
            raise DefectError(
                f"it sends TruncatedNormal ({event.address!r}) to a controller of PPX 1.0",
                remedy="send the family only to controllers that announce `truncated_normal`; else send Reset",
            )
    if isinstance(played.end, Error):
        raise DefectError(
            "it sends Error to a controller of PPX 1.0",
            remedy="send Error only to controllers that announce `error`, Reset to others",
        )


def _finish_with_extensions(stage: Stage) -> None:
    """Raises where traces end well for a controller that knows more than PPX 1.0."""
    with stage.link() as link:
        link.greet(CAPABILITIES)
        end = play(link, stage.subject.seed).end
    if isinstance(end, RunResult):
        raise DefectError(
            "every trace ends with Reset, and well for controllers that know TruncatedNormal: PPX 1.0 controllers, "
            "such as pyprob, cannot run it",
            remedy="use only families of PPX 1.0 if pyprob is to drive it",
            level=Level.WARN,
        )
    if isinstance(end, Error):
        raise DefectError(f"no trace ends with RunResult: {end.message}")


def sockets(stage: Stage) -> str:
    """REQ, as PPX 1.0 controllers use it, and DEALER with its envelope."""
    for name, kind in (("REQ", zmq.REQ), ("DEALER", zmq.DEALER)):
        with stage.link(kind) as link:
            link.greet()
            expect_trace(stage, link, f"for a controller with a {name} socket")
    return "it serves controllers with REQ and with DEALER sockets"


def expect_trace(stage: Stage, link: Link, when: str) -> Played:
    """A trace for a controller that has been greeted.

    Raises:
        DefectError: What the simulator says is not PPX. That the model raises is no concern here.
    """
    try:
        return play(link, stage.subject.seed)
    except DefectError as error:
        raise type(error)(f"{when}: {error}", remedy=error.remedy, level=error.level) from error


def begin_trace(stage: Stage, link: Link) -> tuple[Player, Statement]:
    """A trace that waits for the answer to its first draw."""
    link.greet()
    player = Player(link, stage.subject.seed)
    return player, player.reach(is_draw)


def new_handshake(stage: Stage) -> str:
    """A controller that was restarted greets in mid-trace: over its old connection, and over a new one."""
    with stage.link() as link:
        begin_trace(stage, link)
        link.greet()
        expect_trace(stage, link, "after a Handshake in mid-trace")
        begin_trace(stage, link)
        with stage.link() as other:
            other.greet()
            expect_trace(stage, other, "after another controller's Handshake in mid-trace")
    return "a Handshake in mid-trace takes over, and the next Run works"


def vanishing(stage: Stage) -> str:
    """A controller goes away in mid-trace without a word."""
    with stage.link() as link:
        begin_trace(stage, link)
    with stage.link() as link:
        link.greet()
        expect_trace(stage, link, "after a controller went away in mid-trace")
    return "a trace whose controller goes away leaves the simulator to the next one"


def two_controllers(stage: Stage) -> str:
    """Two controllers at once: each is answered or refused, and neither disturbs the other's trace."""
    with stage.link() as one, stage.link() as other:
        one.greet()
        other.greet()
        for link in (one, other, one):
            if isinstance(expect_trace(stage, link, "while another controller is connected").end, Reset):
                link.greet()  # it may have been forgotten
                expect_trace(stage, link, "while another controller is connected")
        player, begun = begin_trace(stage, one)
        other.send_bytes(encode(Run()), "Run while another controller's trace goes on")
        answer = other.receive_any()
        if not isinstance(answer, Reset | Error):
            raise DefectError(
                f"Run while another controller's trace goes on is answered by {type(answer).__name__}"
            )
        try:
            player.finish(begun)
        except DefectError as error:
            raise DefectError(f"another controller's Run disturbs a trace: {error}") from error
    return "two controllers at once do not disturb each other"


def float64(stage: Stage) -> str:
    """Numbers are doubles all the way: what depends on a draw changes with bits that a float32 does not have."""
    with stage.link() as link:
        link.greet()
        base, fine, coarse = (
            _sent(play(link, stage.subject.seed, choose=_nudged(by)))
            for by in (2.0**-30, -(2.0**-30), 2.0**-20)
        )
    if not len(base) == len(fine) == len(coarse):
        raise UnjudgedError("the simulator sends more or fewer numbers when its draws change a little")
    follows = (base != coarse) & (base != np.round(base)) & np.isfinite(base)
    if not follows.any():
        raise UnjudgedError("nothing that the simulator sends depends on the draws smoothly")
    sent = base[follows]
    single = sent == sent.astype(np.float32)
    if single.any():
        raise DefectError(
            f"{single.sum()} of {len(sent)} numbers that follow the draws have single precision ({sent[single][0]})",
            level=Level.WARN,
        )
    if not (base[follows] != fine[follows]).any():
        raise DefectError("no number sent notices when draws change by a part in 2^29", level=Level.WARN)
    return f"{len(sent)} numbers follow the draws beyond the precision of float32"


def _nudged(relative: float) -> Choose:
    """Draws of continuous families, at a float32 number times `1 + relative`: within half its spacing for 2^-30."""

    def choose(event: Sample, number: int, value: Tensor) -> Tensor:
        family = FAMILIES[event.distribution.family]
        if family.kind is not Kind.CONTINUOUS:
            return value
        with np.errstate(over="ignore"):
            nudged = np.asarray(value).astype(np.float32).astype(np.float64) * (1.0 + relative)
        if not family.contains(nudged, event.distribution.params).all():
            return value
        return nudged if isinstance(value, np.ndarray) else float(nudged)

    return choose


def _sent(played: Played) -> NDArray[np.float64]:
    """All numbers that a simulator sent in a trace."""
    tensors: list[Tensor | None] = []
    for event in played.statements:
        if isinstance(event, Sample | Observe):
            tensors += event.distribution.params
        if isinstance(event, Observe | Tag):
            tensors.append(event.value)
    if isinstance(played.end, RunResult):
        tensors.append(played.end.result)
    given = [np.ravel(t) for t in tensors if t is not None]
    return np.concatenate(given) if given else np.empty(0)


def marks(stage: Stage) -> str:
    """Marks of rejection loops come in pairs, to controllers that announce that they know them."""
    with stage.link() as link:
        link.greet(CAPABILITIES)
        played = [play(link, stage.subject.seed, index) for index in range(_TRACES)]
    count = 0
    for trace in played:
        opened: list[tuple[str, str]] = []
        for event in trace.statements:
            if not isinstance(event, Rejection):
                continue
            count += event.begin
            place = event.address, event.name
            if event.begin:
                opened.append(place)
            elif not opened or opened.pop() != place:
                raise DefectError(
                    f"the rejection loop {event.address!r} ends where another one is the last that began"
                )
        if opened and isinstance(trace.end, RunResult):
            raise DefectError(f"the rejection loop {opened[-1][0]!r} does not end", level=Level.WARN)
    if not count:
        raise UnjudgedError("no rejection loop is marked")
    return f"{count} rejection loops begin and end"

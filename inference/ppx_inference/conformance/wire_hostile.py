"""Parts of the check `wire`: what no controller should send, after which the simulator must still serve."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

from ppx_inference.conformance.findings import Level
from ppx_inference.conformance.wire_link import DefectError, Link, NoAnswerError, Stage, UnjudgedError
from ppx_inference.conformance.wire_play import Player, is_draw, value_shape
from ppx_inference.conformance.wire_talk import begin_trace, expect_trace
from ppx_server.distributions import FAMILIES, Kind
from ppx_server.errors import RemoteProtocolError
from ppx_server.protocol import (
    CAPABILITIES,
    Error,
    Event,
    ObserveResult,
    Reset,
    Run,
    RunBatch,
    Sample,
    SampleResult,
    TagResult,
    Tensor,
    decode,
    encode,
)

_OVERSIZED_BYTES = 8 << 20
_HUGE_LENGTH = struct.pack("<I", 0x7FFFFFFF)
_QUIET_SECONDS = 0.1
_MOST_MUTATIONS, _MUTATIONS_SHARE = 300, 0.05
_EDGES = (0, 1, 0x7F, 0x80, 0xFF)
_MOST_FAULTS = 3
"""So many, and no more is tried: each costs the patience of waiting."""


class Attack(NamedTuple):
    """Something that no controller should send.

    Attributes:
        what: In words.
        frames: What goes behind the empty frame.
    """

    what: str
    frames: tuple[bytes, ...]


def _garbage() -> list[Attack]:
    value = encode(SampleResult(np.arange(3.0)))
    length = value.rindex(struct.pack("<I", 3))  # of the tensor's data, which come last
    return [
        Attack("64 random bytes", (np.random.default_rng(0).bytes(64),)),
        Attack("an empty message", (b"",)),
        Attack("offsets that point outside", (b"\xff" * 64,)),
        Attack("a message of type 200", (_of_type(200),)),
        Attack("half of a SampleResult", (value[: len(value) // 2],)),
        Attack("a tensor without its last bytes", (value[:-12],)),
        Attack("a tensor of 2^31 - 1 elements", (value[:length] + _HUGE_LENGTH + value[length + 4 :],)),
        Attack("two frames", (value, value)),
    ]


def _of_type(code: int) -> bytes:
    """A Run with another type code, which is the one byte 3 behind the table's position and that of its vtable."""
    message = bytearray(encode(Run()))
    root = struct.unpack_from("<I", message)[0]
    vtable = root - struct.unpack_from("<i", message, root)[0]
    message[root + struct.unpack_from("<H", message, vtable + 4)[0]] = code
    return bytes(message)


def garbage(stage: Stage) -> str:
    """Bytes that are no message, between traces and in mid-trace."""
    return _survives(stage, _garbage(), (_BETWEEN, _DURING))


def mutations(stage: Stage) -> str:
    """Messages with some bytes changed, as many as time allows: whatever it makes of them, it must answer."""
    limit = time.monotonic() + _MUTATIONS_SHARE * stage.subject.seconds
    sources: list[tuple[Situation, Event]] = [(_DURING, SampleResult(np.arange(3.0)))]
    if "batch" in stage.capabilities:
        none, no_ids, offsets = np.empty(0), np.empty(0, np.int32), np.zeros(4, np.int32)
        batch = RunBatch(1, 1, np.arange(3, dtype=np.uint64), False, offsets, no_ids, no_ids, none, none)
        sources.append((_WITH_EXTENSIONS, batch))
    tried = 0
    for number in range(_MOST_MUTATIONS):
        situation, event = sources[number % len(sources)]
        mutated, changes = _mutated(encode(event), np.random.default_rng(number))
        if _is_message(mutated):
            continue  # it might mean anything
        if time.monotonic() > limit:
            break
        with stage.link() as link:
            situation.lead(stage, link)
            link.send_bytes(mutated, f"{type(event).__name__} with {changes}{situation.when}")
            link.receive_any()
            link.greet()
        tried += 1
    return f"{tried} messages with changed bytes are answered"


def _mutated(message: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """A message with up to four bytes changed, and which."""
    mutated, changes = bytearray(message), []
    for _ in range(rng.integers(1, 5)):
        position, choices = int(rng.integers(len(mutated))), (*_EDGES, int(rng.integers(256)))
        mutated[position] = choices[rng.integers(len(choices))]
        changes.append(f"byte {position} = {mutated[position]:#04x}")
    return bytes(mutated), ", ".join(changes)


def _is_message(data: bytes) -> bool:
    try:
        decode(data)
    except RemoteProtocolError:
        return False
    return True


def oversized(stage: Stage) -> str:
    """A message much longer than any that is due."""
    random = np.random.default_rng(1).bytes(1 << 12)
    attack = Attack("8 MiB of garbage", (random * (_OVERSIZED_BYTES // len(random)),))
    return _survives(stage, [attack], (_BETWEEN, _DURING))


def out_of_turn(stage: Stage) -> str:
    """Messages that are not due, or not a controller's."""
    between: list[Event] = [SampleResult(1.0), ObserveResult(), TagResult(), Reset()]
    during: list[Event] = [Run(), ObserveResult(), TagResult(), Reset()]
    first = _survives(stage, [_legal(event) for event in between], (_BETWEEN,))
    second = _survives(stage, [_legal(event) for event in during], (_DURING,))
    return f"{first}; {second}"


def _legal(event: Event) -> Attack:
    return Attack(type(event).__name__, (encode(event),))


def envelope(stage: Stage) -> str:
    """What comes without the empty frame is no request, and is ignored."""
    with stage.link() as link:
        link.greet()
        began = time.monotonic()
        expect_trace(stage, link, "before a message without the empty frame")  # the first one may take longer
        quiet = max(_QUIET_SECONDS, time.monotonic() - began)
        for frames in ((encode(Run()),), (b"x", encode(Run()))):
            link.send_frames(frames, "a message without the empty frame")
            try:
                link.receive_bytes(quiet)
            except NoAnswerError:
                continue
            raise DefectError("a message without the empty frame is answered", level=Level.WARN)
        expect_trace(stage, link, "after a message without the empty frame")
    return "messages without the empty frame are ignored"


def values(stage: Stage) -> str:
    """Values that a draw cannot have are refused, and the simulator goes on serving."""
    with stage.link() as link:
        link.greet()
        draws = expect_trace(stage, link, "before values that are to be refused").draws
    if not draws:
        raise UnjudgedError("the model draws nothing")
    return "; ".join(
        _survives(stage, attacks, (Situation("", partial(_at_draw, number=number)),))
        for number, attacks in _impossible(draws).items()
    )


def _impossible(draws: Sequence[Sample]) -> dict[int, list[Attack]]:
    """By number of the draw: the first one, and the first one of each kind that takes whole numbers."""
    first = draws[0]
    shape = value_shape(first.distribution)
    found = {
        0: [
            _value(first, "NaN", np.full(shape, np.nan)),
            _value(first, "infinity", np.full(shape, np.inf)),
            _value(first, "a tensor of another shape", np.ones(int(np.prod(shape)) + 2)),
            _value(first, "an empty tensor", np.empty(0)),
        ]
    }
    seen = {Kind.CONTINUOUS}
    for number, draw in enumerate(draws):
        kind = FAMILIES[draw.distribution.family].kind
        if kind not in seen:
            seen.add(kind)
            found.setdefault(number, []).extend(_not_whole(draw, kind))
    return found


def _not_whole(draw: Sample, kind: Kind) -> list[Attack]:
    shape = value_shape(draw.distribution)
    attacks = [_value(draw, f"{value:g}", np.full(shape, value)) for value in (0.5, -1.0)]
    if kind is Kind.CATEGORICAL:
        above = np.shape(draw.distribution.params[0])[-1]
        attacks.append(_value(draw, f"index {above} of {above}", np.full(shape, float(above))))
    return attacks


def _value(draw: Sample, what: str, value: Tensor) -> Attack:
    where = f"for {draw.address!r} ({draw.distribution.family})"
    return Attack(f"{what} {where}", (encode(SampleResult(value)),))


class Situation(NamedTuple):
    """Where the attack comes.

    Attributes:
        when: In words.
        lead: Leads a connection there.
    """

    when: str
    lead: Callable[[Stage, Link], object]


def _between_traces(stage: Stage, link: Link) -> None:
    link.greet(sorted(stage.capabilities & {"error"}))


def _with_all_extensions(stage: Stage, link: Link) -> None:
    link.greet(CAPABILITIES)


_WITH_EXTENSIONS = Situation(" between traces", _with_all_extensions)
_BETWEEN = Situation(" between traces", _between_traces)
_DURING = Situation(" as the answer to a draw", begin_trace)


def _at_draw(stage: Stage, link: Link, *, number: int) -> None:
    """Where a draw of a trace waits for its value."""
    link.greet(sorted(stage.capabilities & {"error"}))
    player = Player(link, stage.subject.seed)
    player.reach(lambda statement: is_draw(statement) and len(player.values) == number)


def _survives(stage: Stage, attacks: Sequence[Attack], situations: Sequence[Situation]) -> str:
    """Tries attacks: each must be refused, and the simulator go on serving.

    Raises:
        DefectError: One is not.
    """
    faults: list[str] = []
    for attack, situation in product(attacks, situations):
        try:
            _try(stage, attack, situation)
        except UnjudgedError:
            continue  # it never gets there
        except DefectError as error:
            faults.append(str(error))
            if len(faults) == _MOST_FAULTS or not stage.revive():
                break
    if faults:
        raise DefectError("; ".join(faults))
    with stage.link() as link:
        link.greet()
        expect_trace(stage, link, f"after {attacks[-1].what}")
    where = " and".join(situation.when for situation in situations)
    return f"refused{where}: {', '.join(attack.what for attack in attacks)}"


def _try(stage: Stage, attack: Attack, situation: Situation) -> None:
    with stage.link() as link:
        situation.lead(stage, link)
        what = attack.what + situation.when
        link.send_frames((b"", *attack.frames), what)
        answer = link.receive_any()
        if not isinstance(answer, Reset | Error):
            raise DefectError(f"{what} is not refused: it answers {type(answer).__name__}")
        link.greet()

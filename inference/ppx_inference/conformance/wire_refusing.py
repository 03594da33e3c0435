"""Parts of the check `wire`: batches that go wrong, sessions of several controllers, observations, and the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ppx_inference.conformance.findings import Level
from ppx_inference.conformance.wire_asking import Answer, Asker, expect_same
from ppx_inference.conformance.wire_batches import askers, first_choices
from ppx_inference.conformance.wire_link import DefectError, Stage, UnjudgedError
from ppx_server.observations import ObservationSet
from ppx_server.protocol import (
    CAPABILITIES,
    BatchResult,
    Error,
    Failure,
    FailureKind,
    Reset,
    RunBatch,
    Shutdown,
    ShutdownResult,
    WireAddress,
    decode,
    encode,
)
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

_SESSIONS = 16
_END_SECONDS = 5.0
_MISSING_REMEDY = (
    "draw what was not measured, send it with what was, and let only what was measured count in log_prob"
)
_ABSENT = WireAddress("ppx check/no such draw", "no such draw", "Normal", ())


def malformed(stage: Stage) -> str:
    """A batch that makes no sense is refused as a whole, and the next one is executed."""
    with askers(stage) as (asker,):
        before = asker.execute(asker.empty((0,))).traces
        for what, message in _nonsense():
            asker.begin()
            asker.link.send_bytes(message, what)
            answer = asker.link.receive_any()
            if not isinstance(answer, Error | Reset):
                raise DefectError(f"{what} is answered by {type(answer).__name__} instead of Error")
            asker.begin()
            expect_same(before, asker.execute(asker.empty((0,))).traces, f"before and after {what}")
    return f"refused: {', '.join(what for what, _ in _nonsense())}"


def _nonsense() -> list[tuple[str, bytes]]:
    """RunBatches with one thing wrong, which no encoder would write."""
    sound = RunBatch(
        batch=1,
        seed=1,
        index=np.array([0, 1], np.uint64),
        ask=False,
        offsets=np.array([0, 1, 2], np.int32),
        address=np.zeros(2, np.int32),
        instance=np.zeros(2, np.int32),
        value=np.zeros(2),
        z=np.zeros(2),
        addresses=(_ABSENT,),
    )
    unknown_set = sound._replace(observations_id=77)
    return [
        ("a RunBatch whose offsets decrease", _patched(sound, lambda b: b.offsets, [0, 3, 2])),
        ("a RunBatch with more offsets than choices", _patched(sound, lambda b: b.offsets, [0, 1, 9])),
        ("a RunBatch whose offsets begin at 1", _patched(sound, lambda b: b.offsets, [1, 1, 2])),
        ("a RunBatch with an undefined address number", _patched(sound, lambda b: b.address, [0, 5])),
        ("a RunBatch with a negative address number", _patched(sound, lambda b: b.address, [0, -1])),
        ("a RunBatch that defines addresses from 7 on", encode(sound._replace(first_address=7))),
        ("a RunBatch with observations that were never sent", encode(unknown_set)),
    ]


def _patched(
    event: RunBatch,
    column: Callable[[RunBatch], np.ndarray[tuple[int], np.dtype[np.int32]]],
    numbers: Sequence[int],
) -> bytes:
    """The message with another column: what is decoded from it are views."""
    message = bytearray(encode(event))
    decoded = decode(memoryview(message))
    assert isinstance(decoded, RunBatch)
    column(decoded)[:] = numbers
    return bytes(message)


def impossible_choices(stage: Stage) -> str:
    """A choice that a draw cannot have fails its trace, and no other."""
    with askers(stage) as (asker,):
        traces = asker.execute(asker.empty((0, 1, 2))).traces
        traces = traces.select((traces.status == Status.OK) & (traces.length > 0))
        if not len(traces):
            raise UnjudgedError("no trace draws anything")
        script = first_choices(traces)
        script.value[0] = np.inf
        answer = asker.execute(script)
        _expect_failure(answer.result, FailureKind.CHOICE, "whose script forces infinity")
        rest = np.arange(1, len(traces))
        expect_same(traces.select(rest), answer.traces.select(rest), "beside a trace that fails")
    return "an infinite choice fails its trace only"


def _expect_failure(result: BatchResult, kind: FailureKind, which: str) -> Failure:
    failures = [failure for failure in result.failures if failure.trace == 0]
    if not failures:
        raise DefectError(f"a trace {which} does not fail")
    if failures[0].kind is not kind:
        raise DefectError(
            f"a trace {which} fails with kind {failures[0].kind.name.title()} instead of {kind.name.title()}: "
            f"{failures[0].message}",
            level=Level.WARN,
        )
    if not failures[0].message:
        raise DefectError(f"a trace {which} fails without a message", level=Level.WARN)
    return failures[0]


def observations(stage: Stage) -> str:
    """Observations that are given are taken, remembered, and not sent back; what is missing is drawn, or a failure."""
    with askers(stage) as (asker,):
        traces = asker.execute(asker.empty((0,))).traces
        given = _observed(traces)
        if not given:
            raise UnjudgedError("the first trace observes nothing")
        script = ScriptBatch.replay(traces)
        observed = ObservationSet(given)
        answers = [asker.execute(script, observed) for _ in range(2)]  # the second time they are not sent
        for answer in answers:
            expect_same(traces, answer.traces, "with the observations that it drew given back")
            if len(answer.result.observations.data):
                raise DefectError("observations that were given are sent back", level=Level.WARN)
        wrong = ObservationSet({key: np.zeros((*np.shape(value), 3)) for key, value in given.items()})
        if "missing" not in stage.capabilities:
            _expect_failure(
                asker.execute(script, wrong).result, FailureKind.OBSERVATION, "with values of another shape"
            )
            return f"{len(given)} observations are taken as given"
        nothing = ObservationSet(dict.fromkeys(given))
        for what, observed in (("of another shape", wrong), ("that were not measured", nothing)):
            _expect_drawn(asker.execute(script, observed), f"with values {what}")
        _expect_partial(asker, script, traces, given)
    return f"{len(given)} observations are taken as given, and drawn where they are missing"


def _expect_drawn(answer: Answer, which: str) -> None:
    table = answer.traces.observations
    wrong = ""
    if answer.traces.status[0] != Status.OK:
        wrong = "fails, although the simulator announces 'missing'"
    elif not len(table.data):
        wrong = "does not send what it draws in their place"
    elif table.log_prob.any():
        wrong = f"has the log likelihood {answer.traces.log_likelihood[0]:.6g} instead of 0"
    if wrong:
        raise DefectError(f"a trace {which} {wrong}", remedy=_MISSING_REMEDY)


def _expect_partial(
    asker: Asker,
    script: ScriptBatch,
    traces: TraceBatch,
    given: dict[tuple[str, int], np.ndarray[tuple[int, ...], np.dtype[np.float64]]],
) -> None:
    """Of an array, the first element is not measured: the others stay, and count."""
    for key, value in given.items():
        if value.size < 2:
            continue
        partial = value.copy()
        partial.flat[0] = np.nan
        table = asker.execute(script, ObservationSet({**given, key: partial})).traces.observations
        rows = table.rows(traces.addresses.find(key[0]), key[1])
        if rows[0] < 0 or np.diff(table.data_offsets)[rows[0]] != value.size:
            raise DefectError(
                f"the observation {key[0]!r}, of which one element is missing, is not sent back whole"
            )
        data = table.data[table.data_offsets[rows[0]] : table.data_offsets[rows[0] + 1]]
        if not np.array_equal(data[1:], value.ravel()[1:]):
            raise DefectError(
                f"the observation {key[0]!r}, of which one element is missing, has others changed"
            )
        return


def _observed(traces: TraceBatch) -> dict[tuple[str, int], np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Values that the only trace of a batch drew."""
    table, found = traces.observations, {}
    for row in range(len(table.address_id)):
        address = traces.addresses[int(table.address_id[row])]
        value = table.dense([row], address.shape)[0]
        found[address.name or address.address, int(table.instance[row])] = value
    return found


def sessions(stage: Stage) -> str:
    """The simulator keeps a session for each of several controllers, and sends others back to the Handshake."""
    with askers(stage, _SESSIONS) as controllers:
        first = [asker.execute(asker.empty((0,))).traces for asker in controllers]
        for asker, before in zip(controllers, first, strict=True):
            expect_same(before, asker.execute(asker.empty((0,))).traces, "for one of many controllers, twice")
    with stage.link() as stranger:
        stranger.send_bytes(encode(_batch_of_one()), "a RunBatch without a Handshake")
        answer = stranger.receive_any()
        if not isinstance(answer, Reset):
            raise DefectError(f"a RunBatch without a Handshake is answered by {type(answer).__name__}")
    return f"{_SESSIONS} controllers take turns without greeting again"


def _batch_of_one() -> RunBatch:
    none, no_ids = np.empty(0), np.empty(0, np.int32)
    return RunBatch(1, 0, np.zeros(1, np.uint64), False, np.zeros(2, np.int32), no_ids, no_ids, none, none)


def shutdown(stage: Stage) -> str:
    """Shutdown is answered, and ends the process well."""
    process = stage.running.process
    if process is None:
        raise UnjudgedError("the simulator was running already, and is left so")
    with stage.link() as link:
        link.greet(CAPABILITIES)
        answer = link.exchange(Shutdown())
        assert isinstance(answer, ShutdownResult)
        code = process.wait(_END_SECONDS)
    if code != 0:
        end = "goes on" if code is None else f"ends with exit code {code}"
        raise DefectError(f"after Shutdown the process {end}")
    return "Shutdown ends the process with exit code 0"

"""Parts of the check `wire`: executing scripts in batches, for simulators that announce `batch`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np

from ppx_inference.conformance.differences import SAME_PROCESS
from ppx_inference.conformance.wire_asking import Asker, expect_same
from ppx_inference.conformance.wire_link import DefectError, Stage, UnjudgedError
from ppx_server.address import AddressTable
from ppx_server.distributions import FAMILIES, from_z_columns
from ppx_server.philox import normals
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import DrawFlag, Status, TraceBatch

_FAR = (2**32 + 7, 2**62 + 1)
_LARGEST_SEED = 2**64 - 1
_TOLERANCE = 1e-6
"""Relative and absolute: implementations of quantiles agree to 1e-9."""
_CONTROLLED, _FORCED, _PENDING = int(DrawFlag.CONTROLLED), int(DrawFlag.FORCED), int(DrawFlag.PENDING)


@contextmanager
def askers(stage: Stage, count: int = 1) -> Iterator[list[Asker]]:
    """Controllers that send batches, each over a connection of its own."""
    addresses = AddressTable()
    with ExitStack() as stack:
        yield [Asker(stage, stack.enter_context(stage.link()), addresses) for _ in range(count)]


def columns(stage: Stage) -> str:
    """Empty scripts give traces whose columns fit together, and which drew what they state."""
    with askers(stage) as (asker,):
        answer = asker.execute(asker.empty(stage.indices))
        asker.execute(asker.empty(()))
    result, traces = answer
    if (result.status == Status.PENDING).any():
        raise DefectError("a trace is pending, where its script does not ask")
    if (result.flags & ~np.uint8(_CONTROLLED)).any():
        raise DefectError("draws are flagged as forced or pending, where the scripts force nothing")
    if (traces.status == Status.FAILED).all():
        raise DefectError(f"all traces fail: {next(iter(traces.failures.values()))}")
    told = np.diff(result.observations.data_offsets)
    sizes = np.array(
        [np.prod(asker.known[a].shape, dtype=np.int64) for a in result.observations.address], np.int64
    )
    if (told != sizes).any():
        raise DefectError(
            "an observation that was drawn comes without its value",
            remedy="with observations_id 0, draw each observation from its distribution and send what was drawn",
        )
    return f"{len(traces)} traces, {len(traces.value)} draws, {len(asker.known)} addresses"


def numbers(stage: Stage) -> str:
    """Draws are those that seed, trace index and number of the draw stand for."""
    judged = 0
    with askers(stage) as (asker,):
        for seed, indices in ((stage.subject.seed, stage.indices), (_LARGEST_SEED, _FAR)):
            traces = asker.execute(asker.empty(indices, seed)).traces
            _check_numbers(traces, seed)
            judged += len(traces.value)
    if not judged:
        raise UnjudgedError("the model draws nothing")
    return f"{judged} draws have the numbers of their seed and index, and the values of these"


def _check_numbers(traces: TraceBatch, seed: int) -> None:
    longest = int(traces.length.max(initial=0))
    table = normals(seed, traces.index.astype(np.uint64), longest)
    trace = np.repeat(np.arange(len(traces)), traces.length)
    ordinal = np.arange(len(traces.value)) - traces.offsets[trace]
    due = table[trace, ordinal] if len(trace) else np.empty(0)
    wrong = np.flatnonzero(~np.isclose(traces.z, due, _TOLERANCE, _TOLERANCE))
    if len(wrong):
        row = int(wrong[0])
        raise DefectError(
            f"draw {ordinal[row] + 1} of trace {traces.index[trace[row]]} (seed {seed}) has the coordinate "
            f"{traces.z[row]:.9g}, where {due[row]:.9g} is due"
        )
    codes = np.array(
        [FAMILIES[traces.addresses[i].family].code for i in traces.address_id.tolist()], np.uint8
    )
    values = from_z_columns(traces.z, codes, traces.params, traces.params_id)
    wrong = np.flatnonzero(~np.isclose(traces.value, values, _TOLERANCE, 1e-300))
    if len(wrong):
        row = int(wrong[0])
        address = traces.addresses[int(traces.address_id[row])]
        raise DefectError(
            f"{address.address!r} ({address.family}{traces.params[int(traces.params_id[row])].tolist()}) with the "
            f"coordinate {traces.z[row]:.9g} has the value {traces.value[row]:.9g} instead of {values[row]:.9g}",
            remedy="take the value of a coordinate from the table of families in docs/protocol.md",
        )


def order(stage: Stage) -> str:
    """Batches that are sent before the first is answered are answered in their order."""
    with askers(stage) as (asker,):
        sent = [asker.empty(part) for part in (stage.indices[:1], (), stage.indices[1:], stage.indices)]
        for scripts in sent:
            asker.link.send(asker.request(scripts))
        together = [asker.receive(scripts).traces for scripts in sent]
        for scripts, traces in zip(sent, together, strict=True):
            expect_same(
                traces, asker.execute(scripts).traces, "sent before the last was answered, and then after"
            )
    return f"{len(sent)} batches sent at once are answered in their order"


def independence(stage: Stage) -> str:
    """Trace i is the same whatever batch it comes in, however often, and for whomever."""
    with askers(stage, 2) as (asker, other):
        whole = asker.execute(asker.empty(stage.indices)).traces
        again = asker.execute(asker.empty(stage.indices)).traces
        expect_same(whole, again, "the same batch again")
        alone = [asker.execute(asker.empty((i,))).traces for i in stage.indices]
        expect_same(whole, TraceBatch.concatenate(alone), "in one batch, then alone")
        backwards = asker.execute(asker.empty(stage.indices[::-1])).traces
        expect_same(whole, backwards.select(np.arange(len(whole))[::-1]), "forwards, then backwards")
        expect_same(
            whole, other.execute(other.empty(stage.indices)).traces, "for one controller, then for another"
        )
    return f"{len(whole)} traces are the same in any batch, order and conversation"


def scripts(stage: Stage) -> str:
    """A script that repeats a trace repeats it, by coordinates and by values; others are obeyed."""
    with askers(stage) as (asker,):
        traces = asker.execute(asker.empty(stage.indices)).traces
        traces = traces.select((traces.status == Status.OK) & (traces.length > 0))
        if not len(traces):
            raise UnjudgedError("no trace draws anything")
        # Coordinates are rounded: a tail is not quite that of the number which the draw had.
        for by_z, what, tolerance in ((True, "coordinates", SAME_PROCESS), (False, "values", 0.0)):
            again = asker.execute(ScriptBatch.replay(traces, by_z=by_z))
            expect_same(traces, again.traces, f"replayed by its {what}", tolerance=tolerance)
            if (again.result.flags & _FORCED == 0).any():
                raise DefectError(
                    "a forced draw is not flagged as forced", remedy="set flag 2 for forced draws"
                )
            given = np.isnan(again.result.z) if not by_z else again.result.z == traces.z
            if not given.all():
                raise DefectError(
                    f"the column z of draws forced by {what} is wrong",
                    remedy="record z as the script gave it, NaN where it gave a value",
                )
        _change_first(asker, traces)
    return f"{len(traces)} scripts are obeyed, by coordinates and by values"


def _change_first(asker: Asker, traces: TraceBatch) -> None:
    """Forces the first draw alone, to another coordinate; a choice that fits no draw has no effect."""
    rows = traces.offsets[:-1]
    changed = first_choices(traces)
    changed = replace(changed, z=-traces.z[rows], value=np.full(len(rows), np.nan))
    answer = asker.execute(changed).traces
    firsts = answer.offsets[:-1]
    wrong = np.flatnonzero((answer.length == 0) | (answer.z[firsts] != changed.z))
    if len(wrong):
        raise DefectError(
            f"the first draw of trace {traces.index[wrong[0]]}, forced alone, is not what it was forced to"
        )
    absent = replace(changed, instance=np.full(len(rows), 1_000_000, np.int32))
    expect_same(traces, asker.execute(absent).traces, "with a choice that fits no draw")


def first_choices(traces: TraceBatch) -> ScriptBatch:
    """Scripts of one choice, for the first row of each trace."""
    rows = traces.offsets[:-1]
    return ScriptBatch(
        seed=traces.seed,
        index=traces.index,
        offsets=np.arange(len(rows) + 1),
        address_id=traces.address_id[rows],
        instance=traces.instance[rows],
        value=traces.value[rows],
        z=traces.z[rows],
    )


def asking(stage: Stage) -> str:
    """Scripts that ask end at the first controlled draw that they do not cover."""
    with askers(stage) as (asker,):
        traces = asker.execute(asker.empty(stage.indices)).traces
        traces = traces.select(traces.status == Status.OK)
        controlled = traces.flags & _CONTROLLED != 0
        if not controlled.any():
            raise UnjudgedError("no draw is controlled")
        asked = asker.execute(ScriptBatch.empty(traces.seed, traces.index, Otherwise.ASK)).traces
        for k in range(len(traces)):
            _check_pending(traces.select([k]), asked.select([k]))
        whole = _controlled_only(traces)
        expect_same(traces, asker.execute(whole).traces, "with all its choices given, asking for more")
    return f"{len(traces)} traces stop at their first controlled draw, and go on where it is given"


def _check_pending(trace: TraceBatch, asked: TraceBatch) -> None:
    """One trace, and the same with an empty script that asks."""
    first = np.flatnonzero(trace.flags & _CONTROLLED)
    where = f"trace {trace.index[0]} with an empty script that asks"
    if not len(first):
        expect_same(trace, asked, where)
        return
    address = trace.addresses[int(trace.address_id[first[0]])]
    size = int(np.prod(address.shape, dtype=np.int64))
    rows = int(first[0]) + size
    if asked.status[0] != Status.PENDING or len(asked.value) != rows:
        raise DefectError(
            f"{where} has status {asked.status[0]} and {len(asked.value)} rows instead of status 2 and {rows}"
        )
    pending = asked.flags & _PENDING != 0
    if not (pending[-size:].all() and np.isnan(asked.value[-size:]).all() and not pending[:-size].any()):
        raise DefectError(f"{where}: the rows of {address.address!r} are not pending, or others are")
    if not np.array_equal(asked.value[:-size], trace.value[: first[0]]):
        raise DefectError(f"{where}: draws that are not controlled are not those of the prior")


def _controlled_only(traces: TraceBatch) -> ScriptBatch:
    """Scripts that ask, and cover every controlled draw."""
    chosen = traces.flags & _CONTROLLED != 0
    before = np.concatenate([[0], np.cumsum(chosen)])
    return ScriptBatch(
        seed=traces.seed,
        index=traces.index,
        offsets=before[traces.offsets],
        address_id=traces.address_id[chosen],
        instance=traces.instance[chosen],
        value=traces.value[chosen],
        z=traces.z[chosen],
        otherwise=Otherwise.ASK,
    )

"""Where two runs of the same traces part, in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppx_inference.conformance.reasons import Fault, fault
from ppx_server.address import Address, AddressTable
from ppx_server.trace import Status, TensorTable, TraceBatch, gather, segment_sum

SAME_PROCESS = 1e-9
"""Relative difference of numbers that count as equal: threads may add them in another order."""
OTHER_QUANTILES = 1e-6
"""The same where two implementations drew the values: quantiles agree to 1e-9, what follows from them to less."""
_SHOWN_PARAMS, _LONGEST_REASON = 4, 300


@dataclass(frozen=True)
class Difference:
    """The first difference between two runs of a trace.

    Attributes:
        index: Index of the trace.
        kind: What differs: `failure`, `address`, `parameters`, `value`, `density`, `observation`, `tag`, `result` or
            `loop`.
        text: Where, and what it was in both runs.
        before: Address text in the first run where addresses differ, else empty.
        after: The same in the second run.
        fault: Who is to blame where only one of the two runs failed.
    """

    index: int
    kind: str
    text: str
    before: str = ""
    after: str = ""
    fault: Fault | None = None


def first_difference(
    first: TraceBatch, again: TraceBatch, *, tolerance: float = SAME_PROCESS
) -> Difference | None:
    """The first trace of two runs that is not the same in both, and where it parts; None if there is none.

    Args:
        first: K traces.
        again: The same K traces of another run, in the same order; its address table may be another one.
        tolerance: Relative difference of numbers that count as equal.
    """
    differences = (
        difference(first, again, row, tolerance=tolerance) for row in range(min(len(first), len(again)))
    )
    return next((found for found in differences if found is not None), None)


def difference(
    first: TraceBatch, again: TraceBatch, row: int, *, tolerance: float = SAME_PROCESS
) -> Difference | None:
    """Where one trace of two runs parts, if it does; arguments as for `first_difference`, `row` its position."""
    return _in_trace(_One(first, row), _One(again, row), tolerance)


class _One:
    """One trace of a batch."""

    def __init__(self, traces: TraceBatch, row: int) -> None:
        self.traces = traces
        self.index = int(traces.index[row])
        self.failed = traces.status[row] == Status.FAILED
        self.reason = traces.failures.get(self.index, "")
        self.rows = slice(int(traces.offsets[row]), int(traces.offsets[row + 1]))
        self.row = row

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start

    def address(self, draw: int) -> tuple[Address, int]:
        row = self.rows.start + draw
        return self.traces.addresses[int(self.traces.address_id[row])], int(self.traces.instance[row])

    def params(self, draw: int) -> NDArray[np.float64]:
        return self.traces.params[int(self.traces.params_id[self.rows.start + draw])]

    def column(self, name: str) -> NDArray[np.float64]:
        column: NDArray[np.float64] = getattr(self.traces, name)[self.rows]
        return column


def _in_trace(first: _One, again: _One, tolerance: float) -> Difference | None:
    if first.failed and again.failed:
        return None  # what the trace did until then is no result
    if first.failed or again.failed:
        how = [
            "ran through" if not one.failed else f"failed: {briefly(one.reason)}" for one in (first, again)
        ]
        return Difference(
            first.index,
            "failure",
            f"trace {first.index} {how[0]}; the second time it {how[1]}",
            fault=fault(again.reason if again.failed else first.reason),
        )
    return (
        _in_draws(first, again, tolerance)
        or _in_tables(first, again, tolerance)
        or _in_loops(first, again, tolerance)
    )


def _in_draws(first: _One, again: _One, tolerance: float) -> Difference | None:
    common = min(len(first), len(again))
    differs = np.zeros(common, bool)
    for name in ("value", "log_prob"):
        differs |= ~_close(first.column(name)[:common], again.column(name)[:common], tolerance)
    elsewhere = _elsewhere(first, again, common)
    reparametrised = _reparametrised(first, again, common, tolerance)
    differs |= reparametrised
    parted = np.flatnonzero(differs | elsewhere)
    if not len(parted):
        if len(first) == len(again):
            return None
        text = f"trace {first.index} made {len(first)} draws, the second time {len(again)}"
        longer = first if len(first) > common else again
        return Difference(first.index, "address", f"{text}: then came {describe(*longer.address(common))}")
    draw = int(parted[0])
    where = f"trace {first.index} parts at draw {draw + 1} of {len(first)}"
    here = first.address(draw)
    if elsewhere[draw]:
        there = again.address(draw)
        text = f"{where}: it was at {describe(*here)}, the second time at {describe(*there)}"
        return Difference(first.index, "address", text, here[0].address, there[0].address)
    if reparametrised[draw]:
        was, became = (f"({_numbers(one.params(draw))})" for one in (first, again))
        text = f"{where}, {describe(*here)}: its parameters were {was}, the second time {became}"
        return Difference(first.index, "parameters", text)
    mine, other = first.column("value")[draw], again.column("value")[draw]
    kind, name = ("density", "log_prob") if _close(mine, other, tolerance) else ("value", "value")
    was, became = (f"{one.column(name)[draw]:.9g}" for one in (first, again))
    text = f"{where}, {describe(*here)}: its {name} was {was}, the second time {became}"
    return Difference(first.index, kind, text)


def _in_tables(first: _One, again: _One, tolerance: float) -> Difference | None:
    for kind, name in (("observation", "observations"), ("tag", "tags"), ("result", "results")):
        mine, other = (_table(one, name) for one in (first, again))
        if len(mine) != len(other):
            text = f"trace {first.index} has {len(mine)} {name}, the second time {len(other)}"
            return Difference(first.index, kind, text)
        for (entry, visit, data, log_prob), (entry2, visit2, data2, log_prob2) in zip(
            mine, other, strict=True
        ):
            what = f"{kind} {describe(entry, visit)}" if kind != "result" else "result"
            if (entry, visit) != (entry2, visit2):
                text = f"trace {first.index}: {what} became {kind} {describe(entry2, visit2)}"
                return Difference(first.index, kind, text)
            if data.shape == data2.shape and not _close(data, data2, tolerance).all():
                text = (
                    f"trace {first.index}: the {what} was {_numbers(data)}, the second time {_numbers(data2)}"
                )
                return Difference(first.index, kind, text)
            if not _close(log_prob, log_prob2, tolerance).all():
                was = f"log_prob of the {what} was {log_prob:.9g}"
                text = f"trace {first.index}: {was}, the second time {log_prob2:.9g}"
                return Difference(first.index, kind, text)
    return None


def _in_loops(first: _One, again: _One, tolerance: float) -> Difference | None:
    mine, other = (one.traces.loops.select([one.row]) for one in (first, again))
    if not len(mine.begin) or not len(
        other.begin
    ):  # a controller that goes draw by draw may not ask for marks
        return None
    if np.array_equal(mine.begin, other.begin) and np.array_equal(mine.end, other.end):
        return None
    return Difference(first.index, "loop", f"trace {first.index}: its rejection loops were marked elsewhere")


def _table(one: _One, name: str) -> list[tuple[Address, int, NDArray[np.float64], float]]:
    table: TensorTable = getattr(one.traces, name)
    first, last = int(table.offsets[one.row]), int(table.offsets[one.row + 1])
    return [
        (
            one.traces.addresses[int(table.address_id[row])],
            int(table.instance[row]),
            table.data[table.data_offsets[row] : table.data_offsets[row + 1]],
            float(table.log_prob[row]),
        )
        for row in range(first, last)
    ]


def _elsewhere(first: _One, again: _One, common: int) -> NDArray[np.bool_]:
    """Which of the first draws are at another address or visit."""
    ids = [one.traces.address_id[one.rows][:common] for one in (first, again)]
    if first.traces.addresses is not again.traces.addresses:
        table = AddressTable()
        ids = [table.translate(i, one.traces.addresses) for i, one in zip(ids, (first, again), strict=True)]
    visits = [one.traces.instance[one.rows][:common] for one in (first, again)]
    elsewhere: NDArray[np.bool_] = (ids[0] != ids[1]) | (visits[0] != visits[1])
    return elsewhere


def _reparametrised(first: _One, again: _One, common: int, tolerance: float) -> NDArray[np.bool_]:
    """Which of the first draws have other parameters."""
    found = []
    for one in (first, again):
        params = one.traces.params
        found.append(gather(params.offsets, one.traces.params_id[one.rows][:common]))
    (positions, offsets), (positions2, offsets2) = found
    sizes: NDArray[np.bool_] = np.diff(offsets) != np.diff(offsets2)
    if sizes.any():  # of categories, most likely
        return sizes
    data, data2 = first.traces.params.data[positions], again.traces.params.data[positions2]
    count = segment_sum((~_close(data, data2, tolerance)).astype(np.float64), offsets)
    differs: NDArray[np.bool_] = count > 0
    return differs


def _close(first: ArrayLike, again: ArrayLike, tolerance: float) -> NDArray[np.bool_]:
    close: NDArray[np.bool_] = np.asarray(
        np.isclose(first, again, rtol=tolerance, atol=1e-3 * tolerance, equal_nan=True)
    )
    return close


def describe(address: Address, visit: int = 0) -> str:
    """An address in a sentence: `'det/mu' (Normal, visit 2)`."""
    notes = [address.family] if address.family else []
    if visit:
        notes.append(f"visit {visit + 1}")
    return f"{address.address!r}" + (f" ({', '.join(notes)})" if notes else "")


def _numbers(values: NDArray[np.float64]) -> str:
    shown = ", ".join(f"{v:.9g}" for v in values[:_SHOWN_PARAMS])
    return shown + (", ..." if len(values) > _SHOWN_PARAMS else "")


def briefly(reason: str) -> str:
    """Why something failed, in one line: the first one and, of what the process printed, the last one."""
    lines = [line.strip() for line in reason.strip().splitlines()] or ["without a reason"]
    text = lines[0].removesuffix("; its last output:")
    if text != lines[0] and len(lines) > 1:
        text += f" ({lines[-1]})"
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."

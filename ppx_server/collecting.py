"""Batches of traces collected into one, as they come.

Batches that are kept until a run ends and joined then take twice the memory, and to touch memory for the first time
costs more than all that an engine does with a trace. Here every batch is copied into arrays that have room for the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppx_server.trace import TraceBatch, positions

_TABLES = ("params", "observations", "tags", "results", "loops")
_HEADROOM = 1.05
"""Room for so much more than the traces so far make expect."""


class Collection:
    """The traces of a run so far.

    Args:
        num_traces: How many there will be, about; at least one.
    """

    def __init__(self, num_traces: int) -> None:
        self._num_traces = num_traces
        self._first: TraceBatch | None = None
        self._failures: dict[int, str] = {}
        self._arrays: dict[str, NDArray[Any]] = {}
        # Assigned as a whole: an interruption in mid-batch leaves the batches before it.
        self._filled: dict[str, int] = {}

    def __len__(self) -> int:
        return self._filled.get("index", 0)

    def append(self, traces: TraceBatch) -> None:
        """Copies a batch; all batches are of one simulator and seed."""
        self._first = self._first or traces
        filled = dict(self._filled)
        own_q = traces.log_q is not traces.log_prob
        if own_q and filled and "log_q" not in filled:
            self._arrays["log_q"], filled["log_q"] = self._arrays["log_prob"].copy(), filled["log_prob"]
        if traces.ordinal is not None and filled and "ordinal" not in filled:
            made = positions(self._arrays["offsets"][: filled["offsets"]])
            self._arrays["ordinal"], filled["ordinal"] = made, len(made)
        if "ordinal" in filled and traces.ordinal is None:
            traces = replace(traces, ordinal=traces.ordinals)
        num_params = filled.get("params.offsets", 1) - 1
        share = min((len(self) + len(traces)) / self._num_traces, 1.0)
        for name, column in _columns(traces):
            if name == "log_q" and not own_q and "log_q" not in filled:
                continue
            shift = num_params if name == "params_id" else 0
            if name.endswith("offsets"):
                start = filled.get(name, 1)
                shift = (self._arrays[name][start - 1] if start > 1 else 0) - column[0]
                column = column[1:]
            else:
                start = filled.get(name, 0)
            filled[name] = end = start + len(column)
            rows = self._room(name, end, share, column.dtype)[start:end]
            np.add(column, shift, out=rows, casting="unsafe")
        self._filled = filled
        self._failures.update(traces.failures)

    def traces(self) -> TraceBatch:
        """All traces, in the order of their batches; the arrays may be views."""
        assert self._first is not None
        arrays: dict[str, Any] = {name: self._arrays[name][:end] for name, end in self._filled.items()}
        arrays.setdefault("log_q", arrays["log_prob"])
        tables = {
            table: replace(
                getattr(self._first, table),
                **{name.partition(".")[2]: a for name, a in arrays.items() if name.startswith(table + ".")},
            )
            for table in _TABLES
        }
        draws = {name: array for name, array in arrays.items() if "." not in name}
        return replace(self._first, **draws, **tables, failures=self._failures)

    def _room(self, name: str, size: int, share: float, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The array of a column, with room for `size` rows, and for what the whole run will probably need."""
        array = self._arrays.get(name)
        if array is None or len(array) < size:
            # Memory that is never touched costs nothing.
            larger = np.empty(int(size / share * _HEADROOM), dtype)
            if array is None:
                larger[:1] = 0  # where offsets begin
            else:
                larger[: len(array)] = array
            array = self._arrays[name] = larger
        return array


def _columns(traces: TraceBatch) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a batch by name, those of tables as `table.column`."""
    for prefix, table in (("", traces), *((f"{t}.", getattr(traces, t)) for t in _TABLES)):
        for field in fields(table):
            column = getattr(table, field.name)
            if isinstance(column, np.ndarray):
                yield prefix + field.name, column

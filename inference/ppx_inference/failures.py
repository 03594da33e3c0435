"""Traces that failed: what failed, why, and the script that makes it fail again.

A trace fails in the same way every time: its seed and index fix all it draws, its script what an engine chose.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppx_server.address import AddressTable
from ppx_server.errors import StoreError
from ppx_server.executor import Executes
from ppx_server.observations import Observations
from ppx_server.script import Guide, ScriptBatch
from ppx_server.store import TraceStore
from ppx_server.store.manifest import PARTIAL
from ppx_server.trace import DrawFlag, Status, TraceBatch

FILE = "failures.jsonl"
"""Name of the file beside a result."""
_MOST_KEPT = 1000
_MOST_REASONS = 5
_CHOSEN = DrawFlag.FORCED | DrawFlag.GUIDED


@dataclass(frozen=True, eq=False)
class FailedTrace:
    """One trace that failed.

    Attributes:
        reason: Why.
        script: One script, with seed and index, which repeats the trace; it forces nothing where the trace was drawn
            from the prior.
    """

    reason: str
    script: ScriptBatch

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.script.seed

    @property
    def index(self) -> int:
        """Trace index."""
        return int(self.script.index[0])

    @property
    def from_prior(self) -> bool:
        """Whether nothing was forced: seed and index alone repeat it."""
        return not len(self.script.value)


def failed_traces(traces: TraceBatch) -> list[FailedTrace]:
    """The traces of status FAILED, each with the choices that a script or a guide made for it."""
    found = []
    for k in np.flatnonzero(traces.status == Status.FAILED).tolist():
        rows = np.arange(traces.offsets[k], traces.offsets[k + 1])
        rows = rows[(traces.flags[rows] & _CHOSEN) != 0]
        addresses = AddressTable()
        script = ScriptBatch(
            seed=traces.seed,
            index=traces.index[k : k + 1],
            offsets=np.array([0, len(rows)], np.int64),
            address_id=addresses.translate(traces.address_id[rows], traces.addresses),
            instance=traces.instance[rows],
            value=traces.value[rows],
            z=traces.z[rows],
            addresses=addresses,
        )
        found.append(FailedTrace(traces.failures.get(int(traces.index[k]), "no reason given"), script))
    return found


def with_lasting_reasons(traces: TraceBatch) -> TraceBatch:
    """The traces, with reasons that are the same whenever they fail.

    Without the process id and the output of the simulator, which depend on the traces it ran before.
    """
    if not traces.failures:
        return traces
    failures = {index: _lasting(reason) for index, reason in traces.failures.items()}
    return replace(traces, failures=failures)


@dataclass(frozen=True)
class FailureReport:
    """What failed in a run.

    Attributes:
        num_traces: Executions.
        num_failed: How many of them failed.
        first: The first of these, a thousand at most.
    """

    num_traces: int
    num_failed: int
    first: tuple[FailedTrace, ...]

    @classmethod
    def of_store(cls, store: TraceStore) -> FailureReport:
        """What failed among the traces of a store; only shards with failures are read."""
        first: list[FailedTrace] = []
        for number, shard in enumerate(store.shards):
            if shard.num_failed and len(first) < _MOST_KEPT:
                first += failed_traces(store.shard(number))
        return cls(len(store), store.num_failed, tuple(first[:_MOST_KEPT]))

    def save(self, path: Path) -> None:
        """Writes a JSON object per failed trace and line; `load` reads one back.

        Raises:
            StoreError: The file cannot be written.
        """
        partial = path.with_name(f"{path.name}{PARTIAL}")
        try:
            partial.write_text("".join(f"{json.dumps(_to_json(f))}\n" for f in self.first), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error}") from error

    def summary(self) -> str:
        """How many failed, and why: the most frequent reasons, each with the seed and index of its first trace."""
        reasons = Counter(_kind(f.reason) for f in self.first)
        lines = [f"{self.num_failed:,} of {self.num_traces:,} traces failed"]
        for kind, count in reasons.most_common(_MOST_REASONS):
            example = next(f for f in self.first if _kind(f.reason) == kind)
            reason = _first_line(_lasting(example.reason))
            lines.append(f"  {count:,} x {reason} [first: seed {example.seed}, trace {example.index}]")
        if len(reasons) > _MOST_REASONS:
            lines.append(f"  and {len(reasons) - _MOST_REASONS} more reasons")
        return "\n".join(lines)


class FailureLog:
    """A simulator whose failed traces are remembered, whatever an engine does with them.

    Args:
        simulator: The simulator.
        num_workers: How many simulators run at the same time.
    """

    def __init__(self, simulator: Executes, num_workers: int = 1) -> None:
        self.num_workers = num_workers
        self._simulator = simulator
        self._num_traces = 0
        self._num_failed = 0
        self._first: list[FailedTrace] = []

    @property
    def addresses(self) -> AddressTable:
        """The addresses seen so far."""
        return self._simulator.addresses

    @property
    def model_name(self) -> str:
        """The simulator's name for its model."""
        return self._simulator.model_name

    def execute(
        self, scripts: ScriptBatch, observations: Observations | None, guide: Guide | None = None
    ) -> TraceBatch:
        """Executes scripts; see `ppx_server.executor.Executes.execute`."""
        traces = self._simulator.execute(scripts, observations, guide)
        self._num_traces += len(traces)
        if traces.failures:
            self._num_failed += int((traces.status == Status.FAILED).sum())
            if len(self._first) < _MOST_KEPT:
                self._first += failed_traces(traces)[: _MOST_KEPT - len(self._first)]
        return traces

    def report(self) -> FailureReport:
        """What failed so far."""
        return FailureReport(self._num_traces, self._num_failed, tuple(self._first))


def load(path: Path, index: int, seed: int | None = None) -> FailedTrace:
    """One failed trace from a file that `FailureReport.save` wrote.

    Args:
        path: The file.
        index: Trace index.
        seed: Seed of the run; None if it does not matter.

    Raises:
        StoreError: The file cannot be read, or does not hold the trace.
    """
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for entry in entries:
            if entry["index"] == index and seed in (None, entry["seed"]):
                return _from_json(entry)
        known = sorted({int(entry["index"]) for entry in entries})
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"cannot read the failures in {path}: {error!r}; check the path") from error
    raise StoreError(
        f"{path} holds no failed trace with index {index}{'' if seed is None else f' of seed {seed}'}; "
        f"it holds {_some(known)}"
    )


def _to_json(failed: FailedTrace) -> dict[str, Any]:
    script = failed.script
    assert script.addresses is not None
    columns = (
        script.address_id.tolist(),
        script.instance.tolist(),
        *map(_nullable, (script.value, script.z)),
    )
    return {
        "seed": failed.seed,
        "index": failed.index,
        "reason": failed.reason,
        "addresses": script.addresses.to_json(),
        "choices": [list(row) for row in zip(*columns, strict=True)],
    }


def _from_json(entry: dict[str, Any]) -> FailedTrace:
    addresses, rows = AddressTable.from_json(entry["addresses"]), entry["choices"]
    if any(not 0 <= row[0] < len(addresses) for row in rows):
        raise ValueError("a choice refers to an address that is not there")
    script = ScriptBatch(
        seed=int(entry["seed"]),
        index=np.array([entry["index"]], np.int64),
        offsets=np.array([0, len(rows)], np.int64),
        address_id=np.array([row[0] for row in rows], np.int32),
        instance=np.array([row[1] for row in rows], np.int32),
        value=np.array([row[2] for row in rows], np.float64),  # None becomes NaN
        z=np.array([row[3] for row in rows], np.float64),
        addresses=addresses,
    )
    return FailedTrace(str(entry["reason"]), script)


def _nullable(values: NDArray[np.float64]) -> list[float | None]:
    return [None if x != x else x for x in values.tolist()]


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _lasting(reason: str) -> str:
    text = reason.partition("; its last output:")[0]
    return re.sub(r"\bprocess \d+\b", "its process", text)


def _kind(reason: str) -> str:
    """What reasons that differ in numbers only have in common."""
    return re.sub(r"\d+", "#", _first_line(reason))


def _some(indices: Iterable[int], most: int = 10) -> str:
    listed = list(indices)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(map(str, listed[:most])) or "none") + more

"""`ppx check`: can this simulator be steered?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import typer

from ppx_inference.cli.console import FAILED, number, reported, show, show_json, table
from ppx_inference.cli.options import Addresses, AsJson, Command, Seed, Timeout, open_simulator
from ppx_inference.simulator import Simulator
from ppx_server.address import Address
from ppx_server.errors import PPXError
from ppx_server.script import ScriptBatch
from ppx_server.trace import TensorTable, TraceBatch

_TOLERANCE = 1e-9
"""Relative difference of results that a replay may have: threads may add numbers in another order."""


class Verdict(NamedTuple):
    """The outcome of one check.

    Attributes:
        check: What was checked.
        passed: Whether it was fine.
        detail: What was found.
        remedy: What to do if not.
    """

    check: str
    passed: bool
    detail: str
    remedy: str = ""


class Row(NamedTuple):
    """One line of the address table."""

    address: str
    name: str
    kind: str
    family: str
    visits: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Subject:
    """What is checked."""

    command: Sequence[str] | None
    addresses: Sequence[str] | None
    seed: int
    timeout: float
    num_traces: int

    def open(self) -> Simulator:
        return open_simulator(self.command, self.addresses, workers=1, timeout=self.timeout)


@reported
def check(
    command: Command = None,
    addresses: Addresses = None,
    num_traces: Annotated[int, typer.Option(min=2, help="Prior traces to draw.")] = 2,
    seed: Seed = 0,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Checks that a simulator can be steered, and lists the addresses of its random choices.

    It must answer the handshake, run from the prior, do the same again when its choices are replayed, accept values
    for what it observes, and have the same addresses after a restart. The exit code is 1 if a check fails.

    Examples:

      ppx check -- ./tau_decay --grid 8x11x11

      ppx check -- python simulators/gaussian/gaussian.py

      ppx check --address tcp://localhost:5555 --json
    """
    verdicts, rows, model_name = _run(_Subject(command, addresses, seed, timeout, num_traces))
    passed = all(v.passed for v in verdicts)
    if as_json:
        show_json(
            {
                "passed": passed,
                "model_name": model_name,
                "checks": [v._asdict() for v in verdicts],
                "addresses": [row._asdict() for row in rows],
            }
        )
    else:
        _show(verdicts, rows, model_name)
    if not passed:
        raise typer.Exit(FAILED)


def _run(subject: _Subject) -> tuple[list[Verdict], list[Row], str]:
    """All checks, up to the first that makes the others pointless."""
    verdicts: list[Verdict] = []
    try:
        started = time.perf_counter()
        simulator = subject.open()
    except PPXError as error:
        return [Verdict("handshake", False, str(error))], [], ""
    milliseconds = 1000 * (time.perf_counter() - started)
    with simulator:
        name = simulator.model_name
        verdicts.append(Verdict("handshake", True, f"{name!r} answered after {milliseconds:.0f} ms"))
        try:
            traces = simulator.prior(subject.num_traces, seed=subject.seed)
        except PPXError as error:
            return [*verdicts, Verdict("prior traces", False, str(error))], [], name
        rows = _rows(traces)
        verdicts.append(_prior_verdict(traces))
        verdicts.append(_guarded("replay", lambda: _replay_verdict(simulator, traces)))
        verdicts.append(_guarded("observations", lambda: _observations_verdict(simulator, traces)))
    if subject.command:
        verdicts.append(_guarded("restart", lambda: _restart_verdict(subject, traces)))
    verdicts.append(_names_verdict(rows))
    return verdicts, rows, name


def _guarded(check: str, verdict: Callable[[], Verdict]) -> Verdict:
    try:
        return verdict()
    except PPXError as error:
        return Verdict(check, False, str(error))


def _prior_verdict(traces: TraceBatch) -> Verdict:
    lengths = f"{traces.length.min()} to {traces.length.max()} draws"
    if not len(traces.value):
        remedy = "replace its random number calls by ppx sample calls"
        return Verdict("prior traces", False, f"{len(traces)} traces without any draw", remedy)
    return Verdict("prior traces", True, f"{len(traces)} traces of {lengths}")


def _replay_verdict(simulator: Simulator, traces: TraceBatch) -> Verdict:
    """The first trace again, after others: hidden randomness and leftover state show."""
    first = traces.select([0])
    again = simulator.execute(ScriptBatch.replay(first), None)
    difference = _difference(first, again)
    if difference is None:
        return Verdict("replay", True, f"the same {first.length[0]} draws gave the same trace")
    return Verdict(
        "replay",
        False,
        f"the same draws gave another trace: {difference}",
        "let every random number come from PPX, and reset global state at the start of each run",
    )


def _restart_verdict(subject: _Subject, traces: TraceBatch) -> Verdict:
    with subject.open() as simulator:
        again = simulator.prior(len(traces), seed=subject.seed)
    difference = _difference(traces, again)
    if difference is None:
        return Verdict("restart", True, "a second process has the same addresses and traces")
    remedy = "give draws names, or do not let addresses and random numbers depend on the process"
    return Verdict("restart", False, f"a second process does something else: {difference}", remedy)


def _observations_verdict(simulator: Simulator, traces: TraceBatch) -> Verdict:
    """The observations of the first trace, given back with its draws."""
    remedy = "call observe with a name, so that inference has something to condition on"
    ids = traces.observations.address_id
    if not len(ids):
        return Verdict("observations", False, "the simulator observes nothing", remedy)
    if unnamed := [a.address for a in _entries(traces, ids) if not a.name]:
        return Verdict("observations", False, f"observe without a name at {unnamed[0]}", remedy)
    first = traces.select([0])
    table = first.observations
    values = {}
    for row, (i, visit) in enumerate(zip(table.address_id.tolist(), table.instance.tolist(), strict=True)):
        entry = traces.addresses[i]
        values[entry.name, int(visit)] = table.dense([row], entry.shape)[0]
    again = simulator.execute(ScriptBatch.replay(first), values)
    names = ", ".join(dict.fromkeys(name for name, _ in values)) or "nothing in the first trace"
    if np.allclose(again.log_likelihood, first.log_likelihood, rtol=_TOLERANCE, atol=1e-9):
        return Verdict(
            "observations", True, f"{names}: log likelihood {number(float(again.log_likelihood[0]), 6)}"
        )
    detail = (
        f"log likelihood {again.log_likelihood[0]:.6g}, but {first.log_likelihood[0]:.6g} where it was drawn"
    )
    return Verdict("observations", False, detail, "let the likelihood depend on the draws of the trace only")


def _names_verdict(rows: Sequence[Row]) -> Verdict:
    unnamed = sum(not row.name for row in rows if row.kind == "draw")
    draws = sum(row.kind == "draw" for row in rows)
    if not unnamed:
        return Verdict("names", True, f"all {draws} draw addresses have names")
    detail = (
        f"{draws - unnamed} of {draws} draw addresses have names; the others are known by their call site"
    )
    return Verdict("names", True, detail)


def _difference(first: TraceBatch, again: TraceBatch) -> str | None:
    """The first difference between two runs of the same traces, in words; None if there is none."""
    mine, other = ([_path(t, row) for row in range(len(t.value))] for t in (first, again))
    for position, (a, b) in enumerate(zip(mine, other, strict=False)):
        if a != b:
            return f"draw {position} was at {_at(a)}, then at {_at(b)}"
    if len(mine) != len(other):
        return f"{len(mine)} draws, then {len(other)}"
    if len(changed := np.flatnonzero(first.value != again.value)):
        row = int(changed[0])
        return f"{_at(mine[row])} was {first.value[row]:.17g}, then {again.value[row]:.17g}"
    for what in ("observations", "tags", "results"):
        if not _same(getattr(first, what), getattr(again, what)):
            return f"other {what}"
    if not np.allclose(first.log_likelihood, again.log_likelihood, rtol=_TOLERANCE, atol=1e-9):
        return f"log likelihood {first.log_likelihood[0]:.6g}, then {again.log_likelihood[0]:.6g}"
    return None


def _same(first: TensorTable, again: TensorTable) -> bool:
    return np.array_equal(first.data_offsets, again.data_offsets) and np.allclose(
        first.data, again.data, rtol=_TOLERANCE, atol=1e-12, equal_nan=True
    )


def _path(traces: TraceBatch, row: int) -> tuple[Address, int]:
    return traces.addresses[int(traces.address_id[row])], int(traces.instance[row])


def _at(path: tuple[Address, int]) -> str:
    address, visit = path
    return f"{address.address!r} ({address.family}{f', visit {visit}' if visit else ''})"


def _rows(traces: TraceBatch) -> list[Row]:
    trace = np.repeat(np.arange(len(traces)), traces.length)
    visits = np.unique(np.stack([trace, traces.address_id, traces.instance]), axis=1)[1]
    rows = [
        Row(a.address, a.name, "draw", a.family, int(np.sum(visits == i)), a.shape)
        for i, a in _numbered(traces, visits)
    ]
    tables = {"observe": traces.observations, "tag": traces.tags, "result": traces.results}
    for kind, tensors in tables.items():
        for i, a in _numbered(traces, tensors.address_id):
            count = int(np.sum(tensors.address_id == i))
            rows.append(Row(a.address, a.name, kind, a.family, count, a.shape))
    return rows


def _numbered(traces: TraceBatch, ids: np.typing.NDArray[np.int32]) -> list[tuple[int, Address]]:
    return [(int(i), traces.addresses[int(i)]) for i in np.unique(ids)]


def _entries(traces: TraceBatch, ids: np.typing.NDArray[np.int32]) -> list[Address]:
    return [entry for _, entry in _numbered(traces, ids)]


def _show(verdicts: Sequence[Verdict], rows: Sequence[Row], model_name: str) -> None:
    if rows:
        addresses = table(
            f"addresses of {model_name}", ["address", "name", "kind", "family", "shape", "visits"], left=4
        )
        for row in rows:
            shape = "x".join(map(str, row.shape)) if row.shape else ""
            addresses.add_row(row.address, row.name, row.kind, row.family, shape, f"{row.visits:,}")
        show(addresses)
    for verdict in verdicts:
        mark = "[green]pass[/green]" if verdict.passed else "[red]FAIL[/red]"
        detail = verdict.detail.replace("[", r"\[")
        show(f"{mark}  {verdict.check}: {detail}")
        if not verdict.passed and verdict.remedy:
            show(f"      {verdict.remedy}")

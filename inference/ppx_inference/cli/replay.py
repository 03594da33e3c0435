"""`ppx replay`: one trace again, with all it does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ppx_inference import failures
from ppx_inference.cli.console import FAILED, fail, number, reported, show, show_json, table, warn
from ppx_inference.cli.options import (
    Addresses,
    AsJson,
    Command,
    Observe,
    Timeout,
    check_one_way,
    parse_observations,
)
from ppx_inference.provenance import Provenance
from ppx_inference.simulator import Simulator
from ppx_server.errors import SimulatorStartError
from ppx_server.executor import FailurePolicy
from ppx_server.observations import Observations
from ppx_server.process import SimulatorProcess
from ppx_server.script import ScriptBatch
from ppx_server.store import TraceStore
from ppx_server.store.manifest import MANIFEST
from ppx_server.trace import DrawFlag, Status, TensorTable, TraceBatch

_GREETING = re.compile(r": serving PPX at \S+$")
"""What every simulator says when it starts."""
_SHOWN_NUMBERS = 8
"""Elements of an array that a table shows one by one."""


@reported
def replay(
    index: Annotated[
        int, typer.Option("--index", "-i", min=0, help="Index of the trace.", show_default=False)
    ],
    command: Command = None,
    addresses: Addresses = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the run; by default 0.", show_default=False)
    ] = None,
    failed: Annotated[
        Path | None,
        typer.Option(
            "--failures",
            metavar="FILE",
            help="failures.jsonl of a run: force the choices made there.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Traces or a posterior: force the draws recorded there.", show_default=False
        ),
    ] = None,
    observe: Observe = None,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Executes one trace again, and shows every draw, observation, tag and result, or why it fails.

    A trace that was drawn from the prior needs its seed and index only. One that an engine steered, in ppx posterior,
    needs the choices that were made for it: the file failures.jsonl of the run, or the saved traces, which know the
    observations too. The exit code is 1 if the trace fails.

    Examples:

      ppx replay --seed 7 --index 1234 -- ./tau_decay

      ppx replay --failures result/failures.jsonl --index 1234 --observe y0=8 -- ./sim

      ppx replay --store traces --index 1234 -- ./tau_decay
    """
    if failed is not None and store is not None:
        raise typer.BadParameter("give --failures or --store, not both")
    if store is not None and seed is not None:
        raise typer.BadParameter("the store knows its seed; leave --seed out")
    source = None if store is None else TraceStore.open(store)
    script, recorded = _script(index, seed, failed, source)
    if source is None and failed is not None and (failed.parent / MANIFEST).exists():
        source = TraceStore.open(failed.parent)  # the result beside the file
    observations = parse_observations(observe or []) or _given(source) or None
    reach = _Reach(command, addresses, timeout)
    traces, output = reach.execute(script, observations)
    if traces.status[0] == Status.FAILED and len(traces.value) == len(script.value):
        # It died, and took what it had drawn with it. Told every draw, we know how far it gets.
        traces, output = reach.execute(script, observations, batches=False)
    error = traces.failures.get(index, "no reason given") if traces.status[0] == Status.FAILED else ""
    difference = "" if error or recorded is None else _difference(traces, recorded)
    if as_json:
        more = {"error": error or None, "output": output, "difference": difference or None}
        show_json({**_document(traces, script), **more})
    else:
        _show(traces, script)
        if output:
            show(f"the simulator printed:\n{output}")
    if difference:
        warn(difference)
    if error:
        fail(f"trace {index} of seed {script.seed} fails: {error}")
        raise typer.Exit(FAILED)


def _script(
    index: int, seed: int | None, failed: Path | None, store: TraceStore | None
) -> tuple[ScriptBatch, TraceBatch | None]:
    """What to execute, and the trace as it was recorded, if it is in a store."""
    if store is not None:
        recorded = store.trace(index)
        return ScriptBatch.replay(recorded), recorded
    if failed is not None:
        return failures.load(failed, index, seed).script, None
    return ScriptBatch.empty(seed or 0, [index]), None


def _given(store: TraceStore | None) -> Observations:
    """The observations of a saved posterior, of which its traces hold no values."""
    if store is None or "provenance" not in store.metadata:
        return {}
    provenance = Provenance.from_json(store.metadata["provenance"])
    if provenance.observations and not provenance.given:
        warn("the observations are not saved with these traces: they are drawn again; give them by --observe")
    return provenance.observed_values


@dataclass(frozen=True)
class _Reach:
    """How to reach the simulator."""

    command: Sequence[str] | None
    addresses: Sequence[str] | None
    timeout: float

    def execute(
        self, script: ScriptBatch, observations: Observations | None, *, batches: bool = True
    ) -> tuple[TraceBatch, str]:
        """One trace, and what the simulator printed."""
        check_one_way(self.command, self.addresses)
        process = SimulatorProcess(self.command) if self.command else None
        try:
            with Simulator(
                address=self.addresses if process is None else process.address,
                timeout=self.timeout,
                start_timeout=min(self.timeout, 30.0),
                policy=FailurePolicy(retries=0, most=1.0),
                batches=batches,
            ) as simulator:
                return simulator.execute(script, observations), _output(process)
        except SimulatorStartError as error:
            if process is None or process.exit_code() is None:
                raise
            raise SimulatorStartError(
                f"the simulator ended before it answered: {process.describe_end()}"
            ) from error
        finally:
            if process is not None:
                process.stop()


def _output(process: SimulatorProcess | None) -> str:
    """The last lines the simulator printed, and how it ended if it did."""
    if process is None:
        return ""
    ended = process.wait(0.2) is not None
    text = process.describe_end() if ended else process.quote_output()
    lines = text.removeprefix("; its last output:").strip("\n").split("\n")
    return "\n".join(line for line in lines if not _GREETING.search(line))


def _show(traces: TraceBatch, script: ScriptBatch) -> None:
    forced = f", with {len(script.value):,} forced choices" if len(script.value) else ""
    draws = table(
        f"trace {script.index[0]} of seed {script.seed}{forced}",
        ["#", "draw", "prior", "", "visit", "value", "log prob"],
        left=4,
    )
    for row in _draws(traces):
        place = row["name"] + (f"[{row['element']}]" if row["element"] is not None else "")
        draws.add_row(
            str(row["ordinal"]),
            place,
            _prior(row),
            row["chosen"],
            str(row["visit"]),
            number(row["value"]),
            number(row["log_prob"] + 0.0),
        )
    show(draws)
    others = table("", ["", "name", "visit", "value", "log prob"], left=2)
    for kind, rows in _others(traces).items():
        for row in rows:
            text = "given" if row["value"] is None else _array(row["value"])
            others.add_row(
                kind,
                row["name"],
                str(row["visit"]),
                text,
                number(row["log_prob"] + 0.0) if kind == "observation" else "-",
            )
    show(others)


def _document(traces: TraceBatch, script: ScriptBatch) -> dict[str, Any]:
    others = {f"{kind}s": rows for kind, rows in _others(traces).items()}
    loops = [
        {"name": _name(traces, i), "begin": begin, "end": end}
        for i, begin, end in zip(traces.loops.address_id, traces.loops.begin, traces.loops.end, strict=True)
    ]
    return {
        "seed": script.seed,
        "index": int(script.index[0]),
        "num_forced": len(script.value),
        "draws": list(_draws(traces)),
        **others,
        "loops": loops,
    }


def _draws(traces: TraceBatch) -> Iterator[dict[str, Any]]:
    elements: dict[tuple[int, int], int] = {}
    for row in range(len(traces.value)):
        address = traces.addresses[traces.address_id[row]]
        key = (int(traces.address_id[row]), int(traces.instance[row]))
        elements[key] = elements.get(key, -1) + 1
        flags = DrawFlag(int(traces.flags[row]))
        chosen = "forced" if flags & DrawFlag.FORCED else "prior"
        yield {
            "ordinal": row,
            "address": address.address,
            "name": address.name or address.address,
            "visit": key[1],
            "element": elements[key] if address.shape else None,
            "family": address.family,
            "params": traces.params[traces.params_id[row]].tolist(),
            "value": float(traces.value[row]),
            "z": float(traces.z[row]),
            "log_prob": float(traces.log_prob[row]),
            "chosen": chosen if flags & DrawFlag.CONTROLLED else f"{chosen}, uncontrolled",
        }


def _others(traces: TraceBatch) -> Mapping[str, list[dict[str, Any]]]:
    tables = {"observation": traces.observations, "tag": traces.tags, "result": traces.results}
    return {kind: list(_rows(traces, found)) for kind, found in tables.items()}


def _rows(traces: TraceBatch, found: TensorTable) -> Iterator[dict[str, Any]]:
    for row, address_id in enumerate(found.address_id):
        first, last = found.data_offsets[row : row + 2]
        shape = traces.addresses[address_id].shape
        yield {
            "name": _name(traces, address_id),
            "visit": int(found.instance[row]),
            "value": None if first == last else found.data[first:last].reshape(shape),
            "log_prob": float(found.log_prob[row]),
        }


def _name(traces: TraceBatch, address_id: int) -> str:
    address = traces.addresses[address_id]
    return address.name or address.address


def _prior(row: Mapping[str, Any]) -> str:
    params = [number(p) for p in row["params"]]
    if len(params) > _SHOWN_NUMBERS:
        params = [*params[:_SHOWN_NUMBERS], "..."]
    return f"{row['family']}({', '.join(params)})"


def _array(value: NDArray[np.float64]) -> str:
    if value.ndim == 0:
        return number(float(value))
    if value.size > _SHOWN_NUMBERS:
        shape = " x ".join(map(str, value.shape))
        low, mean, high = (number(float(x)) for x in (value.min(), value.mean(), value.max()))
        return f"{shape} numbers from {low} to {high}, mean {mean}"
    return np.array2string(value, precision=4)


def _difference(traces: TraceBatch, recorded: TraceBatch) -> str:
    """How a replay differs from what was recorded, in words; empty if it does not."""
    remedy = (
        "the simulator has changed since, or draws random numbers that PPX does not know of (see ppx check)"
    )
    for ordinal, (ours, theirs) in enumerate(zip(_draws(traces), _draws(recorded), strict=False)):
        for what in ("address", "family", "params", "value"):
            if ours[what] != theirs[what]:
                return f"draw {ordinal} has {what} {ours[what]}, the recorded trace {theirs[what]}: {remedy}"
    lengths = len(traces.value), len(recorded.value)
    if lengths[0] != lengths[1]:
        return f"it makes {lengths[0]} draws, the recorded trace {lengths[1]}: {remedy}"
    return ""

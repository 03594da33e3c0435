"""Values that a draw cannot have, forced: refused, or of density zero, and the process goes on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from ppx_inference.conformance.differences import Difference, briefly, describe, first_difference
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_inference.simulator import Simulator
from ppx_server.address import Address
from ppx_server.distributions import FAMILIES, Kind
from ppx_server.errors import PPXError
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

_MOST_ADDRESSES = 6
_END_SECONDS = 0.5  # from when a process closes its files until it has ended
_LOST = ("crashed", "closed the connection", "sent nothing", "broke off")


@dataclass(frozen=True)
class _Attempt:
    """A value that is forced on the first visit of a draw.

    Attributes:
        entry: Which draw.
        script: It, in the trace that makes this draw first.
        value: The value.
        is_legal: Whether the model can be given it: a number outside the support, of density zero.
    """

    entry: Address
    script: ScriptBatch
    value: float
    is_legal: bool

    def __str__(self) -> str:
        return f"{self.value:g} for {describe(self.entry)}"


_REMEDY = (
    "a value that is not finite, not whole where the family is discrete, or no index of the categories must fail the "
    "trace (Error, or Reset for controllers of PPX 1.0; in a batch a failure of kind Choice), and not end the process"
)


def support(evidence: Evidence) -> Iterator[Finding]:
    """Forces values in the second process, with a sound trace before and after."""
    first = evidence.some.select([0])
    attempts = list(_attempts(evidence.sound))
    taken: list[str] = []
    running = evidence.second
    with evidence.connect() as simulator:
        before = simulator.execute(ScriptBatch.replay(first), None)
        for attempt in attempts:
            try:
                wrong, is_taken = _try(simulator, attempt)
            except PPXError as error:
                wrong, is_taken = briefly(str(error)), False
            process = running.process
            if process is not None and process.wait(_END_SECONDS if wrong else 0.0) is not None:
                wrong = briefly(process.describe_end())
            if wrong:
                yield Finding("support", Level.FAIL, f"when it was given {attempt}: {wrong}", _REMEDY)
                return
            taken += [str(attempt)] if is_taken else []
        after = simulator.execute(ScriptBatch.replay(first), None)
    parted = first_difference(before, after) if evidence.hidden is None else None
    yield _verdict(attempts, taken, parted, Level.FAIL if evidence.takes_batches else Level.WARN)


def _verdict(attempts: list[_Attempt], taken: list[str], parted: Difference | None, level: Level) -> Finding:
    if parted is not None:
        detail = f"after values were refused, a sound trace is not what it was before: {parted.text}"
        remedy = "a trace that is given up must leave nothing behind: release and reset what it had begun"
        return Finding("support", Level.FAIL, detail, remedy)
    if taken:  # clients of PPX 1.0 seldom look
        detail = f"values that the draw cannot have were taken as they are: {', '.join(taken)}"
        return Finding("support", level, detail, _REMEDY)
    families = ", ".join(dict.fromkeys(a.entry.family for a in attempts))
    values = f"{len(attempts)} values outside the support ({families})"
    detail = f"{values} were refused or of density 0, and the process went on"
    return Finding("support", Level.PASS, detail, facts={"values": len(attempts)})


def _try(simulator: Simulator, attempt: _Attempt) -> tuple[str, bool]:
    """What is wrong with how a value is met, in words, and whether one that is none was taken."""
    trace = simulator.execute(attempt.script, None)
    reason = briefly(next(iter(trace.failures.values()), ""))
    if any(word in reason for word in _LOST):
        return reason, False
    made = any(trace.addresses[i] == attempt.entry for i in np.unique(trace.address_id).tolist())
    if trace.status[0] != Status.OK or not made:  # another process may have other addresses: told by restart
        return "", False
    if not attempt.is_legal:
        return "", True
    if (np.isneginf(trace.log_prob) & (trace.value == attempt.value)).any():
        return "", False
    return "it is outside the support, but no draw has a density of 0: the value was not used", False


def _attempts(traces: TraceBatch) -> Iterator[_Attempt]:
    """Values for some draws, of every family that occurs."""
    _, rows = np.unique(traces.address_id, return_index=True)
    of_family: dict[str, list[int]] = defaultdict(list)
    for row in sorted(rows.tolist()):
        of_family[traces.addresses[int(traces.address_id[row])].family].append(row)
    in_turn = [row for turn in zip_longest(*of_family.values()) for row in turn if row is not None]
    for row in in_turn[:_MOST_ADDRESSES]:
        entry = traces.addresses[int(traces.address_id[row])]
        params = traces.params[int(traces.params_id[row])].tolist()
        for value, is_legal in _outside(entry.family, params):
            yield _Attempt(entry, _script(traces, row, value), value, is_legal)


def _outside(family: str, params: list[float]) -> Iterator[tuple[float, bool]]:
    """Values outside the support; whether the model can be given them."""
    yield np.inf, False
    if FAMILIES[family].kind is not Kind.CONTINUOUS:
        yield 0.5, False
    match family:
        case "Categorical":
            yield float(len(params)), False
            yield -1.0, False
        case "Bernoulli":
            yield 2.0, True
        case "Binomial":
            yield params[0] + 1.0, True
        case "Uniform":
            yield params[0] - (params[1] - params[0]), True
        case "TruncatedNormal" if np.isfinite(params[2]):
            yield params[2] - 1.0, True
        case "Beta" | "Exponential" | "Gamma" | "LogNormal" | "Weibull":
            yield -1.0, True


def _script(traces: TraceBatch, row: int, value: float) -> ScriptBatch:
    """The trace of a draw, with that draw forced; what comes before it is as it was."""
    trace = int(np.searchsorted(traces.offsets, row, side="right")) - 1
    return ScriptBatch(
        seed=traces.seed,
        index=traces.index[trace : trace + 1],
        offsets=np.array([0, 1]),
        address_id=traces.address_id[row : row + 1],
        instance=traces.instance[row : row + 1],
        value=np.array([value]),
        z=np.zeros(1),
        addresses=traces.addresses,
    )

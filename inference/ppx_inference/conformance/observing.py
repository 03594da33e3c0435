"""Observations: their names and shapes, and whether values that are given are the ones that are used."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ppx_inference.conformance.differences import briefly
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_inference.simulator import Simulator
from ppx_server.completeness import mismatches
from ppx_server.errors import ObservationError
from ppx_server.observations import ObservationKey
from ppx_server.protocol import Observe
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

_CONDITIONED = 20
_SHARE = 0.05
"""Of the time for all."""
_TOLERANCE = 1e-6
_SHOWN_NAMES = 6
_LONG = 2000
"""Draws of a trace from which on it takes too long to hear one message by message without need."""
_CALL_SITE = re.compile(r":\d|0x|[+\[(]")

Given = dict[ObservationKey, NDArray[np.float64]]


def observations(evidence: Evidence) -> Iterator[Finding]:
    """Whether there is something to condition on, under a name, always in the same shape."""
    traces = evidence.sound
    ids = traces.observations.address_id
    if not len(ids):
        remedy = "state what was measured by observe, with a name: there is nothing to condition on"
        yield Finding("observations", Level.FAIL, "the simulator observes nothing", remedy)
        return
    if unnamed := _unnamed(evidence, traces):
        remedy = 'call observe with a name, as in observe(Normal(mu, 1), name="y")'
        yield Finding("observations", Level.FAIL, f"observe without a name at {unnamed[0]!r}", remedy)
        return
    yield from _shapes(traces) or _visits(traces)


def observed_values(evidence: Evidence) -> Iterator[Finding]:
    """Values given: those that were drawn, then those of another trace."""
    batch = evidence.stepwise
    traces = batch.select(batch.status == Status.OK)
    rows = alike(traces, _CONDITIONED)
    if not rows:
        yield Finding("observed values", Level.SKIP, "no trace drew a value of an observation")
        return
    twice = evidence.stepwise_simulator is not evidence.simulator
    deadline = time.perf_counter() + _SHARE * evidence.subject.seconds
    done = 0
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        script = ScriptBatch.replay(traces.select([row]))
        own, others = drawn_values(traces, row), drawn_values(traces, other)
        given = conditioned(evidence.simulator, script, own)
        wrong = _own_values(traces, row, given)
        if not wrong and twice:
            expected = conditioned(evidence.stepwise_simulator, script, others)
            wrong = _other_values(conditioned(evidence.simulator, script, others), expected, given)
        if wrong:
            yield Finding("observed values", Level.FAIL, *wrong)
            return
        done += 1
        if time.perf_counter() > deadline:
            break
    names = _some([name for name, _ in drawn_values(traces, rows[0])])
    which = "their own and those of another trace" if twice else "their own"
    detail = f"{done} traces were given values of {names}, {which}: the likelihood is that of these values"
    yield Finding("observed values", Level.PASS, detail, facts={"traces": done})


def _unnamed(evidence: Evidence, traces: TraceBatch) -> list[str]:
    """Addresses of observations without a name. Traces give them that of the address, so only the messages tell."""
    ids = np.unique(traces.observations.address_id).tolist()
    suspects = [
        traces.addresses[i].address for i in ids if traces.addresses[i].name == traces.addresses[i].address
    ]
    if not suspects or (traces.length.min() > _LONG and not any(_CALL_SITE.search(s) for s in suspects)):
        return []
    return [
        s.address
        for t in evidence.heard.values()
        for s in t.statements
        if isinstance(s, Observe) and not s.name
    ]


def alike(traces: TraceBatch, most: int) -> list[int]:
    """The first traces that drew values for the same observations, in the same shapes: rows, `most` at most."""
    groups: dict[tuple[tuple[ObservationKey, tuple[int, ...]], ...], list[int]] = defaultdict(list)
    for row in range(min(len(traces), 8 * most)):
        values = drawn_values(traces, row)
        if values:
            groups[tuple((key, value.shape) for key, value in values.items())].append(row)
    return max(groups.values(), key=len, default=[])[:most]


def _own_values(traces: TraceBatch, row: int, given: TraceBatch | None) -> tuple[str, str] | None:
    """What is wrong with a trace that was given the values it had drawn: detail and remedy."""
    if given is None:
        return None
    index = int(traces.index[row])
    if given.status[0] != Status.OK:
        reason = briefly(given.failures.get(index, ""))
        remedy = "the model must go on as before when an observed value is given instead of drawn"
        return f"trace {index} fails when its own draws and observed values are given: {reason}", remedy
    was, became = float(traces.log_likelihood[row]), float(given.log_likelihood[0])
    if np.isclose(was, became, _TOLERANCE, _TOLERANCE):
        return None
    detail = (
        f"trace {index}: the log likelihood is {became:.9g} where its own draws and observed values are given, but was "
        f"{was:.9g} where they were drawn"
    )
    return (
        detail,
        "let the likelihood depend on the draws of the trace and on the value given, on nothing else",
    )


def _other_values(
    found: TraceBatch | None, expected: TraceBatch | None, own: TraceBatch | None
) -> tuple[str, str] | None:
    """What is wrong with a trace that was given values of another one, by batches and draw by draw."""
    if found is None or expected is None or own is None or expected.status[0] != Status.OK:
        return None
    index = int(found.index[0])
    if found.status[0] != Status.OK:
        return (
            f"trace {index} fails in a batch where other values are observed",
            "compare with docs/protocol.md",
        )
    mine, controllers = float(found.log_likelihood[0]), float(expected.log_likelihood[0])
    if np.isclose(mine, controllers, _TOLERANCE, _TOLERANCE):
        return None
    detail = (
        f"trace {index}, given values of another trace: its log likelihood is {mine:.9g}, where draw by draw the "
        f"controller computes {controllers:.9g}"
    )
    if np.isclose(mine, float(own.log_likelihood[0]), _TOLERANCE, _TOLERANCE):
        detail += "; it is the one of the values drawn, so those given are not used"
    remedy = (
        "in a conditioned batch observe must take the value of its name and visit, and report its density"
    )
    return detail, remedy


def conditioned(simulator: Simulator, script: ScriptBatch, given: Given) -> TraceBatch | None:
    """The trace of a script, given observed values; None if it observes something else with them."""
    try:
        traces = simulator.execute(script, given)
    except ObservationError:
        return None
    return None if len(mismatches(traces)) else traces


def _shapes(traces: TraceBatch) -> list[Finding]:
    """Names that are observed in several shapes."""
    table = traces.observations
    of_visit: dict[ObservationKey, set[tuple[int, ...]]] = defaultdict(set)
    for address_id, visit in np.unique(np.stack([table.address_id, table.instance]), axis=1).T.tolist():
        entry = traces.addresses[address_id]
        of_visit[entry.name, visit].add(entry.shape)
    for (name, visit), shapes in of_visit.items():
        if len(shapes) > 1:
            told = _some([_shape(s) for s in sorted(shapes)])
            detail = f"{name!r}{f', visit {visit + 1},' if visit else ''} is observed in the shapes {told}"
            remedy = "what was measured has one shape: observe it in that shape in every trace, or under several names"
            return [Finding("observations", Level.FAIL, detail, remedy)]
    of_name: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for (name, _), shapes in of_visit.items():
        of_name[name] |= shapes
    for name, shapes in of_name.items():
        if len(shapes) > 1:
            told = _some([_shape(s) for s in sorted(shapes)])
            detail = f"{name!r} is observed several times in a trace, in the shapes {told}"
            remedy = "use a name for each thing that is measured; its visits then have one shape"
            return [Finding("observations", Level.WARN, detail, remedy)]
    return []


def _visits(traces: TraceBatch) -> list[Finding]:
    """Whether all traces observe the same."""
    table = traces.observations
    names = [a.name for a in traces.addresses]
    trace = np.repeat(np.arange(len(traces)), np.diff(table.offsets))
    told, varying = [], []
    for name in dict.fromkeys(names[i] for i in table.address_id.tolist()):
        ids = [i for i, n in enumerate(names) if n == name]
        counts = np.bincount(trace[np.isin(table.address_id, ids)], minlength=len(traces))
        least, most = int(counts.min()), int(counts.max())
        if least < most:
            varying.append(f"{name!r} {least} to {most} times")
        told.append(name if most == 1 else f"{name} ({most} visits)")
    facts = {"names": told}
    if varying:
        detail = f"traces do not observe alike: {_some(varying)}"
        remedy = (
            "traces that observe something else than what is given fail, or leave measurements out: observe everything "
            "that was measured, once in every trace"
        )
        return [Finding("observations", Level.WARN, detail, remedy, facts)]
    return [Finding("observations", Level.PASS, f"every trace observes {_some(told)}", facts=facts)]


def _some(names: Sequence[str]) -> str:
    """Names, but not very many."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "()"


def drawn_values(traces: TraceBatch, row: int) -> Given:
    """The values that the observations of a trace drew, by name and visit."""
    table = traces.observations
    given: Given = {}
    for i in range(int(table.offsets[row]), int(table.offsets[row + 1])):
        entry = traces.addresses[int(table.address_id[i])]
        data = table.data[table.data_offsets[i] : table.data_offsets[i + 1]]
        if len(data) == int(np.prod(entry.shape)):
            given[entry.name, int(table.instance[i])] = data.reshape(entry.shape)
    return given

"""Densities that the simulator computes itself, in batches, against those of the controller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_inference.conformance.differences import describe
from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_inference.conformance.wire_link import Stage
from ppx_server.address import Address, AddressTable
from ppx_server.distributions import FAMILIES, family_codes, log_prob_columns
from ppx_server.errors import RemoteProtocolError
from ppx_server.numbering import Numbering
from ppx_server.protocol import CAPABILITIES, BatchResult, Observe
from ppx_server.script import ScriptBatch
from ppx_server.trace import Params, Status, TraceBatch

_TOLERANCE = 1e-6
_PERTURBED, _FARTHEST = 50, 4.0
_REMEDY = (
    "correct the density in the client (formulas and limits in docs/protocol.md, Standard coordinates); check the "
    "order of parameters, rate against scale, standard deviation against variance, and a missing normaliser"
)


def log_prob(evidence: Evidence) -> Iterator[Finding]:
    """All draws of the prior traces and of some that were forced elsewhere; all observations executed both ways."""
    traces = evidence.traces
    if evidence.defect and not evidence.draws_wrongly:
        yield Finding("log_prob", Level.FAIL, _wrong_draw(_reported(evidence)) or evidence.defect, _REMEDY)
        return
    forced = evidence.simulator.execute(_elsewhere(traces, min(_PERTURBED, len(evidence.some))), None)
    for batch in (traces, forced):
        if wrong := _wrong_draw(_draws_of(batch)):
            yield Finding("log_prob", Level.FAIL, wrong, _REMEDY)
            return
    checked = 0
    if (
        evidence.hidden is None and evidence.unsteady is None and not evidence.rounding
    ):  # else they are others
        checked, wrong = _wrong_observation(evidence)
        if wrong:
            yield Finding("log_prob", Level.FAIL, wrong, _REMEDY)
            return
    rows = len(traces.value) + len(forced.value)
    detail = (
        f"the densities of {rows:,} draws and {checked:,} observations are those that the controller computes"
    )
    yield Finding("log_prob", Level.PASS, detail, facts={"draws": rows, "observations": checked})


def _elsewhere(traces: TraceBatch, number: int) -> ScriptBatch:
    """Scripts that force the first traces to other places: coordinates turned round, and farther from the middle."""
    chosen = traces.select(np.arange(number))
    scripts = ScriptBatch.replay(chosen, by_z=True)
    return ScriptBatch(
        seed=scripts.seed,
        index=scripts.index,
        offsets=scripts.offsets,
        address_id=scripts.address_id,
        instance=scripts.instance,
        value=scripts.value,
        z=np.clip(-2.0 * scripts.z, -_FARTHEST, _FARTHEST),
        addresses=scripts.addresses,
    )


class _Draws(NamedTuple):
    """Draws as the simulator reports them; N of them."""

    addresses: Sequence[Address]
    address_id: NDArray[np.int32]
    params_id: NDArray[np.int32]
    params: Params
    value: NDArray[np.float64]
    log_prob: NDArray[np.float64]


def _draws_of(traces: TraceBatch) -> _Draws:
    sound = traces.select(traces.status == Status.OK)
    return _Draws(
        list(sound.addresses), sound.address_id, sound.params_id, sound.params, sound.value, sound.log_prob
    )


def _reported(evidence: Evidence) -> _Draws:
    """The draws of the first prior traces as they come over the wire, which nobody has audited."""
    script = ScriptBatch.empty(evidence.subject.seed, np.arange(_PERTURBED))
    with Stage(evidence.subject) as stage, stage.link() as link:
        link.greet(CAPABILITIES)
        result = link.exchange(Numbering(AddressTable()).request(1, script, None))
    if not isinstance(result, BatchResult):
        raise RemoteProtocolError(f"a batch was answered by {type(result).__name__}")
    sound = np.repeat(result.status == Status.OK, np.diff(result.offsets))
    return _Draws(
        [Address(*a) for a in result.addresses],
        result.address[sound],
        result.params[sound],
        Params(result.params_data, result.params_offsets.astype(np.int64)),
        result.value[sound],
        result.log_prob[sound],
    )


def _wrong_draw(draws: _Draws) -> str:
    """The first draw whose density is not that of its value and parameters, in words."""
    codes = family_codes(draws.addresses)[draws.address_id]
    expected = log_prob_columns(draws.value, codes, draws.params, draws.params_id)
    rows = np.flatnonzero(_differ(draws.log_prob, expected))
    if not len(rows):
        return ""
    row = int(rows[0])
    entry = draws.addresses[int(draws.address_id[row])]
    names = FAMILIES[entry.family].param_names
    params = draws.params[int(draws.params_id[row])]
    told = ", ".join(f"{n} {v:.6g}" for n, v in zip(names, params, strict=False))
    if entry.family == "Categorical":
        told = f"probs {', '.join(f'{v:.4g}' for v in params[:6])}{', ...' if len(params) > 6 else ''}"
    return (
        f"draw {describe(entry)}, {told}, value {draws.value[row]:.9g}: reports log_prob {draws.log_prob[row]:.9g}, "
        f"where it is {expected[row]:.9g}; wrong in {len(rows):,} of {len(draws.value):,} draws"
    )


def _wrong_observation(evidence: Evidence) -> tuple[int, str]:
    """How many observations were compared, and the first whose density is wrong, in words."""
    stepwise = evidence.stepwise
    batch = evidence.some.select(np.arange(len(stepwise)))
    both = (batch.status == Status.OK) & (stepwise.status == Status.OK)
    mine, other = batch.select(both), stepwise.select(both)
    alike = np.diff(mine.observations.offsets) == np.diff(other.observations.offsets)
    mine, other = mine.select(alike), other.select(alike)
    table, expected = mine.observations, other.observations.log_prob
    rows = np.flatnonzero(_differ(table.log_prob, expected))
    if not len(rows):
        return len(expected), ""
    row = int(rows[0])
    entry = mine.addresses[int(table.address_id[row])]
    data = table.data[table.data_offsets[row] : table.data_offsets[row + 1]]
    trace = int(np.searchsorted(table.offsets, row, side="right")) - 1
    told = _observe_params(evidence, int(mine.index[trace]), row - int(table.offsets[trace]))
    value = f", value {data[0]:.9g}" if len(data) == 1 else f", {len(data)} values"
    return len(expected), (
        f"observation {describe(entry)}{told}{value}: reports log_prob {table.log_prob[row]:.9g}, where it is "
        f"{expected[row]:.9g}; wrong in {len(rows):,} of {len(expected):,} observations"
    )


def _observe_params(evidence: Evidence, index: int, position: int) -> str:
    """Parameters of an observation, if its trace was heard message by message."""
    if index not in evidence.heard:
        return ""
    observed = [s for s in evidence.heard[index].statements if isinstance(s, Observe)]
    if position >= len(observed):
        return ""
    distribution = observed[position].distribution
    names = FAMILIES[distribution.family].param_names
    told = [
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} of shape {np.shape(value)}"
        for name, value in zip(names, distribution.params, strict=True)
    ]
    return f", {', '.join(told)}"


def _differ(reported: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.bool_]:
    differ: NDArray[np.bool_] = ~np.isclose(reported, expected, _TOLERANCE, _TOLERANCE, equal_nan=True)
    return differ

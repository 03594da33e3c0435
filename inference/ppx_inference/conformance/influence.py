"""Which draws matter to what is observed, measured: draws are made anew, all others stay, values observed are given.

The log likelihood of a trace with the values that it has observed itself is compared with that of the same trace after
some of its draws were made anew. Noise that changes it by less than about one can be left to the prior: it costs an
importance weight or a chain no more than that (Doucet et al. 2015: the best standard deviation of a noisy log
likelihood is about one).
"""

from __future__ import annotations

import glob
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level
from ppx_inference.conformance.observing import alike, conditioned, drawn_values
from ppx_inference.simulator import Simulator
from ppx_server.address import Address
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

_FAR = 1 << 42
"""Index of the first trace whose draws take the place of others."""
_MANY, _MANY_ALIKE = 200, 100
"""Controlled draws per trace from which on it is asked which of them matter; and how many of those are alike."""
_MOST_GROUPS = 6
_SHARE = 0.06
"""Of the time for all."""
_FEWEST, _MOST = 6, 32
"""Experiments."""
_MOST_EXTRA = 2.0
"""Of the time for all: what the fewest of them may take, judged by the first traces."""
_HARMLESS, _FACTOR = 1.0, 2.0
"""Change of the log likelihood that costs little, and how much more that of all draws must be."""
_WORST = 100.0
"""Stands for a likelihood of zero, so that there is a mean."""
_TRACES = 200
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|\d+")


@dataclass(frozen=True)
class Noise:
    """Draws that inference need not choose.

    Attributes:
        patterns: Which: globs for names or addresses, which match no other draws.
        per_trace: How many a trace has, on average.
        effect: Change of the log likelihood where all of them are drawn anew, root mean square.
        total: The same where all draws are.
        experiments: How often that was tried.
    """

    patterns: tuple[str, ...]
    per_trace: float
    effect: float
    total: float
    experiments: int

    @property
    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "uncontrolled": list(self.patterns),
            "noise_draws": self.per_trace,
            "effect": self.effect,
            "total_effect": self.total,
        }


def influence(evidence: Evidence) -> Iterator[Finding]:
    """Whether the likelihood of the same observed values differs between traces."""
    traces = evidence.some
    rows = alike(traces, _TRACES)
    if len(rows) < 2:
        yield Finding("influence", Level.SKIP, "no two traces observe alike")
        return
    script = ScriptBatch.empty(evidence.subject.seed, traces.index[rows])
    again = conditioned(evidence.simulator, script, drawn_values(traces, rows[0]))
    if again is None or (again.status == Status.OK).sum() < 2:
        yield Finding("influence", Level.SKIP, "with values given, the traces observe something else")
        return
    likelihood = again.log_likelihood[again.status == Status.OK]
    facts = {"traces": len(likelihood)}
    if np.allclose(likelihood, likelihood[0], rtol=1e-9, atol=1e-12):
        detail = (
            f"given the same observed values, {len(likelihood):,} traces have the same likelihood "
            f"(log {likelihood[0]:.6g}): no draw has any influence on what is observed"
        )
        remedy = (
            "let the parameters of observe follow from the draws; where they follow from numbers that PPX does not see "
            "(a generator seeded with a constant repeats itself in every run), draw these through PPX"
        )
        yield Finding("influence", Level.WARN, detail, remedy, facts)
        return
    detail = f"given the same observed values, the likelihood differs between {len(likelihood):,} traces"
    yield Finding("influence", Level.PASS, detail, facts=facts)


def harmless_noise(evidence: Evidence) -> Noise | None:
    """Many controlled draws that matter little to what is observed, also together; None if there are none."""
    traces = evidence.sound
    if traces.controlled.sum() < _MANY * len(traces) or evidence.trouble or evidence.hidden is not None:
        return None
    groups = _groups(traces)
    if not groups:
        return None
    seconds = evidence.seconds_per_trace
    if len(traces) < _FEWEST:  # the time for prior traces was short, and its first ones are slow
        if _FEWEST * seconds > _MOST_EXTRA * evidence.subject.seconds:
            return None
        started = time.perf_counter()
        traces = evidence.simulator.prior(2 * _FEWEST, seed=evidence.subject.seed)
        seconds = (time.perf_counter() - started) / len(traces)
        traces = traces.select(traces.status == Status.OK)
    affordable = int(_SHARE * evidence.subject.seconds / max(seconds, 1e-9) / (len(groups) + 2))
    bases = [row for row in alike(traces, _MOST) if drawn_values(traces, row)][: max(affordable, _FEWEST)]
    if len(bases) < _FEWEST:
        return None
    everything = list(range(len(traces.addresses)))
    *effects, total = _effects(evidence.simulator, traces, bases, [*groups, everything])
    harmless = [group for group, effect in zip(groups, effects, strict=True) if _costs_little(effect, total)]
    patterns = tuple(dict.fromkeys(pattern for group in harmless for pattern in _patterns(traces, group)))
    if not patterns:
        return None
    together = [i for group in harmless for i in group]
    (effect,) = _effects(evidence.simulator, traces, bases, [together])
    if not _costs_little(effect, total):
        return None
    per_trace = float(np.isin(traces.address_id, together).sum()) / len(traces)
    return Noise(patterns, per_trace, effect, total, len(bases))


def _costs_little(effect: float, total: float) -> bool:
    return effect < _HARMLESS and _FACTOR * effect < total


def _groups(traces: TraceBatch) -> list[list[int]]:
    """Ids of controlled addresses that are alike but for numbers, and of which a trace makes many draws."""
    counts = np.bincount(traces.address_id[traces.controlled], minlength=len(traces.addresses)) / len(traces)
    alike_ids: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in np.flatnonzero(counts).tolist():
        entry = traces.addresses[i]
        alike_ids[_NUMBER.sub("#", entry.address), entry.family].append(i)
    many = [ids for ids in alike_ids.values() if counts[ids].sum() >= _MANY_ALIKE]
    return sorted(many, key=lambda ids: -float(counts[ids].sum()))[:_MOST_GROUPS]


def _effects(
    simulator: Simulator, traces: TraceBatch, bases: Sequence[int], choices: Sequence[Sequence[int]]
) -> list[float]:
    """How much the log likelihood changes where draws at some addresses are made anew, for each choice of addresses.

    Args:
        simulator: Where the traces come from.
        traces: They.
        bases: Which of them to change, by position.
        choices: Ids of addresses.

    Returns:
        Root mean square of the changes.
    """
    changes = np.full((len(choices), len(bases)), _WORST)
    for k, row in enumerate(bases):
        base = traces.select([row])
        kept = [~np.isin(base.address_id, choice) for choice in choices]
        script = _without(base, kept, _FAR + k * len(choices))
        again = conditioned(simulator, script, drawn_values(traces, row))
        if again is not None:
            change = np.abs(again.log_likelihood - base.log_likelihood[0])
            counts = (again.status == Status.OK) & (change < _WORST)  # NaN does not
            changes[:, k] = np.where(counts, change, _WORST)
    return [float(effect) for effect in np.sqrt((changes**2).mean(axis=1))]


def _without(base: TraceBatch, kept: Sequence[NDArray[np.bool_]], first_index: int) -> ScriptBatch:
    """Scripts that repeat a trace by its coordinates, each but for some of its draws."""
    script = ScriptBatch.replay(base, by_z=True)
    rows = np.concatenate([np.flatnonzero(keep) for keep in kept])
    return replace(
        script,
        index=np.arange(first_index, first_index + len(kept)),
        offsets=np.concatenate([[0], np.cumsum([keep.sum() for keep in kept])]),
        address_id=script.address_id[rows],
        instance=script.instance[rows],
        value=script.value[rows],
        z=script.z[rows],
    )


def _patterns(traces: TraceBatch, group: Sequence[int]) -> list[str]:
    """A glob for the addresses of a group that matches no other draw; none if there is none."""
    inside = [traces.addresses[i] for i in group]
    others = [traces.addresses[i] for i in np.unique(traces.address_id).tolist() if i not in group]
    names = {entry.name for entry in inside}
    literal = [glob.escape(name) for name in names if name] if len(names) == 1 else []
    template = "*".join(map(glob.escape, _NUMBER.split(inside[0].address)))
    exact = [glob.escape(inside[0].address)] if len(inside) == 1 else [template]
    for pattern in (*literal, *exact):
        if not any(_matches(pattern, entry) for entry in others):
            return [pattern]
    return []


def _matches(pattern: str, entry: Address) -> bool:
    return fnmatchcase(entry.name, pattern) or fnmatchcase(entry.address, pattern)

"""Where a posterior comes from, and what went wrong on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ppx_server.observations import ObservationKey, Observations

_MOST_FAILURES = 100
_MOST_GIVEN = 100_000
_NUMBER = (int, float)
_KINDS: Mapping[str, tuple[type, ...]] = {
    "engine": (str,),
    "seed": (int,),
    "model_name": (str,),
    "num_executions": (int,),
    "num_failed": (int,),
    "wall_seconds": _NUMBER,
    "num_chains": (int,),
    "acceptance_rate": (*_NUMBER, type(None)),
    "interrupted": (bool,),
    "settings": (dict,),
    "inherited": (dict,),
}
"""Types of the entries in JSON."""


def first_failures(*failures: Mapping[int, str]) -> dict[int, str]:
    """The failures of the smallest trace indices, a hundred at most: enough to find out why, in any number of them."""
    together = {index: reason for each in failures for index, reason in each.items()}
    return {index: together[index] for index in sorted(together)[:_MOST_FAILURES]}


def given_values(observations: Mapping[ObservationKey, ArrayLike]) -> tuple[list[Any], ...]:
    """Observations as JSON values, for `Provenance.given`."""
    values = {key: np.asarray(value, np.float64) for key, value in observations.items()}
    if sum(value.size for value in values.values()) > _MOST_GIVEN:
        return ()
    return tuple([name, visit, value.tolist()] for (name, visit), value in values.items())


@dataclass(frozen=True)
class Provenance:
    """Where a posterior comes from.

    Attributes:
        engine: Name of the engine function.
        seed: Seed of the run; with the engine, the simulator and the observations it fixes the traces.
        model_name: The simulator's name for its model.
        observations: Names of the observations that were given.
        given: Their values, as `[name, visit, value]` with lists for arrays; empty where there are too many numbers to
            be kept here.
        num_executions: Executions of the simulator, burn-in included.
        num_failed: How many of them failed.
        failures: Reasons by trace index; at most the first 100 (see `first_failures`).
        wall_seconds: Time they took.
        num_chains: Number of Markov chains; 0 for independent traces. The traces of a chain are consecutive, and
            chains have equal lengths.
        acceptance_rate: Share of proposals accepted after burn-in; None for independent traces.
        interrupted: The run was stopped before it had all its traces.
        settings: What else the engine was told or found, such as adapted step sizes.
        inherited: `ess`, `pareto_k` and `log_evidence` of the posterior that this one was resampled from.
    """

    engine: str
    seed: int
    model_name: str = ""
    observations: tuple[str, ...] = ()
    given: tuple[list[Any], ...] = ()
    num_executions: int = 0
    num_failed: int = 0
    failures: Mapping[int, str] = field(default_factory=dict)
    wall_seconds: float = 0.0
    num_chains: int = 0
    acceptance_rate: float | None = None
    interrupted: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    inherited: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Provenance:
        """The inverse of `dataclasses.asdict` through JSON; unknown entries are left out.

        Raises:
            TypeError, ValueError: An entry has another type or range than it can have.
        """
        known = {f.name: entries[f.name] for f in fields(cls) if f.name in entries}
        for name in ("observations", "given"):
            known[name] = tuple(known.get(name, ()))
        # The keys of JSON objects are strings.
        known["failures"] = {int(index): str(why) for index, why in known.get("failures", {}).items()}
        for name, kinds in _KINDS.items():
            if name in known and type(known[name]) not in kinds:
                raise TypeError(f"{name} is {known[name]!r}")
        for name in ("seed", "num_executions", "num_failed", "num_chains", "wall_seconds"):
            if not 0 <= known.get(name, 0) < 1 << 64:
                raise ValueError(f"{name} is {known[name]!r}")
        return cls(**known)

    @property
    def observed_values(self) -> Observations:
        """The observations that were given, by name and visit; empty if they are not known."""
        return {(str(name), int(visit)): np.asarray(value, np.float64) for name, visit, value in self.given}

    @property
    def traces_per_second(self) -> float:
        """Executions per second of wall-clock time."""
        return self.num_executions / self.wall_seconds if self.wall_seconds > 0 else math.nan

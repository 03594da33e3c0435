"""An in-process simulator for tests of engines: the controller's own script player, without process and messages.

Tests of properties try the same examples in every run. `make test-all` sets PPX_EXPLORE: then they try new ones, and a
failure comes with the line `@reproduce_failure(...)` that repeats it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import settings

from ppx_server.address import AddressTable
from ppx_server.completeness import Completeness
from ppx_server.errors import ObservationError
from ppx_server.observations import Observations, ObservationSet
from ppx_server.player import Player
from ppx_server.protocol import Observe, RunResult, Sample, Tag, WireDistribution
from ppx_server.recording import Recording, assemble
from ppx_server.script import Ask, Guide, ScriptBatch
from ppx_server.session import Session
from ppx_server.trace import TraceBatch

settings.register_profile("same", derandomize=True)
settings.register_profile("exploring", print_blob=True)
settings.load_profile("exploring" if os.environ.get("PPX_EXPLORE") else "same")


class Ppx:
    """What a model calls: `sample`, `observe`, `tag` and `scope`, answered by a player of the real controller."""

    def __init__(self, player: Player, guide: Guide | None) -> None:
        self._player, self._guide = player, guide
        self._scopes: list[str] = []

    def sample(self, family, *params, name, control=True):
        event = Sample(self._address(name), name, WireDistribution(family, params), control)
        reply = self._player.react(event)
        while isinstance(reply, Ask):
            normals = np.array([self._player.guide_normals()])
            (choice,) = self._guide.choose([reply], normals)
            reply = self._player.answer(choice)
        return reply.result

    def observe(self, family, *params, name, value=None):
        distribution = WireDistribution(family, params)
        return self._player.react(Observe(self._address(name), name, distribution, value)).value

    def tag(self, value, name):
        self._player.react(Tag(self._address(name), name, value))

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        self._scopes.append(name)
        yield
        self._scopes.pop()

    def _address(self, name: str) -> str:
        return "/".join([*self._scopes, name])


class InProcess:
    """Executes scripts by calling a Python function, one trace after the other."""

    def __init__(self, model: Callable[[Ppx], object]) -> None:
        self._model = model
        self._observed: set[int] = set()
        self.addresses = AddressTable()
        self.model_name = model.__name__
        self.num_executed = 0

    def execute(
        self, scripts: ScriptBatch, observations: Observations | None, guide: Guide | None = None
    ) -> TraceBatch:
        given = None if observations is None else ObservationSet.of(observations)
        session = Session(scripts, given, self.addresses)
        if guide is not None:
            guide.begin(len(scripts), self.addresses)
        failures: dict[int, str] = {}
        recordings = [self._run(session, slot, guide, failures) for slot in range(len(scripts))]
        traces = assemble(
            recordings,
            addresses=self.addresses,
            params=session.params,
            seed=scripts.seed,
            index=scripts.index,
            failures=failures,
        )
        if given is None:
            return traces
        completeness = Completeness(given, self.addresses, self._observed)
        traces = completeness.judged(traces)
        if completeness.unseen:
            raise ObservationError("never asked for")
        return traces

    def _run(self, session: Session, slot: int, guide: Guide | None, failures: dict[int, str]) -> Recording:
        player = Player(session, slot, send_observed=True)
        self.num_executed += 1
        try:
            result = self._model(Ppx(player, guide))
        except ArithmeticError as error:
            failures[int(session.scripts.index[slot])] = str(error)
        else:
            player.finish(RunResult(None if result is None else np.asarray(result, np.float64)))
        return player.recording


@pytest.fixture(scope="session")
def in_process() -> type[InProcess]:
    return InProcess

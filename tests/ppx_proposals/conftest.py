"""Simulators that run in the test's process: the controller's own player, driven by events instead of a socket."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence

import numpy as np
import pytest

from ppx_server.address import Address, AddressTable
from ppx_server.observations import Observations, ObservationSet
from ppx_server.philox import Stream, normals
from ppx_server.player import Player, Session
from ppx_server.protocol import Event, Observe, RunResult, Sample, WireDistribution
from ppx_server.recording import assemble
from ppx_server.script import Ask, Guide, ScriptBatch
from ppx_server.trace import DrawFlag, LoopTable, Params, TensorTable, TraceBatch

Model = Callable[[], Generator[Event, object, None]]


class InProcess:
    """Executes a model, a generator of events; `asks` traces wait for the guide at the same time."""

    def __init__(self, model: Model, *, asks: int = 3) -> None:
        self.addresses = AddressTable()
        self.model_name = getattr(model, "__name__", "model")
        self._model, self._asks = model, asks

    def execute(
        self, scripts: ScriptBatch, observations: Observations | None, guide: Guide | None = None
    ) -> TraceBatch:
        session = Session(
            scripts, None if observations is None else ObservationSet.of(observations), self.addresses
        )
        if guide is not None:
            guide.begin(len(scripts), self.addresses)
        recordings = {}
        waiting: dict[int, tuple[Generator[Event, object, None], Player, Ask]] = {}
        slots = iter(range(len(scripts)))
        while True:
            while len(waiting) < self._asks and (slot := next(slots, None)) is not None:
                player = Player(session, slot, send_observed=True)
                self._run(slot, self._model(), player, None, waiting, recordings)
            if not waiting:
                break
            assert guide is not None
            batch = list(waiting.items())
            waiting.clear()
            choices = guide.choose(
                [ask for _, (_, _, ask) in batch], np.array([p.guide_normals() for _, (_, p, _) in batch])
            )
            for (slot, (run, player, _)), choice in zip(batch, choices, strict=True):
                self._run(slot, run, player, player.answer(choice), waiting, recordings)
        return assemble(
            [recordings[slot] for slot in range(len(scripts))],
            addresses=self.addresses,
            params=session.params,
            seed=scripts.seed,
            index=scripts.index,
        )

    def _run(self, slot, run, player, reply, waiting, recordings) -> None:  # type: ignore[no-untyped-def]
        """Runs a model until it asks or ends."""
        try:
            while not isinstance(reply, Ask):
                value = getattr(reply, "result", getattr(reply, "value", None))
                reply = player.react(run.send(None if reply is None else value))
            waiting[slot] = (run, player, reply)
        except StopIteration:
            player.finish(RunResult(None))
            recordings[slot] = player.recording


def draw(name: str, family: str, *params: object, control: bool = True) -> Sample:
    """A Sample event."""
    return Sample(name, name, WireDistribution(family, params), control)  # type: ignore[arg-type]


def observe(name: str, family: str, *params: object) -> Observe:
    """An Observe event."""
    return Observe(name, name, WireDistribution(family, params), None)  # type: ignore[arg-type]


def marsaglia() -> Generator[Event, object, None]:
    """Gaussian with unknown mean, drawn by Marsaglia's rejection method; two observations."""
    while True:
        u = yield draw("u", "Uniform", -1.0, 1.0)
        v = yield draw("v", "Uniform", -1.0, 1.0)
        s = u * u + v * v  # type: ignore[operator]
        if 0.0 < s < 1.0:
            break
    mu = 1.0 + math.sqrt(5.0) * u * math.sqrt(-2.0 * math.log(s) / s)  # type: ignore[operator]
    yield observe("y", "Normal", mu, math.sqrt(2.0))
    yield observe("y", "Normal", mu, math.sqrt(2.0))


def branching() -> Generator[Event, object, None]:
    """Draws of every kind, depending on one another; one is not controlled, one is an array."""
    r = yield draw("r", "Poisson", 4.0)
    channel = yield draw("channel", "Categorical", np.array([0.2, 0.5, 0.0, 0.3]))
    b = yield draw("b", "Bernoulli", 0.3)
    yield draw("hidden", "Normal", 0.0, 1.0, control=False)
    x = yield draw(f"x{int(channel)}", "Normal", float(r), 1.0 + float(b))  # type: ignore[arg-type]
    w = yield draw("w", "Exponential", np.array([1.0, 2.0, 3.0]))
    for _ in range(int(b) + 1):  # type: ignore[call-overload]
        g = yield draw("g", "Gamma", 2.0, 1.0 + float(w[0]))  # type: ignore[index]
    total = float(x) + float(g)  # type: ignore[arg-type]
    yield observe("total", "Normal", total, 0.5)
    if r > 4:  # type: ignore[operator]
        yield observe("sometimes", "Normal", float(r), 1.0)  # type: ignore[arg-type]
    yield observe("grid", "Normal", np.full((3, 4, 5), total), np.full((3, 4, 5), 1.0))


class Gaussian:
    """mu ~ N(1, sqrt 5), ys ~ N(mu, sqrt 2): prior runs, all traces in one pass."""

    model_name = "gaussian"

    def __init__(self, *, names: Sequence[str] = ("y0", "y1"), draws: Sequence[str] = ("mu",)) -> None:
        self.addresses = AddressTable([Address(n, n, "Normal", ()) for n in (*draws, *names)])
        self.executed: list[int] = []
        self._num_draws, self._num_observed = len(draws), len(names)

    def execute(
        self, scripts: ScriptBatch, observations: Observations | None, guide: Guide | None = None
    ) -> TraceBatch:
        assert observations is None
        assert guide is None
        self.executed += scripts.index.tolist()
        k, d, o = len(scripts), self._num_draws, self._num_observed
        z = normals(scripts.seed, scripts.index, d)
        value = 1.0 + math.sqrt(5.0) * z
        noise = normals(scripts.seed, scripts.index, o, stream=Stream.OBSERVATIONS)
        log_prob = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi * 5.0)).ravel()
        return TraceBatch(
            addresses=self.addresses,
            seed=scripts.seed,
            index=scripts.index,
            status=np.zeros(k, np.uint8),
            offsets=np.arange(k + 1) * d,
            address_id=np.tile(np.arange(d, dtype=np.int32), k),
            instance=np.zeros(k * d, np.int32),
            params_id=np.zeros(k * d, np.int32),
            params=Params(np.array([1.0, math.sqrt(5.0)]), np.array([0, 2])),
            value=value.ravel(),
            z=z.ravel(),
            log_prob=log_prob,
            log_q=log_prob,
            flags=np.full(k * d, DrawFlag.CONTROLLED, np.uint8),
            observations=TensorTable(
                offsets=np.arange(k + 1) * o,
                address_id=np.tile(np.arange(d, d + o, dtype=np.int32), k),
                instance=np.zeros(k * o, np.int32),
                data=(value[:, :1] + math.sqrt(2.0) * noise).ravel(),
                data_offsets=np.arange(k * o + 1),
                log_prob=np.zeros(k * o),
            ),
            tags=TensorTable.empty(k),
            results=TensorTable.empty(k),
            loops=LoopTable.empty(k),
        )


@pytest.fixture
def gaussian() -> Gaussian:
    """The Gaussian with unknown mean."""
    return Gaussian()


@pytest.fixture
def gaussian_with() -> type[Gaussian]:
    """Gaussians with other names."""
    return Gaussian


@pytest.fixture
def simulator() -> type[InProcess]:
    """Runs models given as generators."""
    return InProcess


@pytest.fixture
def models() -> dict[str, Model]:
    """Models by name."""
    return {"marsaglia": marsaglia, "branching": branching}

"""Simulators that run in the test's process: the controller's own player, driven by events instead of a socket."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ppx_proposals.speculation import SpeculativeNetworkGuide
from ppx_server.address import Address, AddressTable
from ppx_server.observations import Observations, ObservationSet
from ppx_server.philox import Stream, normals
from ppx_server.player import Player
from ppx_server.protocol import Event, Observe, RunResult, Sample, WireDistribution
from ppx_server.recording import assemble
from ppx_server.script import Ask, Guide, Otherwise, ScriptBatch, Tails
from ppx_server.session import Session
from ppx_server.trace import DrawFlag, LoopTable, Params, Status, TensorTable, TraceBatch, gather

Model = Callable[[], Generator[Event, object, None]]


class InProcess:
    """Executes a model, a generator of events.

    Args:
        model: The model; a `ModelError` that it raises fails the trace.
        asks: Traces that wait for the guide at the same time, where they ask draw by draw.
        waves: Groups of traces that a guide which speculates is asked about in turn.
        lost: Slots whose first execution is lost with its simulator, with such a guide.

    Attributes:
        rounds: How often such a guide was asked.
        failure: `ModelError`.
    """

    failure: type[Exception]

    def __init__(self, model: Model, *, asks: int = 3, waves: int = 2, lost: Sequence[int] = ()) -> None:
        self.addresses = AddressTable()
        self.model_name = getattr(model, "__name__", "model")
        self.rounds = 0
        self._model, self._asks, self._waves, self._lost = model, asks, waves, lost

    def execute(
        self, scripts: ScriptBatch, observations: Observations | None, guide: Guide | None = None
    ) -> TraceBatch:
        if isinstance(guide, SpeculativeNetworkGuide):
            return self._execute_ahead(scripts, observations, guide)
        session = Session(scripts, _given(observations), self.addresses)
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

    def _execute_ahead(
        self, scripts: ScriptBatch, observations: Observations | None, guide: SpeculativeNetworkGuide
    ) -> TraceBatch:
        """Executes whole scripts with a guide that speculates; several waves of traces take turns."""
        guide.begin(len(scripts), self.addresses)
        finished: dict[int, TraceBatch] = {}
        waves: list[tuple[NDArray[np.int64], ScriptBatch]] = []
        own_choices = np.full(len(scripts), -1)

        def numbers(slots: NDArray[np.int64], start: int, count: int) -> NDArray[np.float64]:
            columns = [
                normals(scripts.seed, scripts.index[slots], count, start=start, stream=stream)
                for stream in (Stream.DRAWS, Stream.PROPOSALS)
            ]
            return np.stack(columns, axis=-1)

        for slots in np.array_split(np.arange(len(scripts)), self._waves):
            own = _select_scripts(scripts, slots)
            if len(own.address_id) == 0:
                own_choices[slots] = 0
                self.rounds += 1
                own = _with_tails(own, None, slots, guide.speculate(slots, None, numbers))
            waves.append((slots, own))
        lost = set(self._lost)
        while waves:
            slots, own = waves.pop(0)
            for slot in lost & set(slots.tolist()):
                lost.remove(slot)
                guide.restart(slot)
                one = np.array([slot])
                waves.append(
                    (
                        one,
                        _with_tails(
                            _select_scripts(scripts, one), None, one, guide.speculate(one, None, numbers)
                        ),
                    )
                )
                slots, own = slots[slots != slot], _select_scripts(own, np.flatnonzero(slots != slot))
            if len(slots) == 0:
                continue
            traces = self.follow(own, observations)
            self.rounds += 1
            tails = guide.speculate(slots, traces, numbers)
            first = (
                own_choices[slots] < 0
            )  # what was made before the guide was asked was forced by the script
            own_choices[slots[first]] = tails.holds[first]
            done = np.diff(tails.offsets) == 0
            ordinal = np.concatenate([np.arange(n) for n in traces.length])
            guided = traces.controlled & (ordinal >= np.repeat(own_choices[slots], traces.length))
            flags = np.where(guided, DrawFlag.CONTROLLED | DrawFlag.GUIDED, traces.flags).astype(np.uint8)
            settled = replace(traces, log_q=traces.log_prob + tails.log_ratio, flags=flags)
            for k in np.flatnonzero(done).tolist():
                assert tails.holds[k] == traces.length[k]
                assert traces.status[k] != Status.PENDING
                finished[int(slots[k])] = settled.select([k])
            going = np.flatnonzero(~done)
            waves.append((slots[going], _with_tails(traces, going, slots, tails)))
        return TraceBatch.concatenate([finished[slot] for slot in range(len(scripts))])

    def follow(self, scripts: ScriptBatch, observations: Observations | None) -> TraceBatch:
        """Executes scripts as a simulator does that follows them by itself: it stops at the first draw left open."""
        session = Session(scripts, _given(observations), self.addresses)
        recordings, failures = [], {}
        status = np.zeros(len(scripts), np.uint8)
        for slot in range(len(scripts)):
            player = Player(session, slot, send_observed=True)
            waiting: dict[int, tuple[object, Player, Ask]] = {}
            try:
                self._run(slot, self._model(), player, None, waiting, {})
            except ModelError as error:
                status[slot] = Status.FAILED
                failures[int(scripts.index[slot])] = str(error)
            if waiting:
                status[slot] = Status.PENDING
                draw = player._draw
                assert draw is not None
                for params_id in draw.site.params_ids[len(draw.values) :]:
                    player.recording.add_draw(
                        draw.site.address_id, draw.instance, params_id, 0.0, 0.0, 0.0, _PENDING
                    )
            recordings.append(player.recording)
        traces = assemble(
            recordings,
            addresses=self.addresses,
            params=session.params,
            seed=scripts.seed,
            index=scripts.index,
            failures=failures,
        )
        pending = (traces.flags & DrawFlag.PENDING) != 0
        for column in (traces.value, traces.z, traces.log_prob):
            column[pending] = np.nan
        return replace(traces, status=status)

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


class ModelError(Exception):
    """What a model raises to fail its trace."""


def _given(observations: Observations | None) -> ObservationSet | None:
    return None if observations is None else ObservationSet.of(observations)


InProcess.failure = ModelError
_PENDING = int(DrawFlag.CONTROLLED | DrawFlag.PENDING)


def _select_scripts(scripts: ScriptBatch, slots: NDArray[np.int64]) -> ScriptBatch:
    rows, offsets = gather(scripts.offsets, slots)
    columns = {name: getattr(scripts, name)[rows] for name in ("address_id", "instance", "value", "z")}
    return replace(scripts, index=scripts.index[slots], offsets=offsets, **columns)


def _with_tails(
    done: ScriptBatch | TraceBatch, going: NDArray[np.int64] | None, slots: NDArray[np.int64], tails: Tails
) -> ScriptBatch:
    """Scripts of the traces that go on: the draws that hold, by value, and then the tails."""
    parts: dict[str, list[NDArray[np.generic]]] = {n: [] for n in ("address_id", "instance", "value", "z")}
    length = []
    going = np.arange(len(slots)) if going is None else going
    for k in going.tolist():
        held = np.zeros(0, np.int64)
        if isinstance(done, TraceBatch):
            held = np.arange(done.offsets[k], done.offsets[k] + tails.holds[k])
            held = held[done.controlled[held]]
        tail = slice(tails.offsets[k], tails.offsets[k + 1])
        length.append(len(held) + tail.stop - tail.start)
        for name, columns in parts.items():
            first = getattr(done, name)[held] if name != "z" else np.full(len(held), np.nan)
            columns += [first, getattr(tails, name)[tail]]
    return ScriptBatch(
        seed=done.seed,
        index=done.index[going],
        offsets=np.cumsum([0, *length], dtype=np.int64),
        otherwise=Otherwise.ASK,
        **{n: np.concatenate([*c, np.zeros(0, c[0].dtype if c else float)]) for n, c in parts.items()},  # type: ignore[arg-type]
    )


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

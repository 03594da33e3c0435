"""What the kit has seen of a simulator: runs that several checks look at, made when the first of them asks."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ppx_inference.conformance.companion import Companion
from ppx_inference.conformance.differences import OTHER_QUANTILES, Difference, first_difference
from ppx_inference.conformance.findings import Running, Subject
from ppx_inference.conformance.reasons import Fault, faults
from ppx_inference.conformance.wire_link import Stage
from ppx_inference.conformance.wire_play import Played, play
from ppx_inference.simulator import Simulator
from ppx_server.audit import DefectiveClientError, WrongDrawError
from ppx_server.errors import PPXError, SimulatorStartError
from ppx_server.script import ScriptBatch
from ppx_server.trace import Status, TraceBatch

_PRIOR_SHARE = 0.15
_AGAIN_SHARE = 0.05
"""Shares of the time for all: for prior traces, and for one check that executes some of them again."""
_LISTEN_SHARE = 0.02
_FIRST_TRACES = 2
_NOTICE_SECONDS = 0.5
"""Until what a process has printed has been read."""
_SLOW = 0.01
"""Share of the time for all: a trace that takes so much of it is slow."""
_GRACE_SECONDS = 5.0
"""So long after the time for all no check of a slow simulator begins."""
_MOST_AGAIN, _MOST_HEARD = 400, 20
_TWICE = 10
"""Traces that tell whether it is the model that does not repeat them, or the client's batches."""
_SPOKEN = ("error", "observed_value", "truncated_normal", "rejection")
"""What a controller announces that wants to hear all that PPX can say draw by draw."""


class Evidence:
    """A simulator that is judged, with what is known of it so far.

    Args:
        subject: How to start or reach it.

    Attributes:
        subject: The same.
        simulator: It, ready to execute.
        start_seconds: How long it took to answer the first handshake.
        takes_batches: Whether it announced that it executes batches.
        defect: What it reported in batches that is wrong, in words; else empty. Once that is known, it is steered draw
            by draw, where the controller draws and computes densities.
        draws_wrongly: Whether that is a draw.
        prior_seconds: How long `traces` took.
        second: Another process, for what is to be told of one beside the first.
        third: One that may be lost.
        trouble: That its process crashes or hangs in sound company, and which check told it; empty while it does not.

    Raises:
        SimulatorStartError: It does not start or answer.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.defect = ""
        self.draws_wrongly = False
        self.prior_seconds = 0.0
        self.trouble = ""
        self._stack = ExitStack()
        self.second, self.third = Companion(subject), Companion(subject)
        self._stack.callback(self.second.stop)
        self._stack.callback(self.third.stop)
        self._stepwise: tuple[Running, Simulator] | None = None
        self._started = time.perf_counter()
        self.simulator = subject.open()
        self.start_seconds = time.perf_counter() - self._started
        self.takes_batches = self.simulator.takes_batches

    @property
    def traces(self) -> TraceBatch:
        """Prior traces 0, 1, 2, ...: as many as wanted, or as there is time for, but two at least.

        Raises:
            PPXError: They cannot be executed; the same error every time.
        """
        if isinstance(self._traces, PPXError):
            raise self._traces
        return self._traces

    @property
    def seen(self) -> TraceBatch | None:
        """`traces` without those that failed, if any check has asked for them and they could be executed."""
        traces = self.__dict__.get("_traces")
        return self.sound if isinstance(traces, TraceBatch) else None

    @cached_property
    def _traces(self) -> TraceBatch | PPXError:
        try:
            return self._first_traces()
        except PPXError as error:
            if not isinstance(error.__cause__, DefectiveClientError):
                return error
            self.defect = str(error.__cause__)
            self.draws_wrongly = isinstance(error.__cause__, WrongDrawError)
        try:
            self.simulator.close()
            self.simulator = self.subject.open(batches=False)
            return self._first_traces()
        except PPXError as error:
            return error

    def _first_traces(self) -> TraceBatch:
        index = np.arange(self.subject.num_traces)
        traces, self.prior_seconds = self._prior(self.simulator, index, _PRIOR_SHARE, first=_FIRST_TRACES)
        self._look_for_trouble(traces, "traces")
        return traces

    def _look_for_trouble(self, traces: TraceBatch, check: str) -> None:
        """What is judged after a crash says nothing: it may have left memory that is not what it should be."""
        lost = faults(traces) & {Fault.CRASH, Fault.HANG}
        if lost and not self.trouble:
            self.trouble = (
                f"its process {'crashes' if Fault.CRASH in lost else 'hangs'} in some traces: see {check}"
            )

    @property
    def seconds_per_trace(self) -> float:
        """What a prior trace costs."""
        return self.prior_seconds / len(self.traces)

    @property
    def overtime(self) -> bool:
        """Whether the time for all is over because the simulator is slow; others are judged to the end."""
        starting = self.start_seconds + self.second.start_seconds + self.third.start_seconds
        elapsed = time.perf_counter() - self._started - starting
        is_slow = self.seen is not None and self.seconds_per_trace > _SLOW * self.subject.seconds
        return is_slow and elapsed > self.subject.seconds + _GRACE_SECONDS

    @cached_property
    def sound(self) -> TraceBatch:
        """Those of `traces` that did not fail."""
        is_sound = self.traces.status == Status.OK
        return self.traces if is_sound.all() else self.traces.select(is_sound)

    @cached_property
    def some(self) -> TraceBatch:
        """The first of `sound`: as many as can be executed again in a check of the usual length, two at least."""
        sound = self.sound
        most = int(_AGAIN_SHARE * self.subject.seconds / max(self.seconds_per_trace, 1e-9))
        return sound.select(np.arange(min(max(most, 2), _MOST_AGAIN, len(sound))))

    @cached_property
    def lonely(self) -> str:
        """Why no second process starts beside the first; empty if one does."""
        try:
            self.second.running  # noqa: B018 (it is started)
        except SimulatorStartError as error:
            return str(error)
        return ""

    def connect(self, *, batches: bool = True) -> Simulator:
        """A connection to the second process.

        Args:
            batches: False to go draw by draw.

        Raises:
            SimulatorStartError: It does not answer.
        """
        return self.second.connect(batches=batches and not self.defect)

    @property
    def stepwise_simulator(self) -> Simulator:
        """The second process, steered draw by draw; `simulator` if that always is."""
        if self.defect or not self.takes_batches:
            return self.simulator
        second = self.second.running
        if self._stepwise is None or self._stepwise[0] is not second:
            self._stepwise = second, self._stack.enter_context(self.connect(batches=False))
        return self._stepwise[1]

    @cached_property
    def stepwise(self) -> TraceBatch:
        """The first of `some` once more, draw by draw: densities and values are the controller's own."""
        if self.stepwise_simulator is self.simulator:
            return self.some
        traces, _ = self._prior(self.stepwise_simulator, self.some.index, _AGAIN_SHARE, first=1)
        return traces

    @cached_property
    def hidden(self) -> Difference | None:
        """Where the same traces part in the same process, if they do."""
        again = self.simulator.execute(ScriptBatch.empty(self.subject.seed, self.some.index), None)
        self._look_for_trouble(again, "same seed")
        return first_difference(self.some, again)

    @cached_property
    def is_model_hidden(self) -> bool:
        """Whether it is the model that does not repeat its traces, and not the client's batches."""
        if self.hidden is None:
            return False
        simulator = self.stepwise_simulator
        if simulator is self.simulator:
            return True
        script = ScriptBatch.empty(self.subject.seed, self.some.index[:_TWICE])
        once, twice = (simulator.execute(script, None) for _ in range(2))
        return first_difference(once, twice) is not None

    @cached_property
    def unsteady(self) -> Difference | None:
        """Where the same traces part in the second process, if they do; None where there is only one."""
        if not self.subject.command:
            return None
        with self.connect() as simulator:
            again = simulator.execute(ScriptBatch.empty(self.subject.seed, self.some.index), None)
        self._look_for_trouble(again, "restart")
        return first_difference(self.some, again)

    @cached_property
    def rounding(self) -> bool:
        """Whether batches and draw by draw part only because the model makes much of how draws are rounded.

        The values of the draws agree until the traces part, as well as two implementations of a quantile do, and
        batches that are given the very values of the other way are that way's traces.
        """
        stepwise = self.stepwise
        if stepwise is self.some:
            return False
        batch = self.some.select(np.arange(len(stepwise)))
        parted = first_difference(batch, stepwise, tolerance=OTHER_QUANTILES)
        if parted is None or parted.kind in ("value", "failure"):
            return False
        forced = self.simulator.execute(ScriptBatch.replay(stepwise), None)
        return first_difference(stepwise, forced, tolerance=OTHER_QUANTILES) is None

    def notices(self) -> list[str]:
        """What the client library has said of the model; waits a moment for what is being printed."""
        deadline = time.perf_counter() + _NOTICE_SECONDS
        while not (found := self.simulator.notices) and time.perf_counter() < deadline:
            time.sleep(_NOTICE_SECONDS / 20)
        return found

    @cached_property
    def heard(self) -> dict[int, Played]:
        """The first of `some` as told draw by draw, message by message, by index; fewer if something goes wrong."""
        if self.lonely:
            return {}
        wanted = 1 + int(_LISTEN_SHARE * self.subject.seconds / max(self.seconds_per_trace, 1e-9))
        second = replace(self.subject, command=(), address=self.second.running.address)
        heard: dict[int, Played] = {}
        with Stage(second) as stage, stage.link() as link, suppress(PPXError):
            link.greet(_SPOKEN)
            stage.be_patient()
            for index in self.some.index[: min(wanted, _MOST_HEARD)].tolist():
                heard[index] = play(link, self.subject.seed, index)
        return heard

    def _prior(
        self, simulator: Simulator, index: NDArray[np.int64], share: float, *, first: int
    ) -> tuple[TraceBatch, float]:
        """Prior traces: some first ones, then ever more at once while there is time; and the seconds they took."""
        limit = share * self.subject.seconds
        started = time.perf_counter()
        parts: list[TraceBatch] = []
        done, size, seconds = 0, first, 0.0
        while done < len(index) and size:
            last = min(done + size, len(index))
            parts.append(simulator.execute(ScriptBatch.empty(self.subject.seed, index[done:last]), None))
            done, seconds = last, time.perf_counter() - started
            size = min(done, int(done / max(seconds, 1e-9) * max(limit - seconds, 0.0)))
        return TraceBatch.concatenate(parts), seconds

    def close(self) -> None:
        """Stops all that was started."""
        self._stack.close()
        self.simulator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

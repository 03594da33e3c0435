"""Traces of PPX 1.0, draw by draw: values as from the prior, and what the simulator said on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ppx_inference.conformance.wire_link import DefectError, Link, UnjudgedError
from ppx_server.distributions import FAMILIES
from ppx_server.errors import DistributionError
from ppx_server.philox import Stream, normals
from ppx_server.protocol import (
    Error,
    Event,
    Observe,
    ObserveResult,
    Rejection,
    RejectionResult,
    Reset,
    Run,
    RunResult,
    Sample,
    SampleResult,
    Tag,
    TagResult,
    Tensor,
    WireDistribution,
)

_MOST_STATEMENTS = 100_000
_BLOCK = 256  # normal numbers made at once

Statement = Sample | Observe | Tag | Rejection
End = RunResult | Reset | Error
Choose = Callable[[Sample, int, Tensor], Tensor]
"""The value of a draw: its message, its number in the trace, and the value that the prior gives."""


class Played(NamedTuple):
    """What a simulator said in one trace.

    Attributes:
        statements: In order.
        values: What each draw was given.
        end: RunResult, or a refusal.
    """

    statements: list[Statement]
    values: list[Tensor]
    end: End

    @property
    def draws(self) -> list[Sample]:
        """The draws among the statements."""
        return [s for s in self.statements if isinstance(s, Sample)]


class PriorValues:
    """Values of draws as trace `index` of `seed` has them."""

    def __init__(self, seed: int, index: int, stream: Stream = Stream.DRAWS) -> None:
        self._seed, self._index, self._stream = seed, index, stream
        self._used = 0
        self._known = np.empty(0)

    def next(self, distribution: WireDistribution, what: str) -> Tensor:
        """The next one.

        Raises:
            DefectError: The distribution has parameters that it cannot have.
        """
        family, params = FAMILIES[distribution.family], distribution.params
        try:
            family.validate(params)
        except DistributionError as error:
            raise DefectError(
                f"{what}: {error}",
                remedy="compute the parameters so that they stay finite and in their domain",
            ) from error
        shape = value_shape(distribution)
        z = self._take(int(np.prod(shape, dtype=np.int64)))
        if shape == ():
            return float(family.from_z(z[0], params))
        return np.asarray(family.from_z(z.reshape(shape), params), np.float64)

    def _take(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        while len(self._known) < self._used + count:
            block = normals(self._seed, self._index, _BLOCK, start=len(self._known), stream=self._stream)
            self._known = np.concatenate([self._known, block[0]])
        self._used += count
        return self._known[self._used - count : self._used]


def value_shape(distribution: WireDistribution) -> tuple[int, ...]:
    """Shape of a value: of a Categorical, that of the probabilities without their last axis."""
    shapes = [np.shape(p) for p in distribution.params]
    return shapes[0][:-1] if distribution.family == "Categorical" else np.broadcast_shapes(*shapes)


class Player:
    """Answers the statements of one trace.

    Args:
        link: Who asks; it has been greeted.
        seed: Seed of the prior values.
        index: Trace of that seed.
        choose: Changes values; by default all are from the prior.
    """

    def __init__(self, link: Link, seed: int, index: int = 0, choose: Choose | None = None) -> None:
        self._link = link
        self._choose = choose
        self._prior = PriorValues(seed, index)
        self._observed = PriorValues(seed, index, Stream.OBSERVATIONS)
        self.values: list[Tensor] = []

    def answer(self, event: Statement) -> Event:
        """The answer to a statement."""
        if isinstance(event, Sample):
            value = self._prior.next(event.distribution, f"the draw at {event.address!r}")
            if self._choose is not None:
                value = self._choose(event, len(self.values), value)
            self.values.append(value)
            return SampleResult(value)
        if isinstance(event, Observe):
            return self._observe(event)
        if isinstance(event, Tag):
            return TagResult()
        if "rejection" not in self._link.announced:
            raise DefectError(
                f"it sends Rejection ({event.address!r}) to a controller that has not announced `rejection`",
                remedy="send Rejection only to controllers that announce it",
            )
        return RejectionResult()

    def _observe(self, event: Observe) -> ObserveResult:
        drawn = self._observed.next(event.distribution, f"the observation at {event.address!r}")
        if "observed_value" not in self._link.connection.peer_capabilities:
            return ObserveResult()
        return ObserveResult(drawn if event.value is None else event.value)

    def statements(self, begun: Statement | None = None) -> Iterator[Statement | End]:
        """What the model states, up to its end. Each is answered when the next one is asked for.

        Args:
            begun: The statement that waits for its answer, in a trace that has begun; by default a trace begins.
        """
        event = self._link.exchange(Run() if begun is None else self.answer(begun))
        for _ in range(_MOST_STATEMENTS):
            assert isinstance(event, Statement | End)
            yield event
            if isinstance(event, End):
                return
            event = self._link.exchange(self.answer(event))
        raise UnjudgedError(f"a trace has more than {_MOST_STATEMENTS:,} statements")

    def finish(self, begun: Statement | None = None) -> Played:
        """Plays to the end; arguments as for `statements`."""
        *statements, end = self.statements(begun)
        assert isinstance(end, End)
        return Played([s for s in statements if not isinstance(s, End)], self.values, end)

    def reach(self, wanted: Callable[[Statement], bool]) -> Statement:
        """Runs the model up to a statement, whose answer is then due.

        Raises:
            UnjudgedError: No such statement comes.
        """
        for event in self.statements():
            if not isinstance(event, End) and wanted(event):
                return event
        raise UnjudgedError("the trace has no such statement")


def play(link: Link, seed: int, index: int = 0, choose: Choose | None = None) -> Played:
    """One whole trace."""
    return Player(link, seed, index, choose).finish()


def is_draw(event: Statement) -> bool:
    """Whether it is a draw."""
    return isinstance(event, Sample)

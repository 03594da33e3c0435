"""Plays a script for a simulator that asks draw by draw (PPX 1.0): one message in, one reply out.

Sans-I/O: the executor moves the messages. A `Player` runs one trace at a time for one simulator.
"""

from __future__ import annotations

import numpy as np

from ppx_server.address import Address
from ppx_server.distributions import Family, family
from ppx_server.errors import DistributionError, RemoteProtocolError
from ppx_server.observations import NotGiven, ObservationKey, Tensor
from ppx_server.philox import Normals, Stream, guide_streams
from ppx_server.protocol import (
    Event,
    Observe,
    ObserveResult,
    Rejection,
    RejectionResult,
    RunResult,
    Sample,
    SampleResult,
    Tag,
    TagResult,
)
from ppx_server.recording import CONTROLLED, FORCED, GUIDED, Recording
from ppx_server.script import Ask, Choice, Otherwise
from ppx_server.session import Session, Site

_NAN = float("nan")
# What no draw has for an address or name: visits of observes and tags are counted apart.
_ANY_ADDRESS, _OBSERVED, _TAGGED = "\0any", "\0observed", "\0tagged"


class _Draw:
    """A draw in progress: the elements chosen so far."""

    __slots__ = ("controlled", "forced", "instance", "site", "values")

    def __init__(self, site: Site, instance: int, controlled: bool, forced: range) -> None:
        self.site = site
        self.instance = instance
        self.controlled = controlled
        self.forced = forced
        self.values: list[float] = []


class Player:
    """Runs one trace: answers the simulator's messages from the script, the prior or a guide.

    Args:
        session: What the batch shares.
        slot: Which of its scripts to play.
        send_observed: Whether the simulator understands a value in the answer to an observe.
    """

    def __init__(self, session: Session, slot: int, *, send_observed: bool) -> None:
        self.session = session
        self.slot = slot
        self.recording = Recording()
        self._send_observed = send_observed
        self._normals = session.normals(slot, Stream.DRAWS)
        self._observed_normals: Normals | None = None
        self._num_observed = 0
        self._counts: dict[tuple[str, str], int] = {}
        self._follows = session.scripts.otherwise is Otherwise.ASK
        self._omits = session.uncontrolled.omitted
        self._guide_normals = (
            [session.normals(slot, stream) for stream in guide_streams(omitted=self._omits)]
            if self._follows
            else []
        )
        self._choices = list(session.choices(slot))
        self._rows = {} if self._follows else _first_rows(self._choices)
        self._cursor = 0
        self._draw: _Draw | None = None

    def guide_normals(self) -> tuple[float, float]:
        """The random numbers a guide may use for the draw it is asked for."""
        number = self.recording.num_draws
        prior, proposal = self._guide_normals
        return prior[number], proposal[number]

    def react(self, event: Event) -> Event | Ask:
        """Handles Sample, Observe, Tag or Rejection.

        Returns:
            The reply to send, or an `Ask` whose answer goes to `answer`.

        Raises:
            RemoteProtocolError: The message makes no sense, such as parameters outside the family's domain.
        """
        if type(event) is Sample:
            site = self.session.site(event)
            instance = self._visit(event.address, event.name)
            control = site.controlled
            forced = self._forced(site, instance) if control or not self._follows else range(0)
            if site.shape == () and (forced or not self._follows or not control):
                value = self._choose(site, 0, instance, forced, control)
                return SampleResult(value)
            self._draw = _Draw(site, instance, control, forced)
            return self._continue()
        if type(event) is Observe:
            return self._observe(event)
        if type(event) is Rejection:
            return self._mark(event)
        assert type(event) is Tag
        return self._tag(event)

    def answer(self, choice: Choice) -> Event | Ask:
        """Goes on with the draw that was asked for; returns as `react` does."""
        draw = self._draw
        assert draw is not None
        site, element = draw.site, len(draw.values)
        value, z = choice.value, choice.z
        if value != value:
            value = site.family.from_z_scalar(z, site.params[element])
        self.recording.add_draw(
            site.address_id,
            draw.instance,
            site.params_ids[element],
            value,
            z,
            choice.log_ratio,
            CONTROLLED | GUIDED,
        )
        draw.values.append(value)
        return self._continue()

    def finish(self, event: RunResult) -> None:
        """Records what the simulator returned; the trace is complete."""
        if event.result is not None and np.size(event.result):
            address = Address("", "", "", np.shape(event.result))
            self.recording.results.add(self.session.addresses.intern(address), 0, event.result)

    def _continue(self) -> Event | Ask:
        draw = self._draw
        assert draw is not None
        site = draw.site
        for element in range(len(draw.values), len(site.params)):
            if self._follows and draw.controlled and element >= len(draw.forced):
                return Ask(self.slot, site.address_id, draw.instance, site.params[element])
            draw.values.append(self._choose(site, element, draw.instance, draw.forced, draw.controlled))
        self._draw = None
        if site.shape == ():
            return SampleResult(draw.values[0])
        return SampleResult(np.array(draw.values, np.float64).reshape(site.shape))

    def _choose(self, site: Site, element: int, instance: int, forced: range, controlled: bool) -> float:
        """Chooses one scalar from the script or the prior, and records it."""
        flags = CONTROLLED if controlled else 0
        if element < len(forced):
            row = forced[element]
            value, z = self.session.values[row], self.session.coordinates[row]
            if value != value:
                value = site.family.from_z_scalar(z, site.params[element])
            else:
                z = _NAN
            flags |= FORCED
        else:
            z = self._normals[self.recording.num_made]
            value = site.family.from_z_scalar(z, site.params[element])
            if self._omits and not controlled:
                self.recording.leave_out()
                return value
        ids, params = site.params_ids, site.params[element]
        params_id = ids[element] if ids else self.session.params.intern(site.family, params)
        self.recording.add_draw(site.address_id, instance, params_id, value, z, 0.0, flags)
        return value

    def _visit(self, address: str, name: str) -> int:
        """The number of this visit, whatever the family and shape of the others."""
        key = (address, name)
        instance = self._counts.get(key, 0)
        self._counts[key] = instance + 1
        return instance

    def _forced(self, site: Site, instance: int) -> range:
        """The script's rows for a draw; empty if it does not cover it."""
        if not self._choices:
            return range(0)
        key = (site.address_id, instance)
        if not self._follows:
            start = self._rows.get(key)
            if start is None:
                return range(0)
        else:
            start = self._cursor
            if start >= len(self._choices) or self._choices[start][0] != key:
                self._cursor = len(self._choices)
                return range(0)
        stop = start
        while stop < len(self._choices) and stop - start < len(site.params) and self._choices[stop][0] == key:
            stop += 1
        if self._follows:
            self._cursor = stop
        first = self._choices[start][1]
        return range(first, first + stop - start)

    def _observe(self, event: Observe) -> ObserveResult:
        kind = family(event.distribution.family)
        name = event.name or event.address
        shape, params = observed_shape(event)
        address_id = self.session.addresses.intern(Address(event.address, name, kind.name, shape))
        # By name, counted over all scopes and families; or by full address, for a name that several scopes observe.
        keys = (
            (name, self._visit(_ANY_ADDRESS, name)),
            (event.address, self._visit(event.address, _OBSERVED)),
        )
        given = self._given(keys, event.value, shape)
        try:
            value = self._weigh(address_id, keys[0][1], kind, params, given, shape)
        except DistributionError as error:
            raise RemoteProtocolError(f"observe {name!r} at address {event.address!r}: {error}") from error
        return ObserveResult(value if self._send_observed else None)

    def _weigh(
        self,
        address_id: int,
        instance: int,
        kind: Family,
        params: tuple[Tensor, ...],
        given: Tensor | None,
        shape: tuple[int, ...],
    ) -> Tensor:
        """Records an observation and its density; draws what is not given first.

        In a prior run the density of what is drawn is part of the record. Else only what was measured counts.
        """
        rows = self.recording.observations
        is_prior = self.session.observations is None
        if shape == () and all(type(p) is float for p in params):
            params_id = self.session.params.intern(kind, params)  # type: ignore[arg-type]
            if given is not None:
                rows.add_scalar(address_id, instance, float(given), params_id, drawn=False)
                return float(given)
            number = kind.from_z_scalar(self._observed_numbers()[self._num_observed], params)  # type: ignore[arg-type]
            self._num_observed += 1
            if is_prior:
                rows.add_scalar(address_id, instance, number, params_id, drawn=True)
            else:
                rows.add(address_id, instance, number)
            return number
        kind.validate(params)
        drawn = (
            None
            if given is not None and not np.isnan(given).any()
            else self._draw_observed(kind, params, shape)
        )
        if given is None:
            assert drawn is not None
            value, counts = drawn, np.full(shape, is_prior)
        else:
            counts = ~np.isnan(given)
            value = given if drawn is None else np.where(counts, given, drawn)
        log_prob = float(np.sum(kind.log_prob(value, params), where=counts))
        if log_prob != log_prob:
            raise DistributionError(f"log_prob of the {kind.name} is NaN")
        rows.add(address_id, instance, None if drawn is None else value, log_prob)
        return value

    def _given(
        self, keys: tuple[ObservationKey, ObservationKey], coded: Tensor | None, shape: tuple[int, ...]
    ) -> Tensor | None:
        """The value of an observe, NaN where it was not measured; None if it is to be drawn.

        What does not fit is drawn, too: whether it rules the trace out is decided when the trace is complete.
        """
        observations = self.session.observations
        if observations is None:
            return None
        value = observations.given(*keys)
        if isinstance(value, NotGiven) or (value is not None and np.size(value) == 0):
            value = None if coded is None or np.size(coded) == 0 else coded
        if value is None or np.shape(value) != shape:
            return None
        return None if np.isnan(value).all() else value

    def _observed_numbers(self) -> Normals:
        """Random numbers for observations that are drawn; seldom needed where values are given."""
        if self._observed_normals is None:
            self._observed_normals = self.session.normals(self.slot, Stream.OBSERVATIONS)
        return self._observed_normals

    def _draw_observed(self, kind: Family, params: tuple[Tensor, ...], shape: tuple[int, ...]) -> Tensor:
        count = int(np.prod(shape, dtype=np.int64))
        z = self._observed_numbers().array(self._num_observed, count)
        self._num_observed += count
        drawn = np.asarray(kind.from_z(z.reshape(shape), params), np.float64)
        return drawn if shape else float(drawn)

    def _mark(self, event: Rejection) -> RejectionResult:
        if event.begin:
            address = Address(event.address, event.name, "", ())
            self.recording.begin_loop(self.session.addresses.intern(address))
        else:
            self.recording.end_loop()
        return RejectionResult()

    def _tag(self, event: Tag) -> TagResult:
        value = event.value
        address = Address(event.address, event.name or event.address, "", np.shape(value))
        address_id = self.session.addresses.intern(address)
        self.recording.tags.add(address_id, self._visit(event.address, _TAGGED + address.name), value)
        return TagResult()


def _first_rows(choices: list[tuple[tuple[int, int], int]]) -> dict[tuple[int, int], int]:
    """Position in `choices` of the first row of every draw."""
    first: dict[tuple[int, int], int] = {}
    for position, (key, _) in enumerate(choices):
        first.setdefault(key, position)
    return first


def observed_shape(event: Observe) -> tuple[tuple[int, ...], tuple[Tensor, ...]]:
    """The shape of an observed value, and the distribution's parameters.

    Raises:
        RemoteProtocolError: Parameters and value do not fit together.
    """
    params, value = event.distribution.params, event.value
    if event.distribution.family == "Categorical":
        if np.ndim(params[0]) == 0:
            raise RemoteProtocolError(f"observe {event.name!r}: Categorical probs need an axis of categories")
        own = [np.shape(params[0])[:-1]]
    elif type(value) in (float, type(None)) and all(type(p) is float for p in params):
        return (), params
    else:
        own = [np.shape(p) for p in params]
    if value is not None and np.size(value):
        own.append(np.shape(value))
    try:
        return np.broadcast_shapes(*own), params
    except ValueError:
        raise RemoteProtocolError(
            f"observe {event.name!r}: {event.distribution.family} parameters and value have shapes "
            f"{', '.join(map(str, own))}, which do not fit"
        ) from None

"""One execution of the model as a script says, without asking anybody: the seam of `Trace`, answered on the spot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from ppx_client.columns import CHOICE, CONTROLLED, FORCED, NOT_CHOSEN, OBSERVATION
from ppx_client.densities import log_prob
from ppx_client.distributions import Categorical, Distribution
from ppx_client.philox import Numbers
from ppx_client.quantiles import SCALAR, element_vectors, quantiles, tails
from ppx_client.sites import Site
from ppx_client.traces import EndOfTrace
from ppx_client.values import to_python

if TYPE_CHECKING:
    from ppx_client.batches import Batch
    from ppx_client.buffers import Tensor

_NAN = math.nan
_CATEGORICAL = Categorical.code


class Choices(NamedTuple):
    """Forced choices of a batch, by row.

    Attributes:
        site: Which draw, None if it is none that this simulator can make.
        instance: Which visit.
        value: Its value, NaN where `z` holds.
        z: Its coordinate.
    """

    site: Sequence[Site | None]
    instance: Sequence[int]
    value: Sequence[float]
    z: Sequence[float]


class Cursor:
    """The choices of one trace, as its draws look for them.

    Draws mostly come in the order of the script, so the next choice is tried first. Where the script follows the trace
    (`ask`), another one ends it; else all choices are looked up from there on.
    """

    __slots__ = ("_choices", "_follows", "_next", "_rows", "_stop")

    def __init__(self, choices: Choices, start: int, stop: int, *, follows: bool) -> None:
        self._choices = choices
        self._next, self._stop = start, stop
        self._follows = follows
        self._rows: dict[tuple[Site | None, int], int] | None = None

    def find(self, site: Site, instance: int, size: int) -> range:
        """The rows that force a draw of `size` elements."""
        sites, instances = self._choices.site, self._choices.instance
        start, stop = self._next, self._stop
        if (
            self._rows is not None
            or start >= stop
            or sites[start] is not site
            or instances[start] != instance
        ):
            start = self._look_up(site, instance)
        end = start
        while end < stop and end - start < size and sites[end] is site and instances[end] == instance:
            end += 1
        if self._rows is None:
            self._next = end
        return range(start, end)

    def _look_up(self, site: Site, instance: int) -> int:
        """The first row of a draw that is not the next one; the end if there is none."""
        if self._follows:
            return self._stop
        if self._rows is None:
            # Rows before the next one have been used, and no draw asks twice.
            self._rows = {}
            for row in range(self._next, self._stop):
                self._rows.setdefault((self._choices.site[row], self._choices.instance[row]), row)
        return self._rows.get((site, instance), self._stop)


class ScriptedTrace:
    """One execution of the model.

    Attributes:
        end: Why the trace is over, None while it goes on.
        failure: Kind and reason, if the script or the observations ended it.
        pending: Whether it waits for a longer script.
        num_draws: Numbers used for draws so far.
        num_observed: Numbers used for drawn observations so far.
        num_in_arrays: How many of these went to arrays, which take theirs at once.
        num_observed_in_arrays: Likewise.
    """

    __slots__ = (
        "_add_address",
        "_add_flags",
        "_add_instance",
        "_add_params",
        "_add_value",
        "_add_z",
        "_asks",
        "_batch",
        "_counts",
        "_cursor",
        "_normals",
        "_numbers",
        "_observed_numbers",
        "_open",
        "_sites",
        "_uniforms",
        "_visits",
        "end",
        "failure",
        "num_draws",
        "num_in_arrays",
        "num_observed",
        "num_observed_in_arrays",
        "pending",
    )

    def __init__(self, batch: Batch, cursor: Cursor | None, draws: Numbers, observed: Numbers) -> None:
        self._batch = batch
        self._cursor = cursor
        self._asks = batch.asks
        self._numbers = draws
        self._observed_numbers = observed
        self._uniforms, self._normals = draws.uniforms, draws.normals
        self._sites = batch.sites.draws
        self._visits: dict[int, int] = {}
        self._counts: dict[tuple[str, str], int] = {}
        rows = batch.result
        self._add_address, self._add_instance = rows.address.append, rows.instance.append
        self._add_params, self._add_flags = rows.params.append, rows.flags.append
        self._add_value, self._add_z = rows.value.append, rows.z.append
        self._open: list[int] = []
        self.end: EndOfTrace | None = None
        self.failure: tuple[int, str] | None = None
        self.pending = False
        self.num_draws = 0
        self.num_observed = 0
        self.num_in_arrays = self.num_observed_in_arrays = 0

    def sample(self, distribution: Distribution, address: str, name: str, control: bool) -> Any:
        """The script's choice for a draw, or one from its prior."""
        if self.end is not None:
            raise self.end
        key = address, name, distribution.code, distribution.shape
        site = self._sites.get(key)
        if site is None:
            site = self._batch.sites.visit(key)
        visits, place = self._visits, site.place
        instance = visits.get(place, 0)
        visits[place] = instance + 1
        if distribution.shape != ():
            return self._sample_array(distribution, site, instance, control)
        vector = distribution.vector
        params = site.params if vector is site.vector else self._batch.intern(site, vector)
        ordinal = self.num_draws
        flags = CONTROLLED if control else 0
        if (control or not self._asks) and (self._asks or self._cursor is not None):
            rows = self._forced(site, instance, 1)
            if rows:
                value, z = self._choose(site, vector, rows[0])
                flags |= FORCED
            elif self._asks:
                self._suspend(site, instance, [params])
            else:
                value, z = self._draw(site, vector, ordinal)
        else:
            value, z = self._draw(site, vector, ordinal)
        self.num_draws = ordinal + 1
        self._add_address(site.number)
        self._add_instance(instance)
        self._add_params(params)
        self._add_value(value)
        self._add_z(z)
        self._add_flags(flags)
        return int(value) if site.discrete else value

    def _draw(self, site: Site, vector: Sequence[float], ordinal: int) -> tuple[float, float]:
        """The prior's value with the random number of this ordinal, and its coordinate."""
        if ordinal >= len(self._uniforms):
            self._numbers.reach(ordinal + 1)
        u, z = self._uniforms[ordinal], self._normals[ordinal]
        return site.quantile(u, 1.0 - u, z, vector), z

    def _forced(self, site: Site, instance: int, size: int) -> range:
        return range(0) if self._cursor is None else self._cursor.find(site, instance, size)

    def _choose(self, site: Site, vector: Sequence[float], row: int) -> tuple[float, float]:
        """The script's value, and its coordinate if that is known."""
        choices = self._batch.choices
        value, z = choices.value[row], _NAN
        if value != value:
            z = choices.z[row]
            if z == z:
                value = site.quantile(*tails(z), z, vector)
        if not math.isfinite(value):
            self._refuse(site, value, "it must be finite")
        if site.discrete:
            if not value.is_integer():
                self._refuse(site, value, "it must be a whole number")
            if site.address.family == _CATEGORICAL and not 0.0 <= value < len(vector):
                self._refuse(site, value, f"there are {len(vector)} categories")
        return value, z

    def _sample_array(self, distribution: Distribution, site: Site, instance: int, control: bool) -> Any:
        size = math.prod(distribution.shape)
        vectors = element_vectors(distribution)
        params = [self._batch.intern(site, vector) for vector in vectors]
        start, rows = self.num_draws, self._batch.result
        forced = self._forced(site, instance, size) if control or not self._asks else range(0)
        chosen = [self._choose(site, vectors[i], row) for i, row in enumerate(forced)]
        flags = CONTROLLED if control else 0
        if self._asks and control and len(chosen) < size:
            self._append(site, instance, params, chosen, flags | FORCED)
            self.num_draws += len(chosen)
            self._suspend(site, instance, params[len(chosen) :])
        values, z = np.empty(size), np.empty(size)
        if len(chosen) < size:
            uniform, normal = self._numbers.array(start, size)
            shape = distribution.shape
            values[:] = quantiles(distribution, uniform.reshape(shape), normal.reshape(shape)).ravel()
            z[:] = normal
        if chosen:
            values[: len(chosen)], z[: len(chosen)] = np.array(chosen).T
        self.num_draws = start + size
        self.num_in_arrays += size
        rows.address.extend([site.number] * size)
        rows.instance.extend([instance] * size)
        rows.params.extend(params)
        rows.value.frombytes(values.tobytes())
        rows.z.frombytes(z.tobytes())
        rows.flags.extend([flags | FORCED] * len(chosen) + [flags] * (size - len(chosen)))
        return to_python(distribution, values.reshape(distribution.shape))

    def _append(
        self, site: Site, instance: int, params: list[int], chosen: list[tuple[float, float]], flags: int
    ) -> None:
        rows = self._batch.result
        for number, (value, z) in zip(params, chosen, strict=False):
            rows.address.append(site.number)
            rows.instance.append(instance)
            rows.params.append(number)
            rows.value.append(value)
            rows.z.append(z)
            rows.flags.append(flags)

    def _suspend(self, site: Site, instance: int, params: list[int]) -> NoReturn:
        """The script does not cover this draw: the trace ends here, and is resumed by a longer script."""
        self._append(site, instance, params, [(_NAN, _NAN)] * len(params), CONTROLLED | NOT_CHOSEN)
        self.num_draws += len(params)
        self.pending = True
        self.end = EndOfTrace("the script ends here")
        raise self.end

    def observe(self, distribution: Distribution, value: Tensor | None, address: str, name: str) -> Any:
        """The observed value, given or drawn; its density is recorded."""
        if self.end is not None:
            raise self.end
        batch, shape = self._batch, distribution.shape
        observed = name or address
        number = batch.sites.number(address, observed, distribution.code, shape)
        # By name, counted over all scopes and families; or by full address, for a name that several scopes observe.
        instance = self._count(("", observed))
        visit = self._count((address, "\0observed"))
        if batch.observations is None:
            result = self._draw_observed(distribution)
            batch.result.observations.add(number, instance, result)
        else:
            given = batch.observations.get((observed, instance))
            if given is None:
                given = batch.observations.get((address, visit), value)
            result = self._check_given(given, observed, instance, shape)
            batch.result.observations.add(number, instance, None)
        if isinstance(result, float):
            batch.weigh(distribution.code, result, distribution.vector)
        else:
            density = log_prob(distribution.code, result, distribution.params)
            batch.result.observations.log_prob.append(float(density.sum()))
        return to_python(distribution, result)

    def _count(self, key: tuple[str, str]) -> int:
        visit = self._counts.get(key, 0)
        self._counts[key] = visit + 1
        return visit

    def _draw_observed(self, distribution: Distribution) -> Tensor:
        numbers, start, shape = self._observed_numbers, self.num_observed, distribution.shape
        if shape == ():
            self.num_observed = start + 1
            if start >= len(numbers.uniforms):
                numbers.reach(start + 1)
            u = numbers.uniforms[start]
            return SCALAR[distribution.code](u, 1.0 - u, numbers.normals[start], distribution.vector)
        size = math.prod(shape)
        self.num_observed = start + size
        self.num_observed_in_arrays += size
        uniform, z = numbers.array(start, size)
        return quantiles(distribution, uniform.reshape(shape), z.reshape(shape))

    def _check_given(self, value: Tensor | None, name: str, instance: int, shape: tuple[int, ...]) -> Tensor:
        given = self._batch.observations
        assert given is not None
        if value is None:
            if instance:
                self._fail(
                    OBSERVATION,
                    f"the simulator observes {name!r} again (visit {instance + 1}); "
                    f"give that value as observations[({name!r}, {instance})]",
                )
            names = ", ".join(sorted({name for name, _ in given})) or "none"
            self._fail(
                OBSERVATION,
                f"the simulator observes {name!r}, which is not among the observations given ({names}); add it",
            )
        if np.shape(value) != shape:
            self._fail(
                OBSERVATION,
                f"observation {name!r} has shape {np.shape(value)}, but the simulator observes shape {shape}",
            )
        return value if isinstance(value, float) else value.copy()

    def tag(self, value: Tensor, address: str, name: str) -> None:
        """Records a value."""
        if self.end is not None:
            raise self.end
        shape = () if isinstance(value, float) else value.shape
        number = self._batch.sites.number(address, name or address, 0, shape)
        self._batch.result.tags.add(number, self._count((address, "\0tagged" + (name or address))), value)

    def begin_rejection(self, address: str, name: str) -> int:
        """A rejection loop begins here; its row."""
        if self.end is not None:
            raise self.end
        loops = self._batch.result.loops
        loops.address.append(self._batch.sites.number(address, name, 0, ()))
        loops.begin.append(self.num_draws)
        loops.end.append(self.num_draws)
        row = len(loops.end) - 1
        self._open.append(row)
        return row

    def end_rejection(self, address: str, name: str, row: int) -> None:
        """A rejection loop ends here."""
        if self.end is None:
            self._batch.result.loops.end[row] = self.num_draws
            self._open.remove(row)

    def close(self) -> None:
        """The model has returned: loops that are still open end here, and nothing can be added."""
        ends = self._batch.result.loops.end
        for row in self._open:
            ends[row] = self.num_draws
        self.end = self.end or EndOfTrace("the trace is over")

    def _refuse(self, site: Site, value: float, why: str) -> NoReturn:
        address, _, _, shape = site.address
        self._fail(CHOICE, f"the script forces {value!r} for {address} of shape {shape}, but {why}")

    def _fail(self, kind: int, reason: str) -> NoReturn:
        self.failure = kind, reason
        self.end = EndOfTrace(reason)
        raise self.end

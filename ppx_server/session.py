"""What the traces of one call of `execute` share when they are played draw by draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppx_server.address import Address, AddressTable
from ppx_server.distributions import Family, family
from ppx_server.errors import DistributionError, RemoteProtocolError
from ppx_server.observations import ObservationSet
from ppx_server.philox import Normals, Stream, normals
from ppx_server.protocol import Sample, WireDistribution
from ppx_server.recording import ParamsInterner
from ppx_server.script import ScriptBatch
from ppx_server.uncontrolled import Uncontrolled

_FIRST_NORMALS = 32
_KEPT_SITES = 4096


class Site(NamedTuple):
    """A draw as its message describes it, looked up once for messages that are byte-identical.

    `params_ids` is empty where the draw is not recorded, unless a script forces it.
    """

    event: Sample
    address_id: int
    family: Family
    shape: tuple[int, ...]
    params: tuple[tuple[float, ...], ...]
    params_ids: tuple[int, ...]
    controlled: bool


def scalar_params(distribution: WireDistribution) -> tuple[tuple[int, ...], list[tuple[float, ...]]]:
    """The shape of a draw, and the parameters of each of its elements in C order.

    Raises:
        RemoteProtocolError: The parameters' shapes do not fit together.
    """
    params = distribution.params
    if distribution.family == "Categorical":
        probs = np.asarray(params[0], np.float64)
        if probs.ndim == 0 or probs.shape[-1] == 0:
            raise RemoteProtocolError(
                f"Categorical probs of shape {probs.shape}: the last axis must hold the categories"
            )
        return probs.shape[:-1], [tuple(row) for row in probs.reshape(-1, probs.shape[-1]).tolist()]
    if all(type(p) is float for p in params):
        return (), [params]  # type: ignore[list-item]
    try:
        arrays = np.broadcast_arrays(*params)
    except ValueError:
        shapes = ", ".join(str(np.shape(p)) for p in params)
        raise RemoteProtocolError(
            f"parameters of {distribution.family} have shapes {shapes}, which do not fit"
        ) from None
    return arrays[0].shape, list(zip(*(a.ravel().tolist() for a in arrays), strict=True))


class Session:
    """What the traces of one batch share: scripts, observations, addresses, parameters, random numbers.

    Args:
        scripts: K scripts.
        observations: What to condition on, or None to draw every observation from its distribution.
        addresses: The simulator's address table.
        uncontrolled: Which draws are left to the prior, and whether they are recorded.
    """

    def __init__(
        self,
        scripts: ScriptBatch,
        observations: ObservationSet | None,
        addresses: AddressTable,
        uncontrolled: Uncontrolled | None = None,
    ) -> None:
        self.uncontrolled = uncontrolled or Uncontrolled()
        self.scripts = scripts
        self.observations = observations
        self.addresses = addresses
        self.params = ParamsInterner()
        self._sites: dict[int, Site] = {}
        self._normals: dict[Stream, NDArray[np.float64]] = {}
        source = addresses if scripts.addresses is None else scripts.addresses
        self._address_ids: list[int] = addresses.translate(scripts.address_id, source).tolist()
        self._instances = scripts.instance.tolist()
        self.values: list[float] = scripts.value.tolist()
        self.coordinates: list[float] = scripts.z.tolist()
        self._offsets = scripts.offsets.tolist()

    def normals(self, slot: int, stream: Stream) -> Normals:
        """The standard normal numbers of the trace in `slot`, for one purpose."""
        if stream not in self._normals:
            scripts = self.scripts
            self._normals[stream] = normals(scripts.seed, scripts.index, _FIRST_NORMALS, stream=stream)
        first: list[float] = self._normals[stream][slot].tolist()
        return Normals(self.scripts.seed, int(self.scripts.index[slot]), stream, first)

    def choices(self, slot: int) -> Iterator[tuple[tuple[int, int], int]]:
        """The forced choices of a script: (address id, instance), and the row of the value."""
        rows = range(self._offsets[slot], self._offsets[slot + 1])
        return (((self._address_ids[row], self._instances[row]), row) for row in rows)

    def site(self, event: Sample) -> Site:
        """Looks up what a Sample message asks for; cheap for a message seen before."""
        site = self._sites.get(id(event))
        if site is not None and site.event is event:
            return site
        kind = family(event.distribution.family)
        shape, params = scalar_params(event.distribution)
        controlled = event.control and not self.uncontrolled.matches(event.address, event.name)
        params_ids: tuple[int, ...] = ()
        try:
            if controlled or not self.uncontrolled.omitted:
                params_ids = tuple([self.params.intern(kind, p) for p in params])
            else:
                for p in params:
                    kind.validate_scalar(p)
        except DistributionError as error:
            raise RemoteProtocolError(f"draw at address {event.address!r}: {error}") from error
        address_id = self.addresses.intern(Address(event.address, event.name, kind.name, shape))
        site = Site(event, address_id, kind, shape, tuple(params), params_ids, controlled)
        if len(self._sites) >= _KEPT_SITES:
            self._sites.clear()
        self._sites[id(event)] = site
        return site

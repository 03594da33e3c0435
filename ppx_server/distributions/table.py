"""The table of families, in the order of the wire format's union."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ppx_server.distributions.continuous import Beta, Exponential, Gamma, LogNormal, Normal, Uniform, Weibull
from ppx_server.distributions.discrete import Bernoulli, Binomial, Categorical, Poisson
from ppx_server.distributions.family import Family
from ppx_server.distributions.truncated import TruncatedNormal
from ppx_server.errors import DistributionError

_ORDER: tuple[Family, ...] = (
    Normal(),
    Uniform(),
    Categorical(),
    Poisson(),
    Bernoulli(),
    Beta(),
    Exponential(),
    Gamma(),
    LogNormal(),
    Binomial(),
    Weibull(),
    TruncatedNormal(),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({f.name: f for f in _ORDER})
"""Families by name, in wire order."""

FAMILY_BY_CODE: Mapping[int, Family] = MappingProxyType({f.code: f for f in _ORDER})
"""Families by their code on the wire, 1 to 12."""


def family(name: str) -> Family:
    """The family of a name.

    Raises:
        DistributionError: There is none.
    """
    try:
        return FAMILIES[name]
    except KeyError:
        raise DistributionError(
            f"unknown distribution family {name!r}; the known ones are {', '.join(FAMILIES)}"
        ) from None

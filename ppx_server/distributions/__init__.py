"""The twelve distribution families, in one table: densities, quantiles and standard coordinates.

`FAMILIES` maps names to families; a family's methods work on whole columns. The `*_columns` functions do so for
draws of mixed families, as a `TraceBatch` holds them.
"""

from __future__ import annotations

from ppx_server.distributions.columns import (
    family_codes,
    from_z_columns,
    log_prob_columns,
    to_z_columns,
    z_interval_columns,
)
from ppx_server.distributions.family import Z_MAX, Domain, Family, Kind
from ppx_server.distributions.table import FAMILIES, FAMILY_BY_CODE, family

__all__ = [
    "FAMILIES",
    "FAMILY_BY_CODE",
    "Z_MAX",
    "Domain",
    "Family",
    "Kind",
    "family",
    "family_codes",
    "from_z_columns",
    "log_prob_columns",
    "to_z_columns",
    "z_interval_columns",
]

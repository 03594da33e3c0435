"""The messages of PPX as plain values.

Dispatch on `type(event)`: as tuples, two events of different types may compare equal, and `Run()` is falsy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Tensor = float | NDArray[np.float64]
"""A scalar, or an array of any shape. Arrays that were received are read-only views of the message."""

CAPABILITIES = ("error", "observed_value", "truncated_normal")
"""The extensions of PPX 1.0 that this package speaks; see schema/ppx.fbs."""


class WireDistribution(NamedTuple):
    """A distribution as it travels: only shapes have been checked, not the parameters' domains.

    Attributes:
        family: Name in the union `Distribution`, such as `"Normal"`.
        params: In the order of the schema; their shapes broadcast against each other.
    """

    family: str
    params: tuple[Tensor, ...]


class Handshake(NamedTuple):
    """Controller: begin, or begin again."""

    system_name: str
    capabilities: tuple[str, ...] = ()


class HandshakeResult(NamedTuple):
    """Simulator: the answer to Handshake."""

    system_name: str
    model_name: str
    capabilities: tuple[str, ...] = ()


class Run(NamedTuple):
    """Controller: execute the model once."""


class RunResult(NamedTuple):
    """Simulator: the model has returned; None (also received for an empty tensor) if it returned nothing."""

    result: Tensor | None


class Sample(NamedTuple):
    """Simulator: what value does this draw take? `control` says whether inference may choose it."""

    address: str
    name: str
    distribution: WireDistribution
    control: bool


class SampleResult(NamedTuple):
    """Controller: the value of the draw."""

    result: Tensor


class Observe(NamedTuple):
    """Simulator: condition on `value`; None (also received for an empty tensor): the controller has it, by name."""

    address: str
    name: str
    distribution: WireDistribution
    value: Tensor | None


class ObserveResult(NamedTuple):
    """Controller: the observation is recorded. The value is an extension ("observed_value")."""

    value: Tensor | None = None


class Tag(NamedTuple):
    """Simulator: record a value."""

    address: str
    name: str
    value: Tensor


class TagResult(NamedTuple):
    """Controller: the value is recorded."""


class Reset(NamedTuple):
    """Simulator: the trace is over, because the conversation was lost or, in PPX 1.0, because the model raised."""


class Error(NamedTuple):
    """Simulator: the model raised, the trace is over, ready for the next. An extension ("error")."""

    message: str


Event = (
    Handshake
    | HandshakeResult
    | Run
    | RunResult
    | Sample
    | SampleResult
    | Observe
    | ObserveResult
    | Tag
    | TagResult
    | Reset
    | Error
)

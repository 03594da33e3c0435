"""The messages of PPX as plain values.

Dispatch on `type(event)`: as tuples, two events of different types may compare equal, and `Run()` is falsy.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Tensor = float | NDArray[np.float64]
"""A scalar, or an array of any shape. Arrays that were received are read-only views of the message."""

Floats = NDArray[np.float64]
Ids = NDArray[np.int32]
Bytes = NDArray[np.uint8]

CAPABILITIES = ("error", "observed_value", "truncated_normal", "batch", "rejection", "shutdown")
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
    """Controller: begin, or begin again. `max_bytes` is the longest message it takes, an extension; 0: not told."""

    system_name: str
    capabilities: tuple[str, ...] = ()
    max_bytes: int = 0


class HandshakeResult(NamedTuple):
    """Simulator: the answer to Handshake.

    Attributes:
        system_name: What serves.
        model_name: What is served.
        capabilities: Extensions of PPX 1.0 that it understands.
        fingerprint: Changes whenever the model does; empty if unknown. An extension.
        max_traces: Traces of a batch, at most; 0: not told. An extension ("batch").
        max_bytes: The longest message it takes; 0: not told. An extension ("batch").
    """

    system_name: str
    model_name: str
    capabilities: tuple[str, ...] = ()
    fingerprint: str = ""
    max_traces: int = 0
    max_bytes: int = 0


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


class Rejection(NamedTuple):
    """Simulator: a rejection loop begins or ends here. An extension ("rejection")."""

    address: str
    name: str
    begin: bool


class RejectionResult(NamedTuple):
    """Controller: the mark is recorded."""


class Shutdown(NamedTuple):
    """Controller: end the process. An extension ("shutdown")."""


class ShutdownResult(NamedTuple):
    """Simulator: it ends."""


class WireAddress(NamedTuple):
    """An entry of an address table, as it travels.

    Attributes:
        address: Enclosing scopes, then the name or the call site.
        name: The name, empty if there is none.
        family: Name of the family, empty for tags, results and rejection loops.
        shape: Shape of the value.
    """

    address: str
    name: str
    family: str
    shape: tuple[int, ...]


class Observation(NamedTuple):
    """A value to condition on, by name (or full address) and number of the visit."""

    name: str
    visit: int
    value: Tensor


class RunBatch(NamedTuple):
    """Controller: execute the model K times, each time as a script says. An extension ("batch").

    C forced choices. Fields as in schema/ppx.fbs; `offsets` has K + 1 elements also where no choice is forced.
    `observations` is None for "the set last sent". What has been checked: lengths agree, offsets begin at 0, do not
    decrease and end at C, address numbers and visits are not negative, no observation is given twice. Whether address
    numbers and sets of observations have been defined is for the reader of the whole conversation to check.
    """

    batch: int
    seed: int
    index: NDArray[np.uint64]  # type: ignore[assignment]  # a column, where tuples have a method
    ask: bool
    offsets: Ids
    address: Ids
    instance: Ids
    value: Floats
    z: Floats
    first_address: int = 0
    addresses: tuple[WireAddress, ...] = ()
    observations_id: int = 0
    observations: tuple[Observation, ...] | None = None


class TensorColumns(NamedTuple):
    """Tensors that traces carry, in columns; see schema/ppx.fbs. `log_prob` is empty for tags and results."""

    offsets: Ids
    address: Ids
    instance: Ids
    data_offsets: Ids
    data: Floats
    log_prob: Floats


class LoopColumns(NamedTuple):
    """Rejection loops in columns; see schema/ppx.fbs."""

    offsets: Ids
    address: Ids
    begin: Ids
    end: Ids


class FailureKind(IntEnum):
    """Why a trace failed."""

    MODEL = 0
    OBSERVATION = 1
    CHOICE = 2
    DENSITY = 3


class Failure(NamedTuple):
    """A trace that failed: its position within the batch, and why."""

    trace: int
    kind: FailureKind
    message: str


class BatchResult(NamedTuple):
    """Simulator: what the K executions did. An extension ("batch").

    N draws, P parameter vectors. Fields as in schema/ppx.fbs; all offsets have their full length also where their
    column is empty. Arrays are read-only views of the message. What has been checked: lengths agree, offsets begin at
    0, do not decrease and end at the length of their column, `params` refers to vectors that exist, loops lie within
    their traces in the order in which they began, statuses, flags and failure kinds are known, the failures are those
    of the failed traces, one for each, no trace has two results, `seconds` is finite, address numbers and visits are
    not negative. Whether address numbers have been defined, and whether the rows of a draw and the data of a tensor fit
    the shapes of their addresses, is for the reader of the whole conversation to check.
    """

    batch: int
    seconds: float
    status: Bytes
    offsets: Ids
    address: Ids
    instance: Ids
    params: Ids
    value: Floats
    z: Floats
    log_prob: Floats
    flags: Bytes
    params_offsets: Ids
    params_data: Floats
    observations: TensorColumns
    tags: TensorColumns
    results: TensorColumns
    loops: LoopColumns
    failures: tuple[Failure, ...] = ()
    first_address: int = 0
    addresses: tuple[WireAddress, ...] = ()


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
    | RunBatch
    | BatchResult
    | Rejection
    | RejectionResult
    | Shutdown
    | ShutdownResult
)

"""Reads messages: bytes in, an event or RemoteProtocolError out, whatever the bytes.

FlatBuffers' Python runtime checks nothing and takes 20 to 50 us a message; this reader knows the schema, checks every
access and takes about 5. How it stays safe is told in `reader`; batches are read by `batch_decoder`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from ppx_server.errors import RemoteProtocolError
from ppx_server.protocol.batch_decoder import batch_result, run_batch
from ppx_server.protocol.columns import ColumnsError
from ppx_server.protocol.events import (
    Error,
    Event,
    Handshake,
    HandshakeResult,
    Observe,
    ObserveResult,
    Rejection,
    RejectionResult,
    Reset,
    Run,
    RunResult,
    Sample,
    SampleResult,
    Shutdown,
    ShutdownResult,
    Tag,
    TagResult,
    Tensor,
    WireDistribution,
)
from ppx_server.protocol.reader import (
    U32,
    Buffer,
    MalformedError,
    entries,
    integer,
    optional,
    quote,
    string,
    strings,
    tensor,
    value,
)
from ppx_server.protocol.wire import FAMILY_NAMES, MESSAGES, PARAM_NAMES

_FAMILIES = tuple((name, PARAM_NAMES[name]) for name in FAMILY_NAMES)


def decode(data: Buffer) -> Event:
    """Reads one message.

    Args:
        data: The message; arrays in the event are views of it.

    Returns:
        The event. Its strings are UTF-8 and its tensors' shapes fit their data; parameters of distributions
        broadcast against each other, but may lie outside the family's domain, or be NaN. What holds for batches is
        said at `RunBatch` and `BatchResult`.

    Raises:
        RemoteProtocolError: The bytes are no message of PPX.
    """
    kind = "message"
    try:
        root = U32(data, 0)[0]
        type_entry, body_entry = entries(data, root, 2)
        code = data[root + type_entry] if type_entry else 0
        if not 0 < code <= len(MESSAGES):
            raise MalformedError(f"unknown message type code {code}; this side knows 1 to {len(MESSAGES)}")
        kind = f"{MESSAGES[code - 1].__name__} message"
        if not body_entry:
            raise MalformedError("the body is missing")
        body = root + body_entry
        return _READERS[code - 1](data, body + U32(data, body)[0])
    except (struct.error, IndexError):
        reason = "an offset points outside the message"
        raise RemoteProtocolError(f"{kind} of {len(data)} bytes: {reason}{_REMEDY}") from None
    except (MalformedError, ColumnsError) as error:
        raise RemoteProtocolError(f"{kind} of {len(data)} bytes: {error}{_REMEDY}") from None


_REMEDY = "; the peer does not speak PPX, or has a defect"


def _distribution(data: Buffer, table: int, type_entry: int, entry: int, address: str) -> WireDistribution:
    code = data[table + type_entry] if type_entry else 0
    if not 0 < code <= len(_FAMILIES):
        raise MalformedError(
            f"unknown distribution code {code} at address {quote(address)}; this side knows 1 to {len(_FAMILIES)}"
        )
    family, names = _FAMILIES[code - 1]
    if not entry:
        raise MalformedError(f"the {family} at address {quote(address)} has no table")
    distribution = table + entry
    distribution += U32(data, distribution)[0]
    scalars = True
    params = []
    for name, param_entry in zip(names, entries(data, distribution, len(names)), strict=True):
        try:
            if not param_entry:
                raise MalformedError("is missing")
            param = tensor(data, distribution + param_entry)
        except (struct.error, MalformedError) as error:
            reason = "points outside the message" if isinstance(error, struct.error) else error
            raise MalformedError(
                f"parameter {name} of {family} at address {quote(address)} {reason}"
            ) from None
        scalars = scalars and type(param) is float
        params.append(param)
    if not scalars:
        _check_shapes(family, params, address)
    return WireDistribution(family, tuple(params))


def _check_shapes(family: str, params: list[Tensor], address: str) -> None:
    shapes = [np.shape(param) for param in params]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise MalformedError(
            f"parameters of {family} at address {quote(address)} have shapes "
            f"{', '.join(map(str, shapes))}, which do not fit together"
        ) from None


def _handshake(data: Buffer, table: int) -> Handshake:
    system_name, capabilities, max_bytes = entries(data, table, 3)
    return Handshake(
        string(data, table, system_name, "system_name"),
        strings(data, table, capabilities, "capabilities"),
        _limit(data, table, max_bytes, "max_bytes"),
    )


def _handshake_result(data: Buffer, table: int) -> HandshakeResult:
    system_name, model_name, capabilities, fingerprint, max_traces, max_bytes = entries(data, table, 6)
    return HandshakeResult(
        string(data, table, system_name, "system_name"),
        string(data, table, model_name, "model_name"),
        strings(data, table, capabilities, "capabilities"),
        string(data, table, fingerprint, "fingerprint"),
        _limit(data, table, max_traces, "max_traces"),
        _limit(data, table, max_bytes, "max_bytes"),
    )


def _limit(data: Buffer, table: int, entry: int, field: str) -> int:
    limit = integer(data, table, entry)
    if limit < 0:
        raise MalformedError(f"{field} is {limit}")
    return limit


def _run(data: Buffer, table: int) -> Run:
    entries(data, table, 0)
    return Run()


def _run_result(data: Buffer, table: int) -> RunResult:
    (result,) = entries(data, table, 1)
    return RunResult(optional(data, table, result, "result"))


def _sample(data: Buffer, table: int) -> Sample:
    address_entry, name, distribution_type, distribution, control = entries(data, table, 5)
    address = string(data, table, address_entry, "address")
    return Sample(
        address,
        string(data, table, name, "name"),
        _distribution(data, table, distribution_type, distribution, address),
        not control or data[table + control] != 0,
    )


def _sample_result(data: Buffer, table: int) -> SampleResult:
    (result,) = entries(data, table, 1)
    return SampleResult(value(data, table, result, "result"))


def _observe(data: Buffer, table: int) -> Observe:
    address_entry, name, distribution_type, distribution, value = entries(data, table, 5)
    address = string(data, table, address_entry, "address")
    return Observe(
        address,
        string(data, table, name, "name"),
        _distribution(data, table, distribution_type, distribution, address),
        optional(data, table, value, f"the value observed at address {quote(address)}"),
    )


def _observe_result(data: Buffer, table: int) -> ObserveResult:
    (value,) = entries(data, table, 1)
    return ObserveResult(optional(data, table, value, "value"))


def _tag(data: Buffer, table: int) -> Tag:
    address_entry, name, tagged = entries(data, table, 3)
    address = string(data, table, address_entry, "address")
    return Tag(
        address,
        string(data, table, name, "name"),
        value(data, table, tagged, f"the value tagged at address {quote(address)}"),
    )


def _tag_result(data: Buffer, table: int) -> TagResult:
    entries(data, table, 0)
    return TagResult()


def _reset(data: Buffer, table: int) -> Reset:
    entries(data, table, 0)
    return Reset()


def _error(data: Buffer, table: int) -> Error:
    (message,) = entries(data, table, 1)
    return Error(string(data, table, message, "message"))


def _rejection(data: Buffer, table: int) -> Rejection:
    address, name, begin = entries(data, table, 3)
    return Rejection(
        string(data, table, address, "address"),
        string(data, table, name, "name"),
        bool(begin and data[table + begin]),
    )


def _rejection_result(data: Buffer, table: int) -> RejectionResult:
    entries(data, table, 0)
    return RejectionResult()


def _shutdown(data: Buffer, table: int) -> Shutdown:
    entries(data, table, 0)
    return Shutdown()


def _shutdown_result(data: Buffer, table: int) -> ShutdownResult:
    entries(data, table, 0)
    return ShutdownResult()


_READERS: tuple[Callable[[Buffer, int], Event], ...] = (  # in the order of wire.MESSAGES
    _handshake,
    _handshake_result,
    _run,
    _run_result,
    _sample,
    _sample_result,
    _observe,
    _observe_result,
    _tag,
    _tag_result,
    _reset,
    _error,
    run_batch,
    batch_result,
    _rejection,
    _rejection_result,
    _shutdown,
    _shutdown_result,
)

"""Writes messages: an event in, bytes out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

from ppx_server.errors import LocalProtocolError
from ppx_server.protocol.batch_encoder import batch_result, run_batch
from ppx_server.protocol.capabilities import check_family, check_message
from ppx_server.protocol.events import (
    CAPABILITIES,
    BatchResult,
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
    RunBatch,
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
from ppx_server.protocol.layout import (
    Field,
    Shape,
    Strings,
    Table,
    TensorOf,
    Word,
    doubles,
    head,
    scalars,
    vectors,
)
from ppx_server.protocol.wire import FAMILY_CODES, MESSAGE_CODES, PARAM_NAMES, REQUIRED_CAPABILITY

_KEPT_HEADS = 2048


def encode(event: Event, peer_capabilities: Collection[str] = CAPABILITIES) -> bytes:
    """Writes one message.

    Args:
        event: What to send.
        peer_capabilities: The extensions that the receiver understands; empty for a PPX 1.0 peer.

    Raises:
        LocalProtocolError: The event uses an extension that the receiver has not announced, or it is no event that
            can be sent (unknown family, wrong number of parameters, too large, not numbers, columns that do not fit).
    """
    writer = _WRITERS.get(type(event))
    if writer is None:
        raise LocalProtocolError(f"{event!r} of type {type(event).__name__} is no PPX event")
    if type(event) in _EXTENSIONS:
        check_message(type(event).__name__, peer_capabilities)
    return writer(event, peer_capabilities)


def _message(kind: type[Event], *fields: Field) -> bytes:
    return head(Table((MESSAGE_CODES[kind], Table(fields))))


def _tensor(shape: Shape | None) -> TensorOf | None:
    return None if shape is None else TensorOf(shape)


@lru_cache(_KEPT_HEADS)
def _value_head(code: int, strings: tuple[str, ...], shape: Shape | None) -> bytes:
    """Head of a message that has strings and, last, a tensor."""
    return head(Table((code, Table((*strings, _tensor(shape))))))


@lru_cache(_KEPT_HEADS)
def _sample_head(address: str, name: str, family: str, control: bool, shapes: tuple[Shape, ...]) -> bytes:
    distribution = Table(tuple(map(TensorOf, shapes)))
    return _message(Sample, address, name, FAMILY_CODES[family], distribution, None if control else 0)


@lru_cache(_KEPT_HEADS)
def _observe_head(
    address: str, name: str, family: str, shapes: tuple[Shape, ...], value: Shape | None
) -> bytes:
    distribution = Table(tuple(map(TensorOf, shapes)))
    return _message(Observe, address, name, FAMILY_CODES[family], distribution, _tensor(value))


def _with_value(kind: type[Event], strings: tuple[str, ...], value: Tensor | None, what: str) -> bytes:
    code = MESSAGE_CODES[kind]
    if type(value) is float:
        return _value_head(code, strings, ()) + scalars(value)
    if value is None:
        return _value_head(code, strings, None)
    array = doubles(value, what)
    return b"".join([_value_head(code, strings, array.shape), *vectors([array])])


def _check_distribution(
    distribution: WireDistribution, address: str, peer_capabilities: Collection[str]
) -> None:
    family = distribution.family
    check_family(family, address, peer_capabilities)
    names = PARAM_NAMES[family]
    if len(distribution.params) != len(names):
        raise LocalProtocolError(
            f"{family} at address {address!r} has {len(distribution.params)} parameters; "
            f"it takes {len(names)}: {', '.join(names)}"
        )


def _sample(event: Sample, peer_capabilities: Collection[str]) -> bytes:
    address, name, distribution, control = event
    _check_distribution(distribution, address, peer_capabilities)
    family, params = distribution
    if all(type(p) is float for p in params):
        shapes: tuple[Shape, ...] = ((),) * len(params)
        return _sample_head(address, name, family, control, shapes) + scalars(*params)  # type: ignore[arg-type]
    arrays = [doubles(p, f"a parameter of {family} at address {address!r}") for p in params]
    shapes = tuple(a.shape for a in arrays)
    return b"".join([_sample_head(address, name, family, control, shapes), *vectors(arrays)])


def _observe(event: Observe, peer_capabilities: Collection[str]) -> bytes:
    address, name, distribution, value = event
    _check_distribution(distribution, address, peer_capabilities)
    family, params = distribution
    arrays = [doubles(p, f"a parameter of {family} at address {address!r}") for p in params]
    shapes = tuple(a.shape for a in arrays)
    value_shape = None
    if value is not None:
        arrays.append(doubles(value, f"the value observed at address {address!r}"))
        value_shape = arrays[-1].shape
    return b"".join([_observe_head(address, name, family, shapes, value_shape), *vectors(arrays)])


def _sample_result(event: SampleResult, peer_capabilities: Collection[str]) -> bytes:
    value = event.result
    if type(value) is float:
        return _SCALAR_RESULT + scalars(value)
    return _with_value(SampleResult, (), value, "the result of a draw")


def _run_result(event: RunResult, peer_capabilities: Collection[str]) -> bytes:
    return _with_value(RunResult, (), event.result, "the model's result")


def _observe_result(event: ObserveResult, peer_capabilities: Collection[str]) -> bytes:
    if event.value is None:
        return _OBSERVE_RESULT
    if "observed_value" not in peer_capabilities:
        raise LocalProtocolError(
            "the simulator does not take a value in the answer to an observe: it has not announced the capability "
            "'observed_value', as PPX 1.0 simulators do not; send ObserveResult(None)"
        )
    return _with_value(ObserveResult, (), event.value, "the observed value")


def _tag(event: Tag, peer_capabilities: Collection[str]) -> bytes:
    address, name, value = event
    return _with_value(Tag, (address, name), value, f"the value tagged at address {address!r}")


def _error(event: Error, peer_capabilities: Collection[str]) -> bytes:
    return _message(Error, event.message)


def _handshake(event: Handshake, peer_capabilities: Collection[str]) -> bytes:
    capabilities = _capabilities(event.capabilities)
    return _message(Handshake, event.system_name, capabilities, *_limits(event.max_bytes))


def _handshake_result(event: HandshakeResult, peer_capabilities: Collection[str]) -> bytes:
    system_name, model_name, capabilities, fingerprint, *limits = event
    # to PPX 1.0 controllers they would mean nothing
    known = fingerprint if fingerprint and peer_capabilities else None
    told = _limits(*limits) if "batch" in peer_capabilities else ()
    return _message(HandshakeResult, system_name, model_name, _capabilities(capabilities), known, *told)


def _rejection(event: Rejection, peer_capabilities: Collection[str]) -> bytes:
    return _message(Rejection, event.address, event.name, int(event.begin))


def _limits(*limits: int) -> tuple[Word | None, ...]:
    """Fields at the end of a message, which are not there at all where nothing is told."""
    return tuple(Word(limit) if limit else None for limit in limits) if any(limits) else ()


def _capabilities(capabilities: tuple[str, ...]) -> Strings | None:
    return Strings(tuple(capabilities)) if capabilities else None


def _constant(kind: type[Event]) -> Callable[[Any, Collection[str]], bytes]:
    data = _message(kind)
    return lambda event, peer_capabilities: data


_SCALAR_RESULT = _value_head(MESSAGE_CODES[SampleResult], (), ())
_OBSERVE_RESULT = _message(ObserveResult)

_WRITERS: dict[type[Event], Callable[[Any, Collection[str]], bytes]] = {
    Handshake: _handshake,
    HandshakeResult: _handshake_result,
    Run: _constant(Run),
    RunResult: _run_result,
    Sample: _sample,
    SampleResult: _sample_result,
    Observe: _observe,
    ObserveResult: _observe_result,
    Tag: _tag,
    TagResult: _constant(TagResult),
    Reset: _constant(Reset),
    Error: _error,
    RunBatch: run_batch,
    BatchResult: batch_result,
    Rejection: _rejection,
    RejectionResult: _constant(RejectionResult),
    Shutdown: _constant(Shutdown),
    ShutdownResult: _constant(ShutdownResult),
}
_EXTENSIONS = frozenset(message for message in _WRITERS if message.__name__ in REQUIRED_CAPABILITY)

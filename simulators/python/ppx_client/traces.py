"""One execution of the model under a controller: every statement of the model is a message and its answer.

The running trace and the enclosing scopes live in context variables. Threads and nested calls thus have their own, and
whatever a model leaves open is gone with the context it ran in.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ppx_client import wire
from ppx_client.buffers import MalformedError
from ppx_client.distributions import Categorical, Distribution, TruncatedNormal
from ppx_client.errors import CapabilityError, TensorError
from ppx_client.values import to_python
from ppx_client.wire import Body, ScalarPattern, Template

if TYPE_CHECKING:
    from ppx_client.buffers import Tensor

OBSERVED_VALUE, ERROR, TRUNCATED_NORMAL = "observed_value", "error", "truncated_normal"
BATCH, REJECTION, SHUTDOWN = "batch", "rejection", "shutdown"
CAPABILITIES = (OBSERVED_VALUE, ERROR, TRUNCATED_NORMAL, BATCH, REJECTION, SHUTDOWN)
"""What this client can do beyond PPX 1.0."""
MAX_TRACES = 1 << 16
"""Traces of a batch, at most."""

_CATEGORICAL = Categorical.code

_MAX_KEPT = 1 << 22
"""Templates are forgotten when they hold this many tensor elements."""


class Request(NamedTuple):
    """A message that a controller sent, and which one.

    Attributes:
        sender: ZeroMQ's name of the controller.
        body: The message.
        connection: Descriptor of the connection that it came by.
        refusal: Why it will not be executed, if that is known already; then the message is dropped.
    """

    sender: bytes
    body: bytes
    connection: int = -1
    refusal: str = ""


class EndOfTrace(BaseException):
    """Ends the running trace from within the model, not to be caught by it.

    Attributes:
        request: The message that took the answer's place if a controller abandoned the trace, else None.
        reason: What went wrong if it did not.
    """

    def __init__(self, reason: str, request: Request | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.request = request


class Channel(Protocol):
    """The way to the controller of a running trace."""

    def exchange(self, message: bytes | bytearray) -> Request:
        """Sends a message and returns the answer, or the Handshake of whichever controller that takes its place."""


class Conversation:
    """What one controller announced, and what is remembered between the traces it runs.

    Attributes:
        channel: The way to the controller.
        capabilities: What both sides can do beyond PPX 1.0.
    """

    def __init__(self, channel: Channel, capabilities: frozenset[str] = frozenset()) -> None:
        self.channel = channel
        self.capabilities = capabilities
        self._templates: dict[tuple[Any, ...], Template] = {}
        self._kept = 0
        self._patterns: dict[Body, ScalarPattern] = {}

    def template(self, key: tuple[Any, ...]) -> Template | None:
        """The template kept under a key."""
        return self._templates.get(key)

    def keep(self, key: tuple[Any, ...], template: Template, size: int) -> None:
        """Keeps a template for tensors of `size` elements under a key."""
        # A message is worth a thousand elements, so that models which make up ever new names stay small, too.
        self._kept += size + 1000
        if self._kept > _MAX_KEPT:
            self._templates.clear()
            self._kept = size + 1000
        self._templates[key] = template

    def ask(self, message: bytes | bytearray, expected: Body) -> Tensor | None:
        """Sends a message, and returns the value that the answer carries.

        Raises:
            EndOfTrace: The answer is another message, or none.
        """
        request = self.channel.exchange(message)
        answer = request.body
        pattern = self._patterns.get(expected)
        if pattern is not None and (scalar := pattern.read(answer)) is not None:
            return scalar
        try:
            received = wire.decode(answer)
        except MalformedError as error:
            raise EndOfTrace(
                f"the controller answered with bytes that are no message of PPX: {error}"
            ) from None
        if received.body is not expected:
            self._refuse(received.body, expected, request)
        if isinstance(received.value, float):
            self._patterns[expected] = ScalarPattern(answer, received.value_at)
        return received.value

    def _refuse(self, body: Body, expected: Body, request: Request) -> None:
        if body in (Body.HANDSHAKE, Body.RESET):
            raise EndOfTrace("the controller abandoned the trace", request)
        raise EndOfTrace(f"the controller answered with {body.name} where {expected.name} was due")


class Trace:
    """One execution of the model.

    Attributes:
        end: Why the controller's side ended the trace, None while it goes on.
    """

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self.end: EndOfTrace | None = None

    def sample(self, distribution: Distribution, address: str, name: str, control: bool) -> Any:
        """The controller's choice for a draw."""
        conversation = self._conversation
        params = distribution.params
        key = (Body.SAMPLE, address, name, control, distribution.code, _shape(distribution))
        template = conversation.template(key)
        if template is None:
            self._check_family(distribution, address)
            template = wire.sample(address, name, distribution.code, params, control)
            conversation.keep(key, template, _size(params))
        value = self._ask(template.fill(params), Body.SAMPLE_RESULT)
        return self._accept(value, distribution, address)

    def observe(self, distribution: Distribution, value: Tensor | None, address: str, name: str) -> Any:
        """The value that the controller observes; `value` or NaN if it keeps that for itself."""
        conversation = self._conversation
        tensors = distribution.params if value is None else (*distribution.params, value)
        key = (Body.OBSERVE, address, name, value is None, distribution.code, _shape(distribution))
        template = conversation.template(key)
        if template is None:
            self._check_family(distribution, address)
            template = wire.observe(address, name, distribution.code, distribution.params, value)
            conversation.keep(key, template, _size(tensors))
        observed = self._ask(template.fill(tensors), Body.OBSERVE_RESULT)
        if OBSERVED_VALUE in conversation.capabilities and (observed is not None or value is None):
            return self._accept(observed, distribution, address)
        if value is not None:
            return to_python(distribution, value)
        return math.nan if distribution.shape == () else np.full(distribution.shape, math.nan)

    def tag(self, value: Tensor, address: str, name: str) -> None:
        """Reports a value."""
        conversation = self._conversation
        key = (Body.TAG, address, name, () if isinstance(value, float) else value.shape)
        template = conversation.template(key)
        if template is None:
            template = wire.tag(address, name, value)
            conversation.keep(key, template, _size((value,)))
        self._ask(template.fill((value,)), Body.TAG_RESULT)

    def begin_rejection(self, address: str, name: str) -> int:
        """A rejection loop begins; a number for `end_rejection`."""
        if REJECTION in self._conversation.capabilities:
            self._ask(wire.rejection(address, name, True), Body.REJECTION_RESULT)
        return 0

    def end_rejection(self, address: str, name: str, loop: int) -> None:
        """A rejection loop ends."""
        if REJECTION in self._conversation.capabilities and self.end is None:
            self._ask(wire.rejection(address, name, False), Body.REJECTION_RESULT)

    def _ask(self, message: bytes | bytearray, expected: Body) -> Tensor | None:
        if self.end is not None:
            raise self.end  # the model went on after catching it
        try:
            return self._conversation.ask(message, expected)
        except EndOfTrace as end:
            self.end = end
            raise

    def _check_family(self, distribution: Distribution, address: str) -> None:
        if (
            isinstance(distribution, TruncatedNormal)
            and TRUNCATED_NORMAL not in self._conversation.capabilities
        ):
            raise CapabilityError(
                f"TruncatedNormal at {address} is not part of PPX 1.0, and the controller does not announce the "
                f"capability {TRUNCATED_NORMAL!r}; use a controller that does, or draw a Uniform and transform it"
            )

    def _accept(self, value: Tensor | None, distribution: Distribution, address: str) -> Any:
        """The controller's value, as the model gets it."""
        # Nearly all values are scalars without fault; whatever is not is looked at closely.
        if type(value) is float and distribution.shape == () and math.isfinite(value):
            if not distribution.discrete:
                return value
            categories = len(distribution.params[0]) if distribution.code == _CATEGORICAL else math.inf
            if value.is_integer() and 0.0 <= value < categories:
                return int(value)
        return to_python(distribution, self._checked(value, distribution, address))

    def _checked(self, value: Tensor | None, distribution: Distribution, address: str) -> Tensor:
        """The controller's value, if it has the right shape and is one the model can have drawn."""
        family, shape = type(distribution).__name__, distribution.shape
        array = np.empty(0) if value is None else np.asarray(value)
        if array.size != math.prod(shape) or (array.ndim > 1 and array.shape != shape):
            sent = "no value" if value is None else f"a value of shape {array.shape}"
            self._end(f"the controller sent {sent} for {address} ({family}), whose shape is {shape}")
        array = array.reshape(shape)
        if not np.isfinite(array).all():
            self._end(f"the controller sent {array.tolist()} for {address} ({family}): it must be finite")
        if distribution.discrete and ((array % 1.0 != 0.0) | (array < 0.0)).any():
            self._end(
                f"the controller sent {array.tolist()} for {address} ({family}): it must be whole and >= 0"
            )
        if distribution.code == _CATEGORICAL and not (array < distribution.params[0].shape[-1]).all():
            categories = distribution.params[0].shape[-1]
            self._end(f"the controller sent {array.tolist()} for {address} (Categorical of {categories})")
        return float(array) if shape == () else np.array(array)

    def _end(self, reason: str) -> None:
        self.end = EndOfTrace(reason)
        raise self.end


def _shape(distribution: Distribution) -> tuple[int, ...]:
    # The probabilities of a Categorical have one axis more than its values.
    return distribution.params[0].shape if distribution.code == _CATEGORICAL else distribution.shape


def _size(tensors: tuple[Tensor, ...]) -> int:
    return sum(1 if isinstance(tensor, float) else tensor.size for tensor in tensors)


def match_shapes(distribution: Distribution, value: Tensor, address: str) -> Distribution:
    """The distribution, with scalar parameters repeated for every element of an array `value`.

    Raises:
        TensorError: The shapes do not match, or the value holds NaN.
    """
    family, shape = type(distribution).__name__, distribution.shape
    value_shape = () if isinstance(value, float) else value.shape
    if value != value if isinstance(value, float) else np.isnan(value).any():
        raise TensorError(f"the observed value at {address} ({family}) holds NaN; leave out what is missing")
    if value_shape == shape:
        return distribution
    if shape != ():
        raise TensorError(
            f"the observed value at {address} ({family}) has shape {value_shape}, its distribution {shape}; "
            "make them equal, or give scalar parameters"
        )
    params = (np.asarray(param) for param in distribution.params)
    return type(distribution)(*(np.broadcast_to(param, value_shape + param.shape) for param in params))


class Running(Protocol):
    """What answers the statements of a model: a controller, or a script."""

    def sample(self, distribution: Distribution, address: str, name: str, control: bool) -> Any:
        """The value of a draw."""

    def observe(self, distribution: Distribution, value: Tensor | None, address: str, name: str) -> Any:
        """What is observed; `value` is what the model knows of it."""

    def tag(self, value: Tensor, address: str, name: str) -> None:
        """Records a value."""

    def begin_rejection(self, address: str, name: str) -> int:
        """A rejection loop begins; a number for `end_rejection`."""

    def end_rejection(self, address: str, name: str, loop: int) -> None:
        """A rejection loop ends."""


running: ContextVar[Running | None] = ContextVar("ppx_trace", default=None)
"""The trace that the model runs in, None without a controller."""

prefix: ContextVar[str] = ContextVar("ppx_prefix", default="")
"""The enclosing scopes, each followed by `/`."""

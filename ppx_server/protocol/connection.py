"""One conversation, without any I/O: bytes in, events out, and the other way round."""

from __future__ import annotations

from collections.abc import Iterable

from ppx_server.errors import LocalProtocolError, RemoteProtocolError
from ppx_server.protocol.decoder import decode
from ppx_server.protocol.encoder import encode
from ppx_server.protocol.events import Event, Handshake, HandshakeResult, Sample
from ppx_server.protocol.states import Role, State, Step, steps

_STEPS = {role: steps(role) for role in Role}

# A simulator asks the same questions again and again: draws with constant parameters are byte-identical messages.
_KEPT_MESSAGES = 2048
_KEPT_BYTES = 2048  # the longest message worth keeping


class Connection:
    """The controller's or the simulator's end of a conversation.

    Args:
        role: Whose end this is.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self._kept: dict[bytes, Sample] = {}
        self.reset()

    def reset(self) -> None:
        """Starts over: as if nothing had been said."""
        self._step: Step = _STEPS[self.role][State.IDLE]
        self.peer_capabilities: frozenset[str] = frozenset()
        """The extensions of PPX 1.0 that the peer announced in its handshake."""

    @property
    def state(self) -> State:
        """Where the conversation stands."""
        return self._step.state

    def receive(self, data: bytes) -> Event:
        """Takes in one message.

        Returns:
            What it says. Byte-identical draws may be the same object.

        Raises:
            RemoteProtocolError: The bytes are no message, or one that the state does not allow. The connection is
                then in state ERROR.
        """
        event: Event | None = self._kept.get(data)
        if event is None:
            event = self._decode(data)
        step = self._step.receivable.get(type(event))
        if step is None:
            refusal = RemoteProtocolError(self._refusal("received", event))
            self._step = _STEPS[self.role][State.ERROR]
            raise refusal
        self._step = step
        if type(event) is Handshake or type(event) is HandshakeResult:
            self.peer_capabilities = frozenset(event.capabilities)
        return event

    def send(self, event: Event) -> bytes:
        """Gives the bytes of one message to send.

        Raises:
            LocalProtocolError: The state does not allow it, or the peer does not understand it (`encode`). The state
                stays what it was.
        """
        step = self._step.sendable.get(type(event))
        if step is None:
            raise LocalProtocolError(self._refusal("cannot send", event))
        data = encode(event, self.peer_capabilities)
        self._step = step
        return data

    def _decode(self, data: bytes) -> Event:
        try:
            event = decode(data)
        except RemoteProtocolError:
            self._step = _STEPS[self.role][State.ERROR]
            raise
        if type(event) is Sample and len(data) <= _KEPT_BYTES:
            if len(self._kept) >= _KEPT_MESSAGES:
                self._kept.clear()
            self._kept[data] = event
        return event

    def _refusal(self, verb: str, event: Event) -> str:
        step = self._step
        now = [f"{action} {_names(edges)}" for action, edges in _actions(step) if edges]
        remedy = " or ".join(now) if now else "only reset() leads on"
        return (
            f"the {self.role.value} {verb} {type(event).__name__} in state {step.state.name}; "
            f"what it may do now: {remedy}"
        )


def _actions(step: Step) -> list[tuple[str, dict[type[Event], Step]]]:
    return [("send", step.sendable), ("receive", step.receivable)]


def _names(types: Iterable[type[Event]]) -> str:
    return ", ".join(t.__name__ for t in types)

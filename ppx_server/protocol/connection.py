"""One conversation, without any I/O: bytes in, events out, and the other way round."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ppx_server.errors import LocalProtocolError, RemoteProtocolError
from ppx_server.protocol.decoder import decode
from ppx_server.protocol.encoder import encode
from ppx_server.protocol.events import BatchResult, Event, Handshake, HandshakeResult, RunBatch, Sample
from ppx_server.protocol.reader import Buffer
from ppx_server.protocol.states import BATCH_ANSWERS, Role, State, Step, steps

_STEPS = {role: steps(role) for role in Role}
_COUNTED = BATCH_ANSWERS | {RunBatch, Handshake, HandshakeResult}  # these change more than the state

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
        self._kept: dict[Buffer, Sample] = {}
        self.reset()

    def reset(self) -> None:
        """Starts over: as if nothing had been said."""
        self._step: Step = _STEPS[self.role][State.IDLE]
        self.peer_capabilities: frozenset[str] = frozenset()
        """The extensions of PPX 1.0 that the peer announced in its handshake."""
        self._outstanding: deque[tuple[int, int]] = deque()  # number and K of each batch, oldest first

    @property
    def state(self) -> State:
        """Where the conversation stands."""
        return self._step.state

    @property
    def outstanding(self) -> int:
        """How many batches have not been answered."""
        return len(self._outstanding)

    def receive(self, data: Buffer) -> Event:
        """Takes in one message.

        Returns:
            What it says. Byte-identical draws may be the same object.

        Raises:
            RemoteProtocolError: The bytes are no message, or one that the state does not allow, or an answer to another
                batch than the oldest outstanding one. The connection is then in state ERROR.
        """
        event: Event | None = self._kept.get(data) if len(data) <= _KEPT_BYTES else None
        if event is None:
            event = self._decode(data)
        kind = type(event)
        step = self._step.receivable.get(kind)
        refusal = self._refusal("received", event) if step is None else ""
        if not refusal and kind in BATCH_ANSWERS:
            refusal = self._mismatch(event)
        if refusal or step is None:
            self._step = _STEPS[self.role][State.ERROR]
            raise RemoteProtocolError(refusal)
        self._step = self._count(event, step) if kind in _COUNTED else step
        if kind is Handshake or kind is HandshakeResult:
            self.peer_capabilities = frozenset(event.capabilities)  # type: ignore[union-attr]
        return event

    def send(self, event: Event) -> bytes:
        """Gives the bytes of one message to send.

        Raises:
            LocalProtocolError: The state does not allow it, it answers another batch than the oldest outstanding one,
                or the peer does not understand it (`encode`). The state stays what it was.
        """
        step = self._step.sendable.get(type(event))
        if step is None:
            raise LocalProtocolError(self._refusal("cannot send", event))
        if type(event) is BatchResult and (refusal := self._mismatch(event)):
            raise LocalProtocolError(refusal)
        data = encode(event, self.peer_capabilities)
        self._step = self._count(event, step) if type(event) in _COUNTED else step
        return data

    def _mismatch(self, event: Event) -> str:
        """What is wrong with an event as the answer to the oldest outstanding batch; empty if nothing is."""
        if not self._outstanding:
            if self._step.state is State.GREETING:
                return self._refusal("received", event) + "; no batch is outstanding"
            return ""  # it ends a Run
        batch, count = self._outstanding[0]
        if type(event) is BatchResult and (event.batch, len(event.status)) != (batch, count):
            return (
                f"a BatchResult for {len(event.status)} executions of batch {event.batch} answers the RunBatch "
                f"for {count} of batch {batch}; batches are answered in the order in which they were sent"
            )
        return ""

    def _count(self, event: Event, step: Step) -> Step:
        """Counts the batches that are outstanding; gives the state that this leads to."""
        outstanding = self._outstanding
        if type(event) is RunBatch:
            outstanding.append((event.batch, len(event.index)))
        elif type(event) is HandshakeResult or (type(event) is Handshake and self.role is Role.SIMULATOR):
            outstanding.clear()
        elif type(event) is not Handshake:  # an answer
            if outstanding and self._step.state is not State.ERROR:
                outstanding.popleft()
            if outstanding and step.state is State.READY:
                return _STEPS[self.role][State.BATCHING]
        return step

    def _decode(self, data: Buffer) -> Event:
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

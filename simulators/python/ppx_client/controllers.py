"""What a simulator remembers of the controllers that it serves, within limits: anyone may come and go."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Set
from typing import TYPE_CHECKING

from ppx_client.traces import Conversation, Request

if TYPE_CHECKING:
    from ppx_client.sessions import BatchSession

_MAX_SESSIONS, _MAX_WORKING = 256, 16
"""Controllers remembered, and those among them that have had something executed."""
_MAX_KEPT_BYTES = 1 << 27
"""Memory for what all of them have defined."""
_MOST_UNANSWERED, _FLOOD = 2, 64
"""Requests of a controller that may be unanswered, and from how many refused ones on it is forgotten."""


class Session:
    """What one controller announced, and the state of its batches.

    Args:
        conversation: How traces that it runs draw by draw talk to it.
        connection: Descriptor of its connection.
        max_bytes: The longest message that it takes, and may be sent.

    Attributes:
        worked: Whether it has had anything executed.
        batches: None before its first batch.
    """

    def __init__(self, conversation: Conversation, connection: int, max_bytes: int) -> None:
        self.conversation = conversation
        self.connection = connection
        self.max_bytes = max_bytes
        self.worked = False
        self.batches: BatchSession | None = None

    @property
    def num_bytes(self) -> int:
        """Memory for what it has defined."""
        return 0 if self.batches is None else self.batches.num_bytes


class Sessions:
    """The sessions by sender, least recently heard of first."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def begin(self, sender: bytes, session: Session) -> None:
        """Begins the session of a controller, afresh."""
        self._sessions[sender] = session
        self._sessions.move_to_end(sender)
        if len(self._sessions) > _MAX_SESSIONS:
            # A greeting costs nothing: it pushes nobody out who has done more.
            del self._sessions[next(s for s, session in self._sessions.items() if not session.worked)]

    def get(self, sender: bytes) -> Session | None:
        """The session of a controller, None if it has none."""
        return self._sessions.get(sender)

    def begin_work(self, sender: bytes) -> Session:
        """The session of a controller that has something executed now."""
        session = self._sessions[sender]
        session.worked = True
        self._sessions.move_to_end(sender)
        working = [s for s, other in self._sessions.items() if other.worked]
        if len(working) > _MAX_WORKING:
            del self._sessions[working[0]]
        return session

    def forget_connections(self, gone: Set[int]) -> None:
        """Forgets controllers whose connection was closed."""
        for sender in [s for s, session in self._sessions.items() if session.connection in gone]:
            del self._sessions[sender]

    def forget(self, sender: bytes) -> None:
        """Forgets a controller."""
        self._sessions.pop(sender, None)

    def limit_memory(self) -> None:
        """Forgets those heard of least recently, where all together have defined too much."""
        for sender in list(self._sessions)[:-1]:
            if sum(session.num_bytes for session in self._sessions.values()) <= _MAX_KEPT_BYTES:
                return
            del self._sessions[sender]


class Waiting:
    """Requests that came while a batch was executed.

    Args:
        max_bytes: Memory for them.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._requests: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._requests)

    def next(self) -> Request:
        """Takes out the oldest."""
        return self._requests.popleft()

    def add(self, request: Request, *, executing: bool) -> str:
        """Keeps a request if there is room; else says why not, at once or, behind others of its controller, in turn.

        Args:
            request: What came.
            executing: Whether the batch that is executed is of the same controller.

        Returns:
            A refusal to send now, or nothing.
        """
        own = executing + sum(waiting.sender == request.sender for waiting in self._requests)
        num_bytes = len(request.body) + sum(len(waiting.body) for waiting in self._requests)
        refusal = ""
        if own >= _MOST_UNANSWERED:
            refusal = f"{_MOST_UNANSWERED} requests of this controller were unanswered; wait for answers"
        elif self._requests and num_bytes > self._max_bytes:
            refusal = "too much was waiting; send this again later"
        if refusal and not own:
            return refusal
        # Answers come in the order of the requests.
        self._requests.append(request._replace(body=b"", refusal=refusal) if refusal else request)
        return ""

    def is_flooded_by(self, sender: bytes) -> bool:
        """Whether a controller does not wait for answers at all."""
        return sum(waiting.sender == sender for waiting in self._requests) > _FLOOD

    def forget(self, sender: bytes) -> None:
        """Drops what a controller sent before it began again."""
        self._requests = deque(request for request in self._requests if request.sender != sender)

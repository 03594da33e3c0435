"""Who may say what, and when.

Theory of operation
===================

A conversation has one state, which both peers follow, each from what it has sent and received. Every type of event
has one sender, so one table serves both roles: an event that is legal in a state is sendable for the role that sends
events of this type and receivable for the other. All of a state's events have the same sender, which makes requests
and replies alternate, as the sockets underneath require (ZeroMQ REQ and REP).

              Handshake            HandshakeResult                 Run
    IDLE ----------------> GREETING --------------> READY -------------------> RUNNING
                                                      ^   RunResult, Reset, Error |  ^
                                                      +---------------------------+  |
                                   Sample -> SAMPLING -> SampleResult ---------------+
                                   Observe -> OBSERVING -> ObserveResult ------------+
                                   Tag -> TAGGING -> TagResult ----------------------+

Beyond the table:

- The controller may start over whenever it is its turn. A new controller knows nothing of the old one's conversation,
  so the simulator accepts a Handshake in every state, and abandons the trace that was running.
- A peer that receives what is no message, or what the state does not allow, enters ERROR. From there a simulator may
  say so (Reset, or Error if the controller understands it), which ends the trace and makes it READY again; the
  controller drops the connection and starts afresh (`Connection.reset`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ppx_server.protocol.events import (
    Error,
    Event,
    Handshake,
    HandshakeResult,
    Observe,
    ObserveResult,
    Reset,
    Run,
    RunResult,
    Sample,
    SampleResult,
    Tag,
    TagResult,
)


class Role(Enum):
    """Which side of the conversation this is; not which side's socket listens."""

    CONTROLLER = "controller"
    SIMULATOR = "simulator"


class State(Enum):
    """Where the conversation stands."""

    IDLE = "idle"
    GREETING = "greeting"
    READY = "ready"
    RUNNING = "running"
    SAMPLING = "sampling"
    OBSERVING = "observing"
    TAGGING = "tagging"
    ERROR = "error"


SENT_BY_CONTROLLER: frozenset[type[Event]] = frozenset(
    {Handshake, Run, SampleResult, ObserveResult, TagResult}
)

TRANSITIONS: Mapping[State, Mapping[type[Event], State]] = {
    State.IDLE: {Handshake: State.GREETING},
    State.GREETING: {HandshakeResult: State.READY},
    State.READY: {Run: State.RUNNING, Handshake: State.GREETING},
    State.RUNNING: {
        Sample: State.SAMPLING,
        Observe: State.OBSERVING,
        Tag: State.TAGGING,
        RunResult: State.READY,
        Reset: State.READY,
        Error: State.READY,
    },
    State.SAMPLING: {SampleResult: State.RUNNING, Handshake: State.GREETING},
    State.OBSERVING: {ObserveResult: State.RUNNING, Handshake: State.GREETING},
    State.TAGGING: {TagResult: State.RUNNING, Handshake: State.GREETING},
    State.ERROR: {},
}


class Step:
    """A state as one role sees it: what it may send and receive now, and where that leads."""

    __slots__ = ("receivable", "sendable", "state")

    def __init__(self, state: State) -> None:
        self.state = state
        self.sendable: dict[type[Event], Step] = {}
        self.receivable: dict[type[Event], Step] = {}


def steps(role: Role) -> dict[State, Step]:
    """The transition table as a graph, from one role's point of view."""
    graph = {state: Step(state) for state in State}
    for state, transitions in TRANSITIONS.items():
        for event_type, target in transitions.items():
            ours = (event_type in SENT_BY_CONTROLLER) == (role is Role.CONTROLLER)
            edges = graph[state].sendable if ours else graph[state].receivable
            edges[event_type] = graph[target]
    if role is Role.SIMULATOR:
        for step in graph.values():
            step.receivable[Handshake] = graph[State.GREETING]
        graph[State.ERROR].sendable.update({Reset: graph[State.READY], Error: graph[State.READY]})
    return graph

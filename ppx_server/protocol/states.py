"""Who may say what, and when.

Theory of operation
===================

A conversation has one state, which both peers follow, each from what it has sent and received. Every type of event
has one sender, so one table serves both roles: an event that is legal in a state is sendable for the role that sends
events of this type and receivable for the other. But for BATCHING, all of a state's events have the same sender:
requests and replies alternate, as ZeroMQ's REQ and REP require, which PPX 1.0 uses.

              Handshake            HandshakeResult                   Run
    IDLE ----------------> GREETING --------------> READY -----------------------> RUNNING
     ^                                              | ^ ^   RunResult, Reset, Error |  ^
     |                                              | | +---------------------------+  |
     |   ShutdownResult             Shutdown        | |   Sample -> SAMPLING -> SampleResult ----------+
     +---------------- ENDING <---------------------+ |   Observe -> OBSERVING -> ObserveResult -------+
                                                    | |   Tag -> TAGGING -> TagResult -----------------+
                                           RunBatch | |   Rejection -> MARKING -> RejectionResult -----+
                                                    v |
                                                 BATCHING

Batches do not alternate. In BATCHING the controller may send more of them, and the simulator answers them in the order
in which they were sent, each by BatchResult, Error or Reset. The state is left when none is outstanding; which these
are is for the `Connection` to count.

Beyond the table:

- The controller may start over whenever it is its turn, and while batches are outstanding. A new controller knows
  nothing of the old one's conversation, so the simulator accepts a Handshake in every state, and abandons the trace
  that was running.
- Answers to batches that were outstanding when the controller began again may still be on their way: the controller
  accepts them in GREETING.
- A peer that receives what is no message, or what the state does not allow, enters ERROR. From there a simulator may
  say so (Reset, or Error if the controller understands it), which ends the trace and makes it READY again (or BATCHING,
  where earlier batches are outstanding); the controller drops the connection and starts afresh (`Connection.reset`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ppx_server.protocol.events import (
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
    MARKING = "marking"
    BATCHING = "batching"
    ENDING = "ending"
    ERROR = "error"


SENT_BY_CONTROLLER: frozenset[type[Event]] = frozenset(
    {Handshake, Run, SampleResult, ObserveResult, TagResult, RunBatch, RejectionResult, Shutdown}
)

TRANSITIONS: Mapping[State, Mapping[type[Event], State]] = {
    State.IDLE: {Handshake: State.GREETING},
    State.GREETING: {HandshakeResult: State.READY},
    State.READY: {
        Run: State.RUNNING,
        RunBatch: State.BATCHING,
        Shutdown: State.ENDING,
        Handshake: State.GREETING,
    },
    State.RUNNING: {
        Sample: State.SAMPLING,
        Observe: State.OBSERVING,
        Tag: State.TAGGING,
        Rejection: State.MARKING,
        RunResult: State.READY,
        Reset: State.READY,
        Error: State.READY,
    },
    State.SAMPLING: {SampleResult: State.RUNNING, Handshake: State.GREETING},
    State.OBSERVING: {ObserveResult: State.RUNNING, Handshake: State.GREETING},
    State.TAGGING: {TagResult: State.RUNNING, Handshake: State.GREETING},
    State.MARKING: {RejectionResult: State.RUNNING, Handshake: State.GREETING},
    State.BATCHING: {
        RunBatch: State.BATCHING,
        # READY after the answer to the last outstanding batch; until then BATCHING
        BatchResult: State.READY,
        Error: State.READY,
        Reset: State.READY,
        Handshake: State.GREETING,
    },
    State.ENDING: {ShutdownResult: State.IDLE},
    State.ERROR: {},
}

BATCH_ANSWERS: frozenset[type[Event]] = frozenset({BatchResult, Error, Reset})
"""What answers a RunBatch."""


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
    else:
        for answer in BATCH_ANSWERS:
            graph[State.GREETING].receivable[answer] = graph[State.GREETING]
    return graph

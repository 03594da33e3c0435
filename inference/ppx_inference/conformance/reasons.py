"""Why traces failed: by what the model raised, or because the simulator was lost."""

from __future__ import annotations

import re
from enum import Enum

from ppx_server.trace import Status, TraceBatch


class Fault(Enum):
    """Who is to blame for a trace that failed, judged by its reason."""

    MODEL = "model"
    """The model raised, or the client refused what it did; the process goes on."""
    PROTOCOL = "protocol"
    """What the simulator sent was no message, or not due."""
    CRASH = "crash"
    """The process ended, or closed the connection."""
    HANG = "hang"
    """Nothing came before the time was over."""


_LOST = re.compile(
    r"the simulator .*?"
    r"((?P<crash>crashed in mid-trace|closed the connection)|(?P<hang>sent nothing for)|(?P<protocol>broke off))",
    re.DOTALL,
)
"""As `ppx_server.worker` says it; a model that raises is quoted behind its own first words."""


def fault(reason: str) -> Fault:
    """Who is to blame for one failure."""
    found = _LOST.match(reason)
    if found is None or ": the model failed: " in reason[: found.end()]:
        return Fault.MODEL
    return next(Fault(name) for name, text in found.groupdict().items() if text)


def faults(traces: TraceBatch) -> set[Fault]:
    """Who is to blame for the failures of traces."""
    return {
        fault(traces.failures.get(int(i), "")) for i in traces.index[traces.status == Status.FAILED].tolist()
    }

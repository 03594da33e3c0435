"""PPX, sans I/O: bytes in, events out; no socket is imported here.

`Connection` follows one conversation in either role; `encode` and `decode` translate single messages. The wire format
is schema/ppx.fbs: PPX 1.0 and the extensions in `CAPABILITIES`.
"""

from ppx_server.protocol.connection import Connection
from ppx_server.protocol.decoder import decode
from ppx_server.protocol.encoder import encode
from ppx_server.protocol.events import (
    CAPABILITIES,
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
    Tensor,
    WireDistribution,
)
from ppx_server.protocol.states import Role, State

__all__ = [
    "CAPABILITIES",
    "Connection",
    "Error",
    "Event",
    "Handshake",
    "HandshakeResult",
    "Observe",
    "ObserveResult",
    "Reset",
    "Role",
    "Run",
    "RunResult",
    "Sample",
    "SampleResult",
    "State",
    "Tag",
    "TagResult",
    "Tensor",
    "WireDistribution",
    "decode",
    "encode",
]

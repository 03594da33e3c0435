"""PPX, sans I/O: bytes in, events out; no socket is imported here.

`Connection` follows one conversation in either role; `encode` and `decode` translate single messages. The wire format
is schema/ppx.fbs: PPX 1.0 and the extensions in `CAPABILITIES`.
"""

from ppx_server.protocol.connection import Connection
from ppx_server.protocol.decoder import decode
from ppx_server.protocol.encoder import encode
from ppx_server.protocol.events import (
    CAPABILITIES,
    BatchResult,
    Error,
    Event,
    Failure,
    FailureKind,
    Handshake,
    HandshakeResult,
    LoopColumns,
    Observation,
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
    TensorColumns,
    WireAddress,
    WireDistribution,
)
from ppx_server.protocol.states import Role, State

__all__ = [
    "CAPABILITIES",
    "BatchResult",
    "Connection",
    "Error",
    "Event",
    "Failure",
    "FailureKind",
    "Handshake",
    "HandshakeResult",
    "LoopColumns",
    "Observation",
    "Observe",
    "ObserveResult",
    "Rejection",
    "RejectionResult",
    "Reset",
    "Role",
    "Run",
    "RunBatch",
    "RunResult",
    "Sample",
    "SampleResult",
    "Shutdown",
    "ShutdownResult",
    "State",
    "Tag",
    "TagResult",
    "Tensor",
    "TensorColumns",
    "WireAddress",
    "WireDistribution",
    "decode",
    "encode",
]

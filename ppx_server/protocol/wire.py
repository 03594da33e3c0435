"""The numbers of schema/ppx.fbs that the codec needs; a test compares them with the schema."""

from __future__ import annotations

from collections.abc import Mapping

from ppx_server.protocol import events
from ppx_server.protocol.events import Event

MESSAGES: tuple[type[Event], ...] = (
    events.Handshake,
    events.HandshakeResult,
    events.Run,
    events.RunResult,
    events.Sample,
    events.SampleResult,
    events.Observe,
    events.ObserveResult,
    events.Tag,
    events.TagResult,
    events.Reset,
    events.Error,
    events.RunBatch,
    events.BatchResult,
    events.Rejection,
    events.RejectionResult,
    events.Shutdown,
    events.ShutdownResult,
)
"""Members of the union MessageBody; the type code is the position, from 1."""

MESSAGE_CODES: Mapping[type[Event], int] = {message: code for code, message in enumerate(MESSAGES, start=1)}

PARAM_NAMES: Mapping[str, tuple[str, ...]] = {
    "Normal": ("mean", "stddev"),
    "Uniform": ("low", "high"),
    "Categorical": ("probs",),
    "Poisson": ("rate",),
    "Bernoulli": ("probs",),
    "Beta": ("concentration1", "concentration0"),
    "Exponential": ("rate",),
    "Gamma": ("concentration", "rate"),
    "LogNormal": ("loc", "scale"),
    "Binomial": ("total_count", "probs"),
    "Weibull": ("scale", "concentration"),
    "TruncatedNormal": ("mean", "stddev", "low", "high"),
}
"""Members of the union Distribution, in order, and their fields."""

FAMILY_NAMES = tuple(PARAM_NAMES)
FAMILY_CODES: Mapping[str, int] = {name: code for code, name in enumerate(FAMILY_NAMES, start=1)}

REQUIRED_CAPABILITY: Mapping[str, str] = {
    "TruncatedNormal": "truncated_normal",
    "Error": "error",
    "RunBatch": "batch",
    "BatchResult": "batch",
    "Rejection": "rejection",
    "RejectionResult": "rejection",
    "Shutdown": "shutdown",
    "ShutdownResult": "shutdown",
}
"""Families and messages that only a peer with the capability understands."""

MAX_DIMENSIONS = 32
"""Axes of a tensor; NumPy 1's limit."""

MAX_BYTES = 2**31 - 1
"""FlatBuffers' limit of a message."""

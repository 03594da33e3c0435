"""Errors that the client raises on purpose, under one root, `PPXError`."""

from __future__ import annotations


class PPXError(Exception):
    """Root of the errors raised on purpose by this package."""


class DistributionError(PPXError, ValueError):
    """Distribution parameters are not finite, outside their domain, or of shapes that do not broadcast."""


class TensorError(PPXError, ValueError):
    """A value that is to be sent is no number or array of numbers, or has the wrong shape."""


class CapabilityError(PPXError):
    """The simulator asks for something that this controller does not support."""


class ServeError(PPXError):
    """A simulator cannot be served: its address cannot be bound, or `forward` cannot be called."""


class UncontrolledError(PPXError, NotImplementedError):
    """A program asks an adapter for random numbers in a way that no controller could steer."""


class TraceEnded(PPXError):  # noqa: N818 (it is none of the model's)
    """Raised on a thread that a model waits for, where on its own thread the trace would be ended."""


class ModelWarning(UserWarning):
    """Something about a model that its author should know: its text begins with `ppx: `."""

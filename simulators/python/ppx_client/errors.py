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

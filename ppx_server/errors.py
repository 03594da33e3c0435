"""Every error this project raises on purpose, under one root, `PPXError`.

A message says what happened, where (address, family, shapes, endpoint) and what to do about it. What it quotes of a
peer is text (see `ppx_server.text`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppx_server.text import paragraph

if TYPE_CHECKING:
    from ppx_server.trace import TraceBatch


class PPXError(Exception):
    """Root of the errors raised on purpose by this project.

    Attributes:
        completed: The traces of the interrupted `execute` that had finished, ordered by index, or None.
        partial: What an inference engine (a `ppx_inference.Posterior`) or training (a proposal) had finished, or None.
    """

    completed: TraceBatch | None = None
    partial: Any = None

    def __init__(self, *args: object) -> None:
        super().__init__(*(paragraph(a) if isinstance(a, str) else a for a in args))


class LocalProtocolError(PPXError):
    """Our side asked for something the protocol state does not allow; a defect of the caller."""


class RemoteProtocolError(PPXError):
    """The peer sent bytes that are no message, or a message its state does not allow."""


class ArgumentError(PPXError, ValueError):
    """An argument of a call is of the wrong kind or out of its range."""


class DistributionError(PPXError, ValueError):
    """Distribution parameters are not finite, outside their domain or of shapes that do not match."""


class ObservationError(PPXError, ValueError):
    """Observations do not match what the simulator observes: missing, never asked for, or of another shape."""


class AddressError(PPXError, LookupError):
    """A name or address that no trace visits, or an ambiguous one."""


class RuledOutError(PPXError, ValueError):
    """The observations rule out every trace, so that there is no posterior to take something from."""


class StoreError(PPXError):
    """A trace store or a saved posterior cannot be read or written."""


class CheckpointError(PPXError):
    """A proposal checkpoint cannot be read, or does not fit the simulator or the observations."""


class SimulatorError(PPXError):
    """A simulator did not start, crashed, hung, or reported an error.

    Attributes:
        seed: Seed of the run, or None before the first trace.
        index: Index of the trace that was running, or None between traces. (seed, index) reproduces the failure.
    """

    def __init__(self, message: str, *, seed: int | None = None, index: int | None = None) -> None:
        where = "" if index is None else f" [seed {seed}, trace {index}]"
        super().__init__(message + where)
        self.seed = seed
        self.index = index


class SimulatorStartError(SimulatorError):
    """No simulator answered the handshake before the deadline, or its process ended first."""


class SimulatorCrashError(SimulatorError):
    """The simulator process ended in mid-trace."""


class SimulatorTimeoutError(SimulatorError):
    """The simulator did not send its next message before the deadline."""


class SimulatorFailedError(SimulatorError):
    """The simulator reported an error of its own, or sent something the protocol does not allow."""

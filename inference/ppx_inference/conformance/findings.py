"""What the conformance kit says about a simulator, and how it reaches one.

Words: a *check* judges one thing, a *finding* is its outcome, a *remedy* what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ppx_inference.simulator import Simulator, start_seconds
from ppx_server.command import Command
from ppx_server.executor import FailurePolicy
from ppx_server.process import SimulatorProcess

_TOLERANT = FailurePolicy(retries=0, most=1.0)
"""Checks count failed traces themselves."""


class Level(StrEnum):
    """How a finding counts."""

    PASS = "pass"
    WARN = "warn"
    """It works, but inference will be slow or poor, or something may be wrong."""
    FAIL = "fail"
    """Results would be wrong, or there would be none."""
    SKIP = "skip"
    """It could not be judged; the detail says why."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check, or of a part of it.

    Attributes:
        check: Name of the check; behind a slash that of its part, if it has several (`wire/garbage`).
        level: How it counts.
        detail: What was found, with numbers: one sentence, or a few lines.
        remedy: What to do about it; empty where nothing is to be done.
        facts: The same for programs: JSON values by name, such as `{"traces": 400, "addresses": 7}`.
    """

    check: str
    level: Level
    detail: str
    remedy: str = ""
    facts: dict[str, Any] | None = None


@dataclass(frozen=True)
class Running:
    """A simulator that serves PPX, for checks that talk to it themselves.

    Attributes:
        address: Endpoint at which it serves, such as `ipc:///tmp/simulator`.
        process: Its process, or None if it was running already.
    """

    address: str
    process: SimulatorProcess | None


@dataclass(frozen=True)
class Subject:
    """The simulator that is judged, and how to start or reach it.

    Attributes:
        command: Program and arguments that start it; empty if it is running already.
        address: Endpoint at which it is running; empty if there is a command.
        seed: Seed of all runs.
        timeout: Seconds it may take for a trace, or between two messages.
        num_traces: How many prior traces to look at, if `seconds` allow.
        seconds: How long the whole kit should take, about.
        runs: How many runs to look for leaks in, if `seconds` allow.
        start_timeout: Seconds until it must have answered the first message; None for the default of `Simulator`.
        cwd: Folder that holds what the program reads by relative paths.
        uncontrolled: Patterns of draws that are left to the prior.
    """

    command: Sequence[str] = ()
    address: str = ""
    seed: int = 0
    timeout: float = 60.0
    num_traces: int = 400
    seconds: float = 30.0
    runs: int = 10_000
    start_timeout: float | None = None
    cwd: Path | None = None
    uncontrolled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.address):
            raise ValueError(
                "give either the command that starts the simulator, or the address of a running one"
            )

    def open(
        self,
        *,
        batches: bool = True,
        command: Sequence[str] | None = None,
    ) -> Simulator:
        """A fresh process, or a new connection to the simulator that is running.

        Args:
            batches: False to go draw by draw, as in PPX 1.0, whatever the simulator announces.
            command: Start this instead, such as the same program from another folder.

        Returns:
            One simulator, which fails no run however many of its traces fail: findings count them.

        Raises:
            SimulatorStartError: It does not start or answer.
        """
        if not self.command:
            return self.connect(self.address, batches=batches)
        return Simulator(
            command or self.command,
            num_workers=1,
            timeout=self.timeout,
            start_timeout=self.start_timeout,
            cwd=self.cwd,
            policy=_TOLERANT,
            uncontrolled=self.uncontrolled,
            keep_uncontrolled=True,
            batches=batches,
        )

    def connect(
        self,
        address: str | Sequence[str],
        *,
        batches: bool = True,
        timeout: float | None = None,
        start_timeout: float | None = None,
    ) -> Simulator:
        """A connection to a simulator that is running, such as one of `running`; it is not started again if it dies.

        Args:
            address: Where it serves; several for several of them.
            batches: False to go draw by draw.
            timeout: Seconds it may take for a trace; by default those of the subject.
            start_timeout: Seconds within which it must answer the first message; by default as after a start.

        Raises:
            SimulatorStartError: It does not answer.
        """
        return Simulator(
            address=address,
            timeout=timeout or self.timeout,
            start_timeout=start_timeout or self.start_seconds,
            policy=_TOLERANT,
            uncontrolled=self.uncontrolled,
            keep_uncontrolled=True,
            batches=batches,
        )

    @property
    def start_seconds(self) -> float:
        """How long to wait for its first answer: it may have to start, or is running and answers within `timeout`."""
        if not self.command and self.start_timeout is None:
            return min(self.timeout, start_seconds(None, 0.0))
        return start_seconds(self.start_timeout, self.timeout)

    @contextmanager
    def running(self) -> Iterator[Running]:
        """A fresh process to talk to over a socket of one's own, stopped at the end; or the one that is running.

        It may not be ready to answer yet: ZeroMQ keeps what is sent until it is.

        Raises:
            SimulatorStartError: The program does not exist or cannot be executed.
        """
        if not self.command:
            yield Running(self.address, None)
            return
        process = SimulatorProcess(Command.of(self.command, self.cwd))
        try:
            yield Running(process.address, process)
        finally:
            process.stop()

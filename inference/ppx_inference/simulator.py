"""The simulator as the user sees it: a command to start or an address to connect to."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import NoReturn, Self

import numpy as np

from ppx_inference.arguments import checked_count, checked_seconds, checked_seed
from ppx_server.address import AddressTable
from ppx_server.command import Command, Words
from ppx_server.errors import ArgumentError
from ppx_server.executor import Executor, FailurePolicy
from ppx_server.observations import Observations
from ppx_server.protocol import CAPABILITIES
from ppx_server.script import Guide, ScriptBatch
from ppx_server.trace import TraceBatch
from ppx_server.uncontrolled import Uncontrolled
from ppx_server.worker import WorkerConfig

_START_SECONDS = 30.0


class Simulator:
    """A stochastic simulator in processes of its own, ready to be run and steered.

    Give either a command, of which `num_workers` processes are started and stopped again, or the address of a
    simulator that is already running (several addresses for several).

        with Simulator(["./tau_decay"], num_workers=2) as sim:
            traces = sim.prior(1000, seed=1)

    Each process runs in an empty directory of its own, so that no file of fixed name carries numbers from one to
    another. The program, and words of the command that name files, are looked for where the controller is. Threads may
    share a simulator: they wait for each other. A forked process must open its own.

    Args:
        command: Program and arguments, the path of a program, or one string that is split as a shell would. The
            process finds the endpoint to serve at in the environment variable `PPX_BIND`; `{address}` in the command is
            replaced by it too.
        address: Endpoint of a running simulator, such as `tcp://host:5555`, or several.
        num_workers: How many processes to start. A simulator that speaks PPX 1.0 mostly waits for messages, so more
            processes than cores pay: on two cores four run 1.6 times as many traces as two.
        timeout: Seconds a trace may take (in a PPX 1.0 simulator: the time between two messages) before the simulator
            counts as hung.
        start_timeout: Seconds until a simulator must have answered the first message; None for 30, or for a command
            `timeout` if that is longer.
        cwd: Folder that holds what the program reads by relative paths. Every process finds its files in its own
            directory: folders made anew, files copied, those of more than 1 MiB linked; hidden folders are left out.
        memory_limit: Bytes of address space that each process may take; None for no limit. Beyond it the allocations
            of the simulator fail, and not those of the computer.
        policy: What happens to traces that cannot be computed. By default one that a simulator died of is tried once
            more; the run goes on without those that fail, unless they are more than a tenth.
        uncontrolled: Draws that are left to the prior, although the model lets inference choose them: patterns, one of
            which the draw's name or its whole address matches. `*` is any text, `?` a character, `[abc]` one of a set.
            What a program draws thousands of times, and nobody asks for, should not be inferred.
        keep_uncontrolled: Whether traces hold draws that are left to the prior, by the model or by `uncontrolled`. They
            take no memory and no messages otherwise; a trace has them again when it is executed again.
        batches: False to exchange a message per draw, as in PPX 1.0, also with simulators that can execute batches;
            rejection loops are not marked then, which would cost two more.

    Attributes:
        num_workers: How many simulators run at the same time.

    Raises:
        SimulatorStartError: A simulator did not start or answer; none is left running.
        ArgumentError: An argument is of the wrong kind or out of its range; neither or both of command and address.
    """

    def __init__(
        self,
        command: Words | None = None,
        *,
        address: str | Sequence[str] | None = None,
        num_workers: int = 4,
        timeout: float = 60.0,
        start_timeout: float | None = None,
        cwd: str | os.PathLike[str] | None = None,
        memory_limit: int | None = None,
        policy: FailurePolicy | None = None,
        uncontrolled: Sequence[str] = (),
        keep_uncontrolled: bool = False,
        batches: bool = True,
    ) -> None:
        if (command is None) == (address is None):
            raise ArgumentError(
                "give either a command to start the simulator, or the address of a running one"
            )
        timeout = checked_seconds("timeout", timeout)
        patterns = uncontrolled if isinstance(uncontrolled, str) else tuple(uncontrolled)
        configure = partial(
            WorkerConfig,
            uncontrolled=Uncontrolled(patterns, omitted=not keep_uncontrolled),  # type: ignore[arg-type]
            timeout=timeout,
            start_timeout=start_seconds(start_timeout, timeout if command is not None else 0.0),
            memory_limit=None if memory_limit is None else checked_count("memory_limit", memory_limit),
            capabilities=tuple(c for c in CAPABILITIES if batches or c not in ("batch", "rejection")),
        )
        if command is not None:
            num_workers = checked_count("num_workers", num_workers)
            configs = [configure(command=Command.of(command, cwd))] * num_workers
        else:
            if cwd is not None:
                raise ArgumentError(
                    "cwd is for processes that are started; a running simulator has its own directory"
                )
            configs = [configure(address=a) for a in _addresses(address)]
        self.num_workers = len(configs)
        self._executor = Executor(configs, policy)

    @property
    def addresses(self) -> AddressTable:
        """The addresses seen so far."""
        return self._executor.addresses

    @property
    def model_name(self) -> str:
        """The simulator's name for its model."""
        return self._executor.model_name

    @property
    def fingerprint(self) -> str:
        """Changes whenever the model does; empty if the simulator does not tell."""
        return self._executor.fingerprint

    @property
    def takes_batches(self) -> bool:
        """Whether it executes whole batches, and not draw by draw."""
        return self._executor.takes_batches

    @property
    def notices(self) -> list[str]:
        """What the client library in the processes has said of the model so far, such as draws on other threads."""
        return self._executor.notices

    def execute(
        self, scripts: ScriptBatch, observations: Observations | None, guide: Guide | None = None
    ) -> TraceBatch:
        """Executes scripts; see `ppx_server.executor.Executes.execute`."""
        return self._executor.execute(scripts, observations, guide)

    def prior(
        self, num_traces: int, *, seed: int = 0, observations: Observations | None = None
    ) -> TraceBatch:
        """Draws traces from the prior.

        Args:
            num_traces: How many.
            seed: Trace i of a seed is always the same.
            observations: Values by name; without them every observation is drawn and recorded.

        Returns:
            A batch of `num_traces` traces; those that failed have status FAILED.
        """
        num_traces, seed = checked_count("num_traces", num_traces), checked_seed(seed)
        return self.execute(ScriptBatch.empty(seed, np.arange(num_traces)), observations)

    def close(self) -> None:
        """Stops the processes and closes the connections; safe to call twice, and from any thread.

        What another thread executes ends with an error. In a process that was forked off this one it does nothing.
        """
        self._executor.close()

    def __reduce__(self) -> NoReturn:
        raise ArgumentError(
            "a simulator cannot be sent to another process: its processes and connections belong to this one; open "
            "one there"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def start_seconds(start_timeout: float | None, timeout: float) -> float:
    """Seconds until a simulator must have answered the first message, given or by default."""
    if start_timeout is None:
        return max(_START_SECONDS, timeout)
    return checked_seconds("start_timeout", start_timeout)


def _addresses(address: object) -> list[str]:
    """The addresses, each once.

    Raises:
        ArgumentError: One is no text, or given twice.
    """
    given = [address] if isinstance(address, str) else address
    if not isinstance(given, Sequence) or not all(isinstance(a, str) and a for a in given):
        raise ArgumentError(
            f"an address is text such as 'tcp://host:5555', or a list of such texts, not {address!r}"
        )
    if not given:
        raise ArgumentError("the list of addresses is empty; give that of at least one running simulator")
    twice = [a for a, count in Counter(given).items() if count > 1]
    if twice:
        raise ArgumentError(
            f"the address {twice[0]!r} is given twice; one simulator executes no more at two connections than at one, "
            "so give each once"
        )
    return list(given)

"""The simulator as the user sees it: a command to start or an address to connect to."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np

from ppx_server.address import AddressTable
from ppx_server.executor import Executor, FailurePolicy
from ppx_server.observations import Observations
from ppx_server.protocol import CAPABILITIES
from ppx_server.script import Guide, ScriptBatch
from ppx_server.trace import TraceBatch
from ppx_server.uncontrolled import Uncontrolled
from ppx_server.worker import WorkerConfig


class Simulator:
    """A stochastic simulator in processes of its own, ready to be run and steered.

    Give either a command, of which `num_workers` processes are started and stopped again, or the address of a
    simulator that is already running (several addresses for several).

        with Simulator(["./tau_decay"], num_workers=2) as sim:
            traces = sim.prior(1000, seed=1)

    Args:
        command: Program and arguments, or one string that is split as a shell would. The process finds the endpoint
            to serve at in the environment variable `PPX_BIND`; `{address}` in the command is replaced by it too.
        address: Endpoint of a running simulator, such as `tcp://host:5555`, or several.
        num_workers: How many processes to start. A simulator that speaks PPX 1.0 mostly waits for messages, so more
            processes than cores pay: on two cores four run 1.6 times as many traces as two.
        timeout: Seconds a trace may take (in a PPX 1.0 simulator: the time between two messages) before the simulator
            counts as hung.
        start_timeout: Seconds until a simulator must have answered the first message.
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
        ValueError: Neither or both of command and address, or no worker.
    """

    def __init__(
        self,
        command: str | Sequence[str] | None = None,
        *,
        address: str | Sequence[str] | None = None,
        num_workers: int = 4,
        timeout: float = 60.0,
        start_timeout: float = 30.0,
        memory_limit: int | None = None,
        policy: FailurePolicy | None = None,
        uncontrolled: Sequence[str] = (),
        keep_uncontrolled: bool = False,
        batches: bool = True,
    ) -> None:
        if (command is None) == (address is None):
            raise ValueError("give either a command to start the simulator, or the address of a running one")
        if num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}; at least one simulator is needed")
        patterns = uncontrolled if isinstance(uncontrolled, str) else tuple(uncontrolled)
        configure = partial(
            WorkerConfig,
            uncontrolled=Uncontrolled(patterns, omitted=not keep_uncontrolled),  # type: ignore[arg-type]
            timeout=timeout,
            start_timeout=start_timeout,
            memory_limit=memory_limit,
            capabilities=tuple(c for c in CAPABILITIES if batches or c not in ("batch", "rejection")),
        )
        if command is not None:
            words = tuple(shlex.split(command) if isinstance(command, str) else map(str, command))
            configs = [configure(command=words)] * num_workers
        else:
            assert address is not None
            configs = [configure(address=a) for a in ([address] if isinstance(address, str) else address)]
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
        if num_traces < 1:
            raise ValueError(f"num_traces is {num_traces}; at least one trace is needed")
        return self.execute(ScriptBatch.empty(seed, np.arange(num_traces)), observations)

    def close(self) -> None:
        """Stops the processes and closes the connections; safe to call twice."""
        self._executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

"""Clients with one defect each: `ppx_client`, changed in one place, serving a sound model."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ppx_client import (
    batches,
    channels,
    columns,
    controllers,
    densities,
    scripts,
    serving,
    sessions,
    sites,
    traces,
    wire,
)
from ppx_client.buffers import MalformedError

EXPONENTIAL = 7


def change(owner: Any, name: str, wrap: Callable[..., Any]) -> None:
    """Replaces an attribute by `wrap(the original)`."""
    setattr(owner, name, wrap(getattr(owner, name)))


# Densities and values


def wrong_density_of_draws() -> None:
    """The rate of an Exponential is forgotten."""

    def wrap(log_prob: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(code: int, x: Any, params: Any) -> Any:
            return log_prob(code, x, params) - (np.log(params[0]) if code == EXPONENTIAL else 0.0)

        return wrong

    change(batches, "log_prob", wrap)


def wrong_density_of_observations() -> None:
    """The normalisation of the likelihood is forgotten."""

    def wrap(weigh: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any) -> None:
            weigh(self)
            log_probs = np.array(self.result.observations.log_prob) + 0.5 * math.log(2 * math.pi)
            self.result.observations.log_prob = log_probs

        return wrong

    change(batches.Batch, "_weigh_observations", wrap)


def density_outside_the_support() -> None:
    """An Exponential has a density everywhere."""
    functions = densities._FAMILIES[EXPONENTIAL]
    densities._FAMILIES[EXPONENTIAL] = (functions[0], densities._NONE, *functions[2:])


def nan_density() -> None:
    """Traces with a density that is no number count as complete."""

    def wrap(weigh: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any) -> None:
            weigh(self)
            self.result.log_prob = np.where(np.array(self.result.value) > 0.5, math.nan, self.result.log_prob)

        return wrong

    change(batches.Batch, "_weigh_draws", wrap)


def takes_any_value() -> None:
    """Draw by draw, values are not looked at."""
    traces.Trace._checked = lambda self, value, distribution, address: value


def takes_any_choice() -> None:
    """In batches, values are not looked at."""

    def choose(self: Any, site: Any, vector: Any, row: int) -> tuple[float, float]:
        value, z = self._batch.choices.value[row], self._batch.choices.z[row]
        if value != value:
            return site.quantile(*scripts.tails(z), z, vector), z
        return value, math.nan

    scripts.ScriptedTrace._choose = choose


def single_precision_sent() -> None:
    """Tensors are rounded before they are sent."""

    def wrap(fill: Callable[..., Any]) -> Callable[..., Any]:
        def rounded(self: Any, tensors: Any) -> Any:
            return fill(self, [_rounded(tensor) for tensor in tensors])

        return rounded

    change(wire.Template, "fill", wrap)


def single_precision_read() -> None:
    """Values of draws are rounded when they are read."""

    def wrap(accept: Callable[..., Any]) -> Callable[..., Any]:
        def rounded(self: Any, value: Any, distribution: Any, address: str) -> Any:
            return accept(self, value if value is None else _rounded(value), distribution, address)

        return rounded

    change(traces.Trace, "_accept", wrap)


def _rounded(value: Any) -> Any:
    single = np.asarray(value, np.float32).astype(np.float64)
    return float(single) if isinstance(value, float) else single


_taken: list[socket.socket] = []


def takes_a_fixed_port() -> None:
    """Only one process can have it."""
    _taken.append(socket.create_server(("127.0.0.1", 45_871)))


# Scripts, numbers and columns


def _reads_otherwise(alter: Callable[[Any], Any]) -> None:
    change(sessions, "decode_run_batch", lambda decode: lambda data: alter(decode(data)))


def another_generator() -> None:
    """The numbers are those of another seed."""
    _reads_otherwise(lambda batch: replace(batch, seed=batch.seed ^ 1))


def short_seed() -> None:
    """The upper half of seeds is ignored."""
    _reads_otherwise(lambda batch: replace(batch, seed=batch.seed & 0xFFFFFFFF))


def short_index() -> None:
    """The upper half of trace indices is ignored."""
    _reads_otherwise(lambda batch: replace(batch, index=batch.index & np.uint64(0xFFFFFFFF)))


def depends_on_the_batch() -> None:
    """The position in the batch takes the place of the trace index."""
    _reads_otherwise(lambda batch: replace(batch, index=np.arange(len(batch.index), dtype=np.uint64)))


def wrong_order_of_traces() -> None:
    _reads_otherwise(lambda batch: replace(batch, index=batch.index[::-1]))


def one_trace_missing() -> None:
    def shorten(batch: Any) -> Any:
        return (
            replace(batch, index=batch.index[:-1], offsets=batch.offsets[:-1]) if len(batch.index) else batch
        )

    _reads_otherwise(shorten)


def never_asks() -> None:
    _reads_otherwise(lambda batch: replace(batch, ask=False))


def ignores_scripts() -> None:
    def forget(batch: Any) -> Any:
        return replace(batch, offsets=np.zeros_like(batch.offsets))

    _reads_otherwise(forget)


def ignores_visits_of_scripts() -> None:
    _reads_otherwise(lambda batch: replace(batch, instance=np.zeros_like(batch.instance)))


def rounds_choices() -> None:
    """Values that scripts force are rounded to single precision."""
    _reads_otherwise(lambda batch: replace(batch, value=batch.value.astype(np.float32).astype(np.float64)))


def forgets_observations() -> None:
    """A set that is not sent again is an empty one."""

    def given(self: Any, message: Any) -> Any:
        return None if message.observations_id == 0 else message.observations or {}

    sessions.BatchSession._given = given


def ignores_observations() -> None:
    """What was measured is 0, whatever the controller says."""
    scripts.ScriptedTrace._fitting = lambda self, value, name, instance, shape: (
        np.zeros(shape) if shape else 0.0
    )


def fails_where_values_are_missing() -> None:
    """It announces that it draws what is missing, and does not."""

    def wrap(begin: Callable[..., Any]) -> Callable[..., Any]:
        def strict(self: Any, *args: Any, **settings: Any) -> None:
            begin(self, *args, **{**settings, "draws_missing": False})

        return strict

    change(sessions.BatchSession, "__init__", wrap)


def ignores_patterns() -> None:
    """What is to be left to the prior is not."""

    def wrap(begin: Callable[..., Any]) -> Callable[..., Any]:
        def deaf(self: Any, executor: Any, max_bytes: int, patterns: Any = (), **settings: Any) -> None:
            begin(self, executor, max_bytes, (), **settings)

        return deaf

    change(sessions.BatchSession, "__init__", wrap)


def missing_taken_for_zero() -> None:
    """What was not measured is 0, and counts."""

    def measured(batch: Any) -> Any:
        given = batch.observations or {}
        return replace(
            batch, observations={k: 0.0 if v is None else v for k, v in given.items()} or batch.observations
        )

    _reads_otherwise(measured)


def observations_without_values() -> None:
    """What it draws for an observation it keeps for itself."""

    def wrap(encode: Callable[..., Any]) -> Callable[..., Any]:
        def silent(result: Any, first: int, addresses: Any) -> Any:
            rows = result.observations
            rows.data, rows.data_offsets = (
                columns._doubles(),
                columns.array("i", [0] * (1 + len(rows.address))),
            )
            return encode(result, first, addresses)

        return silent

    change(sessions, "encode_batch_result", wrap)


def unflagged() -> None:
    """Forced draws are not flagged."""

    def wrap(encode: Callable[..., Any]) -> Callable[..., Any]:
        def plain(result: Any, first: int, addresses: Any) -> Any:
            result.flags = bytearray(flag & ~columns.FORCED for flag in result.flags)
            return encode(result, first, addresses)

        return plain

    change(sessions, "encode_batch_result", wrap)


def visits_across_traces() -> None:
    """Visits are counted on and on."""
    visits: dict[int, int] = {}

    def wrap(begin: Callable[..., Any]) -> Callable[..., Any]:
        def on(self: Any, *args: Any) -> None:
            begin(self, *args)
            self._visits = visits

        return on

    change(scripts.ScriptedTrace, "__init__", wrap)


def arrays_take_one_number() -> None:
    """The numbers of an array are used again by the draws behind it."""

    def wrap(sample: Callable[..., Any]) -> Callable[..., Any]:
        def once(self: Any, *args: Any) -> Any:
            before = self.num_draws
            value = sample(self, *args)
            self.num_draws = before + 1
            self.num_in_arrays = 0
            return value

        return once

    change(scripts.ScriptedTrace, "_sample_array", wrap)


def observations_from_the_draws() -> None:
    """Observations take the numbers of the draws."""
    change(
        batches.Batch,
        "_numbers",
        lambda make: lambda self, stream, *counts: make(self, batches.Stream.DRAWS, *counts),
    )


def reversed_quantile() -> None:
    """An Exponential from the other tail: of the same distribution, but at another coordinate."""
    sites.SCALAR[EXPONENTIAL] = lambda p, q, z, params: -math.log(p) / params[0]


def addresses_told_again() -> None:
    """Every answer defines all addresses, from 0 on."""

    def wrap(run: Callable[..., Any]) -> Callable[..., Any]:
        def again(self: Any, *args: Any) -> Any:
            self._told = 0
            return run(self, *args)

        return again

    change(sessions.BatchSession, "run", wrap)


def addresses_told_once() -> None:
    """What one controller was told, others are not."""
    told = [0]

    def wrap(run: Callable[..., Any]) -> Callable[..., Any]:
        def once(self: Any, *args: Any) -> Any:
            self._told = told[0]
            answer = run(self, *args)
            told[0] = self._told
            return answer

        return once

    change(sessions.BatchSession, "run", wrap)


def dies_of_senseless_batches() -> None:
    def wrap(run: Callable[..., Any]) -> Callable[..., Any]:
        def careless(self: Any, *args: Any) -> Any:
            try:
                return run(self, *args)
            except MalformedError:
                os._exit(3)

        return careless

    change(sessions.BatchSession, "run", wrap)


def refuses_batches() -> None:
    """It announces `batch`, and cannot."""

    def refuse(self: Any, sender: bytes, session: Any, data: bytes) -> None:
        self.refuse(sender, "not implemented")

    serving._Server._run_batch = refuse


def newest_first() -> None:
    """Of what has come, the latest is answered first."""
    waiting: list[Any] = []

    def wrap(receive: Callable[..., Any]) -> Callable[..., Any]:
        def latest(self: Any) -> Any:
            if not waiting:
                waiting.append(receive(self))
                time.sleep(0.02)
            while self._socket.poll(0):
                waiting.append(receive(self))
            return waiting.pop()

        return latest

    change(channels.Channel, "receive", wrap)


# Conversation


def dies_of_bad_messages() -> None:
    serving._Server.refuse = lambda self, sender, reason, error=None: os._exit(3)


def silent_on_bad_messages() -> None:
    serving._Server.refuse = lambda self, sender, reason, error=None: None


def handshake_in_mid_trace_is_refused() -> None:
    def refuse(self: Any, body: Any, expected: Any, request: Any) -> None:
        raise traces.EndOfTrace(f"{body.name} where {expected.name} was due")

    traces.Conversation._refuse = refuse


def dies_of_a_second_controller() -> None:
    def exchange(self: Any, message: Any) -> Any:
        self._server.channel.send(self._controller, message)
        request = self._server.channel.receive()
        if request.sender != self._controller:
            os._exit(3)
        return request

    serving._Link.exchange = exchange


def mixes_controllers_up() -> None:
    """Whatever comes next answers the running draw, as with a REP socket."""

    def exchange(self: Any, message: Any) -> Any:
        self._server.channel.send(self._controller, message)
        return self._server.channel.receive()

    serving._Link.exchange = exchange


def extension_words_to_all() -> None:
    """Capabilities are announced to controllers of PPX 1.0 too."""

    def wrap(result: Callable[..., Any]) -> Callable[..., Any]:
        return lambda system, name, capabilities, fingerprint, limits: result(
            system, name, traces.CAPABILITIES, fingerprint, limits=limits
        )

    change(serving.wire, "handshake_result", wrap)


def unknown_extension() -> None:
    serving.CAPABILITIES = (*traces.CAPABILITIES, "telepathy")


def marks_to_all() -> None:
    """Rejection loops are marked to controllers of PPX 1.0 too."""

    def wrap(begin: Callable[..., Any]) -> Callable[..., Any]:
        def always(self: Any, channel: Any, capabilities: Any) -> None:
            begin(self, channel, capabilities | {traces.REJECTION})

        return always

    change(traces.Conversation, "__init__", wrap)


def open_marks() -> None:
    """Rejection loops begin, and do not end."""
    traces.Trace.end_rejection = lambda self, address, name, loop: None


def no_envelope() -> None:
    """The empty frame is not sent back."""

    def send(self: Any, receiver: bytes, message: Any, *, patient: bool) -> bool:
        self._socket.send_multipart((receiver, message))
        return True

    channels.Channel.send = send


def answers_without_envelope() -> None:
    """The empty frame is not missed."""

    def receive(self: Any) -> Any:
        while not self._socket.poll(100):
            pass
        sender, *frames = self._socket.recv_multipart()
        return traces.Request(sender, frames[-1])

    channels.Channel.receive = receive


def deaf_to_shutdown() -> None:
    def wrap(answer: Callable[..., Any]) -> Callable[..., Any]:
        def stay(self: Any, request: Any) -> Any:
            try:
                return answer(self, request)
            except serving._StopServing:
                return None

        return stay

    change(serving._Server, "_answer", wrap)


def ends_badly() -> None:
    """It ends with an exit code of failure."""
    change(channels.Channel, "close", lambda close: lambda self: os._exit(1))


def one_session_for_all() -> None:
    """What one controller sent holds for all."""
    shared: list[Any] = []

    def wrap(begin: Callable[..., Any]) -> Callable[..., Any]:
        def share(self: Any, *args: Any, **settings: Any) -> None:
            begin(self, *args, **settings)
            shared.append(self)
            self.__dict__ = shared[0].__dict__

        return share

    change(sessions.BatchSession, "__init__", wrap)


def forgetful() -> None:
    """It remembers four controllers."""
    controllers._MAX_WORKING = 4


def serves_strangers() -> None:
    """No Handshake is needed."""

    def wrap(answer: Callable[..., Any]) -> Callable[..., Any]:
        def anyone(self: Any, request: Any) -> Any:
            if self._sessions.get(request.sender) is None:
                self._handshake(
                    request, serving.Received(serving.Body.HANDSHAKE, capabilities=serving.CAPABILITIES)
                )
            return answer(self, request)

        return anyone

    change(serving._Server, "_answer", wrap)


CLIENTS: dict[str, Callable[[], None]] = {
    name: function
    for name, function in list(globals().items())
    if callable(function)
    and getattr(function, "__module__", "") == __name__
    and not name.startswith("_")
    and name != "change"
}

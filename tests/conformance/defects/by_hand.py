"""A PPX 1.0 simulator by hand, on messages and a socket alone, and what can be wrong with one."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Generator
from typing import Any

import numpy as np
import zmq

from ppx_server.errors import RemoteProtocolError
from ppx_server.protocol import (
    Error,
    Event,
    Handshake,
    HandshakeResult,
    Observe,
    ObserveResult,
    Rejection,
    RejectionResult,
    Reset,
    Run,
    RunResult,
    Sample,
    SampleResult,
    Tag,
    TagResult,
    Tensor,
    WireDistribution,
    decode,
    encode,
)

Model = Generator[Event, Any, None]
ANSWERS = {Sample: SampleResult, Observe: ObserveResult, Tag: TagResult, Rejection: RejectionResult}


def normal(mean: Tensor, stddev: Tensor) -> WireDistribution:
    return WireDistribution("Normal", (mean, stddev))


class Simulator:
    """The sound one."""

    name = "by hand"

    def model(self) -> Model:
        mu = yield Sample("model.f:1", "mu", normal(0.0, 1.0), True)
        k = yield Sample("model.f:2", "k", WireDistribution("Poisson", (3.0,)), True)
        yield Observe("model.f:3", "y", normal(mu + k, 2.0), None)
        yield Tag("model.f:4", "twice", 2.0 * mu)
        yield RunResult(mu + k)

    def __init__(self) -> None:
        self.socket = zmq.Context.instance().socket(zmq.ROUTER)
        self.socket.bind(os.environ["PPX_BIND"])
        self.trace: Model | None = None
        self.owner = b""
        self.asked: Event = Reset()

    def serve(self) -> None:
        while True:
            sender, *frames = self.socket.recv_multipart()
            if len(frames) > 1 and not frames[0]:
                answer = self.answer(sender, frames[1] if len(frames) == 2 else b"")
                if answer is not None:
                    self.socket.send_multipart((sender, b"", answer))

    def answer(self, sender: bytes, message: bytes) -> bytes | None:
        try:
            event = decode(message)
        except RemoteProtocolError:
            return self.refuse(sender)
        if isinstance(event, Handshake):
            return self.greet(event)
        if isinstance(event, Run) and self.trace is None:
            self.trace, self.owner = self.model(), sender
            return self.go_on(None)
        if self.trace is None or sender != self.owner or type(event) is not ANSWERS[type(self.asked)]:
            return self.refuse(sender)
        if not isinstance(event, SampleResult):
            return self.go_on(None)
        assert isinstance(self.asked, Sample)
        return self.go_on(event.result) if self.accepts(self.asked, event.result) else self.refuse(sender)

    def greet(self, event: Handshake) -> bytes | None:
        self.trace = None
        return encode(HandshakeResult("by hand", self.name))

    def go_on(self, value: Tensor | None) -> bytes:
        assert self.trace is not None
        self.asked = self.trace.send(value)
        if isinstance(self.asked, RunResult | Reset | Error):
            self.trace = None
        return self.written(self.asked)

    def written(self, event: Event) -> bytes:
        return encode(event)

    def refuse(self, sender: bytes) -> bytes | None:
        if sender == self.owner:
            self.trace = None
        return encode(Reset())

    def accepts(self, asked: Sample, value: Tensor) -> bool:
        if np.size(value) != 1 or not np.isfinite(value).all():
            return False
        return asked.distribution.family == "Normal" or (float(value) >= 0 and float(value).is_integer())


class Mute(Simulator):
    def greet(self, event: Handshake) -> bytes | None:
        return None


class GreetsWithReset(Simulator):
    def greet(self, event: Handshake) -> bytes | None:
        return encode(Reset())


class GreetsWithGarbage(Simulator):
    def greet(self, event: Handshake) -> bytes | None:
        return b"\x13\x37" * 20


class GreetsOnce(Simulator):
    """A second Handshake is none of its business."""

    greeted = False

    def greet(self, event: Handshake) -> bytes | None:
        answer = super().greet(event) if not self.greeted else encode(Reset())
        self.greeted = True
        return answer


class Nameless(Simulator):
    name = ""


class NeverFinishes(Simulator):
    """Every trace ends with Reset."""

    def model(self) -> Model:
        yield Sample("model.f:1", "mu", normal(0.0, 1.0), True)
        yield Reset()


class EmptyAddress(Simulator):
    def model(self) -> Model:
        yield Sample("", "mu", normal(0.0, 1.0), True)
        yield RunResult(None)


class NanParameter(Simulator):
    def model(self) -> Model:
        mu = yield Sample("model.f:1", "mu", normal(0.0, 1.0), True)
        yield Observe("model.f:2", "y", normal(mu, math.nan), None)
        yield RunResult(mu)


class NewFamily(Simulator):
    """TruncatedNormal, which PPX 1.0 does not know."""

    def model(self) -> Model:
        yield Sample("model.f:1", "mu", WireDistribution("TruncatedNormal", (0.0, 1.0, 0.0, 2.0)), True)
        yield RunResult(None)


class TellsErrors(Simulator):
    """Error, which PPX 1.0 does not know."""

    def model(self) -> Model:
        yield Sample("model.f:1", "mu", normal(0.0, 1.0), True)
        yield Error("out of luck")


class OutOfTurn(Simulator):
    """It greets where a draw is due."""

    def model(self) -> Model:
        yield Sample("model.f:1", "mu", normal(0.0, 1.0), True)
        yield HandshakeResult("by hand", "by hand")


class WrongShapes(Simulator):
    """Parameters that do not fit together."""

    def model(self) -> Model:
        yield Sample("model.f:1", "mu", normal(np.zeros(3), np.ones(2)), True)
        yield RunResult(None)


class ShapeWithoutData(Simulator):
    """A result whose shape has more elements than its data."""

    def model(self) -> Model:
        yield Sample("model.f:1", "mu", normal(0.0, 1.0), True)
        yield RunResult(np.arange(3.0))

    def written(self, event: Event) -> bytes:
        message = super().written(event)
        shape = struct.pack("<Ii", 1, 3)
        return message.replace(shape, struct.pack("<Ii", 1, 5)) if isinstance(event, RunResult) else message


class DiesOfGarbage(Simulator):
    def refuse(self, sender: bytes) -> bytes | None:
        os._exit(3)


class WaitsForItsController(Simulator):
    """In mid-trace it answers nobody else."""

    def answer(self, sender: bytes, message: bytes) -> bytes | None:
        return None if self.trace is not None and sender != self.owner else super().answer(sender, message)


class TakesAnything(Simulator):
    def accepts(self, asked: Sample, value: Tensor) -> bool:
        return True

    def go_on(self, value: Tensor | None) -> bytes:
        return super().go_on(float(np.ravel(value)[0]) if np.size(value) and value is not None else 0.0)


SIMULATORS = {
    "".join("_" + c.lower() if c.isupper() else c for c in kind.__name__)[1:]: kind
    for kind in (Simulator, *Simulator.__subclasses__())
}

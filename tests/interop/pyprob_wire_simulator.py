"""The simulator of `legacy_simulator.py`, on pyprob's generated code alone, with the manners that PPX asks for.

It takes a Handshake wherever an answer is due, refuses what is no message, what is not due, and values that a draw
cannot have, and ends on SIGTERM. It announces no capability: the generated code has none.
"""

from __future__ import annotations

import math
import signal
import sys
from typing import Any

from legacy_simulator import HandshakeResult, Legacy, Message, MessageBody, RunResult, flatbuffers
from ppx import Reset  # pyprob's, on the path since the import above

BODY = MessageBody.MessageBody()
DUE = {BODY.Sample: BODY.SampleResult, BODY.Observe: BODY.ObserveResult, BODY.Tag: BODY.TagResult}


class NotDueError(Exception):
    """Another message came than the answer that was due."""


class Simulator(Legacy):
    due: int | None = None

    def send(self, builder: Any, kind: int, body: int) -> None:
        super().send(builder, kind, body)
        self.due = DUE.get(kind)

    def receive(self) -> Any:
        frames = self.socket.recv_multipart()
        code, message = BODY.NONE, None
        try:
            if len(frames) == 1:
                message = Message.Message.GetRootAsMessage(frames[0], 0)
                code = BODY.NONE if message.Body() is None else message.BodyType()
        except Exception as error:  # whatever the bytes are
            sys.stderr.write(f"no message of PPX: {error}\n")
        if self.due is not None and code != self.due:
            raise NotDueError(code)
        return code if self.due is None else message

    def uniform(self, low: float, high: float, address: str) -> float:
        value = super().uniform(low, high, address)
        if not math.isfinite(value):
            raise ValueError(f"the controller sent {value} for {address}")
        return value

    def answer(self, code: int) -> None:
        self.due = None
        builder = flatbuffers.Builder(128)
        if code == BODY.Handshake:
            system, model = builder.CreateString("pyprob.ppx"), builder.CreateString("polite gaussian")
            HandshakeResult.HandshakeResultStart(builder)
            HandshakeResult.HandshakeResultAddSystemName(builder, system)
            HandshakeResult.HandshakeResultAddModelName(builder, model)
            self.send(builder, BODY.HandshakeResult, HandshakeResult.HandshakeResultEnd(builder))
        elif code == BODY.Run:
            self.run()
        else:
            Reset.ResetStart(builder)
            self.send(builder, BODY.Reset, Reset.ResetEnd(builder))

    def run(self) -> None:
        try:
            mu = self.forward()
        except NotDueError as error:
            (code,) = error.args
            self.answer(code if code == BODY.Handshake else BODY.NONE)
        except Exception as error:  # ends the trace, not the process
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            self.answer(BODY.NONE)
        else:
            builder = flatbuffers.Builder(128)
            result = self.tensor(builder, mu)
            RunResult.RunResultStart(builder)
            RunResult.RunResultAddResult(builder, result)
            self.send(builder, BODY.RunResult, RunResult.RunResultEnd(builder))

    def serve(self) -> None:
        while True:
            self.due = None
            self.answer(self.receive())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Simulator().serve()

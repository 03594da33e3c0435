"""A PPX 1.0 simulator that uses none of our code: the Marsaglia Gaussian on pyprob's generated reader and writer.

It is what a simulator built on the old stack looks like on the wire: it announces no capability, sends every
parameter as a tensor of shape [1], gives no value with an observe, and knows nothing of seeds.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import zmq

# The generated package alone: importing pyprob itself would import torch.
_pyprob = importlib.util.find_spec("pyprob")
assert _pyprob is not None
assert _pyprob.origin is not None
sys.path.insert(0, str(Path(_pyprob.origin).parent))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import flatbuffers
    from ppx import (
        Distribution,
        HandshakeResult,
        Message,
        MessageBody,
        Normal,
        Observe,
        RunResult,
        Sample,
        SampleResult,
        Tag,
        Tensor,
        Uniform,
    )


class Legacy:
    def __init__(self) -> None:
        self.socket = zmq.Context.instance().socket(zmq.REP)
        self.socket.bind(os.environ["PPX_BIND"])

    def send(self, builder: flatbuffers.Builder, kind: int, body: int) -> None:
        Message.MessageStart(builder)
        Message.MessageAddBodyType(builder, kind)
        Message.MessageAddBody(builder, body)
        builder.Finish(Message.MessageEnd(builder))
        self.socket.send(bytes(builder.Output()))

    def receive(self) -> Message.Message:
        return Message.Message.GetRootAsMessage(self.socket.recv(), 0)

    def tensor(self, builder: flatbuffers.Builder, value: float) -> int:
        Tensor.TensorStartDataVector(builder, 1)
        builder.PrependFloat64(value)
        data = builder.EndVector()
        Tensor.TensorStartShapeVector(builder, 1)
        builder.PrependInt32(1)
        shape = builder.EndVector()
        Tensor.TensorStart(builder)
        Tensor.TensorAddData(builder, data)
        Tensor.TensorAddShape(builder, shape)
        return Tensor.TensorEnd(builder)

    def uniform(self, low: float, high: float, address: str) -> float:
        builder = flatbuffers.Builder(128)
        text = builder.CreateString(address)
        lower, upper = self.tensor(builder, low), self.tensor(builder, high)
        Uniform.UniformStart(builder)
        Uniform.UniformAddLow(builder, lower)
        Uniform.UniformAddHigh(builder, upper)
        distribution = Uniform.UniformEnd(builder)
        Sample.SampleStart(builder)
        Sample.SampleAddAddress(builder, text)
        Sample.SampleAddName(builder, text)
        Sample.SampleAddDistributionType(builder, Distribution.Distribution().Uniform)
        Sample.SampleAddDistribution(builder, distribution)
        Sample.SampleAddControl(builder, True)
        self.send(builder, MessageBody.MessageBody().Sample, Sample.SampleEnd(builder))
        reply = self.receive()
        body = SampleResult.SampleResult()
        body.Init(reply.Body().Bytes, reply.Body().Pos)
        result = body.Result()
        assert result.ShapeAsNumpy().tolist() == [1]
        return float(np.asarray(result.DataAsNumpy())[0])

    def observe(self, mean: float, stddev: float, name: str) -> None:
        builder = flatbuffers.Builder(128)
        text = builder.CreateString(name)
        center, width = self.tensor(builder, mean), self.tensor(builder, stddev)
        Normal.NormalStart(builder)
        Normal.NormalAddMean(builder, center)
        Normal.NormalAddStddev(builder, width)
        distribution = Normal.NormalEnd(builder)
        Observe.ObserveStart(builder)
        Observe.ObserveAddAddress(builder, text)
        Observe.ObserveAddName(builder, text)
        Observe.ObserveAddDistributionType(builder, Distribution.Distribution().Normal)
        Observe.ObserveAddDistribution(builder, distribution)
        self.send(builder, MessageBody.MessageBody().Observe, Observe.ObserveEnd(builder))
        assert self.receive().BodyType() == MessageBody.MessageBody().ObserveResult

    def tag(self, value: float, name: str) -> None:
        builder = flatbuffers.Builder(128)
        text = builder.CreateString(name)
        tensor = self.tensor(builder, value)
        Tag.TagStart(builder)
        Tag.TagAddAddress(builder, text)
        Tag.TagAddName(builder, text)
        Tag.TagAddValue(builder, tensor)
        self.send(builder, MessageBody.MessageBody().Tag, Tag.TagEnd(builder))
        assert self.receive().BodyType() == MessageBody.MessageBody().TagResult

    def forward(self) -> float:
        square = 1.0
        while square >= 1.0:
            x, y = self.uniform(-1.0, 1.0, "x"), self.uniform(-1.0, 1.0, "y")
            square = x * x + y * y
        mu = 1.0 + math.sqrt(5.0) * x * math.sqrt(-2.0 * math.log(square) / square)
        self.observe(mu, math.sqrt(2.0), "y0")
        self.observe(mu, math.sqrt(2.0), "y1")
        self.tag(mu, "mu")
        return mu

    def serve(self) -> None:
        while True:
            kind = self.receive().BodyType()
            builder = flatbuffers.Builder(128)
            if kind == MessageBody.MessageBody().Handshake:
                system, model = builder.CreateString("legacy"), builder.CreateString("old gaussian")
                HandshakeResult.HandshakeResultStart(builder)
                HandshakeResult.HandshakeResultAddSystemName(builder, system)
                HandshakeResult.HandshakeResultAddModelName(builder, model)
                self.send(
                    builder,
                    MessageBody.MessageBody().HandshakeResult,
                    HandshakeResult.HandshakeResultEnd(builder),
                )
            else:
                assert kind == MessageBody.MessageBody().Run
                result = self.tensor(builder, self.forward())
                RunResult.RunResultStart(builder)
                RunResult.RunResultAddResult(builder, result)
                self.send(builder, MessageBody.MessageBody().RunResult, RunResult.RunResultEnd(builder))


if __name__ == "__main__":
    Legacy().serve()

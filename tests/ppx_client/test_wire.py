"""The client's codec: read by generated code, and unharmed by any bytes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

import ppx_client as ppx
from ppx_client import wire as client_wire
from ppx_client.buffers import MalformedError, Table, Writer
from ppx_client.columns import decode_run_batch
from ppx_client.wire import Body, ScalarPattern, decode
from ppx_server.protocol import Observation, RunBatch, WireAddress, encode

DISTRIBUTIONS = [
    ppx.Normal(0.1, 2.0),
    ppx.Uniform(-1.0, [[2.0], [3.0]]),
    ppx.Categorical(np.ones((2, 3))),
    ppx.Poisson(3.0),
    ppx.Bernoulli(0.3),
    ppx.Beta(1.0, 2.0),
    ppx.Exponential(3.0),
    ppx.Gamma(1.0, 2.0),
    ppx.LogNormal(1.0, 2.0),
    ppx.Binomial(3, 0.5),
    ppx.Weibull(1.0, 2.0),
    ppx.TruncatedNormal(0.0, 1.0, -1.0, 2.0),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("address", ["", "a", "ä/é∂", "x" * 300])
def test_every_family_is_read_by_generated_code(
    distribution: ppx.Distribution, address: str, wire: Any
) -> None:
    params = distribution.params
    seen = wire.read(client_wire.sample(address, "n", distribution.code, params, False).fill(params))
    assert seen[:4] == ("Sample", address, "n", type(distribution).__name__)
    assert seen.control is False
    value = np.arange(6.0).reshape(2, 3)
    template = client_wire.observe(address, "", distribution.code, params, value)
    observed = wire.read(template.fill((*params, value + 1.0)))
    np.testing.assert_array_equal(observed.value, value + 1.0)
    for message in (seen, observed):
        for sent, read in zip(params, message.params, strict=True):
            np.testing.assert_array_equal(sent, read)
            assert np.shape(sent) == read.shape


def test_the_bytes_are_aligned(wire: Any) -> None:
    for size in range(9):
        message = client_wire.sample("a" * size, "", 1, (1.25, 2.5), True).fill((1.25, 2.5))
        for value in (1.25, 2.5):
            assert bytes(message).index(np.float64(value).tobytes()) % 8 == 0


def test_messages_of_the_controller(wire: Any) -> None:
    for value in (0.5, [1.0], [[1.0, 2.0]], np.zeros((2, 2, 2))):
        for body in ("SampleResult", "ObserveResult"):
            received = decode(wire.write(body, value))
            assert np.shape(received.value) == np.shape(value)
            np.testing.assert_array_equal(received.value, value)  # type: ignore[arg-type]
    assert decode(wire.write("ObserveResult")).value is None
    assert decode(wire.write("SampleResult", [])).value is None
    assert decode(wire.write("Handshake")).capabilities == ()
    assert decode(wire.write("Handshake", capabilities=["error", "ä"])).capabilities == ("error", "ä")
    for body, code in (("Run", Body.RUN), ("TagResult", Body.TAG_RESULT), ("Reset", Body.RESET)):
        assert decode(wire.write(body)).body is code


def test_a_pattern_reads_equal_messages_only(wire: Any) -> None:
    first, second = wire.write("SampleResult", 0.5), wire.write("SampleResult", -3.25)
    pattern = ScalarPattern(first, decode(first).value_at)
    assert pattern.read(second) == -3.25
    assert pattern.read(wire.write("SampleResult", [0.5])) is None
    assert pattern.read(wire.write("ObserveResult", 0.5)) is None
    assert pattern.read(b"") is None


def test_any_bytes_are_a_message_or_malformed(wire: Any) -> None:
    rng = random.Random(5)
    seeds = [
        wire.write("Handshake", capabilities=["observed_value", "error"]),
        wire.write("SampleResult", np.ones((2, 3))),
        wire.write("ObserveResult", 1.0),
        wire.write("Run"),
    ]
    outcomes = {True: 0, False: 0}
    for _ in range(20_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice([1, 1, 2, 4])):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 4, 127, 128, 255, rng.randrange(256)])
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        try:
            decode(bytes(data))
        except MalformedError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
    assert min(outcomes.values()) > 1000


def test_many_long_capabilities_are_not_copied() -> None:
    # Offsets may all point to one long string: a small message that would make a large copy.
    fields = Table((int(Body.HANDSHAKE), Table(("test", ["x" * 5000]))))
    with pytest.raises(MalformedError, match="5000 bytes"):
        decode(bytes(Writer(fields).data))
    fields = Table((int(Body.HANDSHAKE), Table(("test", ["x"] * 65))))
    with pytest.raises(MalformedError, match="65 strings in a Handshake"):
        decode(bytes(Writer(fields).data))


def test_any_bytes_are_a_batch_or_malformed() -> None:
    rng = random.Random(6)
    message = encode(
        RunBatch(
            batch=1,
            seed=2,
            index=np.arange(2, dtype=np.uint64),
            ask=True,
            offsets=np.array([0, 1, 2], np.int32),
            address=np.zeros(2, np.int32),
            instance=np.zeros(2, np.int32),
            value=np.ones(2),
            z=np.ones(2),
            addresses=(WireAddress("a", "b", "Normal", (2, 1)),),
            observations_id=1,
            observations=(Observation("y", 0, np.ones(3)),),
        )
    )
    outcomes = {True: 0, False: 0}
    for _ in range(20_000):
        data = bytearray(message)
        for _ in range(rng.choice([1, 1, 2, 4])):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 4, 127, 128, 255, rng.randrange(256)])
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        try:
            decode(bytes(data))
            decode_run_batch(bytes(data))
        except MalformedError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
    assert min(outcomes.values()) > 1000

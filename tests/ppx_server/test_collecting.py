"""Collecting batches one by one gives what joining them all gives."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

from ppx_server.collecting import Collection
from ppx_server.script import ScriptBatch
from ppx_server.trace import TraceBatch


def model(ppx):
    """Traces of different lengths, whose draws have parameters of their own."""
    x = ppx.sample("Normal", 0.0, 1.0, name="x")
    while ppx.sample("Bernoulli", 0.5, name="more"):
        x = ppx.sample("Normal", x, 1.0, name="x")
    if x > 1.0:
        raise ArithmeticError("too much")
    ppx.observe("Normal", x, 1.0, name="y")
    ppx.tag(np.arange(int(abs(x)), dtype=float), "tag")
    return x


@pytest.fixture
def batches(in_process):
    simulator, bounds = in_process(model), np.cumsum([0, 3, 1, 40, 7])
    made = [simulator.execute(ScriptBatch.empty(1, np.arange(a, b)), None) for a, b in pairwise(bounds)]
    return [replace(b, log_q=b.log_prob) for b in made]


def own_log_q(batch):
    return replace(batch, log_q=batch.log_prob + 1.0)


def assert_same(one, other):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        elif hasattr(a, "offsets"):
            assert_same(a, b)
        else:
            assert a == b


@pytest.mark.parametrize("num_traces", [1, 20, 51, 1000])
@pytest.mark.parametrize("own", [(), (0, 1, 2, 3), (2,), (0,)])
def test_collected_batches_are_the_joined_ones(num_traces, own, batches):
    batches = [own_log_q(b) if i in own else b for i, b in enumerate(batches)]
    collection = Collection(num_traces)
    for n, batch in enumerate(batches, 1):
        collection.append(batch)
        traces, joined = collection.traces(), TraceBatch.concatenate(batches[:n])
        assert len(collection) == len(traces) == len(joined)
        assert_same(traces, joined)
        assert (traces.log_q is traces.log_prob) == (joined.log_q is joined.log_prob)


def test_a_batch_that_is_interrupted_half_way_is_not_there(batches, monkeypatch):
    collection = Collection(51)
    collection.append(batches[0])
    collection.append(batches[1])
    room, calls = Collection._room, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return room(self, *arguments)

    monkeypatch.setattr(Collection, "_room", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collection.append(batches[2])
    monkeypatch.setattr(Collection, "_room", room)
    assert_same(collection.traces(), TraceBatch.concatenate(batches[:2]))
    collection.append(batches[3])
    again = TraceBatch.concatenate([*batches[:2], batches[3]])
    assert_same(collection.traces(), again)

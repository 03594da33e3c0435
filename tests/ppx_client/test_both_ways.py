"""Scripts that the client executes and scripts that the controller plays draw by draw do the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ppx_server.address import AddressTable
from ppx_server.numbering import Numbering
from ppx_server.observations import ObservationSet
from ppx_server.player import Player
from ppx_server.protocol import Run, RunResult
from ppx_server.recording import assemble
from ppx_server.script import ScriptBatch
from ppx_server.session import Session
from ppx_server.trace import TraceBatch

Serve = Callable[..., Any]
MODEL = """
n = ppx.sample(ppx.Poisson(3.0), name="n")
with ppx.rejection("loop"):
    while ppx.sample(ppx.Uniform(0.0, 1.0)) > 0.7:
        ppx.sample(ppx.Gamma(0.5, 2.0), name="g", control=False)
with ppx.scope("inner"):
    x = ppx.sample(ppx.Normal(np.arange(float(n)), 2.0), name="x")
    k = ppx.sample(ppx.Categorical([[0.5, 0.5, 1.0], [0.1, 0.2, 0.3]]), name="k")
t = ppx.sample(ppx.TruncatedNormal(x.sum(), 1.0, 0.0, np.inf))
ppx.sample(ppx.Beta(0.5, 0.5)), ppx.sample(ppx.Binomial(n, 0.5)), ppx.sample(ppx.Weibull(1.0, 0.5))
for _ in range(2):
    ppx.observe(ppx.Normal(t, 1.0), name="y")
with ppx.scope("inner"):
    ppx.observe(ppx.Exponential([1.0, 2.0]), name="e")
ppx.observe(ppx.Poisson(t + 1.0), [1, 2, 3], name="counts")
ppx.tag(x, name="x"), ppx.tag(t, name="t"), ppx.tag(t, name="t")
return x
"""
SEED, NUM_TRACES = 4, 30


def by_draws(controller: Any, scripts: ScriptBatch, observations: ObservationSet | None) -> TraceBatch:
    addresses = AddressTable()
    session = Session(scripts, observations, addresses)
    recordings = []
    for slot in range(len(scripts)):
        player = Player(session, slot, send_observed=True)
        event = controller.ask(Run())
        while type(event) is not RunResult:
            event = controller.ask(player.react(event))
        player.finish(event)
        recordings.append(player.recording)
    return assemble(recordings, addresses=addresses, params=session.params, seed=SEED, index=scripts.index)


def by_batch(controller: Any, scripts: ScriptBatch, observations: ObservationSet | None) -> TraceBatch:
    addresses = AddressTable()
    numbering = Numbering(addresses)
    controller.handshake()
    if scripts.addresses is not None:
        ids = addresses.translate(scripts.address_id, scripts.addresses)
        scripts = replace(scripts, address_id=ids, addresses=None)
    return numbering.traces(controller.ask(numbering.request(1, scripts, observations)), scripts)


def check_equal(a: TraceBatch, b: TraceBatch) -> None:
    """All columns agree; the numbering of addresses and parameters may differ."""
    ids = a.addresses.translate(b.address_id, b.addresses)
    for column in ("status", "offsets", "instance", "flags"):
        np.testing.assert_array_equal(getattr(a, column), getattr(b, column), err_msg=column)
    np.testing.assert_array_equal(a.address_id, ids)
    for column in ("value", "z", "log_prob"):
        np.testing.assert_allclose(getattr(a, column), getattr(b, column), rtol=1e-9, err_msg=column)
    for row in range(len(ids)):
        np.testing.assert_allclose(a.params[a.params_id[row]], b.params[b.params_id[row]], rtol=1e-9)
    for name in ("observations", "tags", "results"):
        ours, theirs = getattr(a, name), getattr(b, name)
        np.testing.assert_array_equal(ours.address_id, a.addresses.translate(theirs.address_id, b.addresses))
        for column in ("offsets", "instance", "data_offsets"):
            np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column), err_msg=name)
        np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-9)
        np.testing.assert_allclose(ours.log_prob, theirs.log_prob, rtol=1e-9)
    for column in ("offsets", "begin", "end"):
        np.testing.assert_array_equal(getattr(a.loops, column), getattr(b.loops, column))
    np.testing.assert_array_equal(a.loops.address_id, a.addresses.translate(b.loops.address_id, b.addresses))


OBSERVATIONS = {("y", 0): 3.0, ("y", 1): 4.0, ("e", 0): [0.1, 0.2], ("counts", 0): [3.0, 4.0, 5.0]}


@pytest.mark.parametrize("conditioned", [False, True])
def test_empty_scripts_and_replayed_ones(serve: Serve, conditioned: bool) -> None:
    controller = serve(MODEL).connect_for_batches()
    observations = ObservationSet.of(OBSERVATIONS) if conditioned else None
    scripts = ScriptBatch.empty(SEED, np.arange(NUM_TRACES))
    traces = by_draws(controller, scripts, observations)
    assert len(traces.loops.begin) == NUM_TRACES
    check_equal(traces, by_batch(controller, scripts, observations))
    for by_z in (False, True):
        replayed = ScriptBatch.replay(traces, by_z=by_z)
        expected = by_draws(controller, replayed, observations)
        check_equal(expected, by_batch(controller, replayed, observations))


def test_scripts_with_changed_dropped_and_misplaced_choices(serve: Serve) -> None:
    controller = serve(MODEL).connect_for_batches()
    traces = by_draws(controller, ScriptBatch.empty(SEED, np.arange(NUM_TRACES)), None)
    scripts = ScriptBatch.replay(traces, by_z=True)
    rng = np.random.default_rng(1)
    z = scripts.z + rng.normal(size=len(scripts.z)) * (rng.random(len(scripts.z)) < 0.2)
    # Rows of other draws than those of the trace, and rows in another order within it.
    order = np.arange(len(z))
    for start, stop in zip(scripts.offsets[:-1], scripts.offsets[1:], strict=True):
        if rng.random() < 0.5:
            rng.shuffle(order[start:stop])
    scripts = replace(
        scripts,
        z=z[order],
        value=scripts.value[order],
        address_id=np.where(rng.random(len(z)) < 0.1, 0, scripts.address_id[order]).astype(np.int32),
        instance=scripts.instance[order],
        index=scripts.index + 1000,
    )
    expected = by_draws(controller, scripts, None)
    assert 0 < (expected.flags == 3).sum() < len(expected.flags)
    check_equal(expected, by_batch(controller, scripts, None))

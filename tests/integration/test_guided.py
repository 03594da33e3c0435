"""Guided scripts on simulators that execute batches."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ppx_inference.simulator import Simulator
from ppx_server.executor import FailurePolicy
from ppx_server.script import Otherwise, ScriptBatch
from ppx_server.trace import DrawFlag, Status
from tests.integration.guides import PriorGuide

MODELS = Path(__file__).with_name("models.py")


def test_models_that_raise_before_their_first_draw_are_reported() -> None:
    command = [sys.executable, str(MODELS), "raises_at_once"]
    with Simulator(command, num_workers=1, policy=FailurePolicy(most=1.0)) as sim:
        traces = sim.execute(ScriptBatch.empty(1, range(5), Otherwise.ASK), None, PriorGuide())
    assert (traces.status == Status.FAILED).all()
    assert all("no table of cross sections" in reason for reason in traces.failures.values())


def test_a_guided_trace_that_observes_more_has_weight_zero_only_if_it_was_given() -> None:
    scripts = ScriptBatch.empty(0, range(64), Otherwise.ASK)
    with Simulator([sys.executable, str(MODELS), "rare_observe"], num_workers=2) as sim:
        without = sim.execute(scripts, {"y": 0.0}, PriorGuide())
        given = sim.execute(scripts, {"y": 0.0, "rare": 0.5}, PriorGuide())
    rare = given.value[given.rows(sim.addresses.find("x"))] > 0.9
    assert 0 < rare.sum() < 32
    assert (without.log_weight > -np.inf).all()
    np.testing.assert_array_equal(given.log_weight > -np.inf, rare)


def test_choices_are_forced_as_far_as_the_own_script_was_followed_and_guided_after_that() -> None:
    with Simulator([sys.executable, str(MODELS), "mixed"], num_workers=1, keep_uncontrolled=True) as sim:
        whole = sim.prior(1, seed=8)
        (k,) = sim.addresses.find("k")
        keep = [0, 1, 2]  # the array draw
        script = ScriptBatch(
            seed=8,
            index=np.array([0]),
            offsets=np.array([0, 5]),
            address_id=np.append(whole.address_id[keep], np.array([k, k], np.int32)),
            instance=np.append(
                whole.instance[keep], np.array([2, 1], np.int32)
            ),  # not the visits that come next
            value=np.append(whole.value[keep], [1.0, 1.0]),
            z=np.full(5, np.nan),
            otherwise=Otherwise.ASK,
        )
        traces = sim.execute(script, {"image": [[0.0, 10.0, 20.0]]}, PriorGuide())
    forced, guided = DrawFlag.CONTROLLED | DrawFlag.FORCED, DrawFlag.CONTROLLED | DrawFlag.GUIDED
    assert traces.flags.tolist() == [forced] * 3 + [0] + [guided] * 3
    np.testing.assert_allclose(traces.value, whole.value, rtol=1e-12)  # slow ones go draw by draw
    np.testing.assert_array_equal(traces.log_q, traces.log_prob)

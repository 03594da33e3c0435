from __future__ import annotations

import numpy as np

from ppx_server.script import Otherwise, ScriptBatch


def test_empty_scripts_force_nothing() -> None:
    scripts = ScriptBatch.empty(3, [5, 9], Otherwise.ASK)
    assert (len(scripts), scripts.seed, scripts.otherwise) == (2, 3, Otherwise.ASK)
    assert scripts.index.tolist() == [5, 9]
    assert scripts.offsets.tolist() == [0, 0, 0]
    columns = (scripts.address_id, scripts.instance, scripts.value, scripts.z)
    assert [len(column) for column in columns] == [0, 0, 0, 0]
    assert ScriptBatch.empty(0, [1]).otherwise is Otherwise.PRIOR


def test_replay_forces_every_recorded_draw(make_traces) -> None:
    traces = make_traces(20, first=100)
    scripts = ScriptBatch.replay(traces)
    assert (len(scripts), scripts.seed, scripts.otherwise) == (20, traces.seed, Otherwise.PRIOR)
    for name in ("index", "offsets", "address_id", "instance", "value", "z"):
        np.testing.assert_array_equal(getattr(scripts, name), getattr(traces, name))


def test_replay_by_z_leaves_values_open(make_traces) -> None:
    traces = make_traces(20)
    scripts = ScriptBatch.replay(traces, by_z=True)
    assert np.isnan(scripts.value).all()
    np.testing.assert_array_equal(scripts.z, traces.z)
    assert not np.isnan(traces.value).all()

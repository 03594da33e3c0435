"""What a posterior says as rows and columns: summaries, long and wide tables, CSV."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest

from ppx_inference import Posterior, TrustWarning, importance_sampling, random_walk_mh
from ppx_inference.table import write_csv
from ppx_server.errors import AddressError, StoreError
from ppx_server.script import ScriptBatch


def scoped(ppx):
    """A draw in one of two scopes, one in both, an array, a tag, a result, repeated visits."""
    branch = ppx.sample("Bernoulli", 0.5, name="branch")
    with ppx.scope("left" if branch else "right"):
        ppx.sample("Normal", 0.0, 1.0, name="energy")
        ppx.sample("Normal", 0.0, 1.0, name="twice")
    with ppx.scope("other"):
        ppx.sample("Normal", 0.0, 1.0, name="twice")
    for i in range(3):
        ppx.sample("Normal", 100.0 * i, 1.0, name="visit")
    vector = ppx.sample("Normal", np.arange(4.0).reshape(2, 2), 0.1 * np.ones((2, 2)), name="vector")
    ppx.tag(2.0 * branch, "double")
    ppx.tag(vector, "picture")
    ppx.observe("Normal", branch, 1.0, name="y")
    return vector[0]


@pytest.fixture
def scoped_posterior(in_process):
    return importance_sampling(in_process(scoped), {"y": 0.5}, num_traces=400, seed=1)


def prior(in_process, model, num_traces):
    return Posterior.of_traces(in_process(model).execute(ScriptBatch.empty(1, np.arange(num_traces)), None))


def test_the_table_has_one_row_per_number(scoped_posterior):
    table, traces = scoped_posterior.table(), scoped_posterior.traces
    kinds = table["kind"].to_pylist()
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "draw": len(traces.value),
        "tag": 5 * len(traces),
        "result": 2 * len(traces),
    }
    first = table.slice(0, int(traces.length[0])).to_pydict()
    assert first["name"] == ["branch", "energy", "twice", "twice", *["visit"] * 3, *["vector"] * 4]
    assert first["instance"][4:7] == [0, 1, 2]
    assert first["element"][-4:] == [0, 1, 2, 3]
    assert set(first["log_weight"]) == {scoped_posterior.log_weight[0]}
    assert first["family"][0] == "Bernoulli"
    double = table.filter(pc.equal(pc.cast(table["name"], "string"), "double"))
    assert double["value"].to_pylist() == scoped_posterior["double"].values.tolist()
    assert double["ordinal"].null_count == len(double)


REST = ["left/twice", "right/twice", "other/twice", "visit[0]", "visit[1]", "visit[2]"]
REST += [f"{name}[{i},{j}]" for name in ("vector", "picture") for i in (0, 1) for j in (0, 1)]
REST += ["result[0]", "result[1]"]


def test_a_summary_has_a_row_for_everything(scoped_posterior):
    rows = scoped_posterior.summary()
    assert [row.name for row in rows[:3]] == ["branch", "energy", "double"]
    assert sorted(row.name for row in rows[3:]) == sorted(REST)
    assert scoped_posterior.num_quantities == len(rows)
    assert [round(row.mean, -2) for row in rows if row.name.startswith("visit")] == [0, 100, 200]
    assert repr(scoped_posterior.summary("visit[2]")[0]) in map(repr, rows)
    assert scoped_posterior["visit", 2].name == "visit[2]"
    assert [row.name for row in scoped_posterior.summary("vector", "double")] == [*REST[6:10], "double"]
    assert (
        scoped_posterior["vector[1,0]"].values.tolist() == scoped_posterior["vector"].values[:, 1, 0].tolist()
    )
    with pytest.raises(AddressError):
        scoped_posterior.summary("twice")


def test_what_has_no_clear_name_fills_a_summary_up(in_process):
    def model(ppx):
        for _ in range(3000):
            ppx.sample("Normal", 0.0, 1.0, name="noise")
        ppx.tag(1.0, "last")

    posterior = prior(in_process, model, 3)
    rows = posterior.summary()
    assert [row.name for row in rows] == ["last", *(f"noise[{i}]" for i in range(39))]
    assert posterior.num_quantities == 3001
    assert len(posterior.summary(most=7)) == 7
    with pytest.warns(UserWarning, match=r"leaves out 2,001 columns of the 3,005"):
        assert posterior.to_pandas().shape == (3, 1004)
    assert list(posterior.to_pandas("noise[2999]")) == [
        "index",
        "weight",
        "log_weight",
        "chain",
        "noise[2999]",
    ]


def test_names_that_collide_stay_apart(in_process):
    def model(ppx):
        ppx.sample("Normal", 0.0, 1.0, name="x")
        ppx.sample("Normal", 100.0, 1.0, name="y[0]")
        for _ in range(2):
            ppx.sample("Normal", 200.0, 1.0, name="y")
        ppx.tag(3.0, "x")
        ppx.tag(4.0, "weight")

    posterior = prior(in_process, model, 50)
    means = {row.name: round(row.mean, -1) for row in posterior.summary()}
    assert means["x"] == 0
    assert means["x (tag)"] == 3 or round(posterior["x (tag)"].mean()) == 3
    assert round(posterior["y[0]"].mean(), -2) == 100  # a name comes before what a label says
    frame = posterior.to_pandas()
    assert frame.columns.is_unique
    assert frame["weight"].sum() == pytest.approx(1.0)
    assert (frame["weight'"] == 4).all()


def test_categories_have_probabilities_and_no_mean(in_process):
    def model(ppx):
        ppx.sample("Categorical", np.array([0.2, 0.5, 0.3]), name="channel")
        ppx.sample("Bernoulli", 0.5, name="flag")

    posterior = prior(in_process, model, 400)
    channel, flag = posterior.summary()
    assert [math.isnan(x) for x in (channel.mean, channel.std, channel.q05, channel.q50, channel.q95)] == [
        True
    ] * 5
    assert channel.probabilities == posterior["channel"].probabilities()
    assert flag.mean == pytest.approx(0.5, abs=4 * 0.5 / 20)
    assert flag.probabilities is None


@pytest.mark.parametrize("engine", [importance_sampling, random_walk_mh])
def test_a_data_frame_gives_the_estimates(engine, in_process):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrustWarning)
        posterior = engine(in_process(scoped), {"y": 0.5}, num_traces=400, seed=2)
    frame = posterior.to_pandas()
    assert len(frame) == len(posterior)
    assert set(frame) == {"index", "weight", "log_weight", "chain", "branch", "energy", "double", *REST}
    for name in ("branch", "energy", "double", "vector[0,1]", "visit[2]"):
        mean = (frame[name] * frame["weight"]).sum() / frame["weight"].sum()
        assert mean == pytest.approx(posterior[name].mean())
    left = frame["left/twice"]
    assert left.isna().sum() == len(posterior) - len(posterior["left/twice"])
    assert frame["chain"].nunique() == max(posterior.provenance.num_chains, 1)
    assert frame["branch"].dtype == np.int64
    equal = posterior.resample(1000, seed=1).to_pandas("branch")
    assert equal["branch"].mean() == pytest.approx(posterior["branch"].mean(), abs=0.005)


def test_a_csv_file_is_read_back_and_executes_nothing(in_process, tmp_path):
    def model(ppx):
        x = ppx.sample("Normal", 0.0, 1.0, name="=1+cmd|' /C calc'!A0")
        if x > 0:
            ppx.sample("Normal", 0.0, 1.0, name="@some\x1b[31mtimes")

    posterior = prior(in_process, model, 60)
    assert write_csv(posterior, tmp_path / "t.csv") == ""
    text = (tmp_path / "t.csv").read_bytes()
    assert not set(text) & (set(range(32)) - {10})
    frame = pd.read_csv(tmp_path / "t.csv")
    formula, sometimes = frame.columns[4:]
    assert formula.startswith("'=1+cmd")
    assert sometimes.startswith("'@some")
    np.testing.assert_allclose(frame[formula], posterior["=1+cmd|' /C calc'!A0"].values)
    assert frame[sometimes].notna().sum() == len(posterior["@some\x1b[31mtimes"])
    np.testing.assert_allclose(frame["log_weight"], posterior.log_weight)
    with pytest.raises(StoreError, match="check the folder"):
        write_csv(posterior, tmp_path / "nowhere" / "t.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_where_pandas_is_missing_the_remedy_is_named(scoped_posterior, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'ppx\[pandas\]'"):
        scoped_posterior.to_pandas()

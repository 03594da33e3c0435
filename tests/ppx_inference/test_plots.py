"""Figures: they say what they show, mark the truth, and are the same whatever the user's matplotlib settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppx_inference import Posterior, plots
from ppx_server.errors import AddressError

CATEGORIES = ["red", "green", "blue", "never"]


def model(ppx):
    x = ppx.sample("Normal", 0.0, 1.0, name="x")
    k = ppx.sample("Categorical", np.array([0.6, 0.3, 0.1]), name="k")
    if k == 0:
        ppx.sample("Uniform", 0.0, 2.0, name="only_red")
    ppx.sample("Normal", np.zeros(2), np.ones(2), name="pair")
    ppx.tag(2.0 * x, "twice")


@pytest.fixture(scope="module")
def drawn(in_process) -> Posterior:
    from ppx_server.script import ScriptBatch

    traces = in_process(model).execute(ScriptBatch.empty(3, np.arange(400)), None)
    return Posterior.of_traces(traces)


@pytest.fixture(scope="module")
def weighted(drawn: Posterior) -> Posterior:
    """The same, weighted towards x = 1."""
    return Posterior(drawn.traces, -2.0 * (drawn["x"].values - 1.0) ** 2, drawn.provenance)


@pytest.fixture(params=["png", "pdf", "svg"])
def suffix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def texts(figure: Figure) -> set[str]:
    """Everything that is written in a figure's legends and at its axes."""
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    found = {text.get_text() for legend in legends for text in legend.get_texts()}
    for axes in figure.axes:
        found |= {axes.get_xlabel(), axes.get_ylabel(), axes.get_title()}
        found |= {label.get_text() for label in axes.get_yticklabels()}
    return found


def vertical_lines(axes: Axes) -> list[float]:
    return [float(line.get_xdata()[0]) for line in axes.lines if len(set(line.get_xdata())) == 1]


class TestMarginals:
    def test_posteriors_prior_and_truth(
        self, drawn: Posterior, weighted: Posterior, tmp_path: Path, suffix: str
    ) -> None:
        figure = plots.marginals(
            {"IC": weighted, "prior": drawn}, ["x", "twice"], truth={"x": 0.7}, labels={"x": "x [GeV]"}
        )
        path = tmp_path / f"marginals.{suffix}"
        figure.savefig(path)
        assert path.stat().st_size > 5000
        assert {"IC", "prior", "truth", "x [GeV]", "twice", "probability density"} <= texts(figure)
        assert vertical_lines(figure.axes[0]) == [0.7]
        assert vertical_lines(figure.axes[1]) == []

    def test_a_truth_far_outside_is_still_shown(self, drawn: Posterior) -> None:
        axes = plots.marginals(drawn, ["x"], truth={"x": 12.0}).axes[0]
        assert axes.get_xlim()[1] > 12.0

    def test_histograms_are_densities_of_the_weighted_values(self, weighted: Posterior) -> None:
        figure = plots.marginals({"IC": weighted}, ["x"], bins=20)
        density, edges, _ = figure.axes[0].patches[0].get_data()
        expected, _ = weighted["x"].hist(edges)
        np.testing.assert_allclose(density, expected)

    def test_a_discrete_quantity_has_a_bin_per_value(self, drawn: Posterior) -> None:
        figure = plots.marginals(drawn, ["k"])
        density, edges, _ = figure.axes[0].patches[0].get_data()
        assert edges.tolist() == [-0.5, 0.5, 1.5, 2.5]
        np.testing.assert_allclose(density, list(drawn["k"].probabilities().values()))

    def test_all_scalars_by_default(self, drawn: Posterior) -> None:
        assert {a.get_xlabel() for a in plots.marginals(drawn).axes} == {
            "x",
            "k",
            "only_red",
            "twice",
            "pair[0]",
            "pair[1]",
        }

    def test_fewer_bins_where_the_effective_sample_size_is_small(self, drawn: Posterior) -> None:
        spiky = Posterior(drawn.traces, -50.0 * drawn["x"].values ** 2, drawn.provenance)
        many, few = (len(plots.marginals(p, ["x"]).axes[0].patches[0].get_data()[0]) for p in (drawn, spiky))
        assert few < many

    def test_few_effective_samples_are_marked(self, drawn: Posterior, weighted: Posterior) -> None:
        spiky = Posterior(drawn.traces, -5000.0 * drawn["x"].values ** 2, drawn.provenance)
        for draw in (
            lambda p: plots.marginals({"IC": p, "prior": drawn}, ["x"]),
            lambda p: plots.probabilities({"IC": p}, "k"),
        ):
            assert [t.get_text() for t in draw(drawn).axes[0].texts] == []
            (mark,) = draw(spiky).axes[0].texts
            assert mark.get_text() == f"ESS {spiky.ess:.0f}: do not trust"

    def test_whole_numbers_far_apart_are_no_bins(self, in_process) -> None:
        def large(ppx):
            ppx.tag(np.floor(1e9 * ppx.sample("Normal", 0.0, 1.0, name="x")), "n")

        from ppx_server.script import ScriptBatch

        traces = in_process(large).execute(ScriptBatch.empty(3, np.arange(50)), None)
        density, _, _ = plots.marginals(Posterior.of_traces(traces), ["n"]).axes[0].patches[0].get_data()
        assert len(density) <= 40

    def test_names_that_cannot_be_drawn(self, drawn: Posterior) -> None:
        with pytest.raises(AddressError, match="twise"):
            plots.marginals(drawn, ["twise"])
        with pytest.raises(ValueError, match="scalars"):
            plots.marginals(drawn, ["pair"])


class TestProbabilities:
    def test_bars_truth_and_prior(self, drawn: Posterior, weighted: Posterior, tmp_path: Path) -> None:
        figure = plots.probabilities(
            {"IC": weighted, "RMH": drawn, "prior": drawn},
            "k",
            categories=CATEGORIES,
            truth=2,
            label="the colour",
        )
        figure.savefig(tmp_path / "k.png")
        assert (tmp_path / "k.png").stat().st_size > 5000
        assert {"IC", "RMH", "prior", "truth", "red", "green", "blue", "probability of the colour"} <= texts(
            figure
        )
        assert "never" not in texts(figure)
        widths = [bar.get_width() for bar in figure.axes[0].containers[0]]
        assert widths == pytest.approx(sorted(weighted["k"].probabilities().values(), reverse=True))

    def test_the_rest_is_one_bar_and_the_truth_is_never_in_it(self, drawn: Posterior) -> None:
        figure = plots.probabilities({"IC": drawn}, "k", categories=CATEGORIES, truth=3, most=2)
        assert {"red", "never", "all others"} <= texts(figure)
        widths = [bar.get_width() for bar in figure.axes[0].containers[0]]
        assert sum(widths) == pytest.approx(1.0)


class TestGrids:
    AXES = (plots.GridAxis("z", 4, 15), plots.GridAxis("x", -1, 1, "m"), plots.GridAxis("y", -2, 2, "m"))

    def test_projections_and_pulls(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(1)
        mean = rng.exponential(size=(3, 4, 5))
        predicted = mean + 0.1 * rng.standard_normal((500, 3, 4, 5))
        observed = mean + 0.1 * rng.standard_normal((3, 4, 5))
        figure = plots.grids(observed, predicted, axes=self.AXES, unit="GeV")
        figure.savefig(tmp_path / "grid.png")
        assert (tmp_path / "grid.png").stat().st_size > 5000
        assert {"sum over z", "sum over x", "sum over y", "x [m]", "GeV"} <= texts(figure)
        images = [axes.images[0] for axes in figure.axes if axes.images]
        np.testing.assert_allclose(images[0].get_array(), observed.sum(axis=0).T)
        pulls = np.concatenate([np.asarray(images[n].get_array()).ravel() for n in (6, 7, 8)])
        assert pulls.std() == pytest.approx(1.0, abs=0.4)

    def test_shapes_must_match(self) -> None:
        with pytest.raises(ValueError, match="three dimensions"):
            plots.grids(np.zeros((3, 4)), np.zeros((9, 3, 4)), axes=self.AXES, unit="GeV")
        with pytest.raises(ValueError, match="same shape"):
            plots.grids(np.zeros((3, 4, 5)), np.zeros((9, 3, 4, 6)), axes=self.AXES, unit="GeV")


class Step(NamedTuple):
    num_traces: int
    loss: float
    validation_loss: float
    lr: float


class TestTraining:
    def test_losses_and_learning_rate(self, tmp_path: Path) -> None:
        history = [
            Step(256 * n, -n / 10, float("nan") if n < 5 else -n / 11, 1e-3 * 1.01**n) for n in range(1, 60)
        ]
        figure = plots.training(history)
        figure.savefig(tmp_path / "training.png")
        assert (tmp_path / "training.png").stat().st_size > 5000
        assert {"minibatch", "held-out traces", "learning rate", "training traces"} <= texts(figure)

    def test_nothing_to_draw(self) -> None:
        with pytest.raises(ValueError, match="no training step"):
            plots.training([])


@pytest.fixture
def odd_settings() -> Iterator[None]:
    with mpl.rc_context({"font.size": 40, "figure.facecolor": "black"}):
        yield


def test_the_users_settings_neither_matter_nor_change(drawn: Posterior, odd_settings: None) -> None:
    figure = plots.marginals(drawn, ["x"])
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    assert mpl.rcParams["font.size"] == 40


def test_figures_are_made_without_pyplot() -> None:
    code = (
        "import sys, collections; from ppx_inference import plots; early = 'matplotlib' in sys.modules;"
        "step = collections.namedtuple('Step', 'num_traces loss validation_loss lr')(1, 1.0, 1.0, 1.0);"
        "plots.training([step]); print(early, 'matplotlib.figure' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True", "False"]

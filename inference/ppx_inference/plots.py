"""Figures of posteriors: marginals, probabilities of categories, observed grids beside predicted ones, training.

Every function returns a `matplotlib.figure.Figure`, made without pyplot: no window, no display, no global state.
matplotlib is imported at the first call. Save a figure with `figure.savefig(path)`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppx_inference.diagnostics import MIN_ESS
from ppx_inference.marginal import Marginal
from ppx_inference.posterior import Posterior
from ppx_server import text
from ppx_server.errors import AddressError, RuledOutError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
PRIOR = "prior"
"""Name under which a posterior is drawn as background."""
Floats = NDArray[np.float64]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito 2008: distinguishable with any colour vision."""
_PRIOR_FILL, _PRIOR_LINE = "#D9D9D9", "#666666"
_TRUTH_COLOUR, _TRUTH_BAND = "#000000", "#FFF3C4"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 130,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
}
_DOUBT = "#B00020"
_BINS = (20, 40)
"""Least and most bins of a histogram."""
_MOST_PANELS = 12
_MOST_VALUES = 200
"""Whole numbers that are drawn one by one."""
_TAIL = 5e-4
"""Weight left outside a histogram's range at either end, so that one stray trace does not set the scale."""


class GridAxis(NamedTuple):
    """One dimension of a grid.

    Attributes:
        name: What it is.
        low: Lower edge of the first cell.
        high: Upper edge of the last.
        unit: Unit of the edges, or nothing.
    """

    name: str
    low: float
    high: float
    unit: str = ""

    @property
    def label(self) -> str:
        """For an axis of a figure."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


class TrainingStep(Protocol):
    """What a figure shows of a step of training."""

    @property
    def num_traces(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def validation_loss(self) -> float: ...
    @property
    def lr(self) -> float: ...


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws with our style, whatever the user's is, and leaves theirs alone."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return styled


@_styled
def marginals(
    posteriors: Mapping[str, Posterior] | Posterior,
    names: Sequence[str] = (),
    *,
    truth: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    bins: int | None = None,
) -> Figure:
    """Histograms of scalar quantities, several posteriors over each other.

    Args:
        posteriors: By the name they have in the legend, or a single one; one called "prior" is drawn in grey.
        names: Scalars; by default the first twelve rows of the first posterior's summary.
        truth: Values to mark, by name.
        labels: Axis labels by name, with units; by default the name.
        bins: Bins of each histogram; by default 20 to 40, fewer where the ESS is small. Discrete quantities have one
            per value.

    Raises:
        AddressError: No trace has one of the names.
        RuledOutError: No trace that has one of them has any weight.
        ValueError: A quantity is not scalar, or there is none.

    A panel says how many effective samples it shows where they are too few to be trusted.
    """
    several = {posteriors.provenance.engine: posteriors} if isinstance(posteriors, Posterior) else posteriors
    first = next(iter(several.values()))
    names = tuple(names) or tuple(row.name for row in first.summary(most=_MOST_PANELS))
    if not names:
        raise ValueError("the traces hold nothing to plot: no draw, tag or result")
    columns = min(len(names), 3 if len(names) <= 9 else 4)
    rows = -(-len(names) // columns)
    figure = _figure(3.4 * columns, 2.6 * rows + 0.4)
    for number, name in enumerate(names):
        panel = figure.add_subplot(rows, columns, number + 1)
        found = {label: m for label, p in several.items() if (m := _marginal(p, name)) is not None}
        if not found and first[name].present == 0:
            raise RuledOutError(
                f"there is nothing to plot of {name!r}: the observations rule out every trace that has it; "
                "the posterior's `doubts` say why"
            )
        counts = _draw_marginal(panel, found, (truth or {}).get(name), bins)
        panel.set_xlabel((labels or {}).get(name, text.label(name)))
        if number % columns == 0 or counts:
            panel.set_ylabel("probability" if counts else "probability density")
    _legend(figure, figure.axes[0])
    return figure


@_styled
def probabilities(
    posteriors: Mapping[str, Posterior],
    name: str,
    *,
    categories: Sequence[str] = (),
    truth: int | None = None,
    most: int = 10,
    label: str = "",
) -> Figure:
    """Bars of the probabilities of a categorical quantity, with Monte Carlo errors (68 %, from the ESS).

    Args:
        posteriors: By the name they have in the legend; one called "prior" is drawn as a grey line.
        name: The draw or tag.
        categories: Names of the values 0, 1, ...; by default the numbers.
        truth: Value to mark.
        most: Most probable values to show; the rest is summed up in one bar.
        label: What the quantity is called in the figure; by default its name.

    Raises:
        AddressError: No trace has it.
        ValueError: It is not scalar.
    """
    masses = {key: posterior[name].probabilities() for key, posterior in posteriors.items()}
    chosen = _most_probable({k: m for k, m in masses.items() if k != PRIOR} or masses, truth, most)
    others = any(mass.keys() - set(chosen) for mass in masses.values())
    shown = {key: _with_rest(mass, chosen, rest=others) for key, mass in masses.items()}
    rows = np.arange(len(chosen) + others, dtype=np.float64)
    figure = _figure(6.4, 1.0 + 0.42 * len(rows))
    panel = figure.add_subplot()
    bars = [key for key in posteriors if key != PRIOR] or list(posteriors)
    thickness, top = 0.8 / len(bars), max(float(mass.max()) for mass in shown.values())
    for n, key in enumerate(bars):
        mass, offset = shown[key], (n - (len(bars) - 1) / 2) * thickness
        error = np.sqrt(mass * (1 - mass) / max(posteriors[key][name].ess, 1.0))
        panel.barh(rows + offset, mass, 0.9 * thickness, label=key, color=_COLOURS[n % len(_COLOURS)])
        bar: dict[str, Any] = {"fmt": "none", "ecolor": "#333333", "elinewidth": 1.0}
        panel.errorbar(mass, rows + offset, xerr=np.nan_to_num(error), **bar)
        top = max(top, float(np.nanmax(mass + error)))
    if PRIOR in posteriors and PRIOR not in bars:
        panel.plot(shown[PRIOR], rows, "|", color=_PRIOR_LINE, markersize=22, markeredgewidth=1.8)
        panel.plot([], [], "|", color=_PRIOR_LINE, markersize=10, markeredgewidth=1.8, label=PRIOR)
    texts = [categories[int(v)] if 0 <= int(v) < len(categories) else f"{v:g}" for v in chosen]
    panel.set_yticks(rows, texts + ["all others"] * others)
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.tick_params(axis="y", length=0)
    panel.set_xlim(0.0, 1.03 * top)
    panel.set_xlabel(f"probability of {label or text.label(name)}")
    _mark_doubt(panel, [posteriors[key][name].ess for key in bars if key != PRIOR])
    if truth is not None:
        panel.axhspan(
            chosen.index(truth) - 0.5, chosen.index(truth) + 0.5, color=_TRUTH_BAND, zorder=0, label="truth"
        )
    _legend(figure, panel)
    return figure


@_styled
def grids(
    observed: ArrayLike,
    predicted: ArrayLike,
    *,
    axes: Sequence[GridAxis],
    unit: str,
    predicted_label: str = "posterior predictive mean",
) -> Figure:
    """A grid of three dimensions as observed, its posterior predictive mean, and the pulls between them.

    Each column sums over one dimension. A pull is (observed - mean) / standard deviation of the predicted sums, noise
    included: about standard normal where model and posterior are right.

    Args:
        observed: `(n0, n1, n2)`.
        predicted: `(K, n0, n1, n2)`, equally weighted observations drawn from the posterior predictive.
        axes: The three dimensions.
        unit: Unit of the values.
        predicted_label: Title of the second row.

    Raises:
        ValueError: The shapes do not match.
    """
    seen, drawn = np.asarray(observed, np.float64), np.asarray(predicted, np.float64)
    if seen.ndim != 3 or drawn.shape[1:] != seen.shape or len(axes) != 3:
        raise ValueError(
            f"grids takes an observed grid of three dimensions, predictions of the same shape and three axes; "
            f"not {seen.shape}, {drawn.shape} and {len(axes)} axes"
        )
    figure = _figure(9.8, 7.6)
    panels = figure.subplots(3, 3)
    for column, (summed, across, up) in zip(panels.T, ((0, 1, 2), (2, 0, 1), (1, 0, 2)), strict=True):
        one, many = seen.sum(axis=summed), drawn.sum(axis=summed + 1)
        mean, sd = many.mean(axis=0), many.std(axis=0)
        pull = (one - mean) / np.where(sd > 0, sd, np.inf)
        top = max(float(one.max()), float(mean.max()), 1e-12)
        plane = (axes[across], axes[up])
        for panel, values in zip(column, (one, mean), strict=False):
            _draw_plane(figure, panel, values, plane, "inferno", (0.0, top), unit)
        _draw_plane(figure, column[2], pull, plane, "RdBu_r", (-4.0, 4.0), "standard deviations")
        column[0].set_title(f"sum over {axes[summed].name}")
        column[2].set_xlabel(axes[across].label)
    titles = ("observed", predicted_label, "pull")
    for panel, title in zip(panels[:, 0], titles, strict=True):
        panel.set_ylabel(f"{title}\n\n{axes[2].label}")
    return figure


@_styled
def training(history: Sequence[TrainingStep]) -> Figure:
    """Loss and learning rate over the traces that a proposal has learnt from.

    Args:
        history: Of a proposal: steps with `num_traces`, `loss`, `validation_loss` and `lr`.

    Raises:
        ValueError: There is no step.
    """
    if not history:
        raise ValueError("the history holds no training step; train the proposal first")
    seen = np.array([step.num_traces for step in history], np.float64)
    loss = np.array([step.loss for step in history])
    held_out = np.array([step.validation_loss for step in history])
    figure = _figure(6.4, 5.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    above.plot(seen, loss, color=_COLOURS[5], linewidth=0.6, alpha=0.6, label="minibatch")
    above.plot(seen, held_out, color=_COLOURS[0], linewidth=1.6, label="held-out traces")
    above.axhline(0.0, color=_PRIOR_LINE, linewidth=1.0, linestyle=":", label="prior")
    finite = loss[np.isfinite(loss)]
    above.set_ylim(*_range(np.append(finite, np.append(held_out[np.isfinite(held_out)], 0.0))))
    above.set_ylabel(r"loss, mean of $-\log\,q/p$ [nats]")
    above.legend(loc="upper right", bbox_to_anchor=(1.0, 0.94))
    below.plot(seen, [step.lr for step in history], color=_COLOURS[1], linewidth=1.2)
    below.set_yscale("log")
    below.set_ylabel("learning rate")
    below.set_xlabel("training traces")
    below.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _draw_marginal(panel: Axes, found: Mapping[str, Marginal], truth: float | None, bins: int | None) -> bool:
    """Draws a panel; says whether its bars are probabilities of values."""
    values, margin = np.concatenate([_bulk(m) for m in found.values()]), 0.0
    if truth is not None and not values.min() < truth < values.max():
        values, margin = np.append(values, truth), 0.04
    discrete = np.ptp(values) <= _MOST_VALUES and all(
        m.discrete or np.array_equal(m.values, np.round(m.values)) for m in found.values()
    )
    if discrete:
        edges = np.arange(np.floor(values.min()) - 0.5, np.ceil(values.max()) + 1.0)
    else:
        edges = np.linspace(*_range(values, margin), (bins or _num_bins(found)) + 1)
    colours = iter(_COLOURS * len(found))
    for label, marginal in found.items():
        density, _ = marginal.hist(edges)
        if label == PRIOR:
            panel.stairs(density, edges, fill=True, color=_PRIOR_FILL, label=label, zorder=1)
        else:
            colour = next(colours)
            panel.stairs(density, edges, fill=True, color=colour, alpha=0.15, zorder=2)
            panel.stairs(density, edges, color=colour, linewidth=1.5, label=label, zorder=3)
    if truth is not None:
        panel.axvline(truth, color=_TRUTH_COLOUR, linewidth=1.4, linestyle="--", label="truth", zorder=4)
    panel.set_xlim(edges[0], edges[-1])
    panel.set_ylim(0.0, None)
    if discrete:
        panel.locator_params(axis="x", integer=True)
    _mark_doubt(panel, [m.ess for key, m in found.items() if key != PRIOR])
    return discrete


def _mark_doubt(panel: Axes, ess: Sequence[float]) -> None:
    """Says that a panel shows few effective samples, or that nobody knows how many."""
    least = min(ess, default=np.inf)
    if not least >= MIN_ESS:
        mark = "ESS unknown" if np.isnan(least) else f"ESS {least:.0f}: do not trust"
        panel.text(
            0.98, 0.97, mark, transform=panel.transAxes, ha="right", va="top", color=_DOUBT, fontsize=8
        )


def _draw_plane(
    figure: Figure,
    panel: Axes,
    values: Floats,
    plane: tuple[GridAxis, GridAxis],
    colours: str,
    limits: tuple[float, float],
    label: str,
) -> None:
    x, y = plane
    image = panel.imshow(
        values.T,
        origin="lower",
        aspect="auto",
        extent=(x.low, x.high, y.low, y.high),
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
    )
    panel.spines[:].set_visible(False)
    panel.set_ylabel(y.label)
    bar = figure.colorbar(image, ax=panel, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _legend(figure: Figure, panel: Axes) -> None:
    """One legend above all panels."""
    handles, labels = panel.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))


def _marginal(posterior: Posterior, name: str) -> Marginal | None:
    """The marginal of a scalar; None where no trace has it."""
    try:
        marginal = posterior[name]
    except AddressError:
        return None
    if marginal.values.ndim != 1:
        raise ValueError(
            f"{name!r} has values of shape {marginal.values.shape[1:]}; only scalars are plotted here"
        )
    return marginal if marginal.present > 0 else None


def _bulk(marginal: Marginal) -> Floats:
    """The ends of the range that holds nearly all of the weight."""
    return np.atleast_1d(marginal.quantile([_TAIL, 1.0 - _TAIL]))


def _num_bins(found: Mapping[str, Marginal]) -> int:
    """3 ESS^(1/3) of the worst posterior, so that its histogram is not all noise."""
    ess = [m.ess for label, m in found.items() if label != PRIOR] or [m.ess for m in found.values()]
    finite = [e for e in ess if np.isfinite(e)]
    return int(np.clip(round(3 * min(finite) ** (1 / 3)) if finite else 0, *_BINS))


def _range(values: Floats, margin: float = 0.04) -> tuple[float, float]:
    """Limits with a relative margin, wide enough to be some range whatever the values."""
    low, high = float(values.min()), float(values.max())
    space = margin * (high - low) if high > low else 0.5 * max(abs(low), 1.0)
    return low - space, high + space


def _most_probable(
    masses: Mapping[str, Mapping[float, float]], truth: float | None, most: int
) -> list[float]:
    """The `most` values with the largest probability anywhere, with the true one among them."""
    largest: dict[float, float] = {} if truth is None else {float(truth): 0.0}
    for mass in masses.values():
        for value, probability in mass.items():
            largest[value] = max(largest.get(value, 0.0), probability)
    ordered = sorted(largest, key=lambda v: (-largest[v], v))
    chosen = ordered[:most]
    if truth is not None and truth not in chosen:
        chosen[-1] = float(truth)
    return chosen


def _with_rest(mass: Mapping[float, float], chosen: Sequence[float], *, rest: bool) -> Floats:
    """Probabilities of the chosen values, and of all others together."""
    found = [mass.get(value, 0.0) for value in chosen]
    return np.array(found + [max(1.0 - sum(found), 0.0)] * rest)

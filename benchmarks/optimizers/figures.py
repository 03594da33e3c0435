"""How the figures look."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.optimizers.methods import METHODS

_COLOURS = {"SGD": "#0072B2", "SGDN": "#E69F00", "Adam": "#009E73", "AdamW": "#CC79A7"}
"""Colours that colour-blind people can tell apart (Okabe and Ito 2008)."""
_LINES = {None: "-", "additive": "--", "multiplicative": ":"}
_DPI = 150


def grid(rows: int, columns: int, *, size: tuple[float, float]) -> tuple[Figure, list[list[Axes]]]:
    """A figure of panels, each of a size in inches."""
    with mpl.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True}):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in axes]


def style(method: str) -> dict[str, Any]:
    """Colour by optimizer, line by the rule of its learning rate; what training does is thin and marked."""
    kind, rule, lr_bounds, _ = METHODS[method]
    bounded = lr_bounds[1] < float("inf")
    return {
        "color": "black" if bounded else _COLOURS[kind],
        "linestyle": _LINES[rule],
        "linewidth": 1.0 if bounded else 1.6,
        "marker": "o" if bounded else None,
        "markersize": 4,
    }


def save(figure: Figure, path: Path) -> None:
    """Writes a figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = BytesIO()
    figure.savefig(pixels, dpi=_DPI)
    # A palette makes files a third as large; this way of choosing it does not lose colours of which there is little.
    image = Image.open(pixels).convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE)
    image.save(path, optimize=True)

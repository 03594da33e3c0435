"""The graph of address transitions as SVG: start -> draws -> end, how often each is visited, and what follows it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppx_inference.conformance.layout import Layout, arranged, layered
from ppx_inference.conformance.report import END, START, AddressRow, Transition, draw_rows, transitions
from ppx_server.text import counted, plain, xml
from ppx_server.trace import TraceBatch

_MOST_NODES = 60
_MOST_LETTERS = 34
_LETTER, _SMALL_LETTER, _MARGIN = 6.7, 5.9, 24.0
_HEIGHT, _LAYER = 36.0, 92.0
_GAP = 26.0
_HEADING = 54.0
_RARE = 0.01
"""Transitions of a smaller probability are thin and have no number."""
_LIGHT, _DARK = np.array([237, 244, 252]), np.array([107, 164, 214])
_LEGEND = "boxes: share of the traces that visit, x visits in those; arrows: probability of what follows; orange: back"
_STYLE = """
text { font-family: 'DejaVu Sans', Verdana, Helvetica, sans-serif; font-size: 11px; fill: #1b2733; }
.small { font-size: 9.5px; fill: #44566a; } .title { font-size: 15px; font-weight: bold; }
.probability { font-size: 9.5px; fill: #7a2e00; paint-order: stroke; stroke: white; stroke-width: 3px; }
rect { stroke: #3b6186; stroke-width: 1; } path { fill: none; stroke: #5d7388; } .back { stroke: #b5651d; }
"""


def svg(traces: TraceBatch, title: str) -> str:
    """The graph of the draws of traces.

    Args:
        traces: K traces.
        title: What they are traces of.

    Returns:
        An SVG document.
    """
    rows = draw_rows(traces)
    shown = sorted(rows, key=lambda i: -rows[i].share)[:_MOST_NODES]
    edges = transitions(traces, among=shown)
    inner = {(e.source, e.target): float(e.number) for e in edges if e.source != START and e.target != END}
    order = [START, *arranged(_by_position(traces, shown), inner), END]
    widths = {i: _width(rows.get(i)) for i in order}
    layout = layered(widths, [(e.source, e.target) for e in edges], gap=_GAP)
    drawing = _Drawing(layout, widths, len(traces))
    body = [drawing.edge(e) for e in sorted(edges, key=lambda e: e.number)]
    body += [drawing.node(i, rows.get(i)) for i in order]
    body += [drawing.number(e) for e in edges if e.target != e.source]
    heading = f"{title}: {counted(len(traces), 'trace')}, {counted(len(rows), 'address')}"
    if len(rows) > len(shown):
        heading += f", of which the {len(shown)} that most traces visit"
    return drawing.document(heading, body)


class _Drawing:
    """Places on paper, and the elements drawn there."""

    def __init__(self, layout: Layout, widths: dict[int, float], num_traces: int) -> None:
        self._layout, self._widths, self._num_traces = layout, widths, num_traces
        self._taken: list[tuple[float, float]] = []
        self._reach = layout.width

    def node(self, node: int, row: AddressRow | None) -> str:
        """A box; one for start or end has no row."""
        x, y, width = self._x(node), self._y(node), self._widths[node]
        corner = f'x="{x - width / 2:.1f}" y="{y - _HEIGHT / 2:.1f}" width="{width:.1f}" height="{_HEIGHT}"'
        if row is None:
            label = "start" if node == START else "end"
            return (
                f'<g><rect {corner} rx="18" fill="#f2f2f2"/>'
                f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{label}</text></g>'
            )
        red, green, blue = (_LIGHT + (_DARK - _LIGHT) * row.share).astype(int)
        tip = f"{plain(row.address)}\n{_kind(row)}\nin {row.share:.2%} of the traces, {row.visits:.4g} visits per trace"
        return (
            f'<g><title>{xml(tip, lines=True)}</title><rect {corner} rx="5" fill="rgb({red},{green},{blue})"/>'
            f'<text x="{x:.1f}" y="{y - 2:.1f}" text-anchor="middle">{xml(_label(row))}</text>'
            f'<text class="small" x="{x:.1f}" y="{y + 12:.1f}" text-anchor="middle">{xml(_small(row))}</text></g>'
        )

    def edge(self, edge: Transition) -> str:
        """A line from one draw to the next, as thick as it is frequent."""
        width = 0.7 if edge.probability < _RARE else 0.8 + 3.2 * min(edge.number / self._num_traces, 1.0)
        opacity = 0.35 if edge.probability < _RARE else 0.85
        tip = f"{edge.number:,} times, {edge.probability:.2%} of what follows"
        kind, path = self._path(edge)
        return (
            f'<path class="{kind}" d="{path}" stroke-width="{width:.2f}" opacity="{opacity}" '
            f'marker-end="url(#{kind}-tip)"><title>{tip}</title></path>'
            + (self._loop_number(edge) if edge.source == edge.target else "")
        )

    def number(self, edge: Transition) -> str:
        """The probability at an edge, unless it is rare or the only one."""
        if edge.probability < _RARE or edge.probability > 0.995:
            return ""
        x, y = self._beside(edge)
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="middle"'
        return f'<text class="probability" {place}>{_percent(edge.probability)}</text>'

    def document(self, heading: str, body: Sequence[str]) -> str:
        """The whole document."""
        width = max(self._reach, 9.5 * len(heading), _SMALL_LETTER * len(_LEGEND)) + 2 * _MARGIN
        height = _HEADING + self._layout.num_layers * _LAYER
        tips = "".join(
            f'<marker id="{kind}-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'markerUnits="userSpaceOnUse" orient="auto">'
            f'<path d="M0,0 L8,4 L0,8 z" style="fill:{color};stroke:none"/></marker>'
            for kind, color in (("on", "#5d7388"), ("back", "#b5651d"))
        )
        lines = "\n".join(line for line in body if line)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}">\n<style>{_STYLE}</style>\n<defs>{tips}</defs>\n'
            f'<rect width="100%" height="100%" style="fill:white;stroke:none"/>\n'
            f'<text class="title" x="{_MARGIN}" y="26">{xml(heading)}</text>\n'
            f'<text class="small" x="{_MARGIN}" y="42">{_LEGEND}</text>\n{lines}\n</svg>\n'
        )

    def _path(self, edge: Transition) -> tuple[str, str]:
        a, b = edge.source, edge.target
        if (a, b) in self._layout.ways:
            return "on", self._forward(a, b)
        ax, bx = (self._x(n) + self._widths[n] / 2 for n in (a, b))
        ay, by = self._y(a), self._y(b)
        if a == b:
            out = ax + 34
            self._reach = max(self._reach, out)
            return (
                "back",
                f"M{ax:.1f},{ay + 8:.1f} C{out:.1f},{ay + 16:.1f} {out:.1f},{ay - 16:.1f} {ax:.1f},{ay - 8:.1f}",
            )
        out = self._bulge(a, b)
        self._reach = max(self._reach, out)
        return "back", f"M{ax:.1f},{ay:.1f} C{out:.1f},{ay:.1f} {out:.1f},{by:.1f} {bx:.1f},{by:.1f}"

    def _forward(self, a: int, b: int) -> str:
        layer, ways = self._layout.layer[a], self._layout.ways[a, b]
        y = self._line(layer) + _HEIGHT / 2
        path = f"M{ways[0] + _MARGIN:.1f},{y:.1f}"
        x = ways[0] + _MARGIN
        for step, way in enumerate(ways[1:], start=1):
            is_last = step == len(ways) - 1
            below = self._line(layer + step) - (_HEIGHT / 2 + 1 if is_last else _HEIGHT / 2)
            bend, next_x = (below - y) * 0.5, way + _MARGIN
            path += f" C{x:.1f},{y + bend:.1f} {next_x:.1f},{below - bend:.1f} {next_x:.1f},{below:.1f}"
            x, y = next_x, below
            if not is_last:
                y += _HEIGHT
                path += f" L{x:.1f},{y:.1f}"
        return path

    def _beside(self, edge: Transition) -> tuple[float, float]:
        """Where the number of an edge stands: near its source, not on another one."""
        a, b = edge.source, edge.target
        if (a, b) not in self._layout.ways:
            ends = [self._x(n) + self._widths[n] / 2 for n in (a, b)]
            x = 0.75 * self._bulge(a, b) + 0.125 * sum(ends)  # the middle of the curve
            y = (self._y(a) + self._y(b)) / 2
        else:
            first, second = self._layout.ways[a, b][:2]
            top, room = self._y(a) + _HEIGHT / 2, _LAYER - _HEIGHT
            for t in (0.5, 0.35, 0.65, 0.22, 0.8):
                x = first + (second - first) * (3 * t * t - 2 * t**3) + _MARGIN
                y = top + room * (1.5 * t * (1 - t) ** 2 + 1.5 * t * t * (1 - t) + t**3) + 3
                if all(abs(x - u) > 26 or abs(y - v) > 10 for u, v in self._taken):
                    break
        self._taken.append((x, y))
        return x, y

    def _loop_number(self, edge: Transition) -> str:
        x = self._x(edge.source) + self._widths[edge.source] / 2 + 30
        self._reach = max(self._reach, x + 20)
        place = f'x="{x:.1f}" y="{self._y(edge.source) + 4:.1f}"'
        return f'<text class="probability" {place}>{_percent(edge.probability)}</text>'

    def _bulge(self, a: int, b: int) -> float:
        """How far right a line back reaches: past everything between its ends, or next to them."""
        low, high = sorted((self._layout.layer[a], self._layout.layer[b]))
        between = (
            [n for n, layer in self._layout.layer.items() if low <= layer <= high]
            if high > low + 1
            else [a, b]
        )
        right = max(self._x(n) + self._widths[n] / 2 for n in between)
        return right + (30.0 + 14.0 * (high - low) if high > low + 1 else 32.0)

    def _x(self, node: int) -> float:
        return self._layout.x[node] + _MARGIN

    def _y(self, node: int) -> float:
        return self._line(self._layout.layer[node])

    def _line(self, layer: int) -> float:
        return _HEADING + _HEIGHT / 2 + 10 + layer * _LAYER


def _by_position(traces: TraceBatch, shown: Sequence[int]) -> list[int]:
    """Addresses by the mean place of their first visits within traces."""
    trace = np.repeat(np.arange(len(traces)), traces.length)
    place = np.arange(len(trace)) - traces.offsets[trace]
    means = {}
    for i in shown:
        rows = np.flatnonzero(traces.address_id == i)
        first = np.unique(trace[rows], return_index=True)[1]
        means[i] = float(place[rows[first]].mean())
    return sorted(shown, key=lambda i: means[i])


def _width(row: AddressRow | None) -> float:
    if row is None:
        return 70.0
    return max(_LETTER * len(_label(row)), _SMALL_LETTER * len(_small(row))) + 18


def _label(row: AddressRow) -> str:
    """The address, or as much of its end as there is room for."""
    return row.address if len(row.address) <= _MOST_LETTERS else "…" + row.address[1 - _MOST_LETTERS :]


def _small(row: AddressRow) -> str:
    visits = f" x {row.visits / row.share:.3g}" if row.visits > row.share else ""
    return f"{_kind(row)} · {_percent(row.share)}{visits}"


def _kind(row: AddressRow) -> str:
    return f"{row.family} {'x'.join(map(str, row.shape))}".rstrip()


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 or share == 0 else f"{100 * share:.1g} %"

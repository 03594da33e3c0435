"""A layered layout of a directed graph, top to bottom (Sugiyama, Tagawa, Toda 1981).

Nodes get layers by the longest way from the first node along edges that lead forward. Edges over several layers pass
through points of their own. Points of a layer are put in the order of their neighbours' mean position, sweep by sweep,
and then moved towards their neighbours as far as the others let them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

_SWEEPS, _PASSES = 12, 20
_THROUGH_WIDTH = 16.0
"""Room for an edge that passes through a layer."""

Edge = tuple[int, int]


@dataclass
class _Point:
    """A node, or where an edge passes through a layer."""

    layer: int
    width: float
    x: float = 0.0
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """Where everything lies.

    Attributes:
        x: Centre of each node.
        layer: Layer of each node, from 0.
        ways: For each edge that leads forward, the x at every layer from its source to its target.
        width: Of the whole.
        num_layers: How many layers there are.
    """

    x: Mapping[int, float]
    layer: Mapping[int, int]
    ways: Mapping[Edge, Sequence[float]]
    width: float
    num_layers: int


def arranged(nodes: Sequence[int], weights: Mapping[Edge, float]) -> list[int]:
    """Nodes in an order in which little weight leads back: each is moved to its best place, until all are there.

    Args:
        nodes: In an order to begin with.
        weights: Of edges; those from a node to itself do not count.
    """
    near: dict[int, list[tuple[int, float]]] = defaultdict(list)  # weight > 0 for what should come later
    for (a, b), weight in weights.items():
        if a != b:
            near[a].append((b, weight))
            near[b].append((a, -weight))
    order = list(nodes)
    for _ in range(_PASSES):
        moved = False
        for node in nodes:
            old = order.index(node)
            order.remove(node)
            change = [0.0] * (len(order) + 1)  # of what leads back, when the node steps over the one before
            for other, weight in near[node]:
                change[order.index(other) + 1] += weight
            cost = list(accumulate(change))
            best = min(range(len(cost)), key=lambda i: (cost[i], abs(i - old)))
            best = best if cost[best] < cost[old] else old
            order.insert(best, node)
            moved |= best != old
        if not moved:
            break
    return order


def layered(widths: Mapping[int, float], edges: Sequence[Edge], *, gap: float) -> Layout:
    """Lays out a graph.

    Args:
        widths: Nodes with their widths, in an order along which most edges lead; the last one gets a layer of its own.
        edges: Those from a node to a later one count; others are left to be drawn somehow.
        gap: Least distance between two nodes of a layer.
    """
    order = {node: place for place, node in enumerate(widths)}
    forward = [(a, b) for a, b in edges if order[a] < order[b]]
    layer = _layers(list(widths), forward)
    points = {node: _Point(layer[node], width) for node, width in widths.items()}
    ways = {edge: _way(points, *edge) for edge in forward}
    layers: list[list[int]] = [[] for _ in range(1 + max(layer.values()))]
    for number, point in points.items():
        layers[point.layer].append(number)
    for row in layers:
        _spread(points, row, gap)
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        for row in layers if downwards else reversed(layers):
            _reorder(points, row, downwards=downwards)
            _spread(points, row, gap)
    for sweep in range(_SWEEPS):
        for row in layers if sweep % 2 else reversed(layers):
            _relax(points, row, gap)
    left = min(p.x - p.width / 2 for p in points.values())
    right = max(p.x + p.width / 2 for p in points.values())
    return Layout(
        {node: points[node].x - left for node in widths},
        layer,
        {edge: [points[p].x - left for p in way] for edge, way in ways.items()},
        right - left,
        len(layers),
    )


def _layers(nodes: Sequence[int], forward: Sequence[Edge]) -> dict[int, int]:
    incoming = defaultdict(list)
    for a, b in forward:
        incoming[b].append(a)
    layer = {nodes[0]: 0}
    for node in nodes[1:]:  # sources come before targets in this order
        layer[node] = 1 + max((layer[a] for a in incoming[node]), default=0)
    layer[nodes[-1]] = 1 + max((layer[n] for n in nodes[:-1]), default=-1)
    for node in reversed(nodes[1:]):
        if not incoming[node]:  # only reached from later ones
            layer[node] = min((layer[b] for a, b in forward if a == node), default=2) - 1
    return layer


def _way(points: dict[int, _Point], source: int, target: int) -> list[int]:
    """The points of an edge; adds those between its ends."""
    way = [source]
    for layer in range(points[source].layer + 1, points[target].layer):
        number = -len(points) - 1_000_000  # no node
        points[number] = _Point(layer, _THROUGH_WIDTH)
        way.append(number)
    way.append(target)
    for upper, lower in pairwise(way):
        points[upper].below.append(lower)
        points[lower].above.append(upper)
    return way


def _reorder(points: dict[int, _Point], row: list[int], *, downwards: bool) -> None:
    def middle(number: int) -> float:
        point = points[number]
        near = point.above if downwards else point.below
        return sum(points[n].x for n in near) / len(near) if near else point.x

    row.sort(key=middle)


def _spread(points: dict[int, _Point], row: list[int], gap: float) -> None:
    """Side by side, around 0."""
    total = sum(points[n].width for n in row) + gap * (len(row) - 1)
    x = -total / 2
    for number in row:
        points[number].x = x + points[number].width / 2
        x += points[number].width + gap


def _relax(points: dict[int, _Point], row: list[int], gap: float) -> None:
    """Towards the neighbours above and below, in the order they have."""
    wanted = []
    for number in row:
        near = [*points[number].above, *points[number].below]
        wanted.append(sum(points[n].x for n in near) / len(near) if near else points[number].x)
    rightmost = _packed([points[n].width for n in row], wanted, gap)
    mirrored = _packed([points[n].width for n in reversed(row)], [-w for w in reversed(wanted)], gap)
    for number, right, left in zip(row, rightmost, reversed(mirrored), strict=True):
        points[number].x = (right - left) / 2


def _packed(widths: Sequence[float], wanted: Sequence[float], gap: float) -> list[float]:
    """Each at its wanted place, or as little to the right of it as the one before needs."""
    placed: list[float] = []
    for i, (width, x) in enumerate(zip(widths, wanted, strict=True)):
        if i:
            x = max(x, placed[-1] + widths[i - 1] / 2 + gap + width / 2)
        placed.append(x)
    return placed

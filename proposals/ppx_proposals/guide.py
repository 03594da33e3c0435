"""The proposal network as a guide: one step of the LSTM for every pending draw.

A pass answers a handful of draws, so its cost is calls and not arithmetic. It runs on NumPy arrays with everything
that does not depend on the state multiplied out beforehand: the observations' part of every layer once per guide, an
address's part at its first visit. The formulas are those of `network` and `heads`; a test holds the two together.

Letters: n asks, H state size, K components, C categories.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from ppx_proposals.batching import Z_FEATURE, ordered_feature, proper_interval, step_features
from ppx_proposals.config import NetworkConfig
from ppx_proposals.heads import NARROW, SMALLEST
from ppx_proposals.vocabulary import UNKNOWN, AddressKey, Vocabulary
from ppx_proposals.weights import Single, Weights
from ppx_server.address import AddressTable
from ppx_server.distributions import FAMILIES, Family, Kind
from ppx_server.script import Ask, Choice

Double = NDArray[np.float64]
_NAN = math.nan
_CACHED = 4096
"""Most entries of each cache; full ones are emptied."""


class Entry:
    """What the guide knows of one address, multiplied out."""

    __slots__ = (
        "bias",
        "family",
        "gates",
        "head",
        "keys",
        "kind",
        "next_categories",
        "next_slope",
        "next_start",
        "rows",
    )

    def __init__(
        self, family: Family, row: int, first_category: int, num_categories: int, weights: Weights
    ) -> None:
        a = weights.from_current.shape[0]
        current, before, slope = np.split(weights.addresses[row], 3)
        self.family = family
        self.kind = None if row == UNKNOWN else family.kind
        self.gates = _single(weights.gates + current @ weights.from_current)
        self.rows: dict[tuple[int, int], Single] = {}
        self.next_start: Single = before @ weights.from_previous
        self.next_slope: Single = slope @ weights.from_previous
        layer = weights.categorical if self.kind is Kind.CATEGORICAL else weights.mixture
        self.head = _single(layer[0] + current @ layer[2])
        if self.kind is Kind.CATEGORICAL:
            table = weights.categories[first_category : first_category + num_categories]
            self.next_categories: Single = table[:, :a] @ weights.from_previous
            self.keys: Single = np.ascontiguousarray(table[:, a:-1].T)
            self.bias: Single = table[:, -1]

    def input(self, instance: int, element: int, weights: Weights) -> Single:
        """What a visit adds to the gates."""
        row = self.rows.get((instance, element))
        if row is None:
            if len(self.rows) >= _CACHED:
                self.rows.clear()
            features = step_features(np.array([instance]), np.array([element]))[0]
            row = self.rows[instance, element] = self.gates + features @ weights.from_features
        return row


class _Last(NamedTuple):
    """The draw before, of one slot."""

    entry: Entry
    address_id: int
    instance: int
    element: int
    z: float
    category: int


class NetworkGuide:
    """Answers draws from a proposal network; implements `ppx_server.script.Guide`.

    It must see every controlled draw of a trace from the first one on, that is, guide scripts that force nothing.

    Args:
        config: Sizes of the network.
        vocabulary: The draws it knows.
        weights: See `Weights`.
        check: Called with the address table at the start of every batch; raises if the network knows none of it.

    Attributes:
        num_asks: Draws asked for so far.
        fallbacks: How many draws of each address came from the prior, because the network does not know it.
    """

    def __init__(
        self,
        config: NetworkConfig,
        vocabulary: Vocabulary,
        weights: Weights,
        check: Callable[[AddressTable], None],
    ) -> None:
        self.num_asks = 0
        self.fallbacks: Counter[str] = Counter()
        self._config = config
        self._vocabulary = vocabulary
        self._weights = weights
        self._check = check
        self._addresses = AddressTable()
        self._entries: dict[tuple[int, int], Entry] = {}
        self._intervals: dict[tuple[str, tuple[float, ...], float], tuple[float, float, float]] = {}
        self._last: dict[int, _Last] = {}
        self._h = self._c = np.zeros((0, self._config.lstm_size), np.float32)

    def begin(self, num_traces: int, addresses: AddressTable) -> None:
        """See `Guide.begin`.

        Raises:
            CheckpointError: The proposal knows none of the simulator's addresses.
        """
        self._check(addresses)
        if addresses is not self._addresses:
            self._entries.clear()
        self._addresses = addresses
        self._last.clear()
        self._h = np.zeros((num_traces, self._config.lstm_size), np.float32)
        self._c = np.zeros_like(self._h)

    def choose(self, asks: Sequence[Ask], normals: Double) -> Sequence[Choice]:
        """See `Guide.choose`. Unknown addresses are drawn from the prior."""
        with np.errstate(all="ignore"):  # weights that are not finite end in draws from the prior
            return self._choose(asks, normals)

    def _choose(self, asks: Sequence[Ask], normals: Double) -> list[Choice]:
        self.num_asks += len(asks)
        entries = [self._entry(ask) for ask in asks]
        elements = [self._element(ask) for ask in asks]
        h = self._advance(asks, entries, elements)
        choices: list[Choice] = [_PLACEHOLDER] * len(asks)
        seen: list[tuple[float, int]] = [(0.0, -1)] * len(asks)
        mixed = [i for i, e in enumerate(entries) if e.kind is Kind.CONTINUOUS or e.kind is Kind.ORDERED]
        if mixed:
            self._choose_mixed(mixed, asks, entries, h, normals, choices, seen)
        for i, entry in enumerate(entries):
            if entry.kind is Kind.CATEGORICAL:
                category, ratio = self._choose_category(entry, h[i], asks[i].params, float(normals[i, 0]))
                choices[i] = Choice(float(category), _NAN, ratio)
                seen[i] = (0.0, category)
            elif entry.kind is None:
                self.fallbacks[self._addresses[asks[i].address_id].address] += 1
                choices[i] = Choice(_NAN, float(normals[i, 0]), 0.0)
        for ask, entry, element, (z, category) in zip(asks, entries, elements, seen, strict=True):
            self._last[ask.slot] = _Last(entry, ask.address_id, ask.instance, element, z, category)
        return choices

    def _entry(self, ask: Ask) -> Entry:
        entry = self._entries.get((ask.address_id, len(ask.params)))
        if entry is None:
            address = self._addresses[ask.address_id]
            family = FAMILIES[address.family]
            categories = len(ask.params) if family.kind is Kind.CATEGORICAL else 0
            row = self._vocabulary.find(AddressKey(address.address, address.family, categories))
            first = int(self._vocabulary.first_category(np.array([row]))[0])
            entry = Entry(family, row, first, categories, self._weights)
            self._entries[ask.address_id, len(ask.params)] = entry
        return entry

    def _element(self, ask: Ask) -> int:
        last = self._last.get(ask.slot)
        if last is not None and last.address_id == ask.address_id and last.instance == ask.instance:
            return last.element + 1
        return 0

    def _advance(self, asks: Sequence[Ask], entries: Sequence[Entry], elements: Sequence[int]) -> Single:
        """Moves the state of the asking slots; returns h, `(n, H)`."""
        weights, size = self._weights, self._config.lstm_size
        slots = [ask.slot for ask in asks]
        gates = self._h[slots] @ weights.from_state
        for i, ask in enumerate(asks):
            row = gates[i]
            row += entries[i].input(ask.instance, elements[i], weights)
            last = self._last.get(ask.slot)
            if last is not None:
                row += last.entry.next_start
                if last.z != 0.0:
                    row += last.entry.next_slope * np.float32(last.z)
                if last.category >= 0:
                    row += last.entry.next_categories[last.category]
        np.tanh(gates, out=gates)
        sigmoids = gates[:, : 3 * size]
        sigmoids *= np.float32(0.5)
        sigmoids += np.float32(0.5)
        c = self._c[slots]
        c *= sigmoids[:, size : 2 * size]
        c += sigmoids[:, :size] * gates[:, 3 * size :]
        h = np.tanh(c)
        h *= sigmoids[:, 2 * size :]
        self._c[slots], self._h[slots] = c, h
        return h

    def _choose_mixed(
        self,
        mixed: Sequence[int],
        asks: Sequence[Ask],
        entries: Sequence[Entry],
        h: Single,
        normals: Double,
        choices: list[Choice],
        seen: list[tuple[float, int]],
    ) -> None:
        """Chooses continuous and ordered draws, `mixed` of the asks."""
        if len(mixed) < len(asks):
            h, normals = h[mixed], normals[mixed]
        log_weight, mean, scale = self._mixtures(h, [entries[i] for i in mixed])
        z = self._sample(log_weight, mean, scale, normals)
        a = (z[:, None] - mean) / scale
        ratio = _logsumexp(log_weight - np.log(scale) - 0.5 * a * a) + 0.5 * z * z
        for j, i in enumerate(mixed):
            entry, coordinate = entries[i], float(z[j])
            if not math.isfinite(ratio[j]):  # weights that are not finite: draw from the prior
                value, coordinate, log_ratio, feature = _NAN, float(normals[j, 0]), 0.0, 0.0
            elif entry.kind is Kind.CONTINUOUS:
                log_ratio = self._defended(float(ratio[j]))
                value, feature = _NAN, min(max(coordinate, -Z_FEATURE), Z_FEATURE)
            else:
                value = entry.family.from_z_scalar(coordinate, asks[i].params)
                low, high, feature = self._interval(entry.family, asks[i].params, value)
                log_ratio = self._defended(_interval_log_ratio(low, high, log_weight[j], mean[j], scale[j]))
                coordinate = _NAN
            choices[i], seen[i] = Choice(value, coordinate, log_ratio), (feature, -1)

    def _mixtures(self, h: Single, entries: Sequence[Entry]) -> tuple[Double, Double, Double]:
        """Log weights, means and scales, each `(n, K)`."""
        weights, k = self._weights, self._config.mixture_components
        hidden = h @ weights.mixture[1]
        for j, entry in enumerate(entries):
            hidden[j] += entry.head
        raw = (_silu(hidden) @ weights.output + weights.output_bias).astype(np.float64)
        logits = raw[:, :k]
        log_weight = logits - _logsumexp(logits)[:, None]
        return log_weight, raw[:, k : 2 * k], self._config.min_scale + np.logaddexp(0.0, raw[:, 2 * k :])

    def _sample(self, log_weight: Double, mean: Double, scale: Double, normals: Double) -> Double:
        """Coordinates `(n,)`: the second normal number selects the component, the first one moves within it."""
        e = self._config.defensive
        u = (ndtr(normals[:, 1]) - e) / (1.0 - e)
        component = (np.cumsum(np.exp(log_weight), axis=1) < u[:, None]).sum(axis=1)
        chosen = np.arange(len(u)), np.minimum(component, log_weight.shape[1] - 1)
        z: Double = np.where(u < 0.0, normals[:, 0], mean[chosen] + scale[chosen] * normals[:, 0])
        return z

    def _choose_category(
        self, entry: Entry, h: Single, params: tuple[float, ...], normal: float
    ) -> tuple[int, float]:
        """A category, and log q - log p of it."""
        weights = self._weights
        p = np.array(params)
        p /= p.sum()
        query = _silu(entry.head + h @ weights.categorical[1]) @ weights.query + weights.query_bias
        logits = (query @ entry.keys + entry.bias).astype(np.float64)
        e = self._config.defensive
        q = p * np.exp(logits - logits.max())
        q = e * p + (1.0 - e) * q / q.sum()
        if not np.isfinite(q).all():
            q = p
        # The number a prior draw would use, so that where q = p the choice is that of the prior.
        cumulative = np.cumsum(q)
        category = int(np.searchsorted(cumulative, ndtr(normal) * cumulative[-1], side="right"))
        category = min(category, int(np.flatnonzero(q)[-1]))
        return category, float(np.log(q[category] / p[category]))

    def _defended(self, log_ratio: float) -> float:
        """log (e + (1 - e) exp(log_ratio))."""
        e = self._config.defensive
        if e == 0.0:
            return log_ratio
        larger, smaller = log_ratio + math.log1p(-e), math.log(e)
        if larger < smaller:
            larger, smaller = smaller, larger
        return larger + math.log1p(math.exp(smaller - larger))

    def _interval(
        self, family: Family, params: tuple[float, ...], value: float
    ) -> tuple[float, float, float]:
        """Ends of an ordered value's interval, and the coordinate that stands for it."""
        key = (family.name, params, value)
        found = self._intervals.get(key)
        if found is None:
            if len(self._intervals) >= _CACHED:
                self._intervals.clear()
            ends = proper_interval(*family.z_interval(value, params))
            feature = ordered_feature(*ends)
            found = self._intervals[key] = (float(ends[0]), float(ends[1]), float(feature))
        return found


def _single(x: NDArray[np.floating]) -> Single:
    return x.astype(np.float32, copy=False)


_PLACEHOLDER = Choice(_NAN, 0.0, 0.0)


def _silu(x: Single) -> Single:
    half = np.float32(0.5) * x
    silu: Single = half * np.tanh(half) + half
    return silu


def _logsumexp(x: Double) -> Double:
    largest = x.max(axis=1)
    result: Double = largest + np.log(np.exp(x - largest[:, None]).sum(axis=1))
    return result


def _interval_log_ratio(low: float, high: float, log_weight: Double, mean: Double, scale: Double) -> float:
    """log of a mixture's mass on an interval over that of N(0, 1); `heads.interval_log_ratio` for one draw."""
    a = np.append((low - mean) / scale, low)
    b = np.append((high - mean) / scale, high)
    width = max(high - low, SMALLEST)
    log_mass = _log_mass(a, b, np.append(width / scale, width))
    return float(_logsumexp((log_weight + log_mass[:-1])[None])[0] - log_mass[-1])


def _log_mass(a: Double, b: Double, width: Double) -> Double:
    """`heads.log_mass` in NumPy; ends may be infinite."""
    a, b = np.clip(a, -1e9, 1e9), np.clip(b, -1e9, 1e9)
    mirrored = a + b > 0
    a, b = np.where(mirrored, -b, a), np.where(mirrored, -a, b)
    middle = 0.5 * (a + b)
    narrow = width < NARROW
    log_b = log_ndtr(b)
    wide = log_b + np.log(-np.expm1(np.where(narrow, -1.0, log_ndtr(a) - log_b)))
    t = np.where(narrow, 0.5 * middle * width, 0.0)
    density = -0.5 * np.where(narrow, middle, 0.0) ** 2 - 0.5 * math.log(2 * math.pi)
    result: Double = np.where(narrow, density + np.log(np.where(narrow, width, 1.0)) + t * t / 6.0, wide)
    return result

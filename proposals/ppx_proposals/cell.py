"""The proposal network in NumPy, for many traces at once: one step of the LSTM, and choices from the heads.

The formulas are those of `network` and `heads`, on row vectors, with everything that does not depend on the state
multiplied out beforehand; tests hold the two together.

Letters: n draws, H state size, K components, C categories.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr, ndtri

from ppx_proposals.batching import (
    NUM_FEATURES,
    Z_FEATURE,
    ordered_feature,
    proper_interval,
    step_features,
)
from ppx_proposals.config import NetworkConfig
from ppx_proposals.entries import Entries, Ints
from ppx_proposals.heads import NARROW, SMALLEST
from ppx_proposals.vocabulary import CATEGORICAL, CONTINUOUS, ORDERED
from ppx_proposals.weights import Single, Weights
from ppx_server.distributions import FAMILY_BY_CODE
from ppx_server.trace import Params

Floats = NDArray[np.float64]
_PAIRS = 64
"""Most pairs of a draw and the one before it that share a matrix product."""


class State(NamedTuple):
    """Where n traces stand before their next draw.

    Attributes:
        h: `(n, H)`, c: `(n, H)`, state of the LSTM after its last step.
        before: `(n,)` rows of `Entries.before`.
        feature: `(n,)` features of the draws before.
    """

    h: Single
    c: Single
    before: Ints
    feature: Single

    @classmethod
    def fresh(cls, num_traces: int, size: int) -> State:
        """Traces that have made no draw."""
        h, c = np.zeros((num_traces, size), np.float32), np.zeros((num_traces, size), np.float32)
        return cls(h, c, np.zeros(num_traces, np.int64), np.zeros(num_traces, np.float32))

    def take(self, rows: Ints | NDArray[np.bool_]) -> State:
        """Chosen traces, as a copy."""
        return State(self.h[rows], self.c[rows], self.before[rows], self.feature[rows])

    def put(self, rows: Ints, state: State) -> None:
        """Replaces chosen traces."""
        self.h[rows], self.c[rows], self.before[rows], self.feature[rows] = state


class Chosen(NamedTuple):
    """Choices of n draws.

    Attributes:
        value: `(n,)` values of discrete draws the proposal knows; NaN for others.
        z: `(n,)` coordinates that give the choices; those of categorical draws hold for the given probabilities.
        log_ratio: `(n,)` log q - log p.
        before: `(n,)`, feature: `(n,)`, as in `State`.
    """

    value: Floats
    z: Floats
    log_ratio: Floats
    before: Ints
    feature: Single


class Mixtures(NamedTuple):
    """Mixtures of normals, each `(n, K)`; the weights are not normalised."""

    weight: Floats
    mean: Floats
    scale: Floats

    def take(self, rows: Ints) -> Mixtures:
        """Chosen mixtures."""
        return Mixtures(self.weight[rows], self.mean[rows], self.scale[rows])


class Cell:
    """Steps and choices of one network, for one set of observations.

    Args:
        config: Sizes of the network.
        weights: See `Weights`.
        entries: The draws.
    """

    def __init__(self, config: NetworkConfig, weights: Weights, entries: Entries) -> None:
        self.entries = entries
        self.size = config.lstm_size
        self._config, self._weights = config, weights
        self._matrix = np.concatenate([weights.from_state, weights.from_features])

    def advance(self, state: State, entry: Ints, instance: Ints, element: Ints) -> tuple[Single, Single]:
        """h and c, each `(n, H)`, in front of n draws."""
        size = self.size
        gates = self._gates(state, entry, instance, element)
        np.tanh(gates, out=gates)
        sigmoids = gates[:, : 3 * size]
        sigmoids *= np.float32(0.5)
        sigmoids += np.float32(0.5)
        c = state.c * sigmoids[:, size : 2 * size]
        c += sigmoids[:, :size] * gates[:, 3 * size :]
        h = np.tanh(c)
        h *= sigmoids[:, 2 * size :]
        return h, c

    def _gates(self, state: State, entry: Ints, instance: Ints, element: Ints) -> Single:
        """What goes into the gates, `(n, 4H)`: one matrix product, in which every pair of draws has two columns."""
        entries, rows = self.entries, np.arange(len(entry))
        pair = entry * len(entries.before) + state.before
        pairs, which = _unique(pair)
        if len(pairs) > _PAIRS:
            gates = np.empty((len(entry), self._matrix.shape[1]), np.float32)
            for first in range(0, len(pairs), _PAIRS):
                part = np.flatnonzero((which >= first) & (which < first + _PAIRS))
                gates[part] = self._gates(state.take(part), entry[part], instance[part], element[part])
            return gates
        now, before = np.divmod(pairs, len(entries.before))
        constant = entries.gates[now] + entries.before[before]
        inputs = np.zeros((len(entry), len(self._matrix) + 2 * len(pairs)), np.float32)
        inputs[:, : self.size] = state.h
        inputs[:, self.size : self.size + NUM_FEATURES] = step_features(instance, element)
        column = which + len(self._matrix)
        inputs[rows, column] = 1.0
        inputs[rows, column + len(pairs)] = state.feature
        matrix: Single = np.concatenate([self._matrix, constant, entries.slope[before]])
        return np.matmul(inputs, matrix, out=np.empty((len(entry), matrix.shape[1]), np.float32))

    def choose(self, h: Single, entry: Ints, params: Params, params_id: Ints, normals: Floats) -> Chosen:
        """Draws from the proposal, or where the proposal does not know the draw from the prior.

        Args:
            h: `(n, H)`, in front of the draws.
            entry: `(n,)`.
            params: Where the draws' parameters are.
            params_id: `(n,)` rows of `params`; used for discrete draws only.
            normals: `(n, 2)`, as in `Guide.choose`.
        """
        n, kind = len(entry), self.entries.kind[entry]
        chosen = Chosen(
            value=np.full(n, np.nan),
            z=normals[:, 0].copy(),
            log_ratio=np.zeros(n),
            before=self.entries.first_before[entry],
            feature=np.zeros(n, np.float32),
        )
        mixed = np.flatnonzero(kind <= ORDERED)
        if len(mixed):
            self._choose_mixed(mixed, h, entry, normals, chosen)
            for family, rows in self._groups(mixed[kind[mixed] == ORDERED], entry):
                columns = tuple(params.matrix(params_id[rows]).T)
                chosen.value[rows] = FAMILY_BY_CODE[family].from_z(chosen.z[rows], columns)
                ratio, feature = self.ordered(h[rows], entry[rows], chosen.value[rows], columns)
                sound = np.isfinite(ratio)
                chosen.log_ratio[rows] = np.where(sound, ratio, 0.0)
                chosen.feature[rows] = np.where(sound, feature, 0.0)
        categorical = np.flatnonzero(kind == CATEGORICAL)
        if len(categorical):
            for number in np.unique(entry[categorical]).tolist():
                rows = categorical[entry[categorical] == number]
                probs = params.matrix(params_id[rows])
                self._choose_categories(rows, h[rows], number, probs, normals[rows, 0], chosen)
        return chosen

    def _groups(self, rows: Ints, entry: Ints) -> list[tuple[int, Ints]]:
        """Rows of each family."""
        codes = self.entries.family[entry[rows]]
        return [(code, rows[codes == code]) for code in np.unique(codes).tolist()] if len(rows) else []

    def _choose_mixed(self, rows: Ints, h: Single, entry: Ints, normals: Floats, chosen: Chosen) -> None:
        """Coordinates of continuous and ordered draws; log ratios and features of continuous ones."""
        if len(rows) < len(entry):
            h, entry, normals = h[rows], entry[rows], normals[rows]
        mixtures = self._mixtures(h, entry)
        z = self._sample(mixtures, normals)
        weight, mean, scale = mixtures
        a = (z[:, None] - mean) / scale
        # The normals' constants cancel.
        density = (weight / scale * np.exp(-0.5 * a * a)).sum(axis=1) / weight.sum(axis=1)
        ratio = self._defended(np.log(density) + 0.5 * z * z)
        sound = np.isfinite(ratio)
        if not sound.all():  # weights that are not finite: draw from the prior
            z, ratio = np.where(sound, z, normals[:, 0]), np.where(sound, ratio, 0.0)
        chosen.z[rows] = z
        continuous = self.entries.kind[entry] == CONTINUOUS
        chosen.log_ratio[rows] = np.where(continuous, ratio, 0.0)
        chosen.feature[rows] = np.where(continuous & sound, np.clip(z, -Z_FEATURE, Z_FEATURE), 0.0)

    def ordered(
        self, h: Single, entry: Ints, value: Floats, params: tuple[Floats, ...]
    ) -> tuple[Floats, Floats]:
        """Log ratios `(n,)` and features `(n,)` of values of ordered draws of one family; NaN for broken weights."""
        family = FAMILY_BY_CODE[int(self.entries.family[entry[0]])]
        low, high = proper_interval(*family.z_interval(value, params))
        mixtures = self._mixtures(h, entry)
        return self._defended(_interval_log_ratio(low, high, mixtures)), ordered_feature(low, high)

    def _mixtures(self, h: Single, entry: Ints) -> Mixtures:
        weights, k = self._weights, self._config.mixture_components
        hidden = h @ weights.mixture[1]
        entries, which = _unique(entry)
        hidden += self.entries.head[entries[0]] if len(entries) == 1 else self.entries.head[entries][which]
        raw = (_silu(hidden) @ weights.output + weights.output_bias).astype(np.float64)
        logits, raw_scale = raw[:, :k], raw[:, 2 * k :]
        softplus = np.maximum(raw_scale, 0.0) + np.log1p(np.exp(-np.abs(raw_scale)))
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        return Mixtures(weight, raw[:, k : 2 * k], self._config.min_scale + softplus)

    def _sample(self, mixtures: Mixtures, normals: Floats) -> Floats:
        """Coordinates `(n,)`: the second normal number selects the component, the first one moves within it."""
        e = self._config.defensive
        u = (ndtr(normals[:, 1]) - e) / (1.0 - e)
        cumulative = np.cumsum(mixtures.weight, axis=1)
        component = (cumulative < (u * cumulative[:, -1])[:, None]).sum(axis=1)
        chosen = np.arange(len(u)), np.minimum(component, cumulative.shape[1] - 1)
        z: Floats = np.where(
            u < 0.0, normals[:, 0], mixtures.mean[chosen] + mixtures.scale[chosen] * normals[:, 0]
        )
        return z

    def _choose_categories(
        self, rows: Ints, h: Single, entry: int, probs: Floats, normal: Floats, chosen: Chosen
    ) -> None:
        """Choices of draws of one entry, with probabilities `(n, C)`."""
        weights, e = self._weights, self._config.defensive
        keys, bias = self.entries.categories(entry)
        p = probs / probs.sum(axis=1, keepdims=True)
        hidden = _silu(h @ weights.categorical[1] + self.entries.head[entry])
        logits = ((hidden @ weights.query + weights.query_bias) @ keys + bias).astype(np.float64)
        q = p * np.exp(logits - logits.max(axis=1, keepdims=True))
        q = e * p + (1.0 - e) * q / q.sum(axis=1, keepdims=True)
        q = np.where(np.isfinite(q).all(axis=1, keepdims=True), q, p)
        # The number a prior draw would use, so that where q = p the choice is that of the prior.
        cumulative = np.cumsum(q, axis=1)
        category = (cumulative <= (ndtr(normal) * cumulative[:, -1])[:, None]).sum(axis=1)
        last = q.shape[1] - 1 - np.argmax(q[:, ::-1] > 0.0, axis=1)
        category = np.minimum(category, last)
        where = np.arange(len(rows)), category
        chosen.value[rows] = category
        chosen.z[rows] = ndtri(np.cumsum(p, axis=1)[where] - 0.5 * p[where])
        chosen.log_ratio[rows] = np.log(q[where] / p[where])
        chosen.before[rows] += 1 + category

    def _defended(self, log_ratio: Floats) -> Floats:
        """log (e + (1 - e) exp(log_ratio)); NaN where it is NaN or infinite."""
        e = self._config.defensive
        if e == 0.0:
            return log_ratio
        defended: Floats = np.maximum(log_ratio, 0.0) + np.log(
            e * np.exp(-np.maximum(log_ratio, 0.0)) + (1.0 - e) * np.exp(np.minimum(log_ratio, 0.0))
        )
        return defended

    def forced(
        self, entry: Ints, value: Floats, z: Floats, params: Params, params_id: Ints
    ) -> tuple[Ints, Single]:
        """What draws that the guide did not choose leave to the next ones: `before` and features, each `(n,)`.

        Args:
            entry: `(n,)`.
            value: `(n,)`; those that are outside the support count as unknown.
            z: `(n,)` coordinates; used for continuous draws only.
            params: Where the draws' parameters are.
            params_id: `(n,)` rows of `params`.
        """
        kind, before = self.entries.kind[entry], self.entries.first_before[entry]
        feature = np.where(kind == CONTINUOUS, np.clip(z, -Z_FEATURE, Z_FEATURE), 0.0)
        for family, rows in self._groups(np.flatnonzero(kind == ORDERED), entry):
            columns = tuple(params.matrix(params_id[rows]).T)
            ends = proper_interval(*FAMILY_BY_CODE[family].z_interval(value[rows], columns))
            feature[rows] = ordered_feature(*ends)
        rows = np.flatnonzero(kind == CATEGORICAL)
        category = np.clip(
            np.nan_to_num(value[rows], nan=0.0), 0, self.entries.num_categories[entry[rows]] - 1
        )
        category = category.astype(np.int64)
        possible = params.data[params.offsets[params_id[rows]] + category] > 0.0
        before[rows] += np.where(possible & (category == value[rows]), 1 + category, 0)
        return before, feature.astype(np.float32)


def _unique(numbers: Ints) -> tuple[Ints, Ints]:
    """`np.unique` with the inverse; quick where all are the same."""
    if len(numbers) and (numbers == numbers[0]).all():
        return numbers[:1], np.zeros(len(numbers), np.int64)
    unique, inverse = np.unique(numbers, return_inverse=True)
    return unique, inverse


def _silu(x: Single) -> Single:
    half = np.float32(0.5) * x
    silu: Single = half * np.tanh(half) + half
    return silu


def _interval_log_ratio(low: Floats, high: Floats, mixtures: Mixtures) -> Floats:
    """log of mixtures' masses on intervals `(n,)`, `(n,)` over those of N(0, 1); as `heads.interval_log_ratio`."""
    weight, mean, scale = mixtures
    a, b = (low[:, None] - mean) / scale, (high[:, None] - mean) / scale
    width = np.maximum(high - low, SMALLEST)
    log_mass = np.log(weight) + _log_mass(a, b, width[:, None] / scale)
    largest = log_mass.max(axis=1)
    log_q = largest + np.log(np.exp(log_mass - largest[:, None]).sum(axis=1) / weight.sum(axis=1))
    ratio: Floats = log_q - _log_mass(low, high, width)
    return ratio


def _log_mass(a: Floats, b: Floats, width: Floats) -> Floats:
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
    result: Floats = np.where(narrow, density + np.log(np.where(narrow, width, 1.0)) + t * t / 6.0, wide)
    return result

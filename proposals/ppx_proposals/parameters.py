"""Parameters that discrete draws had when they were last met: a guess at those they will have. Letters: n draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ppx_proposals.forecast import NONE
from ppx_server.trace import Params

Ints = NDArray[np.int64]
_LARGEST = (1 << 20) - 1
"""Larger visits and elements count as this."""
_MOST = 1 << 14
"""Most draws to remember; a full memory is emptied."""


class ParameterMemory:
    """The last parameters of every draw, by entry, visit and element, and by entry alone.

    Attributes:
        params: Parameter vectors; replaced, never changed.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.params = Params(np.zeros(0), np.zeros(1, np.int64))
        self._keys = np.zeros(0, np.int64)
        self._trials = np.zeros((0, 2), np.int64)

    def find(self, entry: Ints, instance: Ints, element: Ints) -> Ints:
        """Rows `(n,)` of `params`, or `NONE`."""
        result = np.full(len(entry), NONE)
        if len(self._keys) == 0:
            return result
        for key in (_of_entry(entry), _key(entry, instance, element)):
            place = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
            result = np.where(self._keys[place] == key, place, result)
        return result

    def reliability(self, entry: Ints) -> NDArray[np.float64]:
        """How likely foreseen parameters are the actual ones, `(n,)`."""
        wrong, right = np.zeros(len(entry)), np.zeros(len(entry))
        tried = entry < len(self._trials)
        wrong[tried], right[tried] = self._trials[entry[tried]].T
        share: NDArray[np.float64] = (right + 1.0) / (wrong + right + 1.0)
        return share

    def judge(self, entry: Ints, right: NDArray[np.bool_]) -> None:
        """Takes notice of which foreseen parameters `(n,)` were right."""
        if len(entry):
            trials = np.bincount(2 * entry + right, minlength=self._trials.size)
            trials = np.append(trials, np.zeros(len(trials) % 2, np.int64)).reshape(-1, 2)
            trials[: len(self._trials)] += self._trials
            self._trials = trials

    def learn(self, entry: Ints, instance: Ints, element: Ints, params: Params, params_id: Ints) -> None:
        """Remembers the parameters of draws; of equal draws those of the last."""
        if len(entry) == 0:
            return
        keys = np.concatenate([_of_entry(entry), _key(entry, instance, element)])[::-1]
        new, last = np.unique(keys, return_index=True)
        if len(self._keys) + len(new) > _MOST:
            self.clear()
        kept = np.flatnonzero(~np.isin(self._keys, new))
        every = concatenate([self.params, params])
        ids = np.concatenate([kept, len(self.params) + np.tile(params_id, 2)[::-1][last]])
        order = np.argsort(np.concatenate([self._keys[kept], new]))
        self._keys = np.concatenate([self._keys[kept], new])[order]
        self.params = _select(every, ids[order])


def concatenate(tables: list[Params]) -> Params:
    """Tables of parameters, one after the other."""
    if len(tables) == 1:
        return tables[0]
    lengths = np.concatenate([np.diff(t.offsets) for t in tables])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Params(np.concatenate([t.data for t in tables]), offsets)


def same_vectors(a: Params, i: Ints, b: Params, j: Ints) -> NDArray[np.bool_]:
    """Whether vectors i `(n,)` of one table equal vectors j `(n,)` of another."""
    pairs, inverse = np.unique(i * max(len(b), 1) + j, return_inverse=True)
    i, j = np.divmod(pairs, max(len(b), 1))
    size = a.offsets[i + 1] - a.offsets[i]
    same = size == b.offsets[j + 1] - b.offsets[j]
    rows = np.flatnonzero(same)
    pair = np.repeat(rows, size[rows])
    within = np.arange(len(pair)) - np.repeat(np.cumsum(size[rows]) - size[rows], size[rows])
    differs = a.data[a.offsets[i[pair]] + within] != b.data[b.offsets[j[pair]] + within]
    same[pair[differs]] = False
    result: NDArray[np.bool_] = same[inverse]
    return result


def _select(params: Params, ids: Ints) -> Params:
    size = params.offsets[ids + 1] - params.offsets[ids]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(size)])
    start = np.repeat(params.offsets[ids] - offsets[:-1], size)
    return Params(params.data[start + np.arange(offsets[-1])], offsets)


def _of_entry(entry: Ints) -> Ints:
    return (entry << 40) + (1 << 40) - 1


def _key(entry: Ints, instance: Ints, element: Ints) -> Ints:
    return (entry << 40) + (np.minimum(instance, _LARGEST - 1) << 20) + np.minimum(element, _LARGEST)

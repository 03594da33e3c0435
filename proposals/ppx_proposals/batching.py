"""From traces to the tensors of one teacher-forced pass.

A *step* is one controlled scalar draw; uncontrolled draws and failed traces are left out. Letters: K traces, S steps.
Steps are laid out trace after trace (`Steps`, numpy) and then packed time-major with the longest trace first
(`PackedSteps`, torch), as `torch.nn.utils.rnn.PackedSequence` wants them, so that nothing is padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppx_proposals.observations import ObservationBatch
from ppx_proposals.vocabulary import CATEGORICAL, CONTINUOUS, ORDERED, UNKNOWN, Vocabulary
from ppx_server.distributions import family_codes, z_interval_columns
from ppx_server.trace import Status, TraceBatch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Z_FEATURE = 8.0
"""Coordinates enter the network within this; densities are taken at the exact coordinate."""
Z_LARGEST = 38.0
"""Ends of coordinate intervals are kept within this: beyond it normal tail probabilities underflow."""
NUM_FEATURES = 3


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of K traces, trace after trace.

    Attributes:
        length: `(K,)` steps of each trace.
        row: `(S,)` the step's row in its `TraceBatch`.
        address: `(S,)` rows of the vocabulary; `UNKNOWN` where it does not have the draw.
        kind: `(S,)` kinds of the draws.
        scored: `(S,)` whether the step's density is wanted: the address is known and the value within the support.
        instance: `(S,)` number of the visit.
        element: `(S,)` position within an array draw.
        z: `(S,)` standard coordinate; NaN for all but continuous draws.
        z_low: `(S,)`, z_high: `(S,)` coordinate interval of ordered draws, otherwise NaN.
        z_feature: `(S,)` the coordinate that later steps see.
        category: `(S,)` number of the drawn category among all categories, or 0.
        log_probs: `(scored categorical steps, largest number of categories)` log prior probabilities; -inf beyond a
            draw's own categories.
        first_category: `(scored categorical steps,)` number of the draw's category 0.
        num_categories: `(scored categorical steps,)`.
    """

    length: Ints
    row: Ints
    address: Ints
    kind: NDArray[np.uint8]
    scored: NDArray[np.bool_]
    instance: NDArray[np.int32]
    element: Ints
    z: Floats
    z_low: Floats
    z_high: Floats
    z_feature: Floats
    category: Ints
    log_probs: Floats
    first_category: Ints
    num_categories: Ints


def encode(traces: TraceBatch, vocabulary: Vocabulary, *, grow: bool) -> Steps:
    """Takes the steps out of K traces.

    Args:
        traces: Traces of any kind.
        vocabulary: The draws the proposal knows.
        grow: Add draws that are new.
    """
    trace = np.repeat(np.arange(len(traces)), traces.length)
    row = np.flatnonzero(traces.controlled & (traces.status == Status.OK)[trace])
    trace = trace[row]
    params_id = traces.params_id[row]
    num_params = np.diff(traces.params.offsets)[params_id]
    address, kind = vocabulary.rows_of(traces.addresses, traces.address_id[row], num_params, grow=grow)
    scored = (address != UNKNOWN) & np.isfinite(traces.log_prob[row])
    z, z_low, z_high, z_feature = _coordinates(traces, row, kind)
    categorical = (kind == CATEGORICAL) & scored
    first = vocabulary.first_category(address)
    category = np.where(categorical, first + np.nan_to_num(traces.value[row]).astype(np.int64), 0)
    return Steps(
        length=np.bincount(trace, minlength=len(traces)),
        row=row,
        address=address,
        kind=kind,
        scored=scored,
        instance=traces.instance[row],
        element=_elements(trace, traces.address_id[row], traces.instance[row]),
        z=z,
        z_low=z_low,
        z_high=z_high,
        z_feature=np.where(address == UNKNOWN, 0.0, z_feature),
        category=category,
        log_probs=_log_probs(traces, params_id[categorical], num_params[categorical]),
        first_category=first[categorical],
        num_categories=num_params[categorical],
    )


def ordered_feature(low: Floats, high: Floats) -> Floats:
    """The coordinate that stands for an ordered draw: a function of its value alone, so that weights stay exact."""
    feature: Floats = 0.5 * (np.clip(low, -Z_FEATURE, Z_FEATURE) + np.clip(high, -Z_FEATURE, Z_FEATURE))
    return feature


def proper_interval(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Intervals that a value so improbable that its interval is empty can be scored by too."""
    empty = ~(high > low)
    middle = np.clip(np.nan_to_num(low, nan=0.0), -Z_LARGEST, Z_LARGEST)
    return np.where(empty, middle - 5e-4, low), np.where(empty, middle + 5e-4, high)


def _coordinates(
    traces: TraceBatch, row: Ints, kind: NDArray[np.uint8]
) -> tuple[Floats, Floats, Floats, Floats]:
    """z, both ends of the interval, and the feature."""
    nan = np.full(len(row), np.nan)
    z, low, high, feature = nan, nan.copy(), nan.copy(), np.zeros(len(row))
    continuous, ordered = kind == CONTINUOUS, kind == ORDERED
    z = np.where(continuous, traces.z[row], nan)
    feature[continuous] = np.clip(z[continuous], -Z_FEATURE, Z_FEATURE)
    if ordered.any():
        rows = row[ordered]
        codes = family_codes(traces.addresses)[traces.address_id[rows]]
        ends = z_interval_columns(traces.value[rows], codes, traces.params, traces.params_id[rows])
        low[ordered], high[ordered] = proper_interval(*ends)
        feature[ordered] = ordered_feature(low[ordered], high[ordered])
    return z, low, high, feature


def _elements(trace: Ints, address_id: NDArray[np.int32], instance: NDArray[np.int32]) -> Ints:
    """Position of each step within its run of equal trace, address and instance: its element in an array draw."""
    if len(trace) == 0:
        return np.empty(0, np.int64)
    starts = np.ones(len(trace), np.bool_)
    starts[1:] = (np.diff(trace) != 0) | (np.diff(address_id) != 0) | (np.diff(instance) != 0)
    position = np.arange(len(trace))
    return position - np.maximum.accumulate(np.where(starts, position, 0))


def _log_probs(traces: TraceBatch, params_id: NDArray[np.int32], num_categories: Ints) -> Floats:
    """Log prior probabilities, padded with -inf."""
    widest = int(num_categories.max()) if len(num_categories) else 0
    position = np.arange(widest)
    inside = position[None, :] < num_categories[:, None]
    offsets = traces.params.offsets[params_id.astype(np.int64)]
    probs = np.where(inside, traces.params.data[np.where(inside, offsets[:, None] + position, 0)], 0.0)
    with np.errstate(divide="ignore"):
        log_probs: Floats = np.log(probs / probs.sum(axis=1, keepdims=True)) if widest else probs
    return log_probs


@dataclass(frozen=True, eq=False)
class PackedSteps:
    """S steps of K traces, packed, on one device.

    Attributes:
        num_traces: K, traces without steps included.
        batch_sizes: `(T,)` on the CPU, traces that have a step t.
        row: `(S,)` numpy, row of each step in its `TraceBatch`.
        flat: `(K, F)` observations, of the longest trace first, or `(1, F)` if all traces have the same;
            grids: `(K, 2, D, H, W)` each.
        trace: `(S,)` which observation.
        address, previous_address, previous_category: `(S,)` rows of the tables.
        previous_z: `(S,)`.
        features: `(S, NUM_FEATURES)`.
        continuous, ordered, categorical: positions of the scored steps of each kind.
        z: `(continuous,)`; z_low, z_high: `(ordered,)`; category, first_category, num_categories: `(categorical,)`,
            the first being the category's number within its draw; log_probs: `(categorical, C)`.
    """

    num_traces: int
    batch_sizes: Tensor
    row: Ints
    flat: Tensor
    grids: tuple[Tensor, ...]
    trace: Tensor
    address: Tensor
    previous_address: Tensor
    previous_category: Tensor
    previous_z: Tensor
    features: Tensor
    continuous: Tensor
    ordered: Tensor
    categorical: Tensor
    z: Tensor
    z_low: Tensor
    z_high: Tensor
    category: Tensor
    first_category: Tensor
    num_categories: Tensor
    log_probs: Tensor


def step_features(instance: NDArray[np.int32] | Ints, element: Ints) -> NDArray[np.float32]:
    """What a step knows of its visit: `(S, NUM_FEATURES)`, smooth, so that unseen numbers of visits generalise."""
    return np.stack([np.log1p(instance), instance == 0, np.log1p(element)], axis=1).astype(np.float32)


def pack(
    steps: Steps, observations: ObservationBatch, *, device: torch.device, dtype: torch.dtype = torch.float32
) -> PackedSteps:
    """Packs the steps of K traces for one pass of the network; arguments as for `pack_minibatches`."""
    sizes = np.array([len(steps.length)])
    return pack_minibatches(steps, observations, sizes, device=device, dtype=dtype)[0]


def pack_minibatches(
    steps: Steps,
    observations: ObservationBatch,
    sizes: Ints,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> list[PackedSteps]:
    """Packs steps for the network, minibatch by minibatch, in one pass over all of them.

    Args:
        steps: S steps of K traces.
        observations: Of K traces, or of one if all have the same.
        sizes: `(B,)` traces of each minibatch, K in all.
        device: Where the tensors go.
        dtype: Precision in which densities are evaluated; the network itself runs in float32.
    """
    layout = _PackedOrder.of(steps.length, sizes)
    order = layout.order
    started = np.ones(len(steps.row), np.bool_)
    started[(np.cumsum(steps.length) - steps.length)[steps.length > 0]] = False
    shared = len(observations.flat) == 1
    counts = layout.num_steps.tolist()

    def to(array: NDArray[np.generic], kind: torch.dtype, sizes: list[int]) -> tuple[Tensor, ...]:
        whole = torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=kind, non_blocking=True)
        parts: tuple[Tensor, ...] = torch.split(whole, sizes)
        return parts

    def previous(column: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.where(started, np.roll(column, 1), 0)[order]

    def embedded(array: NDArray[np.float32]) -> tuple[Tensor, ...]:
        if shared:
            return (torch.from_numpy(array).to(device),) * len(sizes)
        return to(array[layout.by_length], torch.float32, sizes.tolist())

    kind, scored = steps.kind[order], steps.scored[order]
    chosen = [np.flatnonzero(scored & (kind == k)) for k in (CONTINUOUS, ORDERED, CATEGORICAL)]
    # Positions are counted within their minibatch.
    ends = np.cumsum(layout.num_steps)
    minibatch = [np.searchsorted(ends, positions, side="right") for positions in chosen]
    numbers = [np.bincount(m, minlength=len(sizes)).tolist() for m in minibatch]
    positions = [p - (ends - layout.num_steps)[m] for p, m in zip(chosen, minibatch, strict=True)]
    # Columns of categorical steps are stored for those alone, in the order of the traces.
    among = (np.cumsum((steps.kind == CATEGORICAL) & steps.scored) - 1)[order[chosen[2]]]
    first_category, num_categories = steps.first_category[among], steps.num_categories[among]
    where = order[chosen[1]]
    num_continuous, num_ordered, num_categorical = numbers
    flat = embedded(observations.flat)
    grids = [embedded(grid) for grid in observations.grids]
    columns = {
        "trace": to(np.zeros_like(order) if shared else layout.rank, torch.int64, counts),
        "address": to(steps.address[order], torch.int64, counts),
        "previous_address": to(previous(steps.address), torch.int64, counts),
        "previous_category": to(previous(steps.category), torch.int64, counts),
        "previous_z": to(previous(steps.z_feature), torch.float32, counts),
        "features": to(step_features(steps.instance[order], steps.element[order]), torch.float32, counts),
        "continuous": to(positions[0], torch.int64, num_continuous),
        "ordered": to(positions[1], torch.int64, num_ordered),
        "categorical": to(positions[2], torch.int64, num_categorical),
        "z": to(steps.z[order[chosen[0]]], dtype, num_continuous),
        "z_low": to(steps.z_low[where], dtype, num_ordered),
        "z_high": to(steps.z_high[where], dtype, num_ordered),
        "category": to(steps.category[order[chosen[2]]] - first_category, torch.int64, num_categorical),
        "first_category": to(first_category, torch.int64, num_categorical),
        "num_categories": to(num_categories, torch.int64, num_categorical),
        "log_probs": to(steps.log_probs[among], dtype, num_categorical),
    }
    widest = np.zeros(len(sizes), np.int64)
    np.maximum.at(widest, minibatch[2], num_categories)
    columns["log_probs"] = tuple(t[:, :w] for t, w in zip(columns["log_probs"], widest.tolist(), strict=True))
    return [
        PackedSteps(
            num_traces=int(sizes[b]),
            batch_sizes=torch.from_numpy(layout.batch_sizes[b]),
            row=steps.row[order[ends[b] - counts[b] : ends[b]]],
            flat=flat[b],
            grids=tuple(grid[b] for grid in grids),
            **{name: parts[b] for name, parts in columns.items()},
        )
        for b in range(len(sizes))
    ]


class _PackedOrder(NamedTuple):
    """Where steps go: minibatch after minibatch, each time-major with its longest trace first.

    Attributes:
        by_length: `(K,)` traces, minibatch after minibatch, each from the longest to the shortest.
        order: `(S,)` steps, in packed order.
        rank: `(S,)` in packed order, position of the step's trace in `by_length`, counted within its minibatch.
        num_steps: `(B,)` steps of each minibatch.
        batch_sizes: Per minibatch, traces that have a step t.
    """

    by_length: Ints
    order: Ints
    rank: Ints
    num_steps: Ints
    batch_sizes: list[Ints]

    @classmethod
    def of(cls, length: Ints, sizes: Ints) -> _PackedOrder:
        """The order of traces of given lengths in minibatches of given sizes."""
        minibatch = np.repeat(np.arange(len(sizes)), sizes)
        by_length = np.lexsort((-length, minibatch))
        rank = np.empty_like(by_length)
        rank[by_length] = np.arange(len(length)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        trace = np.repeat(np.arange(len(length)), length)
        time = np.arange(len(trace)) - np.repeat(np.cumsum(length) - length, length)
        order = np.lexsort((rank[trace], time, minibatch[trace]))
        longest = np.zeros(len(sizes), np.int64)
        np.maximum.at(longest, minibatch, length)
        first = np.cumsum(longest) - longest
        counts = np.bincount(first[minibatch[trace]] + time, minlength=int(longest.sum())).astype(np.int64)
        return cls(
            by_length=by_length,
            order=order,
            rank=rank[trace[order]],
            num_steps=np.bincount(minibatch[trace], minlength=len(sizes)),
            batch_sizes=[counts[f : f + n] for f, n in zip(first.tolist(), longest.tolist(), strict=True)],
        )

"""A posterior as a long table: one row per scalar draw, the only faithful form of traces of variable length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ppx_inference.quantities import element_in_draw
from ppx_server.trace import Status

if TYPE_CHECKING:
    from ppx_inference.posterior import Posterior


def draws_table(posterior: Posterior) -> pa.Table:
    """All draws of all traces that did not fail.

    Returns:
        Columns `trace` (position in the posterior), `index` (trace index of the run), `ordinal` (draws that the trace
        made before), `address`, `name`, `family`, `instance`, `element` (in an array draw, C order), `value`, `z`,
        `log_prob`, `log_q`, `controlled`, and the trace's `log_weight`.
    """
    finished = np.flatnonzero(posterior.traces.status == Status.OK)
    traces = posterior.traces
    if len(finished) < len(traces):
        traces = traces.select(finished)
    selected = np.repeat(np.arange(len(traces)), traces.length)
    trace = finished[selected]
    entries = list(traces.addresses)
    columns = {
        "trace": trace,
        "index": traces.index[selected],
        "ordinal": traces.ordinals,
        "address": _dictionary(traces.address_id, [a.address for a in entries]),
        "name": _dictionary(traces.address_id, [a.name for a in entries]),
        "family": _dictionary(traces.address_id, [a.family for a in entries]),
        "instance": traces.instance,
        "element": element_in_draw(trace, traces.address_id, traces.instance),
        "value": traces.value,
        "z": traces.z,
        "log_prob": traces.log_prob,
        "log_q": traces.log_q,
        "controlled": traces.controlled,
        "log_weight": posterior.log_weight[trace],
    }
    return pa.table(columns)


def _dictionary(ids: NDArray[np.int32], texts: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(ids), pa.array(texts, pa.string()))

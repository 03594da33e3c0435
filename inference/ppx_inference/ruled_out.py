"""Why traces are ruled out: which observation has likelihood zero in all of them."""

from __future__ import annotations

import numpy as np

from ppx_server.text import counted
from ppx_server.trace import Status, TraceBatch


def explain(traces: TraceBatch) -> str:
    """Which observations rule out every trace that finished; empty if there is nothing to explain."""
    finished = traces.select(traces.status == Status.OK)
    table = finished.observations
    if not len(finished) or not np.isneginf(finished.log_weight).all():
        return ""
    trace = np.repeat(np.arange(len(finished)), np.diff(table.offsets))
    out = np.isneginf(table.log_prob)
    parts = []
    for i in np.flatnonzero(np.bincount(table.address_id[out], minlength=1)).tolist():
        count = len(np.unique(trace[out & (table.address_id == i)]))
        address = finished.addresses[i]
        parts.append(f"observation {address.name or address.address!r} in {counted(count, 'trace')}")
    what = "; ".join(parts) or "a draw outside its support"
    return (
        f"the observations rule out all {counted(len(finished), 'finished trace')}, so there is no posterior: "
        f"likelihood zero by {what}; check the value and its unit, or widen the noise of the observation"
    )

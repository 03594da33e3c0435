"""What the tests of faults share: commands of simulators that go wrong, and what must hold in spite of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from ppx_server.trace import Status, TraceBatch

HERE = Path(__file__).resolve().parent
SERVE = (sys.executable, str(HERE / "fault_models.py"))


def descendants(pid: int) -> list[int]:
    """Children of a process: simulators, not what guards them or lists them."""
    command = ["ps", "-eo", "pid=,ppid=,args="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (line.split(maxsplit=2) for line in listing.splitlines() if not line.lstrip().startswith("#"))
    rows = (row for row in rows if len(row) == 3 and row[0].isdigit() and row[1].isdigit())
    return sorted(
        int(child)
        for child, parent, args in rows
        if int(parent) == pid and not args.startswith("ps ") and "import os, signal" not in args
    )


def in_python(fault: str, threshold: float, seconds: float = 0.0) -> tuple[str, ...]:
    """The command of the Python simulator that goes wrong."""
    return (*SERVE, "model", fault, str(threshold), str(seconds))


def assert_same(traces: TraceBatch, undisturbed: TraceBatch, failed: list[int] | None = None) -> None:
    """Traces are the undisturbed ones to the last bit, but for the given ones, which failed.

    Addresses are compared by what they stand for: each simulator numbers them in its own order.
    """
    failed = failed or []
    np.testing.assert_array_equal(traces.index, undisturbed.index)
    assert traces.index[traces.status == Status.FAILED].tolist() == failed
    assert sorted(traces.failures) == failed
    assert all(traces.failures.values())
    assert np.isneginf(traces.log_weight[np.isin(traces.index, failed)]).all()
    kept = np.flatnonzero(~np.isin(undisturbed.index, failed))
    one, other = traces.select(kept), undisturbed.select(kept)
    assert (one.status == Status.OK).all()
    for name in ("offsets", "instance", "value", "z", "log_prob", "log_q", "flags", "log_weight"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("observations", "results"):
        for column in ("offsets", "data_offsets", "data", "log_prob"):
            found = [getattr(getattr(batch, name), column) for batch in (one, other)]
            np.testing.assert_array_equal(*found, err_msg=f"{name}.{column}")
    names = [[batch.addresses[i] for i in batch.address_id.tolist()] for batch in (one, other)]
    assert names[0] == names[1]

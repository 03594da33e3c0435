"""A model that writes a byte to a file for each trace: `attacked_model.py [FILE [MICROSECONDS]]`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import ppx_client as ppx


def forward() -> float:
    """One trace."""
    time.sleep(int(sys.argv[2]) / 1e6)
    with Path(sys.argv[1]).open("ab") as count:
        count.write(b".")
    mu: float = ppx.sample(ppx.Normal(1.0, 2.0), name="mu")
    ppx.observe(ppx.Normal(mu, 1.0), name="y")
    return mu


if __name__ == "__main__":
    sys.argv += ["/dev/null", "0"][len(sys.argv) - 1 :]
    ppx.serve(forward, "attacked")

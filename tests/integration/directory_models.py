"""Simulators that use files: `python directory_models.py KIND` serves one of them at PPX_BIND.

`scratch` hands a number from one part to another through a file of fixed name, `scratch_tmp` through one in the folder
for temporary files. `reads` needs sigma.dat, which `reads_at_start` looks for before it serves. `crash` and `hang`
write a log and then fail at the first trace whose mu is above 1. `dies` writes a log and does not serve, nor
does `sleeps`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import ppx_client as ppx

KIND = sys.argv[1]
if KIND == "dies":
    Path("log").write_text("the table is negative")
    sys.exit("no licence")
if KIND == "sleeps":
    time.sleep(60)


def forward() -> None:
    mu = ppx.sample(ppx.Normal(0.0, 1.0), name="mu")
    ppx.observe(ppx.Normal(_through_a_file(mu), SIGMA), name="y")


def _through_a_file(mu: float) -> float:
    path = Path(tempfile.gettempdir() if KIND == "scratch_tmp" else "", "param.dat")
    if KIND == "reads":
        _sigma()
    if KIND in ("crash", "hang"):
        path.write_text(repr(mu))
        if mu > 1.0:
            if KIND == "crash":
                os.abort()
            while True:
                pass
    if KIND not in ("scratch", "scratch_tmp"):
        return mu
    mine = path.with_name(f"param.{os.getpid()}")
    mine.write_text(repr(mu))
    mine.replace(path)
    sum(i * 1e-9 for i in range(2000))
    x = float(path.read_text())
    ppx.tag(x, name="x")
    return x


def _sigma() -> float:
    return float(Path("sigma.dat").read_text())


if __name__ == "__main__":
    SIGMA = _sigma() if KIND == "reads_at_start" else 0.5
    ppx.serve(forward, name=KIND)

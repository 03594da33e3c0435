"""Simulators with one defect each.

`python defects KIND NAME` serves one at PPX_BIND. `python defects` serves many, each in a fork of a process that has
loaded everything: for each line `KIND NAME ENDPOINT` of its input it prints the new process's id.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import by_hand
import clients
import models

import ppx_client as ppx


def serve(kind: str, name: str) -> None:
    """Serves one simulator.

    Args:
        kind: `model` for a model, `client` for a client that serves a sound one, `hand` for one without our client.
        name: Which.
    """
    if kind == "hand":
        by_hand.SIMULATORS[name]().serve()
        return
    if kind == "client":
        clients.CLIENTS[name]()
    model = (
        models.MODELS[name] if kind == "model" else models.sound_marked if "marks" in name else models.sound
    )
    ppx.serve(model, name, fingerprint=name)


def serve_many() -> None:
    """Forks a simulator for each line."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        kind, name, endpoint = line.split()
        if (child := os.fork()) == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.environ["PPX_BIND"] = endpoint
            serve(kind, name)
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(*sys.argv[1:])
    else:
        serve_many()

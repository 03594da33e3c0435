"""A controller in a process of its own: `controller.py OUT NUM_TRACES SEED ADDRESS|COMMAND...`.

Draws traces in chunks and writes their values to OUT at the end; says `begun` once the first chunk is there.
"""

from __future__ import annotations

import sys

import numpy as np

from ppx_inference.simulator import Simulator
from ppx_server.script import ScriptBatch

_CHUNK = 500

if __name__ == "__main__":
    out, num_traces, seed, *command = sys.argv[1:]
    with Simulator(command, num_workers=2) if len(command) > 1 else Simulator(address=command[0]) as sim:
        print(*[worker._process.pid for worker in sim._executor._workers if worker._process], flush=True)
        values = []
        for start in range(0, int(num_traces), _CHUNK):
            stop = min(start + _CHUNK, int(num_traces))
            values.append(sim.execute(ScriptBatch.empty(int(seed), np.arange(start, stop)), {"y": 1.0}).value)
            if start == 0:
                print("begun", flush=True)
    with open(out, "wb") as stream:
        np.save(stream, np.concatenate(values))

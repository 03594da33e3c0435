"""A hidden Markov model of three states and sixteen measurements; its posterior is known exactly.

The initial state is uniform and precedes the first measurement. The draw `state` is visited 17 times per trace, so
`("state", 3)` is the state behind the third measurement `y2`. For the measurements 0.9 0.8 0.7 0 -0.025 -5 -2 -0.1
0 0.13 0.45 6 0.2 0.3 -1 -1 the log evidence is -44.42447 (forward algorithm). The model is the one of pyprob's tests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import ppx_client as ppx

NUM_MEASUREMENTS = 16
INITIAL = ppx.Categorical([1.0, 1.0, 1.0])
TRANSITIONS = [
    ppx.Categorical([0.10, 0.50, 0.40]),
    ppx.Categorical([0.20, 0.20, 0.60]),
    ppx.Categorical([0.15, 0.15, 0.70]),
]
EMISSIONS = [ppx.Normal(-1.0, 1.0), ppx.Normal(1.0, 1.0), ppx.Normal(0.0, 1.0)]


def hmm() -> NDArray[np.float64]:
    """Returns the 17 hidden states."""
    states: list[int] = [ppx.sample(INITIAL, name="state")]
    for i in range(NUM_MEASUREMENTS):
        states.append(ppx.sample(TRANSITIONS[states[-1]], name="state"))
        ppx.observe(EMISSIONS[states[-1]], name=f"y{i}")
    return np.array(states, np.float64)


if __name__ == "__main__":
    ppx.serve(hmm, name="hmm")

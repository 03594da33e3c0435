"""A body that moves along a line, measured at every step: a linear-Gaussian state space model.

state[0] ~ Normal(0, 1) for position and velocity; position' ~ Normal(position + velocity, 0.3),
velocity' ~ Normal(0.9 velocity, 0.5); every position is measured, y ~ Normal(position, 1).

    python linear_gaussian.py [steps]  # 12 if not given
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

import ppx_client as ppx

TRANSITION = np.array([[1.0, 1.0], [0.0, 0.9]])
FIRST = np.array([1.0, 1.0])
NOISE = np.array([0.3, 0.5])
MEASUREMENT_NOISE = 1.0


def move(num_steps: int) -> NDArray[np.float64]:
    """Returns the `(num_steps, 2)` positions and velocities."""
    states: list[NDArray[np.float64]] = []
    for step in range(num_steps):
        prior = ppx.Normal(TRANSITION @ states[-1], NOISE) if states else ppx.Normal([0.0, 0.0], FIRST)
        states.append(ppx.sample(prior, name="state"))
        ppx.observe(ppx.Normal(states[-1][0], MEASUREMENT_NOISE), name=f"y{step}")
    return np.array(states)


if __name__ == "__main__":
    num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    ppx.serve(lambda: move(num_steps), name="linear_gaussian")

"""A body that moves along a line, measured at every step: a linear-Gaussian state space model.

state[0] ~ Normal(0, 1) for position and velocity; position' ~ Normal(position + velocity, 0.3),
velocity' ~ Normal(0.9 velocity, 0.5); every position is measured, y ~ Normal(position, 1).

    python linear_gaussian.py [steps]  # 12 if not given
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

TRANSITION = np.array([[1.0, 1.0], [0.0, 0.9]])
FIRST = np.array([1.0, 1.0])
NOISE = np.array([0.3, 0.5])
MEASUREMENT_NOISE = 1.0


def move(num_steps: int) -> NDArray[np.float64]:
    """Returns the `(num_steps, 2)` positions and velocities."""
    rng = np.random.default_rng()
    states: list[NDArray[np.float64]] = []
    for _ in range(num_steps):
        state = rng.normal(TRANSITION @ states[-1], NOISE) if states else rng.normal([0.0, 0.0], FIRST)
        states.append(state)
        print(rng.normal(states[-1][0], MEASUREMENT_NOISE))
    return np.array(states)


if __name__ == "__main__":
    num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    move(num_steps)

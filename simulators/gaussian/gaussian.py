"""A Gaussian of unknown mean, measured twice; the posterior is known exactly.

mu ~ Normal(1, sqrt 5), y0 and y1 ~ Normal(mu, sqrt 2). For y0 = 8, y1 = 9 the posterior of mu is Normal(7.25, 0.91287)
and the log evidence -8.2394 (conjugate formulas).

    python gaussian.py              # mu is one draw
    python gaussian.py --marsaglia  # mu comes out of a rejection loop: the number of draws varies
"""

from __future__ import annotations

import math
import sys

import ppx_client as ppx

PRIOR_MEAN, PRIOR_STDDEV = 1.0, math.sqrt(5.0)
NOISE = math.sqrt(2.0)


def measure(mu: float) -> None:
    """Two measurements of mu."""
    likelihood = ppx.Normal(mu, NOISE)
    ppx.observe(likelihood, name="y0")
    ppx.observe(likelihood, name="y1")


def gaussian() -> float:
    """mu as one draw."""
    mu: float = ppx.sample(ppx.Normal(PRIOR_MEAN, PRIOR_STDDEV), name="mu")
    measure(mu)
    return mu


def marsaglia(mean: float, stddev: float) -> float:
    """A normal number from uniform ones (Marsaglia and Bray 1964, polar method)."""
    square = ppx.Uniform(-1.0, 1.0)
    with ppx.rejection("marsaglia"):
        while True:
            x: float = ppx.sample(square, name="x")
            y: float = ppx.sample(square, name="y")
            s = x * x + y * y
            if 0.0 < s < 1.0:
                return mean + stddev * x * math.sqrt(-2.0 * math.log(s) / s)


def gaussian_marsaglia() -> float:
    """mu from a rejection loop."""
    mu = marsaglia(PRIOR_MEAN, PRIOR_STDDEV)
    ppx.tag(mu, name="mu")
    measure(mu)
    return mu


if __name__ == "__main__":
    if "--marsaglia" in sys.argv[1:]:
        ppx.serve(gaussian_marsaglia, name="gaussian_marsaglia")
    else:
        ppx.serve(gaussian, name="gaussian")
